package migrate

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"lunless/smbstore"
	"lunless/smbstore/block"
)

// powerStore is a store whose disks are in memory and know what of them is on
// stable storage: a loss of power can be tried at any moment.
type powerStore struct {
	smbstore.Store
	supply *block.PowerSupply
	mu     sync.Mutex
	disks  map[string]*block.PowerCut
}

type powerFile struct {
	*block.PowerCut
	name string
}

func (f powerFile) Name() string { return f.name }

func (s *powerStore) OpenFile(name string, flags smbstore.Flags) (smbstore.File, error) {
	if !smbstore.IsDiskName(name) {
		return s.Store.OpenFile(name, flags)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.disks[name]
	switch {
	case f == nil && flags&smbstore.Create == 0:
		return nil, fmt.Errorf("%s: %w", name, smbstore.ErrNotExist)
	case f != nil && flags&smbstore.Exclusive != 0:
		return nil, fmt.Errorf("%s: %w", name, smbstore.ErrExist)
	case f == nil:
		f = s.supply.Plug(block.NewMemFile(0))
		s.disks[name] = f
	case flags&smbstore.Truncate != 0:
		if err := f.Truncate(0); err != nil {
			return nil, err
		}
	}
	return powerFile{f, name}, nil
}

func (s *powerStore) Stat(name string) (smbstore.Info, error) {
	s.mu.Lock()
	f := s.disks[name]
	s.mu.Unlock()
	if f == nil {
		return s.Store.Stat(name)
	}
	size, err := f.Size()
	return smbstore.Info{Name: filepath.Base(name), Size: size}, err
}

// soakPower migrates under writers, and has the destination lose its power at the
// very moment it has been given the VM: whatever was acknowledged is there.
func soakPower(t *testing.T, seed uint64) error {
	rnd := rand.New(rand.NewPCG(seed, 3))
	a, b, after := t.TempDir(), t.TempDir(), t.TempDir()
	v := makeChainVM(t, a, smbstore.VHDX, smbstore.VHDX, 4<<20, seed)
	v.open(t)
	store := &powerStore{supply: block.NewPowerSupply(), disks: map[string]*block.PowerCut{}}
	openStore = func(ctx context.Context, l smbstore.Location, o smbstore.Options) (smbstore.Store, error) {
		s, err := smbstore.Open(ctx, l, o)
		if err == nil && l.Equal(at(b)) {
			store.Store = s
			return store, nil
		}
		return s, err
	}
	defer func() { openStore = smbstore.Open }()
	acked := map[string][]uint64{} // at the cut
	var cuts []map[*block.PowerCut]*block.MemFile
	for _, w := range v.writers {
		w.flush = 1000 // what the guest flushes is safe whatever the switch does
	}
	old := failpoint
	failpoint = func(point string) {
		old(point)
		if point != "taken" {
			return
		}
		for name, w := range v.writers {
			for i := range w.acked {
				acked[name] = append(acked[name], w.acked[i].Load())
			}
		}
		for range 10 {
			cuts = append(cuts, store.supply.Cut(rnd, nil))
		}
	}
	defer func() { failpoint = old }()
	v.migrate(t, LiveOptions{Options: Options{Source: at(a, "vm"), To: at(b)}, Disks: v.slots,
		CloseSource: func(path string) error { return v.chains[path].Close() }})
	for _, images := range cuts {
		if err := v.survived(store, images, acked, after); err != nil {
			return err
		}
	}
	return nil
}

// survived looks at the images that a loss of power left.
func (v *chainVM) survived(store *powerStore, images map[*block.PowerCut]*block.MemFile, acked map[string][]uint64, dir string) error {
	for name, f := range store.disks {
		to := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		size, err := images[f].Size()
		if err != nil {
			return err
		}
		p := make([]byte, size)
		if _, err := images[f].ReadAt(p, 0); err != nil {
			return err
		}
		if err := os.WriteFile(to, p, 0o644); err != nil {
			return err
		}
	}
	s, err := smbstore.OpenPath(context.Background(), filepath.Join(dir, "vm"), smbstore.Options{})
	if err != nil {
		return err
	}
	for name, w := range v.writers {
		dev, _, err := smbstore.OpenDisk(context.Background(), s, name, smbstore.DiskOptions{})
		if err != nil {
			return err
		}
		defer dev.Close()
		p := make([]byte, stampSize)
		for lba := range w.blocks {
			if err := dev.ReadAt(context.Background(), p, lba*stampSize); err != nil {
				return err
			}
			seq, err := readStamp(p, lba)
			if err == nil && seq < acked[name][lba] {
				err = fmt.Errorf("block %d holds write %d after a loss of power at the switch, but %d was acknowledged", lba, seq, acked[name][lba])
			}
			if err != nil {
				return fmt.Errorf("%s: %w", strings.TrimPrefix(name, "/"), err)
			}
		}
	}
	return nil
}
