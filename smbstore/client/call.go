package client

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"lunless/smbstore/smb2"
)

// message is a request's body; see package smb2.
type message interface {
	Size() int
	Encode(msg []byte)
}

// Where a request lies in call.wire: room for the frame header and for a
// transform header in front of it.
const (
	wireHead = smb2.FrameHeaderSize + smb2.TransformHeaderSize
	// smallResponse holds the responses that steady traffic has.
	smallResponse = 192
)

// The states of a call. Whoever takes it out of callWaiting owns it from then on:
// the connection's reader, to deliver a response, or the caller, to walk away.
const (
	callWaiting int32 = iota
	callTaken
	callAbandoned
)

// call is one request and its response. It belongs to one goroutine, and while a
// request is outstanding to its connection as well; see conn.reserve.
type call struct {
	hdr     smb2.Header // of the request; MessageID and the credits are the connection's to set
	seal    bool        // request and response are encrypted
	sign    bool        // request and response are signed
	patient bool        // a change: when its context ends, its outcome is waited for a little
	dst     []byte      // READ: where the data goes
	late    func(c *conn, msg []byte)

	conn    *conn
	state   atomic.Int32
	done    chan struct{} // capacity 1: credits are there, later: the response is
	wire    []byte        // the request as it was sent, from wireHead on
	async   uint64        // AsyncId of an interim response, guarded by conn.mu; 0 if none came
	charge  int           // credits reserved and not yet given back, guarded by conn.mu
	want    int           // credits waited for
	next    *call         // in the connection's queue for credits
	claimed bool          // guarded by conn.mu: has a message id

	resp  smb2.Header
	body  []byte // the response, header included; not for READ data in dst
	n     int    // READ: bytes in dst
	err   error  // *lostError; then nothing above is set
	small [smallResponse]byte

	read  smb2.ReadRequest
	write smb2.WriteRequest
	back  smb2.WriteResponse
}

var calls = sync.Pool{New: func() any { return &call{done: make(chan struct{}, 1)} }}

func newCall(command smb2.Command) *call {
	k := calls.Get().(*call)
	k.hdr = smb2.Header{Command: command}
	k.state.Store(callWaiting)
	return k
}

// maxKeptWire is the longest request memory that a call keeps for the next one.
const maxKeptWire = 16 << 10

// free gives the call back. Nothing may use it, or its body, afterwards.
func (k *call) free() {
	if cap(k.wire) > maxKeptWire {
		k.wire = nil
	}
	k.seal, k.sign, k.patient, k.dst, k.late = false, false, false, nil, nil
	k.conn, k.async, k.charge, k.want, k.next, k.claimed = nil, 0, 0, 0, nil, false
	k.body, k.n, k.err = nil, 0, nil
	k.read, k.write = smb2.ReadRequest{}, smb2.WriteRequest{}
	select {
	case <-k.done:
	default:
	}
	calls.Put(k)
}

// request is the message as it went over the wire before encryption.
func (k *call) request(size int) []byte { return k.wire[wireHead : wireHead+size] }

func (k *call) finish() { k.done <- struct{}{} }

// How long the outcome of a cancelled change is waited for, and how long a
// response that is under way into the caller's memory.
const (
	cancelWait  = 3 * time.Second
	receiveWait = time.Second
)

// wait waits for the response. If it returns an error, a *lostError or what ended
// ctx, the call is no longer the caller's; otherwise the caller frees it.
func (k *call) wait(ctx context.Context) error {
	select {
	case <-k.done:
	default:
		select {
		case <-k.done:
		case <-ctx.Done():
			if !k.cancel() {
				return context.Cause(ctx)
			}
		}
	}
	if err := k.err; err != nil {
		k.free()
		return err
	}
	if k.resp.Status == smb2.StatusCancelled && ctx.Err() != nil {
		k.free()
		return context.Cause(ctx)
	}
	return nil
}

// cancel asks the server to give up the request (MS-SMB2 3.2.4.24). It reports
// whether there is an outcome; else the call belongs to the connection now.
func (k *call) cancel() bool {
	c := k.conn
	c.sendCancel(k)
	if k.patient {
		select {
		case <-k.done:
			return true
		case <-time.After(cancelWait):
		}
	}
	if k.state.CompareAndSwap(callWaiting, callAbandoned) {
		return false
	}
	select {
	case <-k.done:
	case <-time.After(receiveWait):
		c.kill(protocolError("a response does not arrive whole"))
		<-k.done
	}
	if k.dst != nil {
		k.free() // data that came half or whole: the caller asked for none any more
		return false
	}
	return true
}
