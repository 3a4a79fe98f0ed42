// Package services holds the RPC services of a share node behind the named
// pipes of IPC$: srvsvc, which lists shares (MS-SRVS), lsarpc, which gives names
// to SIDs (MS-LSAT, MS-LSAD), and what little of wkssvc clients ask for (MS-WKST).
package services

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"lunless/smbstore/rpc"
)

// Errors of pipes. The server maps each to an NTSTATUS in one place.
var (
	ErrNoSuchPipe = errors.New("no such pipe")                          // STATUS_OBJECT_NAME_NOT_FOUND
	ErrClosed     = errors.New("pipe is closed")                        // STATUS_PIPE_DISCONNECTED: the client broke the protocol, or Close
	ErrEmpty      = errors.New("nothing to read from the pipe")         // no message waits, and none comes without a write
	ErrBusy       = errors.New("the pipe holds an answer not yet read") // STATUS_PIPE_BUSY
)

// maxUnread bounds what may wait in a pipe to be read, in bytes: the longest
// answer in its fragments, and a little.
const maxUnread = rpc.MaxStub + rpc.MaxStub/8

// Caller is who opened a pipe.
type Caller struct {
	User      string // the account's name
	Anonymous bool
	Admin     bool // one of the administrators
}

// Pipe is one open of a named pipe in message mode: the client's end. All
// methods may be called concurrently; each message is answered before the next
// is looked at.
type Pipe struct {
	ctx    context.Context // of calls that came by Write
	cancel context.CancelFunc

	mu     sync.Mutex
	server *rpc.Server
	in     []byte   // a PDU not yet whole
	out    [][]byte // messages to be read; the first may have been read in part
	unread int      // bytes in out
	closed bool
}

// Open opens the pipe name, without \pipe\ and in any case, for caller.
// ErrNoSuchPipe if there is no such service.
func Open(ctx context.Context, name string, caller Caller, b Backend) (*Pipe, error) {
	c := &calls{backend: b, caller: caller}
	var i *rpc.Interface
	switch strings.ToLower(name) {
	case "srvsvc":
		i = &rpc.Interface{Syntax: rpc.SyntaxSrvsvc, Call: c.srvsvc}
	case "wkssvc":
		i = &rpc.Interface{Syntax: rpc.SyntaxWkssvc, Call: c.wkssvc}
	case "lsarpc", "lsass":
		i = &rpc.Interface{Syntax: rpc.SyntaxLsarpc, Call: c.lsarpc}
	default:
		return nil, fmt.Errorf("open pipe %q: %w", name, ErrNoSuchPipe)
	}
	p := &Pipe{server: rpc.NewServer(`\PIPE\`+strings.ToLower(name), i)}
	p.ctx, p.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return p, nil
}

// Write sends p, which may be a part of a PDU, one, or several. After an error
// of the protocol the pipe is closed for writing; answers that wait can be read.
func (p *Pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.write(p.ctx, b)
}

func (p *Pipe) write(ctx context.Context, b []byte) (int, error) {
	if p.closed {
		return 0, ErrClosed
	}
	taken := 0
	for len(b) > 0 {
		n, err := p.collect(b)
		if err == nil {
			b = b[n:]
			taken += n
			err = p.answer(ctx)
		}
		if err != nil {
			p.closed = true
			p.in = nil
			return taken, errors.Join(ErrClosed, err)
		}
	}
	return taken, nil
}

// collect takes from b what belongs to the PDU at hand.
func (p *Pipe) collect(b []byte) (int, error) {
	want := rpc.HeaderSize
	if len(p.in) >= rpc.HeaderSize {
		n, err := pduLength(p.in)
		if err != nil {
			return 0, err
		}
		want = n
	}
	n := min(want-len(p.in), len(b))
	p.in = append(p.in, b[:n]...)
	if len(p.in) == rpc.HeaderSize && want == rpc.HeaderSize {
		_, err := pduLength(p.in)
		return n, err
	}
	return n, nil
}

func pduLength(b []byte) (int, error) {
	var h rpc.Header
	err := h.Decode(b)
	return int(h.FragLength), err
}

// answer hands a PDU that is whole to the service and keeps what it answers.
func (p *Pipe) answer(ctx context.Context) error {
	if len(p.in) < rpc.HeaderSize {
		return nil
	}
	if n, err := pduLength(p.in); err != nil || len(p.in) < n {
		return err
	}
	out, err := p.server.Receive(ctx, p.in)
	p.in = p.in[:0]
	for _, m := range out {
		p.unread += len(m)
	}
	if p.unread > maxUnread {
		return fmt.Errorf("%d bytes wait to be read: %w", p.unread, rpc.ErrTooLong)
	}
	p.out = append(p.out, out...)
	return err
}

// Read takes up to len(b) bytes of the next message; more says that the message
// has not been taken whole, and the next Read goes on with it
// (STATUS_BUFFER_OVERFLOW). ErrEmpty if there is no message, ErrClosed if there
// will be none.
func (p *Pipe) Read(b []byte) (n int, more bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.out) == 0 {
		if p.closed {
			return 0, false, ErrClosed
		}
		return 0, false, ErrEmpty
	}
	n = copy(b, p.out[0])
	p.unread -= n
	if n < len(p.out[0]) {
		p.out[0] = p.out[0][n:]
		return n, true, nil
	}
	p.out = slices.Delete(p.out, 0, 1)
	return n, false, nil
}

// Transact writes a message and reads up to maxOut bytes of the answer in one
// step (FSCTL_PIPE_TRANSCEIVE). ErrBusy if an earlier answer waits; else as
// Write and Read.
func (p *Pipe) Transact(ctx context.Context, in []byte, maxOut int) (out []byte, more bool, err error) {
	p.mu.Lock()
	if len(p.out) > 0 {
		p.mu.Unlock()
		return nil, false, ErrBusy
	}
	_, err = p.write(ctx, in)
	if err == nil && len(p.out) > 0 {
		out = make([]byte, min(max(maxOut, 0), len(p.out[0])))
	}
	p.mu.Unlock()
	if err != nil {
		return nil, false, err
	}
	n, more, err := p.Read(out)
	return out[:n], more, err
}

// Unread returns the bytes of the next message, and of all messages, that wait
// (FSCTL_PIPE_PEEK, FilePipeLocalInformation).
func (p *Pipe) Unread() (next, all int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.out) > 0 {
		next = len(p.out[0])
	}
	return next, p.unread
}

// Peek copies from the next message, which stays, and counts what waits: bytes of
// that message, messages, bytes of all. Nothing waiting is no error. ErrClosed if
// nothing waits and nothing will.
func (p *Pipe) Peek(b []byte) (n, next, messages, all int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.out) == 0 {
		if p.closed {
			return 0, 0, 0, 0, ErrClosed
		}
		return 0, 0, 0, 0, nil
	}
	return copy(b, p.out[0]), len(p.out[0]), len(p.out), p.unread, nil
}

// Close ends the pipe and the call in progress. It always returns nil.
func (p *Pipe) Close() error {
	p.cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.in, p.out, p.unread = nil, nil, 0
	return nil
}
