package fs

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// descriptor is a file descriptor with a count of the calls that use it, so that
// its number is never given to the kernel after it was closed (and perhaps
// given to another file). The zero value is closed.
type descriptor struct {
	// state is users*inUse + open; the last user of a closed descriptor closes it.
	state atomic.Int64
	fd    int
	drain chan struct{} // made by close, closed by the last user
	err   error         // of the kernel's close; set when close returns true
}

const (
	isOpen = 1
	inUse  = 2
)

func (d *descriptor) init(fd int) {
	d.fd = fd
	d.state.Store(isOpen)
}

// acquire makes the descriptor's number valid until release. False: closed.
func (d *descriptor) acquire() bool {
	for {
		s := d.state.Load()
		if s&isOpen == 0 {
			return false
		}
		if d.state.CompareAndSwap(s, s+inUse) {
			return true
		}
	}
}

func (d *descriptor) release() {
	if d.state.Add(-inUse) == 0 {
		close(d.drain)
	}
}

// close lets no new users in, waits for those there are, and closes. It reports
// false to all but the first caller, who wait for nothing.
func (d *descriptor) close() bool {
	drain := make(chan struct{})
	for {
		s := d.state.Load()
		if s&isOpen == 0 {
			return false
		}
		// Only the caller that wins the swap below may publish its channel, and
		// users look at it only after the swap.
		if d.state.CompareAndSwap(s, s+inUse-isOpen) {
			break
		}
	}
	d.drain = drain
	d.release()
	<-drain
	if d.err = unix.Close(d.fd); d.err == unix.EINTR { // closed all the same
		d.err = nil
	}
	return true
}
