package shares

import (
	"math"

	"lunless/smbstore/smb2"
)

// window is the set of message ids a client may use next, and with it the
// credits it holds (MS-SMB2 3.3.1.1, 3.3.1.2): each id in [low, high) that has
// not been used is one credit. It is not safe for concurrent use.
type window struct {
	low, high uint64   // low is the smallest id not used yet
	used      []uint64 // one bit an id, a ring of the ids in [low, low+size)
	size      uint64   // a power of two
	held      int      // credits the client holds: unused ids in [low, high)
	max       int      // what it may hold
	ahead     uint64   // how far beyond high an id may reach; see overdraw
}

// overdraft is window.ahead of an authenticated client. go-smb2, both of them,
// counts the credits of requests that it sent without taking any (TREE_CONNECT,
// CLOSE) and of those that failed twice, and so believes it holds a few more than
// it was granted. Within what any client may hold that is harmless.
const overdraft = 256

// newWindow makes the window of a fresh connection, { 0 }, for up to max credits.
func newWindow(max int) window {
	size := uint64(64)
	for size < 2*uint64(max) {
		size *= 2
	}
	return window{high: 1, used: make([]uint64, size/64), size: size, held: 1, max: max}
}

func (w *window) has(id uint64) bool {
	i := id & (w.size - 1)
	return w.used[i/64]&(1<<(i%64)) != 0
}

func (w *window) set(id uint64, on bool) {
	i := id & (w.size - 1)
	if on {
		w.used[i/64] |= 1 << (i % 64)
	} else {
		w.used[i/64] &^= 1 << (i % 64)
	}
}

// take uses up charge ids from id on (MS-SMB2 3.3.5.2.3). It reports false, and
// takes none, if any of them is outside the window or has been used: the
// connection ends then.
func (w *window) take(id uint64, charge uint16) bool {
	n := uint64(max(charge, 1))
	if id < w.low || id >= math.MaxUint64-n || !w.overdraw(id+n) {
		return false
	}
	for i := range n {
		if w.has(id + i) {
			return false
		}
	}
	for i := range n {
		w.set(id+i, true)
	}
	w.held -= int(n)
	for w.low < w.high && w.has(w.low) {
		w.set(w.low, false)
		w.low++
	}
	return true
}

// overdraw grants what is missing for the ids below end to be in the window, if
// that is not much.
func (w *window) overdraw(end uint64) bool {
	if end <= w.high {
		return true
	}
	n := end - w.high
	if n > w.ahead || w.held+int(n) > w.max || end-w.low > w.size {
		return false
	}
	w.high, w.held = end, w.held+int(n)
	return true
}

// grant gives the client up to want credits and returns how many it gets: at
// most up to what it may hold, at least one where it would be left with none.
// A client that leaves an old id unused gets no more than the ring can follow.
func (w *window) grant(want uint16) uint16 {
	n := min(int(want), w.max-w.held)
	if w.held == 0 {
		n = max(n, 1)
	}
	if n <= 0 {
		return 0
	}
	n = min(n, int(w.size-(w.high-w.low)), math.MaxUint16)
	if uint64(n) > math.MaxUint64-w.high {
		return 0
	}
	w.high += uint64(n)
	w.held += n
	return uint16(n)
}

// grant says how many credits the response of r gives (MS-SMB2 3.3.4.1.2): what
// the client asks for within its limit, and before a session is authenticated no
// more than it takes to go on. The final response of an async request gives none.
func (r *request) grant() uint16 {
	if r.granted || r.hdr.Command == smb2.CommandCancel {
		return 0
	}
	r.granted = true
	c := r.conn
	want := max(r.hdr.Credits, 1)
	if !c.authed.Load() {
		want = 1
	}
	c.creditMu.Lock()
	defer c.creditMu.Unlock()
	return c.window.grant(want)
}
