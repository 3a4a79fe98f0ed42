package host

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/storetest"
	guest "lunless/testdata/guest/vm"
)

// The agent starts a guest that boots through its BIOS from a VHDX on a share, ours
// and Samba's. It writes to that disk and to a second one, for VM_SECONDS (2), without
// an error.
func TestGuestBootsFromShare(t *testing.T) {
	t.Parallel()
	writes := 2 * time.Second
	if v := os.Getenv("VM_SECONDS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			t.Fatalf("VM_SECONDS=%s: not a number of seconds", v)
		}
		writes = time.Duration(n) * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), writes+5*time.Minute)
	t.Cleanup(cancel)
	g, err := guest.Build(ctx, "")
	if err != nil {
		t.Fatalf("%v (testdata/peers.sh installs what is missing)", err)
	}
	raw := filepath.Join(t.TempDir(), "boot.raw")
	if err := g.BootDisk(ctx, raw, guest.BootOptions{Params: []string{"disks=2", "span=16", "mem=4"}}); err != nil {
		t.Fatal(err)
	}
	for name, start := range storetest.Servers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := start(t)
			h := newRig(t, "hv1", nil)
			h.ctx = ctx
			h.importGuest("web1", smbstore.Location{Path: filepath.Join(server.Dir, "vms")}, raw, smbstore.Config{CPUs: 1, Memory: 131064 << 10, Firmware: "bios"})
			h.startAgent()
			_, err := h.Start(h.ctx, server.Location("web1").String(), StartRequest{})
			h.must(err)
			c := h.console("web1")
			defer c.Close()
			worksFor(h, c, writes)
			h.must(c.Quit(h.ctx))
			h.await("web1", Stopped)
			checkDisks(t, h, c, smbstore.Location{Path: filepath.Join(server.Dir, "vms", "web1")})
		})
	}
}

// importGuest makes a home of a boot disk's image and a second, empty disk, owned by
// the rig's host.
func (h *rig) importGuest(name string, at smbstore.Location, raw string, machine smbstore.Config) {
	h.t.Helper()
	s, err := smbstore.Open(h.ctx, at, smbstore.Options{})
	h.must(err)
	defer s.Close()
	home, err := smbstore.ImportHome(h.ctx, s, name, smbstore.ImportOptions{Image: smbstore.Location{Path: raw},
		Config: machine})
	h.must(err)
	second := smbstore.Disk{Path: smbstore.DisksDir + "/disk1.vhdx", Format: smbstore.VHDX, Controller: "scsi", Slot: 1}
	dev, err := smbstore.CreateDisk(h.ctx, home.Store(), second.Path, smbstore.CreateDiskOptions{Format: smbstore.VHDX, Size: 1 << 30})
	h.must(err)
	h.must(dev.Close())
	h.must(home.UpdateConfig(func(c *smbstore.Config) error {
		c.Disks = append(c.Disks, second)
		return nil
	}))
	_, err = home.Resolve(h.ctx, h.cfg.Config.Name)
	h.must(err)
}

// worksFor lets the guest write, and has it verify what it wrote.
func worksFor(h *rig, c *guest.Console, writes time.Duration) {
	h.t.Helper()
	h.must(c.Reset(h.ctx))
	c.ResetBeats()
	time.Sleep(writes)
	h.flushes(c, 10)
	s, err := c.Stats(h.ctx)
	h.must(err)
	b := c.Beats()
	v, err := c.Verify(h.ctx)
	if err != nil || v.Blocks == 0 || s.Writes == 0 || s.Errors != 0 || s.IOErrors != 0 {
		h.t.Errorf("%+v, %v, %+v", v, err, s)
	}
	if err := c.Err(); err != nil {
		h.t.Error(err)
	}
	h.t.Logf("in %v %d writes, %d flushes, longest stall %v (%s); %d blocks verified; %d heartbeats, longest gap %v",
		s.Since, s.Writes, s.Flushes, s.Stall, s.StallOp, v.Blocks, b.Count, b.Longest)
}
