package shares

import (
	"sync/atomic"

	"lunless/smbstore/smb2"
)

// gate is what an open knows of the requests that are being worked on through it,
// and keeps others out once it is shut: how many they are, and by which channel sequence they came (MS-SMB2 3.3.1.10
// Open.ChannelSequence, OutstandingRequestCount, OutstandingPreRequestCount). A
// client that loses a channel raises the sequence before it sends again what was
// not answered, so that what is still under way on the lost one can be told apart.
//
// All of it is one word, so that READ and WRITE pay for two atomic operations.
type gate struct {
	word atomic.Uint64
	idle atomic.Pointer[chan struct{}] // made by drain, closed when nobody is inside
}

// The word, from its lowest bits: requests of the open's sequence, requests of
// earlier ones, the sequence, and two flags. Neither count can overflow: the
// credits of all the channels of a session are fewer.
const (
	gateBits    = 22
	gateEarlier = 1 << gateBits
	gateMask    = gateEarlier - 1
	gateSeqAt   = 2 * gateBits
	gateBegun   = 1 << 62 // the sequence has been set
	gateShut    = 1 << 63 // nobody enters any more
	gateCounts  = 1<<gateSeqAt - 1
)

// start sets the channel sequence of a new open: to that of its CREATE, or, if it
// reclaims an older open, to that one's. The first to call decides.
func (g *gate) start(seq uint16) {
	g.word.CompareAndSwap(0, uint64(seq)<<gateSeqAt|gateBegun)
}

// enter counts a request in, or says why it fails: STATUS_FILE_CLOSED when the
// open is going away, STATUS_FILE_NOT_AVAILABLE as MS-SMB2 3.3.5.2.10 has it, of
// WRITE, SET_INFO and IOCTL (changes). Who has entered must leave.
func (g *gate) enter(seq uint16, replay, changes bool) error {
	for {
		was := g.word.Load()
		if was&gateShut != 0 {
			return smb2.StatusFileClosed
		}
		now, ok := was, true
		earlier := was >> gateBits & gateMask
		switch ahead := seq - uint16(was>>gateSeqAt); {
		case ahead == 0:
			ok = !replay || earlier == 0
			now++
		case ahead <= 0x7fff:
			earlier += was & gateMask
			now = was&(gateBegun) | uint64(seq)<<gateSeqAt | earlier<<gateBits | 1
			if ok = !replay || earlier == 0; !ok && changes {
				now--
			}
		default:
			ok = false
			now += gateEarlier
		}
		if !ok && changes && now>>gateSeqAt == was>>gateSeqAt {
			return smb2.StatusFileNotAvailable // nothing to remember
		}
		if g.word.CompareAndSwap(was, now) {
			if !ok && changes {
				return smb2.StatusFileNotAvailable
			}
			return nil
		}
	}
}

// leave counts out a request that entered with seq (MS-SMB2 3.3.4.1).
func (g *gate) leave(seq uint16) {
	for {
		was := g.word.Load()
		now := was - 1
		// A client may raise the sequence all the way round while a request waits:
		// the sum of the two counts is right even so.
		current, earlier := was&gateMask, was>>gateBits&gateMask
		if current == 0 || uint16(was>>gateSeqAt) != seq && earlier > 0 {
			now = was - gateEarlier
		}
		if g.word.CompareAndSwap(was, now) {
			if now&gateShut != 0 && now&gateCounts == 0 {
				close(*g.idle.Load())
			}
			return
		}
	}
}

// sequence is the open's channel sequence.
func (g *gate) sequence() uint16 { return uint16(g.word.Load() >> gateSeqAt) }

// drain shuts the gate and waits until nobody is inside. It may be called more
// than once.
func (g *gate) drain() {
	g.shut()
	<-*g.idle.Load()
}

// shut lets nobody enter any more.
func (g *gate) shut() {
	fresh := make(chan struct{})
	g.idle.CompareAndSwap(nil, &fresh)
	was := g.word.Or(gateShut)
	if was&gateShut == 0 && was&gateCounts == 0 {
		close(*g.idle.Load())
	}
}

// isShut reports whether the gate is shut.
func (g *gate) isShut() bool { return g.word.Load()&gateShut != 0 }

// enterOpen counts the request in with its open.
func (r *request) enterOpen() error {
	replay := r.hdr.Flags&smb2.FlagReplayOperation != 0 && r.session.dialect >= smb2.Dialect300
	changes := false
	switch r.hdr.Command {
	case smb2.CommandWrite, smb2.CommandSetInfo, smb2.CommandIoctl:
		changes = !sabotaged("channel-sequence-ignored")
	}
	if err := r.open.busy.enter(r.sequence(), replay, changes); err != nil {
		return err
	}
	r.inside = true
	return nil
}

// leaveOpen says that the request is done with its open, if it has one.
func (r *request) leaveOpen() {
	if r.inside {
		r.inside = false
		r.open.busy.leave(r.sequence())
	}
}

// sequence is the request's channel sequence; before 3.0 there is none.
func (r *request) sequence() uint16 {
	if r.conn.neg.dialect < smb2.Dialect300 {
		return 0
	}
	return r.hdr.ChannelSequence
}

// drain waits until no request of the open is in flight, having let none begin and
// cancelled those that have gone async. Nothing that was asked for through the
// open reaches the file after that. A request that drains the open it came
// through must leave it first.
func (o *open) drain(why error) {
	o.busy.shut()
	o.session.cancelAsync(why, func(op *asyncOp) bool { return op.open == o })
	o.busy.drain()
}
