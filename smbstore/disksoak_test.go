//go:build !race

package smbstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strings"
	"testing"

	"lunless/smbstore/block"
	"lunless/smbstore/block/powertest"
	"lunless/smbstore/vhd"
	"lunless/smbstore/vhdx"
)

// Chains whose power is cut while they are in use, merged and compacted. What
// image is the leaf is written down, as a VM's configuration does it.

const leafRecord = "leaf"

// soakStore is a folder as a Store.
type soakStore struct{ dir *powertest.Folder }

func (s soakStore) Location() Location          { return Location{Host: "mem", Share: "vms"} }
func (s soakStore) DeniesWrite() bool           { return false }
func (s soakStore) Close() error                { return nil }
func (s soakStore) Mkdir(string) error          { return errors.ErrUnsupported }
func (s soakStore) MkdirAll(string) error       { return errors.ErrUnsupported }
func (s soakStore) RemoveAll(name string) error { return removeAll(s, name) }
func (s soakStore) Remove(name string) error    { return s.wrap("remove", name, s.dir.Remove(name)) }
func (s soakStore) Rename(from, to string) error {
	return s.wrap("rename", from, s.dir.Rename(from, to))
}
func (s soakStore) SyncDir(string) error { return s.dir.Sync() }

func (s soakStore) wrap(op, name string, err error) error {
	return opError(op, s.Location().Join(name), err)
}

func (s soakStore) OpenFile(name string, flags Flags) (File, error) {
	f, err := s.dir.Open(name)
	switch {
	case err == nil && flags&Exclusive != 0:
		err = fs.ErrExist
	case err != nil && flags&Create != 0:
		f, err = s.dir.Create(name)
	}
	if err == nil && flags&Truncate != 0 {
		err = f.Truncate(0)
	}
	if err != nil {
		return nil, s.wrap("open", name, err)
	}
	return soakFile{f, name}, nil
}

func (s soakStore) ReadDir(string) (infos []Info, err error) {
	for _, name := range s.dir.Names() {
		infos = append(infos, Info{Name: name})
	}
	return infos, nil
}

func (s soakStore) Stat(name string) (Info, error) {
	if name == "" {
		return Info{Dir: true}, nil
	}
	f, err := s.dir.Open(name)
	if err != nil {
		return Info{}, s.wrap("stat", name, err)
	}
	size, err := f.Size()
	return Info{Name: name, Size: size}, err
}

type soakFile struct {
	*block.PowerCut
	name string
}

func (f soakFile) Name() string { return f.name }

// record writes down which image is the leaf.
func record(dir *powertest.Folder, leaf string) error {
	f, err := dir.Create(leafRecord + ".new")
	if errors.Is(err, fs.ErrExist) { // of an earlier one that power was cut in
		f, err = dir.Open(leafRecord + ".new")
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(leaf), 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = dir.Rename(leafRecord+".new", leafRecord)
	}
	if err == nil {
		err = dir.Sync()
	}
	return err
}

// leafOf returns the image that was written down, or, if it was merged without a
// guest, the one below it.
func leafOf(dir *powertest.Folder) (string, error) {
	f, err := dir.Open(leafRecord)
	if err != nil {
		return "", err
	}
	size, err := f.Size()
	if err != nil {
		return "", err
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil {
		return "", err
	}
	leaf := ""
	for _, name := range dir.Names() {
		if strings.HasPrefix(name, "disk") && !strings.Contains(name, "~") && len(name) == len(string(b)) && name <= string(b) {
			leaf = name
		}
	}
	if leaf == "" {
		return "", fmt.Errorf("open: none of %v is %s or below", dir.Names(), b)
	}
	return leaf, nil
}

// soakChain is a chain of three to five images.
func soakChain(rnd *rand.Rand, format Format) *powertest.Disk {
	ops := rand.New(rand.NewPCG(rnd.Uint64(), 5))
	depth := 3 + rnd.IntN(3)
	d := &powertest.Disk{
		Size: 20<<20 + 8192, BlockSize: 1 << 20, Sector: 512, Blocks: []int64{0, 1, 2, 6, 7, 12, 19, 20},
		Check: soakCheck,
		Offline: []powertest.Offline{
			{Name: "merge", Do: func(ctx context.Context, dir *powertest.Folder) error { return soakMerge(ctx, dir, ops) }},
			{Name: "compact", Do: func(ctx context.Context, dir *powertest.Folder) error {
				leaf, err := leafOf(dir)
				if err == nil {
					_, err = CompactDisk(ctx, soakStore{dir}, leaf, CompactOptions{})
				}
				return err
			}},
		},
	}
	d.Offline = append(d.Offline, d.Offline[0]) // most often
	d.Create = func(dir *powertest.Folder, fill func(block.Device) error) error {
		return soakCreate(dir, format, d, depth, fill)
	}
	d.Open = func(dir *powertest.Folder, readOnly bool) (block.Device, error) {
		leaf, err := leafOf(dir)
		if err != nil {
			return nil, err
		}
		if readOnly || format == VHD {
			dev, _, err := OpenDisk(context.Background(), soakStore{dir}, leaf, DiskOptions{ReadOnly: readOnly})
			return dev, err
		}
		c, err := OpenChain(context.Background(), soakStore{dir}, leaf, DiskOptions{})
		if err != nil {
			return nil, err
		}
		return soakGuest{c.Disk(), c, dir}, nil
	}
	if format == VHDX {
		d.Live = []powertest.Live{{Name: "live merge", Do: func(ctx context.Context, dev block.Device) error {
			return dev.(soakGuest).merge(ctx, ops)
		}}}
	}
	return d
}

// soakCreate makes the images, oldest first, and fills all but the leaf.
func soakCreate(dir *powertest.Folder, format Format, d *powertest.Disk, depth int, fill func(block.Device) error) error {
	s := soakStore{dir}
	name := func(i int) string { return fmt.Sprintf("disk%d.%s", i, format) }
	for i := range depth {
		o := CreateDiskOptions{Format: format, Size: d.Size, BlockSize: d.BlockSize}
		if i > 0 {
			o = CreateDiskOptions{Parent: s.Location().Join(name(i - 1))}
		}
		dev, err := CreateDisk(context.Background(), s, name(i), o)
		if err != nil {
			return err
		}
		if i < depth-1 {
			err = fill(dev)
		}
		if err := errors.Join(err, dev.Close()); err != nil {
			return err
		}
	}
	return record(dir, name(depth-1))
}

// soakGuest is a chain as its guest has it.
type soakGuest struct {
	*block.Slot
	chain *Chain
	dir   *powertest.Folder
}

func (g soakGuest) Close() error { return g.chain.Close() }

// merge merges one of the images while the guest goes on.
func (g soakGuest) merge(ctx context.Context, rnd *rand.Rand) error {
	n := len(g.chain.Images())
	if n < 2 || rnd.IntN(3) > 0 { // chains are to last for a while
		return nil
	}
	i := rnd.IntN(n - 1)
	return g.chain.Merge(ctx, i, MergeLiveOptions{
		Force: true, // images that a power cut has left over are none
		Commit: func(_ context.Context, into Location) error {
			if i > 0 {
				return nil // the leaf stays
			}
			return record(g.dir, into.Base())
		},
	})
}

// soakMerge merges one of the images of a chain that nobody uses.
func soakMerge(ctx context.Context, dir *powertest.Folder, rnd *rand.Rand) error {
	s := soakStore{dir}
	leaf, err := leafOf(dir)
	if err != nil {
		return err
	}
	images, err := InspectChain(ctx, s, leaf)
	if err != nil || len(images) < 2 {
		return err
	}
	i := rnd.IntN(len(images) - 1)
	o := MergeOptions{Force: true}
	if i > 0 {
		o.Children = []Location{images[i-1].Location}
	}
	if _, err := MergeDisk(ctx, s, images[i].Location.Base(), o); err != nil || i > 0 {
		return err
	}
	return record(dir, images[1].Location.Base())
}

// soakCheck holds all images of the chain against the format. Those below the
// leaf may have a log to be replayed: they are only read.
func soakCheck(dir *powertest.Folder) (powertest.State, error) {
	s := soakStore{dir}
	leaf, err := leafOf(dir)
	if err != nil {
		return 0, err
	}
	images, err := InspectChain(context.Background(), s, leaf)
	if err != nil {
		return 0, fmt.Errorf("open: %w", err)
	}
	state := powertest.Whole
	for i, im := range images {
		f, err := dir.Open(im.Location.Base())
		if err != nil {
			return 0, err
		}
		found, err := soakCheckImage(f, im.Format)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", im.Location.Base(), err)
		}
		if i == 0 {
			state = found
		}
	}
	return state, nil
}

func soakCheckImage(f block.File, format Format) (powertest.State, error) {
	if format == VHD {
		r, err := vhd.Check(f)
		if err == nil && !r.Clean() {
			err = fmt.Errorf("check found %+v", r.Findings)
		}
		for _, finding := range r.Findings {
			if strings.Contains(finding.What, "footer") {
				return powertest.Mend, err
			}
		}
		return powertest.Whole, err
	}
	r, err := vhdx.Check(f)
	if err == nil && !r.Clean() {
		err = fmt.Errorf("check found %+v", r.Findings)
	}
	if r.Info.LogInUse {
		return powertest.Replay, err
	}
	return powertest.Whole, err
}

var soakKinds = []powertest.Kind{
	{Name: "vhdx chain", New: func(rnd *rand.Rand) *powertest.Disk { return soakChain(rnd, VHDX) }},
	{Name: "vhd chain", New: func(rnd *rand.Rand) *powertest.Disk { return soakChain(rnd, VHD) }},
}

func TestPowerCuts(t *testing.T) {
	powertest.Run(t, 20, &sabotage, soakKinds[0], soakKinds[1], soakKinds[0])
}

// TestSabotage shows that the soak would notice: with a step left out it fails.
func TestSabotage(t *testing.T) {
	for _, tt := range []struct {
		name string
		kind powertest.Kind
	}{
		{"merge-removed-early", soakKinds[0]},
	} {
		t.Run(tt.name, func(t *testing.T) { powertest.Sabotage(t, tt.name, &sabotage, tt.kind) })
	}
}
