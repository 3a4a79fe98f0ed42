package shares

import (
	"sync/atomic"
	"time"

	"lunless/smbstore/smb2"
)

// activity is what a goroutine that may block is doing, for those who ask why
// something takes so long. Its owner writes it, anybody reads it.
type activity struct {
	since   atomic.Int64 // by clock; 0: nothing
	command atomic.Uint32
	session atomic.Pointer[session]
	open    atomic.Pointer[open]
}

// begin notes that r is being worked on; a nil activity notes nothing.
func (a *activity) begin(r *request) {
	if a == nil {
		return
	}
	a.command.Store(uint32(r.hdr.Command))
	a.session.Store(r.session)
	a.open.Store(r.open)
	a.since.Store(int64(r.started) | 1)
}

// end notes that nothing is being worked on. It lets go of what there was.
func (a *activity) end() {
	if a != nil {
		a.since.Store(0)
		a.session.Store(nil)
		a.open.Store(nil)
	}
}

// wait is a request that has not been answered yet.
type wait struct {
	session *session // nil: of none
	open    *open    // nil: of none
	command smb2.Command
	async   bool // it waits for somebody else, not for the disk
	age     time.Duration
}

// waits are the requests of the connection that have been waiting for at least
// min, in no order.
func (c *conn) waits(min time.Duration) []wait {
	var list []wait
	now, wall := clock(), time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, op := range c.async {
		if age := wall.Sub(op.since); age >= min {
			list = append(list, wait{op.session, op.open, op.command, true, age})
		}
	}
	for _, a := range c.active {
		since := a.since.Load()
		if age := now - time.Duration(since); since != 0 && age >= min {
			list = append(list, wait{a.session.Load(), a.open.Load(), smb2.Command(a.command.Load()), false, age})
		}
	}
	return list
}
