package shares

import (
	"math"
	"sync/atomic"
)

// gate counts those inside until it is shut, and then waits for them to leave. Its
// zero value is open. enter and leave neither wait nor allocate.
type gate struct {
	n    atomic.Int64  // inside; less gateShut once shut
	idle chan struct{} // made before n says shut, closed when the last has left
}

const gateShut = math.MinInt64 / 2

// enter reports whether the gate was open: the caller must leave then.
func (g *gate) enter() bool {
	for {
		n := g.n.Load()
		if n < 0 {
			return false
		}
		if g.n.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (g *gate) leave() {
	if g.n.Add(-1) == gateShut {
		close(g.idle)
	}
}

// drain shuts the gate and waits until nobody is inside. Only one may call it, once.
func (g *gate) drain() {
	g.idle = make(chan struct{})
	if g.n.Add(gateShut) != gateShut {
		<-g.idle
	}
}
