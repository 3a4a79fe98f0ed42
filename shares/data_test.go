package shares

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"lunless/smbstore/smb2"
)

// dataLoop sends the same READ or WRITE over and over, depth at a time, without
// allocating: only message ids and signatures change.
type dataLoop struct {
	c     *rawClient
	depth int
	reqs  [][]byte // plain
	outs  [][]byte // where each goes, within out
	out   []byte   // framed
	in    []byte   // responses, framed
}

func newDataLoop(c *rawClient, cmd smb2.Command, m body, payload []byte, depth, respSize int) *dataLoop {
	extra := 0
	if c.seal {
		extra = smb2.TransformHeaderSize
	}
	total := depth * (frameHeader + extra + respSize)
	l := &dataLoop{c: c, depth: depth, in: make([]byte, total, total+smb2.SealTailroom)}
	for range depth {
		msg := c.build(cmd, m, payload)
		l.reqs = append(l.reqs, msg)
		l.out = binary.BigEndian.AppendUint32(l.out, uint32(extra+len(msg)))
		l.out = append(append(l.out, make([]byte, extra)...), msg...)
	}
	l.out = append(l.out, make([]byte, smb2.SealTailroom)...)[:len(l.out)]
	size := len(l.out) / depth
	for i := range depth {
		l.outs = append(l.outs, l.out[i*size+frameHeader:(i+1)*size])
	}
	c.message -= uint64(depth) * uint64(binary.LittleEndian.Uint16(l.reqs[0][6:]))
	return l
}

func (l *dataLoop) run(t testing.TB) {
	for i, msg := range l.reqs {
		binary.LittleEndian.PutUint64(msg[24:], l.c.message)
		l.c.message += uint64(max(1, binary.LittleEndian.Uint16(msg[6:])))
		switch {
		case l.c.seal: // in order: each uses a few bytes of the next
			copy(l.outs[i][smb2.TransformHeaderSize:], msg)
			binary.BigEndian.PutUint32(l.out[i*(len(l.out)/l.depth):], uint32(len(l.outs[i])))
			if err := l.c.sealer.Seal(l.outs[i]); err != nil {
				t.Fatal(err)
			}
		case l.c.sign:
			l.c.signer.Sign(msg)
			fallthrough
		default:
			copy(l.outs[i], msg)
		}
	}
	if _, err := l.c.nc.Write(l.out); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(l.c.nc, l.in); err != nil {
		t.Fatal(err)
	}
	if l.c.seal { // the last one: opening uses a few bytes behind it
		msg, err := l.c.opener.Open(l.in[len(l.in)-len(l.in)/l.depth+frameHeader:])
		if err != nil || binary.LittleEndian.Uint32(msg[8:]) != 0 {
			t.Fatal(err, "or an error status")
		}
		return
	}
	for b := l.in; len(b) > 0; b = b[len(l.in)/l.depth:] {
		if st := smb2.Status(binary.LittleEndian.Uint32(b[frameHeader+8:])); st != smb2.StatusSuccess {
			t.Fatal(st)
		}
	}
}

// dataCases are the steady states of the data path.
var dataCases = []struct {
	name  string
	size  int
	depth int
	sign  bool
	seal  bool
}{
	{"4KiB", 4 << 10, 1, false, false},
	{"4KiB/depth32", 4 << 10, 32, false, false},
	{"4KiB/depth32/signed", 4 << 10, 32, true, false},
	{"4KiB/depth32/sealed", 4 << 10, 32, false, true},
	{"64KiB", 64 << 10, 8, false, false},
	{"1MiB", 1 << 20, 8, false, false},
	{"1MiB/signed", 1 << 20, 8, true, false},
	{"1MiB/sealed", 1 << 20, 8, false, true},
}

// steadyState logs on, opens a warm file of 8 MiB, and makes a loop of requests.
func steadyState(t testing.TB, write bool, size, depth int, sign, seal bool) *dataLoop {
	srv := startServer(t, func(c *Config) { c.Signing = SigningEnabled })
	if err := os.WriteFile(filepath.Join(srv.root, "disk"), make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	id := c.create("disk")
	c.sign, c.seal = sign, seal
	c.nc.SetDeadline(timeZero)
	for range 64 {
		c.call(smb2.CommandEcho, &smb2.EchoRequest{}, nil) // gather credits
	}
	if write {
		m := &smb2.WriteRequest{Length: uint32(size), FileID: id}
		return newDataLoop(c, smb2.CommandWrite, m, make([]byte, size), depth, smb2.HeaderSize+16)
	}
	m := &smb2.ReadRequest{Length: uint32(size), FileID: id}
	l := newDataLoop(c, smb2.CommandRead, m, nil, depth, smb2.ReadResponseSize+size)
	for _, msg := range l.reqs {
		binary.LittleEndian.PutUint16(msg[6:], uint16((size-1)/creditUnit+1))
		binary.LittleEndian.PutUint16(msg[14:], uint16((size-1)/creditUnit+1))
	}
	return l
}

// TestDataPathAllocatesNothing goes from socket to file and back.
func TestDataPathAllocatesNothing(t *testing.T) {
	for _, op := range []string{"read", "write"} {
		for _, tt := range dataCases {
			t.Run(op+"/"+tt.name, func(t *testing.T) {
				l := steadyState(t, op == "write", tt.size, tt.depth, tt.sign, tt.seal)
				warm, runs := 20, 50
				if tt.size > 64<<10 {
					runs = 10
				}
				if raceEnabled { // which counts nothing
					warm, runs = 2, 5
				}
				for range warm {
					l.run(t)
				}
				allocs := testing.AllocsPerRun(runs, func() { l.run(t) })
				limit := 0.0
				if tt.size > 64<<10 {
					limit = 4 // of 8 requests: a collection empties the pool of large buffers
				}
				if allocs > limit && !raceEnabled {
					t.Errorf("%v allocations in %d requests", allocs, tt.depth)
				}
			})
		}
	}
}

func BenchmarkRead(b *testing.B)  { benchmarkData(b, false) }
func BenchmarkWrite(b *testing.B) { benchmarkData(b, true) }

func benchmarkData(b *testing.B, write bool) {
	for _, tt := range dataCases {
		b.Run(tt.name, func(b *testing.B) {
			l := steadyState(b, write, tt.size, tt.depth, tt.sign, tt.seal)
			b.ReportAllocs()
			b.SetBytes(int64(tt.size))
			b.ResetTimer()
			for i := 0; i < b.N; i += tt.depth {
				l.run(b)
			}
		})
	}
}

// TestLargeTransfers writes and reads back up to 8 MiB at a time, many at once,
// in every kind of protection.
func TestLargeTransfers(t *testing.T) {
	srv := startServer(t, nil)
	rng := rand.NewChaCha8([32]byte{7})
	data := make([]byte, maxTransfer)
	rng.Read(data)
	for _, tt := range []struct {
		name    string
		dialect smb2.Dialect
		seal    bool
	}{{"HMAC", smb2.Dialect210, false}, {"CMAC", smb2.Dialect302, false}, {"CCM", smb2.Dialect302, true},
		{"GMAC", smb2.Dialect311, false}, {"GCM", smb2.Dialect311, true}} {
		t.Run(tt.name, func(t *testing.T) {
			c := loginRaw(t, srv.addr, tt.dialect, "vms")
			c.seal = tt.seal
			id := c.create("large-" + tt.name)
			for range 16 {
				c.call(smb2.CommandEcho, &smb2.EchoRequest{}, nil)
			}
			var off uint64
			for _, n := range []int{0, 1, 4096, 65536, 65537, 1 << 20, 3<<20 + 17, maxTransfer} {
				r := c.call(smb2.CommandWrite, &smb2.WriteRequest{Length: uint32(n), Offset: off, FileID: id}, data[:n])
				if r.hdr.Status != smb2.StatusSuccess {
					t.Fatalf("write of %d: %v", n, r.hdr.Status)
				}
				req := c.build(smb2.CommandRead, &smb2.ReadRequest{Length: uint32(n), Offset: off, FileID: id}, nil)
				charge := (max(n, 1)-1)/creditUnit + 1
				binary.LittleEndian.PutUint16(req[6:], uint16(charge))
				binary.LittleEndian.PutUint16(req[14:], 256)
				c.message += uint64(charge - 1)
				c.send(req)
				list := c.receive()
				var m smb2.ReadResponse
				if err := m.Decode(list[0].msg); err != nil || list[0].hdr.Status != smb2.StatusSuccess {
					t.Fatalf("read of %d: %v %v", n, list[0].hdr.Status, err)
				}
				if !bytes.Equal(m.Data, data[:n]) {
					t.Fatalf("read of %d at %d differs", n, off)
				}
				off += uint64(n)
			}
		})
	}
}

// TestBuffersComeBack sees that a closed connection leaves no buffer behind.
func TestBuffersComeBack(t *testing.T) {
	before := buffersOut.Load()
	srv := startServer(t, nil)
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	id := c.create("f")
	for range 10 {
		c.call(smb2.CommandWrite, &smb2.WriteRequest{Length: 100000, FileID: id}, make([]byte, 100000))
	}
	c.nc.Close()
	for range 1000 {
		if buffersOut.Load() == before {
			return
		}
		runtime.Gosched()
		sleepBriefly()
	}
	t.Errorf("%d buffers are out, %d before", buffersOut.Load(), before)
}
