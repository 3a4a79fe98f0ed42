package nbd

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"

	"lunless/smbstore/block"
)

// session lets a server have a client that sends what it is given after a
// beginning, and returns what it answered after the greeting.
func session(tb testing.TB, beginning, sent []byte) []byte {
	tb.Helper()
	s := NewServer(Options{Limits: Limits{InFlight: 4, ConnMemory: 64 << 10, Memory: 1 << 20}})
	_, err := s.Add(ExportOptions{Name: "a", Description: "d", Device: block.NewMem(1 << 20), FastZero: true})
	must(tb, err)
	s.monitor.start()
	defer s.monitor.stop()
	near, far := net.Pipe()
	c := s.admit(context.Background(), far, false)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer s.dismiss(c)
		c.run()
	}()
	got := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(near)
		got <- b
	}()
	_ = near.SetWriteDeadline(time.Now().Add(5 * time.Second))
	if _, err := near.Write(append(bytes.Clone(beginning), sent...)); err == nil {
		// What it has no end for, it waits for; all before is answered or ends it.
		c.stop()
	}
	<-ended
	near.Close()
	if s.memory.left.Load() != s.opts.Limits.Memory {
		tb.Error("shared memory was not given back")
	}
	e := s.List()[0]
	if n, m := e.counters.inFlight.Load(), e.gate.active.Load(); n != 0 || m != 0 {
		tb.Errorf("%d requests in flight, %d at the device in the end", n, m)
	}
	if c.busy != 0 || c.own != 0 || len(c.all) > s.opts.Limits.InFlight {
		tb.Errorf("%d requests and %d bytes in use in the end, %d requests made", c.busy, c.own, len(c.all))
	}
	b := <-got
	if len(b) < 18 {
		tb.Fatalf("greeting %x", b)
	}
	return b[18:]
}

// FuzzNegotiation: whatever a client sends instead of options, the server ends
// with nothing left, and keeps nothing large.
func FuzzNegotiation(f *testing.F) {
	flags := pack(uint32(flagFixedNewstyle | flagNoZeroes))
	for _, seed := range [][]byte{
		{}, flags, pack(flags, optionBytes(optList)), pack(flags, optionBytes(optExportName, "a"), requestBytes(0, cmdRead, 1, 0, 512)),
		pack(flags, optionBytes(optStructuredReply), optionBytes(optSetMetaContext, metaData("a", contextAllocation)), optionBytes(optGo, goData("a", infoBlockSize))),
		pack(flags, optionBytes(optListMetaContext, metaData("a", "base:", "x:"))), pack(flags, optionBytes(optInfo, goData("", infoName, infoDescription))),
		pack(flags, optionBytes(optStartTLS)), pack(flags, optionBytes(optAbort)), pack(flags, optionBytes(77, make([]byte, 40<<10)), optionBytes(optList)),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) { session(t, nil, b) })
}

// FuzzTransmission: whatever a client sends instead of requests, the replies are
// well-formed, and the server ends with nothing left.
func FuzzTransmission(f *testing.F) {
	begin := func(structured bool) []byte {
		b := pack(uint32(flagFixedNewstyle | flagNoZeroes))
		if structured {
			b = pack(b, optionBytes(optStructuredReply), optionBytes(optSetMetaContext, metaData("a", contextAllocation)))
		}
		return pack(b, optionBytes(optGo, goData("a")))
	}
	for _, structured := range []bool{false, true} {
		for cmd := range commands + 1 {
			f.Add(structured, pack(requestBytes(0, cmd, 1, 0, 4096), make([]byte, 4096)))
			f.Add(structured, pack(requestBytes(cmdFlagFUA, cmd, 1, 4096, 100000), make([]byte, 100000)))
		}
		f.Add(structured, pack(requestBytes(0, cmdWrite, 1, 4096, 4096), bytes.Repeat([]byte{1}, 4096), requestBytes(0, cmdRead, 2, 0, 1<<20),
			requestBytes(0, cmdBlockStatus, 3, 0, 1<<20), requestBytes(cmdFlagReqOne, cmdBlockStatus, 4, 512, 1<<19), requestBytes(0, cmdDisc, 5, 0, 0)))
		f.Add(structured, pack(requestBytes(1<<15, cmdWrite, 1, 1<<63, 3), "abc", requestBytes(cmdFlagDF, cmdRead, 2, 1<<20, 1)))
	}
	f.Fuzz(func(t *testing.T, structured bool, b []byte) {
		in := bytes.NewReader(session(t, begin(structured), b))
		// Replies to options: 20 bytes of header each, up to GO's ACK.
		for {
			h := make([]byte, 20)
			if _, err := io.ReadFull(in, h); err != nil {
				return // it never came to transmission
			}
			n := int64(h[16])<<24 | int64(h[17])<<16 | int64(h[18])<<8 | int64(h[19])
			if _, err := in.Seek(n, io.SeekCurrent); err != nil {
				t.Fatal(err)
			}
			if h[11] == optGo && h[15] == repAck {
				break
			}
		}
		if !structured {
			return // lengths of replies depend on what was asked
		}
		for in.Len() > 0 {
			if _, err := readChunk(in, 0); err != nil {
				t.Fatalf("reply: %v", err)
			}
		}
	})
}
