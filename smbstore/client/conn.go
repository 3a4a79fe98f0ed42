package client

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"lunless/smbstore/smb2"
)

// readBuffer is the size of a connection's read buffer: small responses come with
// one system call, and of large READs the most goes straight to its place.
const readBuffer = 8 << 10

// conn is one TCP connection after its NEGOTIATE: message ids, credits, requests
// outstanding, and what protects them once it carries a session. It is never
// repaired: a lost one is replaced.
type conn struct {
	cfg   *Config
	nc    net.Conn
	addr  string
	br    *bufio.Reader // the reader's alone, as frame and head
	neg   negotiated
	sec   atomic.Pointer[security] // nil until the session is authenticated
	owner *session                 // whose channel it is; guarded by mu

	frame []byte   // memory for frames that are decrypted or come as compounds
	head  [80]byte // the fixed part of a READ response

	compounds sync.Mutex // one compound at a time takes its credits
	sendMu    sync.Mutex // one frame at a time goes out
	vec       net.Buffers
	vecMem    [2][]byte
	sending   atomic.Int64 // ns since the epoch when the frame going out was begun, 0 if none

	mu      sync.Mutex // guards what follows
	pending map[uint64]*call
	credits credits
	err     error // why the connection ended

	sendCtx context.Context // of the frame going out
	last    atomic.Int64    // ns since the epoch when bytes last arrived, or waiting began
	dead    atomic.Bool
	done    chan struct{} // closed when dead
	gone    chan struct{} // closed when every outstanding request has been told
}

// security is what protects the messages of a session on one connection.
type security struct {
	owner   *session
	session uint64
	signer  *smb2.Signer
	sealer  *smb2.Sealer
	opener  *smb2.Opener
	sign    bool // every message is signed
	encrypt bool // every message is encrypted
}

// dialConn connects and negotiates.
func dialConn(ctx context.Context, cfg *Config, addr string) (*conn, error) {
	nc, err := cfg.DialFunc(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := startConn(cfg, addr, nc)
	if err := c.negotiate(ctx); err != nil {
		c.kill(err)
		return nil, err
	}
	return c, nil
}

// startConn has a connection read and watched.
func startConn(cfg *Config, addr string, nc net.Conn) *conn {
	c := &conn{
		cfg: cfg, nc: nc, addr: addr, pending: map[uint64]*call{},
		done: make(chan struct{}), gone: make(chan struct{}),
	}
	c.credits = credits{avail: 1, target: cfg.MaxCredits}
	c.neg.maxFrame = 64 << 10
	c.last.Store(time.Now().UnixNano())
	c.br = bufio.NewReaderSize((*stampedReader)(c), readBuffer)
	go c.readLoop()
	go c.watch(cfg.RequestTimeout)
	return c
}

// stampedReader reads from the connection and notes when bytes came.
type stampedReader conn

func (r *stampedReader) Read(p []byte) (int, error) {
	n, err := r.nc.Read(p)
	if n > 0 {
		r.last.Store(time.Now().UnixNano())
	}
	return n, err
}

// kill ends the connection; everything outstanding on it fails. The server reads
// what was sent until the end of the stream: naming the session it belonged to in
// the next log-on is what keeps it from being carried out.
func (c *conn) kill(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead.Load() {
		return
	}
	c.err = &lostError{err}
	c.dead.Store(true)
	close(c.done)
	_ = c.nc.Close()
}

// sweep fails what is outstanding once nothing more is read.
func (c *conn) sweep() {
	c.mu.Lock()
	list := make([]*call, 0, len(c.pending))
	for id, k := range c.pending {
		delete(c.pending, id)
		list = append(list, k)
	}
	for k := c.credits.first; k != nil; k = k.next {
		list = append(list, k)
	}
	c.credits.first, c.credits.last = nil, nil
	err, owner := c.err, c.owner
	c.mu.Unlock()
	for _, k := range list {
		if !k.state.CompareAndSwap(callWaiting, callTaken) {
			k.free() // its caller has gone
			continue
		}
		k.err = err
		k.finish()
	}
	close(c.gone)
	if owner != nil {
		owner.drop(c)
	}
}

var errSilent = errors.New("the server is silent")

// watch ends the connection when the server has been silent for too long with
// requests outstanding (a stopped server keeps its TCP connections), or does not
// take a frame. Half-way it asks the server for a sign of life.
func (c *conn) watch(limit time.Duration) {
	t := time.NewTicker(min(max(limit/8, 20*time.Millisecond), time.Second))
	defer t.Stop()
	asked := false
	for {
		select {
		case <-c.done:
			return
		case now := <-t.C:
			if at := c.sending.Load(); at != 0 {
				stuck := now.Sub(time.Unix(0, at))
				c.mu.Lock()
				ctx := c.sendCtx
				c.mu.Unlock()
				if stuck > limit || stuck > 100*time.Millisecond && ctx != nil && ctx.Err() != nil {
					c.kill(errSilent)
				}
			}
			c.mu.Lock()
			waiting := len(c.pending) > 0
			c.mu.Unlock()
			silent := now.Sub(time.Unix(0, c.last.Load()))
			switch {
			case !waiting:
				asked = false
			case silent > limit:
				c.kill(errSilent)
			case silent > limit/2 && !asked && c.sec.Load() != nil:
				asked = true
				go c.echo()
			case silent <= limit/2:
				asked = false
			}
		}
	}
}

// echo asks the server whether it is there.
func (c *conn) echo() {
	ctx, cancel := context.WithTimeout(context.Background(), c.cfg.RequestTimeout)
	defer cancel()
	k := newCall(smb2.CommandEcho)
	c.protect(k, false)
	if c.reserve(ctx, k, 1) == nil {
		c.send(ctx, k, &smb2.EchoRequest{}, nil)
		if k.wait(ctx) == nil {
			k.free()
		}
	}
}

// protect sets session, signing and encryption of a request as its session and
// its tree connect demand.
func (c *conn) protect(k *call, encrypt bool) {
	sec := c.sec.Load()
	if sec == nil {
		return
	}
	k.hdr.SessionID = sec.session
	k.seal = encrypt || sec.encrypt
	k.sign = sec.sign && !k.seal
}

// send sends a request that has been reserved; the response, or the connection's
// end, comes by wait. payload follows the message, as with WRITE, and is no longer
// used when send returns.
func (c *conn) send(ctx context.Context, k *call, m message, payload []byte) {
	n := m.Size()
	if k.seal {
		c.sendSealed(ctx, k, m, payload)
		return
	}
	if cap(k.wire) < wireHead+n {
		k.wire = make([]byte, wireHead+n, max(wireHead+n, 512))
	}
	k.wire = k.wire[:wireHead+n]
	msg := k.wire[wireHead:]
	k.hdr.Encode(msg)
	m.Encode(msg)
	if k.sign {
		c.sec.Load().signer.SignParts(msg, payload)
	}
	frame := k.wire[smb2.TransformHeaderSize:]
	smb2.PutFrameHeader(frame, n+len(payload))
	c.write(ctx, frame, payload)
}

// sealed holds memory for requests that are encrypted: they go out in one piece.
var sealed = sync.Pool{New: func() any { return new([]byte) }}

// sendSealed is send for an encrypted request.
func (c *conn) sendSealed(ctx context.Context, k *call, m message, payload []byte) {
	n := m.Size()
	mem := sealed.Get().(*[]byte)
	defer sealed.Put(mem)
	if room := wireHead + n + len(payload) + smb2.SealTailroom; cap(*mem) < room {
		*mem = make([]byte, room+room/4)
	}
	frame := (*mem)[:wireHead+n+len(payload)]
	msg := frame[wireHead:]
	k.hdr.Encode(msg)
	m.Encode(msg)
	copy(msg[n:], payload)
	if err := c.sec.Load().sealer.Seal(frame[smb2.FrameHeaderSize:]); err != nil {
		c.kill(err)
		return
	}
	smb2.PutFrameHeader(frame, len(frame)-smb2.FrameHeaderSize)
	c.write(ctx, frame, nil)
}

func (c *conn) write(ctx context.Context, frame, payload []byte) {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	if c.dead.Load() {
		return
	}
	if ctx.Done() != nil && len(payload) > 0 {
		c.mu.Lock()
		c.sendCtx = ctx
		c.mu.Unlock()
		defer func() {
			c.mu.Lock()
			c.sendCtx = nil
			c.mu.Unlock()
		}()
	}
	c.sending.Store(time.Now().UnixNano())
	var err error
	if len(payload) == 0 {
		_, err = c.nc.Write(frame)
	} else {
		c.vecMem = [2][]byte{frame, payload}
		c.vec = c.vecMem[:]
		_, err = c.vec.WriteTo(c.nc)
		c.vecMem = [2][]byte{}
	}
	c.sending.Store(0)
	if err != nil {
		c.kill(err)
	}
}

// sendCancel sends a CANCEL for an outstanding request (MS-SMB2 3.2.4.24). Nothing
// answers it, and it takes no credit.
func (c *conn) sendCancel(k *call) {
	c.mu.Lock()
	if c.dead.Load() || !k.claimed || c.pending[k.hdr.MessageID] != k {
		c.mu.Unlock()
		return
	}
	x := newCall(smb2.CommandCancel)
	x.hdr = smb2.Header{Command: smb2.CommandCancel, MessageID: k.hdr.MessageID, SessionID: k.hdr.SessionID, TreeID: k.hdr.TreeID}
	if k.async != 0 {
		x.hdr.Flags |= smb2.FlagAsyncCommand
		x.hdr.AsyncID = k.async
	}
	x.seal, x.sign = k.seal, k.sign
	c.mu.Unlock()
	c.send(context.Background(), x, &smb2.CancelRequest{}, nil)
	x.free()
}
