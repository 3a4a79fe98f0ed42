package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lunless/smbstore/block"
)

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// startServer serves o's exports on a unix socket, whose path it returns.
func startServer(tb testing.TB, o Options, exports ...ExportOptions) (*Server, string) {
	tb.Helper()
	s := NewServer(o)
	for _, e := range exports {
		_, err := s.Add(e)
		must(tb, err)
	}
	path := filepath.Join(tb.TempDir(), "s")
	l, err := net.Listen("unix", path)
	must(tb, err)
	serve(tb, s, l)
	return s, path
}

// serve serves on l until the test ends.
func serve(tb testing.TB, s *Server, l net.Listener) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, ErrServerClosed) {
			tb.Error(err)
		}
		if left := s.memory.left.Load(); left != s.opts.Limits.Memory {
			tb.Errorf("%d bytes of shared memory were not given back", s.opts.Limits.Memory-left)
		}
		for _, e := range s.List() {
			if n := e.counters.inFlight.Load(); n != 0 {
				tb.Errorf("export %q has %d requests in flight in the end", e.Name(), n)
			}
			if n := e.gate.active.Load(); n != 0 {
				tb.Errorf("export %q has %d requests at its device in the end", e.Name(), n)
			}
		}
	})
}

// client speaks the protocol, well or badly.
type client struct {
	tb testing.TB
	net.Conn
	size       uint64
	flags      uint16
	structured bool
	cookie     uint64
}

// dial connects and reads the server's greeting.
func dial(tb testing.TB, path string) *client {
	tb.Helper()
	nc, err := net.Dial("unix", path)
	must(tb, err)
	return greet(tb, nc)
}

func greet(tb testing.TB, nc net.Conn) *client {
	tb.Helper()
	tb.Cleanup(func() { nc.Close() })
	must(tb, nc.SetDeadline(time.Now().Add(time.Minute)))
	c := &client{tb: tb, Conn: nc}
	b := c.take(18)
	if binary.BigEndian.Uint64(b) != magicServer || binary.BigEndian.Uint64(b[8:]) != magicOption ||
		binary.BigEndian.Uint16(b[16:]) != flagFixedNewstyle|flagNoZeroes {
		tb.Fatalf("greeting %x", b)
	}
	return c
}

// take reads n bytes.
func (c *client) take(n int) []byte {
	c.tb.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c.Conn, b); err != nil {
		c.tb.Fatalf("read %d bytes: %v", n, err)
	}
	return b
}

func (c *client) put(parts ...any) {
	c.tb.Helper()
	if _, err := c.Write(pack(parts...)); err != nil {
		c.tb.Fatal(err)
	}
}

// pack appends integers, strings and bytes.
func pack(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case uint16:
			b = binary.BigEndian.AppendUint16(b, p)
		case uint32:
			b = binary.BigEndian.AppendUint32(b, p)
		case uint64:
			b = binary.BigEndian.AppendUint64(b, p)
		case string:
			b = append(b, p...)
		case []byte:
			b = append(b, p...)
		default:
			panic(fmt.Sprintf("cannot pack a %T", p))
		}
	}
	return b
}

func optionBytes(opt uint32, data ...any) []byte {
	d := pack(data...)
	return pack(uint64(magicOption), opt, uint32(len(d)), d)
}

type optReply struct {
	kind uint32
	data []byte
}

// option sends an option and reads its replies up to the final one.
func (c *client) option(opt uint32, data ...any) []optReply {
	c.tb.Helper()
	c.put(optionBytes(opt, data...))
	return c.optionReplies(opt)
}

func (c *client) optionReplies(opt uint32) []optReply {
	c.tb.Helper()
	var all []optReply
	for {
		h := c.take(20)
		if binary.BigEndian.Uint64(h) != magicOptionReply || binary.BigEndian.Uint32(h[8:]) != opt {
			c.tb.Fatalf("reply %x to option %d", h, opt)
		}
		r := optReply{binary.BigEndian.Uint32(h[12:]), c.take(int(binary.BigEndian.Uint32(h[16:])))}
		all = append(all, r)
		if r.kind == repAck || r.kind>>31 != 0 {
			return all
		}
	}
}

// last is the kind of the final reply.
func last(r []optReply) uint32 { return r[len(r)-1].kind }

func (c *client) mustOption(opt uint32, data ...any) []optReply {
	c.tb.Helper()
	r := c.option(opt, data...)
	if last(r) != repAck {
		c.tb.Fatalf("option %d: reply %#x %q", opt, last(r), r[len(r)-1].data)
	}
	return r
}

func goData(name string, items ...uint16) []byte {
	b := pack(uint32(len(name)), name, uint16(len(items)))
	for _, i := range items {
		b = pack(b, i)
	}
	return b
}

func metaData(name string, queries ...string) []byte {
	b := pack(uint32(len(name)), name, uint32(len(queries)))
	for _, q := range queries {
		b = pack(b, uint32(len(q)), q)
	}
	return b
}

// connect takes a new client to the transmission phase of an export: with
// structured replies and base:allocation if it is asked for.
func connect(tb testing.TB, path, name string, structured bool) *client {
	tb.Helper()
	c := dial(tb, path)
	c.enter(name, structured)
	return c
}

func (c *client) enter(name string, structured bool) {
	c.tb.Helper()
	c.put(uint32(flagFixedNewstyle | flagNoZeroes))
	if structured {
		c.structured = true
		c.mustOption(optStructuredReply)
		c.mustOption(optSetMetaContext, metaData(name, contextAllocation))
	}
	for _, r := range c.mustOption(optGo, goData(name, infoBlockSize)) {
		if r.kind == repInfo && binary.BigEndian.Uint16(r.data) == infoExport {
			c.size, c.flags = binary.BigEndian.Uint64(r.data[2:]), binary.BigEndian.Uint16(r.data[10:])
		}
	}
}

func requestBytes(flags uint16, cmd command, cookie, off uint64, n uint32) []byte {
	return pack(uint32(magicRequest), flags, uint16(cmd), cookie, off, n)
}

// request sends a request and returns its cookie.
func (c *client) request(flags uint16, cmd command, off uint64, n uint32, payload ...any) uint64 {
	c.tb.Helper()
	c.cookie++
	c.put(append([]any{requestBytes(flags, cmd, c.cookie, off, n)}, payload...)...)
	return c.cookie
}

// chunk is one reply message.
type chunk struct {
	structured bool
	flags      uint16
	kind       uint16
	cookie     uint64
	err        Errno
	off        uint64 // of data and holes
	hole       uint32
	data       []byte // of data; descriptors of block status
}

// chunk reads one reply message; n is how much data a simple one has.
func (c *client) chunk(n int) chunk {
	c.tb.Helper()
	k, err := readChunk(c.Conn, n)
	if err != nil {
		c.tb.Fatal(err)
	}
	return k
}

func readChunk(r io.Reader, n int) (k chunk, err error) {
	h := make([]byte, simpleSize)
	if _, err := io.ReadFull(r, h); err != nil {
		return k, err
	}
	switch m := binary.BigEndian.Uint32(h); m {
	case magicSimple:
		k.err, k.cookie, k.flags = Errno(binary.BigEndian.Uint32(h[4:])), binary.BigEndian.Uint64(h[8:]), replyFlagDone
		if k.err == 0 {
			k.data = make([]byte, n)
		}
		_, err := io.ReadFull(r, k.data)
		return k, err
	case magicStructured:
		k.structured, k.flags, k.kind, k.cookie = true, binary.BigEndian.Uint16(h[4:]), binary.BigEndian.Uint16(h[6:]), binary.BigEndian.Uint64(h[8:])
	default:
		return k, fmt.Errorf("reply with magic number %#x", m)
	}
	l := make([]byte, 4)
	if _, err := io.ReadFull(r, l); err != nil {
		return k, err
	}
	p := make([]byte, binary.BigEndian.Uint32(l))
	if _, err := io.ReadFull(r, p); err != nil {
		return k, err
	}
	switch {
	case k.kind == replyNone && len(p) == 0:
	case k.kind == replyOffsetData && len(p) > 8:
		k.off, k.data = binary.BigEndian.Uint64(p), p[8:]
	case k.kind == replyOffsetHole && len(p) == 12:
		k.off, k.hole = binary.BigEndian.Uint64(p), binary.BigEndian.Uint32(p[8:])
	case k.kind == replyBlockStatus && len(p) > 4 && len(p)%8 == 4 && binary.BigEndian.Uint32(p) == contextID:
		k.data = p[4:]
	case k.kind == replyError && len(p) >= 6 && int(binary.BigEndian.Uint16(p[4:])) == len(p)-6:
		k.err = Errno(binary.BigEndian.Uint32(p))
	default:
		return k, fmt.Errorf("chunk of type %#x with %d bytes", k.kind, len(p))
	}
	return k, nil
}

// do sends a request and reads its reply: the data of a read, the descriptors of
// block status.
func (c *client) do(flags uint16, cmd command, off uint64, n uint32, payload ...any) ([]byte, Errno) {
	c.tb.Helper()
	cookie := c.request(flags, cmd, off, n, payload...)
	return c.answer(cookie, cmd, off, n)
}

// answer reads the reply to the only request in flight.
func (c *client) answer(cookie uint64, cmd command, off uint64, n uint32) ([]byte, Errno) {
	c.tb.Helper()
	var data []byte
	if cmd == cmdRead {
		data = make([]byte, n)
	}
	covered := uint32(0)
	for {
		k := c.chunk(len(data))
		if k.cookie != cookie {
			c.tb.Fatalf("reply to %d, want %d", k.cookie, cookie)
		}
		if cmd == cmdRead && k.structured != c.structured {
			c.tb.Fatalf("a read's reply is structured: %v, want %v", k.structured, c.structured)
		}
		switch {
		case k.err != 0:
			if k.flags&replyFlagDone == 0 {
				c.tb.Fatal("an error that does not end the reply")
			}
			return nil, k.err
		case !k.structured:
			return k.data, 0
		case k.kind == replyBlockStatus:
			data = k.data
		case k.kind == replyOffsetData:
			copy(data[k.off-off:], k.data)
			covered += uint32(len(k.data))
		case k.kind == replyOffsetHole:
			covered += k.hole
		}
		if k.flags&replyFlagDone != 0 {
			if cmd == cmdRead && covered != n {
				c.tb.Fatalf("the chunks of a read of %d bytes have %d", n, covered)
			}
			return data, 0
		}
	}
}

// ok is do, for a request that must succeed.
func (c *client) ok(flags uint16, cmd command, off uint64, n uint32, payload ...any) []byte {
	c.tb.Helper()
	b, e := c.do(flags, cmd, off, n, payload...)
	if e != 0 {
		c.tb.Fatalf("%v of %d bytes at %d: %v", cmd, n, off, e)
	}
	return b
}

// wantEnd wants the server to have closed the connection, or to close it.
func (c *client) wantEnd() {
	c.tb.Helper()
	if n, err := io.Copy(io.Discard, c.Conn); err != nil && !errors.Is(err, io.EOF) && !isReset(err) {
		c.tb.Fatalf("connection goes on after %d bytes: %v", n, err)
	}
}

func isReset(err error) bool {
	var o *net.OpError
	return errors.As(err, &o) && !o.Timeout()
}

// export of a device in memory.
func memExport(size int64) ExportOptions { return ExportOptions{Device: block.NewMem(size)} }

// syncBuffer is a log to look into.
type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) taken() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.b.String()
	b.b.Reset()
	return s
}
