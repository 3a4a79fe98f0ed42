package nbd

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"testing"

	"lunless/smbstore/block"
)

// TestReconnect: the server goes away under QEMU's client with a write in flight
// and comes back, in standby at first: the client sees a pause and no error, and
// every write is there.
func TestReconnect(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	dev := block.NewMem(4 << 20)
	start := func() (s *Server, stop func()) {
		s = NewServer(Options{})
		_, err := s.Add(ExportOptions{Name: "x", Size: dev.Size(), Geometry: dev.Geometry()})
		must(t, err)
		l, err := net.Listen("unix", path)
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(ctx, l) }()
		return s, func() { cancel(); must(t, <-ended) }
	}
	s, stop := start()
	type result struct {
		out string
		err error
	}
	done := make(chan result, 1)
	go func() {
		out, err := tryPeer(t, "qemu-io", "-c", "write -P 5 0 64k", "-c", "write -P 6 1M 64k", "-c", "flush", "-c", "read -P 5 0 64k", "-c", "read -P 6 1M 64k",
			"--image-opts", "driver=nbd,server.type=unix,server.path="+path+",export=x,reconnect-delay=60,open-timeout=60")
		done <- result{out, err}
	}()
	for range 3 {
		eventually(t, "a write is held", func() bool { return s.List()[0].Stats().InFlight == 1 })
		stop()
		s, stop = start()
	}
	eventually(t, "a write is held", func() bool { return s.List()[0].Stats().InFlight == 1 })
	must(t, s.List()[0].Release(dev))
	if r := <-done; r.err != nil || bytes.Contains([]byte(r.out), []byte("ailed")) {
		t.Errorf("qemu-io: %v\n%s", r.err, r.out)
	}
	stop()
	got := make([]byte, 64<<10)
	for off, want := range map[int64]byte{0: 5, 1 << 20: 6} {
		must(t, dev.ReadAt(t.Context(), got, off))
		if !bytes.Equal(got, bytes.Repeat([]byte{want}, len(got))) {
			t.Errorf("the write at %d is lost", off)
		}
	}
}
