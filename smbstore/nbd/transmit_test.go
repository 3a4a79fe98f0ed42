package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lunless/smbstore/block"
)

// journal is a device that writes down what it is asked.
type journal struct {
	block.Device
	mu  sync.Mutex
	ops []string
}

func journalled(dev block.Device) *journal {
	j := &journal{}
	j.Device = block.NewIntercept(dev, func(_ context.Context, op block.Op) error {
		names := map[block.OpKind]string{block.OpRead: "read", block.OpWrite: "write", block.OpZero: "zero", block.OpTrim: "trim", block.OpFlush: "flush", block.OpExtents: "extents"}
		j.mu.Lock()
		defer j.mu.Unlock()
		s := fmt.Sprintf("%s %d+%d", names[op.Kind], op.Off, op.Len)
		if op.Flags&block.FUA != 0 {
			s += " fua"
		}
		if op.Flags&block.NoUnmap != 0 {
			s += " keep"
		}
		j.ops = append(j.ops, s)
		return nil
	})
	return j
}

func (j *journal) taken() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := strings.Join(j.ops, ", ")
	j.ops = nil
	return s
}

// TestRequests: what each request does at the device, and what it is answered
// with, of a client with structured replies and of one without.
func TestRequests(t *testing.T) {
	const size = 1 << 20
	dev, small := journalled(block.NewMem(size)), journalled(block.NewMem(size))
	_, path := startServer(t, Options{}, ExportOptions{Name: "rw", Device: dev, FastZero: true},
		ExportOptions{Name: "ro", Device: small, ReadOnly: true}, ExportOptions{Name: "slow", Device: small})
	text := strings.Repeat("x", 512)
	for _, tt := range []struct {
		name    string
		export  string
		flags   uint16
		cmd     command
		off     uint64
		n       uint32
		payload string
		want    Errno
		ops     string
	}{
		{"write", "rw", 0, cmdWrite, 512, 512, text, 0, "write 512+512"},
		{"write FUA", "rw", cmdFlagFUA, cmdWrite, 512, 512, text, 0, "write 512+512 fua"},
		{"write nothing", "rw", 0, cmdWrite, 512, 0, "", 0, ""},
		{"write beyond", "rw", 0, cmdWrite, size, 512, text, ENOSPC, ""},
		{"write over the end", "rw", 0, cmdWrite, size - 512, 1024, text + text, ENOSPC, ""},
		{"write far beyond", "rw", 0, cmdWrite, 1<<64 - 512, 512, text, ENOSPC, ""},
		{"write unaligned", "rw", 0, cmdWrite, 100, 512, text, EINVAL, ""},
		{"write of an unaligned length", "rw", 0, cmdWrite, 0, 3, "abc", EINVAL, ""},
		{"write with DF", "rw", cmdFlagDF, cmdWrite, 0, 512, text, EINVAL, ""},
		{"write with an unknown flag", "rw", 1 << 9, cmdWrite, 0, 512, text, EINVAL, ""},
		{"write to a read-only export", "ro", 0, cmdWrite, 0, 512, text, EPERM, ""},
		{"read", "rw", 0, cmdRead, 0, 4096, "", 0, "read 0+4096"},
		{"read FUA", "rw", cmdFlagFUA, cmdRead, 0, 4096, "", 0, "read 0+4096"},
		{"read nothing", "rw", 0, cmdRead, 0, 0, "", 0, ""},
		{"read all", "rw", 0, cmdRead, 0, size, "", 0, fmt.Sprintf("read 0+%d", size)},
		{"read beyond", "rw", 0, cmdRead, size, 1, "", EINVAL, ""},
		{"read over the end", "rw", 0, cmdRead, size - 512, 4 << 20, "", EINVAL, ""},
		{"read overflowing", "rw", 0, cmdRead, 1<<64 - 1, 1<<32 - 1, "", EINVAL, ""},
		{"read at the end, nothing", "rw", 0, cmdRead, size, 0, "", 0, ""},
		{"read with NO_HOLE", "rw", cmdFlagNoHole, cmdRead, 0, 512, "", EINVAL, ""},
		{"flush", "rw", 0, cmdFlush, 0, 0, "", 0, "flush 0+0"},
		{"flush of a read-only export", "ro", 0, cmdFlush, 0, 0, "", 0, ""},
		{"trim", "rw", 0, cmdTrim, 4096, 4096, "", 0, "trim 4096+4096"},
		{"trim FUA", "rw", cmdFlagFUA, cmdTrim, 4096, 4096, "", 0, "trim 4096+4096, flush 0+0"},
		{"trim beyond", "rw", 0, cmdTrim, size, 4096, "", EINVAL, ""},
		{"trim of a read-only export", "ro", 0, cmdTrim, 0, 4096, "", EPERM, ""},
		{"zeroes", "rw", 0, cmdWriteZeroes, 4096, 8192, "", 0, "zero 4096+8192"},
		{"zeroes NO_HOLE FUA", "rw", cmdFlagNoHole | cmdFlagFUA, cmdWriteZeroes, 0, 512, "", 0, "zero 0+512 fua keep"},
		{"zeroes FAST_ZERO", "rw", cmdFlagFastZero, cmdWriteZeroes, 0, 512, "", 0, "zero 0+512"},
		{"zeroes FAST_ZERO NO_HOLE", "rw", cmdFlagFastZero | cmdFlagNoHole, cmdWriteZeroes, 0, 512, "", ENOTSUP, ""},
		{"zeroes FAST_ZERO where there are none", "slow", cmdFlagFastZero, cmdWriteZeroes, 0, 512, "", EINVAL, ""},
		{"zeroes beyond", "rw", 0, cmdWriteZeroes, size - 512, 1024, "", ENOSPC, ""},
		{"zeroes on a read-only export", "ro", 0, cmdWriteZeroes, 0, 512, "", EPERM, ""},
		{"cache", "rw", 0, cmdCache, 0, 512 << 10, "", 0, "read 0+262144, read 262144+262144"},
		{"cache with a flag", "rw", cmdFlagReqOne, cmdCache, 0, 512, "", EINVAL, ""},
		{"block status of nothing", "rw", 0, cmdBlockStatus, 0, 0, "", EINVAL, ""},
		{"block status beyond", "rw", 0, cmdBlockStatus, size, 512, "", EINVAL, ""},
		{"resize", "rw", 0, 8, 0, 512, "", EINVAL, ""},
		{"unknown", "rw", 0, 0xffff, 0, 512, "", EINVAL, ""},
	} {
		for _, structured := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/structured=%v", tt.name, structured), func(t *testing.T) {
				c := connect(t, path, tt.export, structured)
				if _, e := c.do(tt.flags, tt.cmd, tt.off, tt.n, tt.payload); e != tt.want {
					t.Errorf("%v, want %v", e, tt.want)
				}
				j := dev
				if tt.export != "rw" {
					j = small
				}
				if ops := j.taken(); ops != tt.ops {
					t.Errorf("device did %q, want %q", ops, tt.ops)
				}
				c.ok(0, cmdRead, 0, 512) // the connection goes on
				j.taken()
				c.request(0, cmdDisc, 0, 0)
				c.wantEnd()
			})
		}
	}
}

// TestTooLarge: more than the maximum payload.
func TestTooLarge(t *testing.T) {
	_, path := startServer(t, Options{}, memExport(64<<20))
	for structured, want := range map[bool]Errno{true: EOVERFLOW, false: EINVAL} {
		c := connect(t, path, "", structured)
		if _, e := c.do(0, cmdRead, 0, maxPayload+512); e != want {
			t.Errorf("read: %v, want %v", e, want)
		}
		c.ok(0, cmdRead, 512, maxPayload)
		c.ok(0, cmdTrim, 0, 64<<20)
		c.ok(0, cmdWriteZeroes, 0, 64<<20)
		c.ok(0, cmdCache, 0, 64<<20)
		c.ok(0, cmdWrite, 0, maxPayload, make([]byte, maxPayload))
		c.request(0, cmdWrite, 0, maxPayload+512)
		c.wantEnd()
	}
}

// TestHoles: a structured read tells runs of zeroes as holes, in at most
// maxChunks chunks, and in one chunk if DF asks for that.
func TestHoles(t *testing.T) {
	const size = 8 << 20
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dev := block.NewMem(size)
	model := make([]byte, size)
	_, path := startServer(t, Options{}, ExportOptions{Device: dev})
	c := connect(t, path, "", true)
	for range 60 {
		off := rng.Int64N(size - 4096)
		n := min(rng.Int64N(300<<10), size-off)
		if p := model[off : off+n]; rng.IntN(2) == 0 {
			clear(p)
		} else {
			for i := range p {
				p[i] = byte(rng.Uint32())
			}
		}
	}
	must(t, dev.WriteAt(t.Context(), model, 0, 0))
	holes, most := 0, 0
	for i := range 100 {
		off := rng.Int64N(size) &^ 511
		n := min(rng.Int64N(3<<19), size-off) &^ 511
		flags := uint16(i%2) * cmdFlagDF
		cookie := c.request(flags, cmdRead, uint64(off), uint32(n))
		got, covered, chunks := make([]byte, n), int64(0), 0
		for {
			k := c.chunk(0)
			if k.err != 0 || k.cookie != cookie || !k.structured {
				t.Fatalf("chunk %+v", k)
			}
			switch chunks++; k.kind {
			case replyOffsetData:
				copy(got[int64(k.off)-off:], k.data)
				covered += int64(len(k.data))
			case replyOffsetHole:
				holes++
				covered += int64(k.hole)
			}
			if k.flags&replyFlagDone != 0 {
				break
			}
		}
		if most = max(most, chunks); flags != 0 && chunks != 1 {
			t.Fatalf("%d chunks with DF", chunks)
		}
		if covered != n || !bytes.Equal(got, model[off:off+n]) {
			t.Fatalf("read of %d bytes at %d: %d covered, or other content", n, off, covered)
		}
	}
	if holes == 0 || most > maxChunks || most < 3 {
		t.Errorf("%d holes, %d chunks at most in a reply", holes, most)
	}
}

// TestManyHoles: data and holes in turn, more of them than a reply has chunks.
func TestManyHoles(t *testing.T) {
	for _, first := range []int{0, 1} {
		dev := block.NewMem(4 << 20)
		model := make([]byte, 4<<20)
		for i := first; i < 64; i += 2 {
			model[i*holePiece] = 1
		}
		must(t, dev.WriteAt(t.Context(), model, 0, 0))
		_, path := startServer(t, Options{}, ExportOptions{Device: dev})
		c := connect(t, path, "", true)
		for n := uint32(holePiece); n <= 4<<20; n += 3 * holePiece {
			if got := c.ok(0, cmdRead, 0, n); !bytes.Equal(got, model[:n]) {
				t.Fatalf("read of %d bytes has other content", n)
			}
		}
	}
}

// TestBlockStatus: descriptors are consecutive, alternate, and tell holes.
func TestBlockStatus(t *testing.T) {
	const size = 72 << 20
	dev := block.NewMem(size)
	for off := int64(4096); off < size; off += 8192 { // more than a reply holds
		must(t, dev.WriteAt(t.Context(), []byte{1}, off, 0))
	}
	_, path := startServer(t, Options{}, ExportOptions{Device: dev})
	c := connect(t, path, "", true)
	type extent struct{ n, state uint32 }
	status := func(flags uint16, off uint64, n uint32) (all []extent) {
		for b := c.ok(flags, cmdBlockStatus, off, n); len(b) > 0; b = b[8:] {
			all = append(all, extent{binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])})
		}
		return all
	}
	if got := status(0, 512, 8192); fmt.Sprint(got) != "[{3584 3} {4096 0} {512 3}]" {
		t.Errorf("status %v", got)
	}
	if got := status(cmdFlagReqOne, 512, 8192); fmt.Sprint(got) != "[{3584 3}]" {
		t.Errorf("status of one %v", got)
	}
	if got := status(cmdFlagReqOne, 512, 1024); fmt.Sprint(got) != "[{1024 3}]" {
		t.Errorf("status of one, no longer than asked: %v", got)
	}
	if got := status(0, 0, size); len(got) != maxDescriptors || got[0] != (extent{4096, 3}) || got[maxDescriptors-1] != (extent{4096, 0}) {
		t.Errorf("%d descriptors, want %d", len(got), maxDescriptors)
	}
}

// TestFailures: a device's errors come out as the protocol has them, are
// reported with what was asked, and the next request is served.
func TestFailures(t *testing.T) {
	odd := errors.New("odd")
	for _, tt := range []struct {
		err  error
		want Errno
	}{
		{odd, EIO},
		{fmt.Errorf("x: %w", syscall.ENOSPC), ENOSPC},
		{syscall.EDQUOT, ENOSPC},
		{block.ErrReadOnly, EPERM},
		{block.ErrFailed, EIO},
		{context.DeadlineExceeded, EIO},
		{errFull, ENOSPC},
	} {
		for _, structured := range []bool{false, true} {
			for _, cmd := range []command{cmdRead, cmdWrite, cmdFlush, cmdTrim, cmdWriteZeroes, cmdCache, cmdBlockStatus} {
				if cmd == cmdBlockStatus && !structured {
					continue
				}
				fail := true
				var failures []Failure
				dev := block.NewIntercept(block.NewMem(1<<20), func(context.Context, block.Op) error {
					if fail {
						return tt.err
					}
					return nil
				})
				s, path := startServer(t, Options{}, ExportOptions{Name: "x", Device: dev,
					OnFailure: func(f Failure) { failures = append(failures, f) },
					Errno: func(err error) Errno {
						if errors.Is(err, errFull) {
							return ENOSPC
						}
						return 0
					}})
				c := connect(t, path, "x", structured)
				n, payload := uint32(4096), make([]byte, 0)
				if cmd == cmdWrite {
					payload = make([]byte, n)
				}
				if _, e := c.do(0, cmd, 8192, n, payload); e != tt.want {
					t.Errorf("%v failing with %v: %v, want %v", cmd, tt.err, e, tt.want)
				}
				if len(failures) != 1 || failures[0].Errno != tt.want || !errors.Is(failures[0].Err, tt.err) || failures[0].Offset != 8192 ||
					failures[0].Length != n || failures[0].Request != cmd.String() || failures[0].Export != "x" {
					t.Errorf("reported %v", failures)
				}
				fail = false
				c.ok(0, cmd, 8192, n, payload)
				st := s.List()[0].Stats()
				if k := [commands]OpStats{st.Read, st.Write, {}, st.Flush, st.Trim, st.Cache, st.WriteZeroes, st.BlockStatus}[cmd]; k.Requests != 2 || k.Failed != 1 || k.Bytes != int64(n) {
					t.Errorf("%v: counted %d, %d failed, %d bytes", cmd, k.Requests, k.Failed, k.Bytes)
				}
			}
		}
	}
}

var errFull = errors.New("full")

// TestTransmissionEnds: what the server hangs up on; it serves others after it.
func TestTransmissionEnds(t *testing.T) {
	dev := journalled(block.NewMem(1 << 20))
	var log syncBuffer
	_, path := startServer(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))}, ExportOptions{Device: dev})
	good := requestBytes(0, cmdRead, 1, 0, 512)
	for _, tt := range []struct {
		name string
		send []byte
	}{
		{"bad magic", pack(uint32(0x12560953), good[4:])},
		{"option after GO", optionBytes(optList)},
		{"half a request", good[:20]},
		{"write without all of its data", pack(requestBytes(0, cmdWrite, 1, 0, 4096), make([]byte, 1000))},
		{"large write without all of its data", pack(requestBytes(0, cmdWrite, 1, 0, 1<<20), make([]byte, 100000))},
		{"refused write without all of its data", pack(requestBytes(0, cmdWrite, 1, 1<<20, 1<<20), make([]byte, 100000))},
		{"huge write", requestBytes(0, cmdWrite, 1, 0, 1<<32-1)},
		{"disconnect", requestBytes(0, cmdDisc, 1, 0, 0)},
		{"disconnect with numbers", requestBytes(0, cmdDisc, 1, 77, 77)},
		{"garbage", bytes.Repeat([]byte{0xa5}, 1000)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := connect(t, path, "", false)
			c.put(tt.send)
			must(t, c.Conn.(interface{ CloseWrite() error }).CloseWrite())
			c.wantEnd()
			if ops := dev.taken(); ops != "" {
				t.Errorf("device did %s", ops)
			}
			if said := log.taken(); strings.Contains(said, "was disconnected") == strings.HasPrefix(tt.name, "disconnect") {
				t.Errorf("logged %q", said)
			}
			connect(t, path, "", false).ok(0, cmdRead, 0, 512)
			dev.taken()
		})
	}
}

// TestSlowReader: a client that does not read its replies keeps bounded memory
// and no more requests than its bound, and holds up nobody else.
func TestSlowReader(t *testing.T) {
	const inFlight = 16
	s, path := startServer(t, Options{Limits: Limits{InFlight: inFlight, ConnMemory: 1 << 20, Memory: 8 << 20}}, memExport(16<<20))
	slow := connect(t, path, "", false)
	quit := make(chan struct{})
	go func() {
		defer close(quit)
		for i := range uint64(1000) {
			if _, err := slow.Write(requestBytes(0, cmdRead, i, 0, 1<<20)); err != nil {
				return
			}
		}
	}()
	e := s.List()[0]
	for e.Stats().Read.Requests < 2 {
		time.Sleep(time.Millisecond)
	}
	c := connect(t, path, "", false)
	for range 200 {
		c.ok(0, cmdRead, 4096, 4096)
		c.ok(0, cmdWrite, 4096, 4096, make([]byte, 4096))
		c.ok(0, cmdFlush, 0, 0)
	}
	c.ok(0, cmdRead, 0, 4<<20) // more than is left of the shared memory, perhaps
	e.mu.Lock()
	for c := range e.conns {
		c.mu.Lock()
		if len(c.all) > inFlight {
			t.Errorf("%d requests of a connection at once", len(c.all))
		}
		c.mu.Unlock()
	}
	e.mu.Unlock()
	slow.Close()
	<-quit
}

// TestFlood: more requests at once than the bound are all answered.
func TestFlood(t *testing.T) {
	dev := block.NewIntercept(block.NewMem(1<<20), block.DelayBy(func(op block.Op) time.Duration {
		if op.Off == 0 {
			return 2 * time.Millisecond
		}
		return 0
	}))
	_, path := startServer(t, Options{Limits: Limits{InFlight: 8}}, ExportOptions{Device: dev})
	c := connect(t, path, "", false)
	const n = 3000
	var out []byte
	for i := range uint64(n) {
		off := i % 16 * 4096
		if i%3 == 0 {
			out = append(append(out, requestBytes(0, cmdWrite, i, off, 4096)...), make([]byte, 4096)...)
		} else {
			out = append(out, requestBytes(0, cmdFlush, i, 0, 0)...)
		}
	}
	go c.Write(out)
	seen := map[uint64]bool{}
	for range n {
		k := c.chunk(0)
		if k.err != 0 || seen[k.cookie] || k.cookie >= n {
			t.Fatalf("reply %+v", k)
		}
		seen[k.cookie] = true
	}
}

// TestHeadOfLine: a small request that hangs at the device holds up those behind
// it for a moment only, though the reader serves small ones itself.
func TestHeadOfLine(t *testing.T) {
	hang := make(chan struct{})
	dev := block.NewIntercept(block.NewMem(1<<20), func(ctx context.Context, op block.Op) error {
		if op.Off == 8192 {
			select {
			case <-hang:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	_, path := startServer(t, Options{}, ExportOptions{Device: dev})
	for _, cmd := range []command{cmdRead, cmdWrite} {
		c := connect(t, path, "", false)
		for range 20 {
			c.ok(0, cmd, 0, 512, make([]byte, 512*int(cmd)))
		}
		payload := bytes.Repeat([]byte{7}, 512*int(cmd))
		stuck := c.request(0, cmd, 8192, 512, payload)
		for range 100 {
			c.ok(0, cmdWrite, 4096, 512, bytes.Repeat([]byte{9}, 512))
		}
		hang <- struct{}{}
		if _, e := c.answer(stuck, cmd, 8192, 512); e != 0 {
			t.Fatal(e)
		}
		if cmd == cmdWrite { // what it wrote has not been overwritten by what came after it
			go func() { hang <- struct{}{} }()
			if got := c.ok(0, cmdRead, 8192, 512); !bytes.Equal(got, payload) {
				t.Errorf("read %x", got[:16])
			}
		}
	}
}

// TestMultiConnFlush: a flush on one connection covers what was answered on others.
func TestMultiConnFlush(t *testing.T) {
	dev := journalled(block.NewMem(1 << 20))
	_, path := startServer(t, Options{}, ExportOptions{Device: dev})
	a, b := connect(t, path, "", true), connect(t, path, "", true)
	a.ok(0, cmdWrite, 0, 512, make([]byte, 512))
	b.ok(0, cmdFlush, 0, 0)
	if ops := dev.taken(); ops != "write 0+512, flush 0+0" {
		t.Errorf("device did %s", ops)
	}
	a.ok(0, cmdWrite, 0, 512, bytes.Repeat([]byte{1}, 512))
	if got := b.ok(0, cmdRead, 0, 1024); got[0] != 1 || got[511] != 1 || got[512] != 0 {
		t.Error("a write on one connection is not seen on another")
	}
}
