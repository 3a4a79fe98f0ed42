package smbstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"lunless/smbstore"
	"lunless/smbstore/block"
	"lunless/smbstore/storetest"
)

const fencedDisk = smbstore.DisksDir + "/disk0.vhdx"

// owner is a host with a connection of its own.
type owner struct {
	name string
	home *smbstore.Home
}

func newOwner(t *testing.T, name string, at smbstore.Location, o smbstore.Options) *owner {
	t.Helper()
	h, err := smbstore.OpenHome(t.Context(), at, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return &owner{name, h}
}

// claim makes the owner the VM's, in the next epoch, and gives its fence.
func (o *owner) claim(ctx context.Context) (smbstore.Fence, error) {
	r, err := o.home.Resolve(ctx, o.name)
	if err != nil {
		return smbstore.Fence{}, err
	}
	return o.home.Fence(o.name, r.Epoch)
}

func (o *owner) open(ctx context.Context, f smbstore.Fence) (block.Device, error) {
	d, _, err := smbstore.OpenDisk(ctx, o.home.Store(), fencedDisk, smbstore.DiskOptions{DenyWrite: true, Fence: f})
	return d, err
}

func fencedHome(t *testing.T, s smbstore.Store, name string) {
	t.Helper()
	if _, err := smbstore.CreateHomeWithDisk(t.Context(), s, name, smbstore.Config{CPUs: 1, Memory: 1 << 20, Firmware: "bios"}, 64<<20); err != nil {
		t.Fatal(err)
	}
}

// A later owner gets the disk at once: what the earlier one has in flight is done
// by then, and nothing it writes afterwards arrives.
func TestFenceHigherEpochTakes(t *testing.T) {
	server := storetest.StartLunless(t)
	for _, share := range []string{"vms", "ca"} {
		t.Run(share, func(t *testing.T) {
			at := server.Location("")
			at.Share = share
			s, err := smbstore.Open(t.Context(), at, server.Options())
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			fencedHome(t, s, "vm")
			if err := takeFrom(t, at.Join("vm"), server.Options()); err != nil {
				t.Error(err)
			}
		})
	}
}

func takeFrom(t *testing.T, at smbstore.Location, o smbstore.Options) error {
	ctx := t.Context()
	hv1, hv2 := newOwner(t, "hv1", at, o), newOwner(t, "hv2", at, o)
	f1, err := hv1.claim(ctx)
	if err != nil {
		return err
	}
	old, err := hv1.open(ctx, f1)
	if err != nil {
		return err
	}
	if err := old.WriteAt(ctx, make([]byte, 1<<20), 0, block.FUA); err != nil {
		return err
	}
	if d, err := newOwner(t, "hv1", at, o).open(ctx, f1); !errors.Is(err, smbstore.ErrSharing) {
		return fmt.Errorf("a second open in the same epoch: %v, %v", d, err)
	}
	wait := writeUntilError(ctx, old)
	f2, err := hv2.claim(ctx)
	if err != nil {
		return err
	}
	now, err := hv2.open(ctx, f2)
	if err != nil {
		return fmt.Errorf("the later owner: %w", err)
	}
	before := make([]byte, 1<<20)
	if err := now.ReadAt(ctx, before, 0); err != nil {
		return err
	}
	for _, err := range wait() {
		if !errors.Is(err, smbstore.ErrTaken) || !strings.Contains(err.Error(), "hv2") {
			return fmt.Errorf("the earlier owner's write: %v: want who took the disk", err)
		}
	}
	after := make([]byte, 1<<20)
	if err := now.ReadAt(ctx, after, 0); err != nil {
		return err
	}
	if !bytes.Equal(before, after) {
		return errors.New("a write of the earlier owner arrived after the later one had the disk")
	}
	if d, err := hv1.open(ctx, f1); !errors.Is(err, smbstore.ErrTaken) {
		return fmt.Errorf("the earlier owner's next open: %v, %v", d, err)
	}
	_ = old.Close() // it is gone
	return now.Close()
}

// writeUntilError keeps writes to the first MiB in flight until each writer has
// failed; the function it returns waits for them.
func writeUntilError(ctx context.Context, d block.Device) func() []error {
	const writers = 8
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			p := make([]byte, 4096)
			for n := 0; n < 100_000 && errs[i] == nil; n++ {
				for j := range p {
					p[j] = byte(n)
				}
				errs[i] = d.WriteAt(ctx, p, int64(n*writers+i)%256*4096, 0)
			}
		})
	}
	return func() []error {
		wg.Wait()
		return errs
	}
}

// comeAndGo has a later owner take the disk and close it again while an earlier one
// does nothing; the earlier one's next write must not arrive.
func comeAndGo(t *testing.T, at smbstore.Location, o smbstore.Options) error {
	ctx := t.Context()
	hv1, hv2 := newOwner(t, "hv1", at, o), newOwner(t, "hv2", at, o)
	f1, err := hv1.claim(ctx)
	if err != nil {
		return err
	}
	old, err := hv1.open(ctx, f1)
	if err != nil {
		return err
	}
	defer old.Close() //nolint:errcheck // it is gone
	if err := old.WriteAt(ctx, []byte("hv1"), 0, block.FUA); err != nil {
		return err
	}
	f2, err := hv2.claim(ctx)
	if err != nil {
		return err
	}
	now, err := hv2.open(ctx, f2)
	if err != nil {
		return err
	}
	if err := errors.Join(now.WriteAt(ctx, []byte("hv2"), 0, block.FUA), now.Close()); err != nil {
		return err
	}
	if err := old.WriteAt(ctx, []byte("hv1, who knows nothing"), 0, block.FUA); !errors.Is(err, smbstore.ErrTaken) {
		return fmt.Errorf("a write of the earlier owner, after the later one has come and gone: %v", err)
	}
	now, err = hv2.open(ctx, f2)
	if err != nil {
		return err
	}
	defer now.Close() //nolint:errcheck // read only
	got := make([]byte, 3)
	if err := now.ReadAt(ctx, got, 0); err != nil || string(got) != "hv2" {
		return fmt.Errorf("the disk begins with %q, %v", got, err)
	}
	return nil
}

func TestFenceLaterOwnerHasGone(t *testing.T) {
	server := storetest.StartLunless(t)
	s, err := smbstore.Open(t.Context(), server.Location(""), server.Options())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	fencedHome(t, s, "vm")
	if err := comeAndGo(t, server.Location("vm"), server.Options()); err != nil {
		t.Error(err)
	}
	smbstore.Sabotage(t, "fence-unchecked")
	fencedHome(t, s, "sabotaged")
	if err := comeAndGo(t, server.Location("sabotaged"), server.Options()); err == nil {
		t.Error("with the check of the epoch left out nothing was noticed")
	}
}

// Without versions of application instances, the share mode keeps owners apart:
// the later one waits until the earlier one's handle is closed.
func TestFenceShareModeAlone(t *testing.T) {
	places := map[string]func(t *testing.T) (smbstore.Location, smbstore.Options){
		"samba": func(t *testing.T) (smbstore.Location, smbstore.Options) {
			s := storetest.StartSamba(t)
			return s.Location(""), s.Options()
		},
		"local": func(t *testing.T) (smbstore.Location, smbstore.Options) {
			return smbstore.Location{Path: t.TempDir()}, smbstore.Options{}
		},
	}
	for name, place := range places {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			at, o := place(t)
			s, err := smbstore.Open(ctx, at, o)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			fencedHome(t, s, "vm")
			hv1, hv2 := newOwner(t, "hv1", at.Join("vm"), o), newOwner(t, "hv2", at.Join("vm"), o)
			f1, err := hv1.claim(ctx)
			if err != nil {
				t.Fatal(err)
			}
			old, err := hv1.open(ctx, f1)
			if err != nil {
				t.Fatal(err)
			}
			f2, err := hv2.claim(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if d, err := hv2.open(ctx, f2); !errors.Is(err, smbstore.ErrSharing) {
				t.Fatalf("the later owner while the earlier has it open: %v, %v", d, err)
			}
			if err := old.WriteAt(ctx, []byte("still hv1's"), 0, block.FUA); err != nil {
				t.Error(err)
			}
			if err := old.Close(); err != nil {
				t.Error(err)
			}
			now, err := hv2.open(ctx, f2)
			if err != nil {
				t.Fatal(err)
			}
			if d, err := hv1.open(ctx, f1); !errors.Is(err, smbstore.ErrTaken) {
				t.Errorf("the earlier owner's next open: %v, %v", d, err)
			}
			if err := now.Close(); err != nil {
				t.Error(err)
			}
			if d, err := hv1.open(ctx, f1); !errors.Is(err, smbstore.ErrTaken) {
				t.Errorf("the earlier owner's next open, after the later has closed it: %v, %v", d, err)
			}
		})
	}
}
