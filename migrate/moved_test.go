package migrate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"lunless/smbstore"
	"lunless/smbstore/block"
)

// keptStore lets nothing be removed once it is told so.
type keptStore struct {
	smbstore.Store
	keep *atomic.Bool
}

func (s keptStore) Remove(name string) error {
	if s.keep.Load() {
		return &smbstore.OpError{Op: "remove", At: s.Location().Join(name), Err: smbstore.ErrSharing}
	}
	return s.Store.Remove(name)
}

// A job that fails after its VM has moved makes no room for its journal where the
// VM's disks lie.
func TestMovedDisksAreLeftAlone(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	_, slot, name := liveVM(t, a, smbstore.Raw, 8<<20)
	w := newWriter(slot)
	must(t, w.some(1, 50))
	disk := newSmallDisk(b, math.MaxInt64)
	small := openStore
	var keep atomic.Bool
	openStore = func(ctx context.Context, l smbstore.Location, o smbstore.Options) (smbstore.Store, error) {
		s, err := small(ctx, l, o)
		if err == nil && at(a).Contains(l) {
			s = keptStore{s, &keep}
		}
		return s, err
	}
	t.Cleanup(func() { openStore = smbstore.Open })
	setFailpoint(t, func(point string) {
		if point == "before-clean" {
			must(t, slot.Close()) // the VM is off, and others have filled the share
			disk.limit.Store(0)
			keep.Store(true)
		}
	})
	job, err := LiveStorage(t.Context(), LiveOptions{Options: Options{Source: at(a, "vm"), To: at(b)}, Disks: map[string]*block.Slot{name: slot}})
	must(t, err)
	err = job.Wait(t.Context())
	if !errors.Is(err, smbstore.ErrSharing) {
		t.Errorf("got %v, want ErrSharing", err)
	}
	if s := fmt.Sprint(err); !strings.Contains(s, "the VM has moved: finish with `lunless migrate resume ") || strings.Contains(s, "migrate cancel") {
		t.Errorf("%q does not say what can be done", s)
	}
	dev, _, err := smbstore.OpenDisk(t.Context(), storeAt(t, filepath.Join(b, "vm")), name, smbstore.DiskOptions{Format: smbstore.Raw, ReadOnly: true})
	must(t, err)
	defer dev.Close()
	if dev.Size() != 8<<20 {
		t.Fatalf("the disk has %d bytes left", dev.Size())
	}
	must(t, w.checkAll(dev))
}
