package shares

import (
	"sync"
	"testing"
)

func TestGateDrains(t *testing.T) {
	for range 200 {
		var g gate
		var inside, after sync.WaitGroup
		for range 4 {
			if !g.enter() {
				t.Fatal("an open gate lets nobody in")
			}
			inside.Add(1)
			after.Add(1)
			go func() {
				defer after.Done()
				inside.Done()
				g.leave()
				if g.enter() {
					g.leave()
				}
			}()
		}
		inside.Wait()
		g.drain()
		if g.enter() {
			t.Fatal("a gate that is shut lets somebody in")
		}
		if n := g.n.Load(); n != gateShut {
			t.Fatalf("%d inside after drain", n-gateShut)
		}
		after.Wait()
	}
}
