package vm

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/nbd"
	"lunless/smbstore/storetest"
)

// The guest boots from a VHDX on a share, ours and Samba's, over our NBD export, and
// writes to it and to a second one, for VM_SECONDS (2) without an error.
func TestGuestBootsFromShare(t *testing.T) {
	writes := vmSeconds(t)
	g, err := Build(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	raw := filepath.Join(t.TempDir(), "boot.raw")
	if err := g.BootDisk(t.Context(), raw, BootOptions{Params: []string{"disks=2", "span=16", "mem=4"}}); err != nil {
		t.Fatal(err)
	}
	for name, start := range storetest.Servers {
		t.Run(name, func(t *testing.T) { bootsFromShare(t, start(t), raw, writes) })
	}
}

// vmSeconds is how long the guest on a share writes.
func vmSeconds(t *testing.T) time.Duration {
	s := os.Getenv("VM_SECONDS")
	if s == "" {
		return 2 * time.Second
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("VM_SECONDS=%s: not a number of seconds", s)
	}
	return time.Duration(n) * time.Second
}

func bootsFromShare(t *testing.T, server *storetest.Server, raw string, writes time.Duration) {
	at := []smbstore.Location{server.Location("disk0.vhdx"), server.Location("disk1.vhdx")}
	src, err := smbstore.ParseLocation(raw)
	if err == nil {
		err = smbstore.ConvertDisk(t.Context(), smbstore.ConvertDiskOptions{Source: src, Destination: at[0], DestinationOptions: server.Options()})
	}
	if err != nil {
		t.Fatal(err)
	}
	store, err := smbstore.Open(t.Context(), server.Location(""), server.Options())
	if err != nil {
		t.Fatal(err)
	}
	dev, err := smbstore.CreateDisk(t.Context(), store, "disk1.vhdx", smbstore.CreateDiskOptions{Format: smbstore.VHDX, Size: 1 << 30})
	if err == nil {
		err = dev.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	socket, stop := export(t, store, "disk0.vhdx", "disk1.vhdx")
	nbdDisk := func(n int, name string) []string {
		return disk(n, "driver=nbd,discard=unmap,server.type=unix,server.path="+socket+",export="+name)
	}
	m, ready, err := boot(t, NewConsole(), append(nbdDisk(0, "disk0.vhdx"), nbdDisk(1, "disk1.vhdx")...)...)
	m.must(err)
	m.must(m.console.Reset(m.ctx))
	time.Sleep(writes)
	m.flushes(10)
	s, err := m.console.Stats(m.ctx)
	m.must(err)
	v, err := m.console.Verify(m.ctx)
	m.must(err)
	m.quit()
	stop()
	if err := errors.Join(m.console.Err(), store.Close()); err != nil {
		t.Error(err)
	}
	b := m.console.Beats()
	t.Logf("ready after %v of the guest's time; in %v %d writes, %d flushes, longest stall %v (%s); %d blocks verified; %d heartbeats, longest gap %v",
		ready.Up, s.Since, s.Writes, s.Flushes, s.Stall, s.StallOp, v.Blocks, b.Count, b.Longest)
	if r, err := Check(t.Context(), m.console.Records(), server.Options(), at...); err != nil || s.Writes == 0 || r.Stamped == 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// export serves disks of a store by their names, on a unix socket, until stop.
func export(t *testing.T, store smbstore.Store, names ...string) (socket string, stop func()) {
	dir, err := os.MkdirTemp("", "lunless-nbd-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "nbd")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := nbd.NewServer(nbd.Options{})
	var disks []interface{ Close() error }
	for _, name := range names {
		dev, _, err := smbstore.OpenDisk(t.Context(), store, name, smbstore.DiskOptions{})
		if err != nil {
			t.Fatal(err)
		}
		disks = append(disks, dev)
		if _, err := server.Add(nbd.ExportOptions{Name: name, Device: dev}); err != nil {
			t.Fatal(err)
		}
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(context.WithoutCancel(t.Context()), l) }()
	return socket, func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil && !errors.Is(err, nbd.ErrServerClosed) {
			t.Error(err)
		}
		for _, d := range disks {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
