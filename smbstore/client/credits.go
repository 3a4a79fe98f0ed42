package client

import (
	"context"
)

// creditUnit is what one credit pays for, in bytes of request or response
// (MS-SMB2 3.1.5.2).
const creditUnit = 64 << 10

// credits is a connection's window of message ids (MS-SMB2 3.2.4.1.2, 3.2.4.1.6).
// Guarded by conn.mu.
type credits struct {
	next        uint64 // message id
	avail       int    // credits in hand
	outstanding int    // credits of requests without a response
	target      int    // how many to hold, both kinds together
	first, last *call  // who waits for some, in order
}

// chargeFor is how many credits a request takes whose larger direction carries n
// bytes.
func chargeFor(n int) int { return max(1, (n+creditUnit-1)/creditUnit) }

// reserve waits for credits for a request, up to want and never more than the
// server lets us hold, sets the request's MessageID, CreditCharge and Credits, and
// makes it outstanding: send must follow. A payload that was meant to fill want is
// to be cut to k.room(). On an error, a *lostError or ctx's, the call was freed.
func (c *conn) reserve(ctx context.Context, k *call, want int) error {
	if !c.neg.multiCredit {
		want = 1
	}
	k.conn, k.want = c, want
	c.mu.Lock()
	if c.err != nil {
		err := c.err
		c.mu.Unlock()
		k.free()
		return err
	}
	w := &c.credits
	if w.first == nil && c.grant(k) {
		c.mu.Unlock()
		return nil
	}
	if w.first == nil {
		w.first = k
	} else {
		w.last.next = k
	}
	w.last = k
	c.mu.Unlock()
	select {
	case <-k.done:
	case <-ctx.Done():
		c.mu.Lock()
		queued := w.remove(k)
		c.mu.Unlock()
		if queued {
			k.free()
			return context.Cause(ctx)
		}
		<-k.done
	}
	if k.err != nil {
		err := k.err
		k.free()
		return err
	}
	return nil
}

// room is how many bytes the reserved credits are good for.
func (k *call) room() int { return max(int(k.hdr.CreditCharge), 1) * creditUnit }

// grant gives a call its credits and message id if there are enough.
func (c *conn) grant(k *call) bool {
	w := &c.credits
	n := min(k.want, w.avail+w.outstanding)
	if n < 1 || w.avail < n {
		return false
	}
	w.avail -= n
	w.outstanding += n
	k.charge, k.claimed = n, true
	k.hdr.MessageID = w.next
	w.next += uint64(n)
	if c.neg.multiCredit {
		k.hdr.CreditCharge = uint16(n)
	}
	k.hdr.Credits = uint16(n + max(0, w.target-w.avail-w.outstanding))
	if len(c.pending) == 0 {
		c.last.Store(nowNano())
	}
	c.pending[k.hdr.MessageID] = k
	return true
}

// settle takes in the credits of a response, final or not, and serves who waits.
func (c *conn) settle(k *call, granted int) error {
	w := &c.credits
	w.outstanding -= k.charge
	k.charge = 0
	w.avail = min(w.avail+granted, 2*maxCredits)
	for w.first != nil && c.grant(w.first) {
		k := w.first
		w.remove(k)
		k.finish()
	}
	if w.avail+w.outstanding == 0 && len(c.pending) == 0 {
		return protocolError("the server leaves no credits")
	}
	return nil
}

// remove takes a call out of the queue; false if it is not in it.
func (w *credits) remove(k *call) bool {
	var prev *call
	for p := w.first; p != nil; prev, p = p, p.next {
		if p != k {
			continue
		}
		if prev == nil {
			w.first = p.next
		} else {
			prev.next = p.next
		}
		if w.last == p {
			w.last = prev
		}
		p.next = nil
		return true
	}
	return false
}
