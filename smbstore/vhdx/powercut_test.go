//go:build !race

package vhdx

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"lunless/smbstore/block"
	"lunless/smbstore/block/powertest"
)

// The disks whose power is cut: small ones with many pages of BAT, the blocks in
// use at the borders of pages and of chunks, few pages in a commit, and the log
// near the end of its ring, so that entries wrap.

const cutFile = "disk.vhdx"

// cutDynamic is a dynamic disk with 13 pages of BAT, or 25.
func cutDynamic(rnd *rand.Rand) *powertest.Disk {
	d := cutDisk(rnd, 1)
	d.Live = []powertest.Live{{Name: "compact", Do: cutCompact}}
	return d
}

// cutFixed is a fixed disk, whose blocks have room from the beginning.
func cutFixed(rnd *rand.Rand) *powertest.Disk {
	d := cutDisk(rnd, 1)
	d.Size = 10*d.BlockSize + 4096
	d.Huge = 0
	d.Blocks = []int64{0, 1, 2, 5, 9, 10}
	d.Create = func(dir *powertest.Folder, _ func(block.Device) error) error {
		f, err := dir.Create(cutFile)
		if err != nil {
			return err
		}
		disk, err := Create(f, CreateOptions{Size: d.Size, BlockSize: d.BlockSize, LogicalSectorSize: int(d.Sector), Fixed: true})
		if err != nil {
			return err
		}
		return disk.Close()
	}
	return d
}

// cutDifferencing lies on a disk that may be smaller or larger, or on two.
func cutDifferencing(rnd *rand.Rand) *powertest.Disk {
	d := cutDisk(rnd, 2+rnd.IntN(2))
	d.Live = []powertest.Live{{Name: "compact", Do: cutCompact}}
	resize := d.Resize
	d.Resize = func(ctx context.Context, dev block.Device, size int64) error {
		if err := resize(ctx, dev, size); !errors.Is(err, ErrUnsupported) {
			return err
		}
		return ErrTailInUse // it does not shrink
	}
	d.Relink = func(ctx context.Context, dev block.Device, link uint64) error {
		return dev.(*Disk).Relink(ctx, cutLink(link))
	}
	d.Link = func(dev block.Device) (uint64, error) {
		p := dev.(*Disk).ParentLink()
		n := le.Uint64(p.Linkage[:])
		if want := cutLink(n); *p != want {
			return 0, fmt.Errorf("found a link of several: %+v, want %+v", p, want)
		}
		return n, nil
	}
	return d
}

// cutLink is a link like no other, and of another length.
func cutLink(n uint64) ParentLink {
	g := GUID{15: 1}
	le.PutUint64(g[:], n)
	return ParentLink{
		Linkage: g, Relative: `..\` + strings.Repeat(`x\`, int(n%600)) + "p.vhdx",
		Absolute: fmt.Sprintf(`\\?\d:\disks%d\p.vhdx`, n),
	}
}

func cutCompact(ctx context.Context, dev block.Device) error {
	_, err := dev.(*Disk).Compact(ctx, CompactOptions{}, nil)
	return err
}

// cutName is the file of the nth disk of a chain, 1 being the leaf.
func cutName(n int) string {
	if n == 1 {
		return cutFile
	}
	return fmt.Sprintf("parent%d.vhdx", n)
}

// cutDisk is a disk of a chain of depth images.
func cutDisk(rnd *rand.Rand, depth int) *powertest.Disk {
	d := &powertest.Disk{
		Size: 6<<30 + 4096, Huge: 300 << 30, // where the BAT has to move
		BlockSize: int64(1+rnd.IntN(2)) * mib, Sector: int64(1+7*rnd.IntN(2)) * 512,
		Check: cutCheck, Repair: cutRepair,
		Resize: func(ctx context.Context, dev block.Device, size int64) error { return dev.(*Disk).Resize(ctx, size) },
		InUse:  func(err error) bool { return errors.Is(err, ErrTailInUse) },
	}
	if d.BlockSize == mib {
		d.Blocks = []int64{0, 1, 2, 511, 512, 513, 1024, 2047, 2048, 4094, 4095, 4096, 6143, 6144}
	} else {
		d.Blocks = []int64{0, 1, 2, 511, 512, 1023, 1024, 2046, 2047, 2048, 2049, 3071, 3072}
	}
	back := rnd.Int64N(7) * logSector
	d.Create = func(dir *powertest.Folder, fill func(block.Device) error) error {
		for i := depth; i > 0; i-- {
			if err := cutCreate(dir, d, rnd, i, depth, fill); err != nil {
				return err
			}
		}
		return nil
	}
	d.Open = func(dir *powertest.Folder, readOnly bool) (block.Device, error) {
		disk, err := cutOpen(dir, 1, depth, readOnly)
		if err != nil {
			return nil, err
		}
		disk.meta.limit = 5
		disk.log.head = (disk.log.length - back) % disk.log.length
		return disk, nil
	}
	return d
}

// cutCreate makes the nth disk of a chain, and fills it if it is a parent.
func cutCreate(dir *powertest.Folder, d *powertest.Disk, rnd *rand.Rand, n, depth int, fill func(block.Device) error) error {
	o := CreateOptions{Size: d.Size, BlockSize: d.BlockSize, LogicalSectorSize: int(d.Sector)}
	if n > 1 {
		o.Size = []int64{d.Size, d.Size - 2*mib, d.Size + 8*mib}[rnd.IntN(3)]
		o.BlockSize = int64(1+rnd.IntN(2)) * mib
	}
	if n < depth {
		parent, err := cutOpen(dir, n+1, depth, true)
		if err != nil {
			return err
		}
		link := cutLink(0)
		o.Parent, o.ParentDevice = &link, parent
	}
	f, err := dir.Create(cutName(n))
	if err != nil {
		return err
	}
	disk, err := Create(f, o)
	if err != nil {
		return err
	}
	if n > 1 {
		err = fill(disk)
	}
	return errors.Join(err, disk.Close())
}

// cutOpen opens the chain from its nth disk on; parents are read.
func cutOpen(dir *powertest.Folder, n, depth int, readOnly bool) (disk *Disk, err error) {
	for i := depth; i >= n; i-- {
		f, err := dir.Open(cutName(i))
		if err != nil {
			return nil, err
		}
		o := OpenOptions{ReadOnly: readOnly || i > n}
		if disk != nil {
			o.Parent = disk
		}
		if disk, err = Open(f, o); err != nil {
			return nil, err
		}
	}
	return disk, nil
}

// cutCheck holds an image against the format.
func cutCheck(dir *powertest.Folder) (powertest.State, error) {
	f, err := dir.Open(cutFile)
	if err != nil {
		return 0, err
	}
	r, err := Check(f)
	switch {
	case err != nil:
		return 0, err
	case !r.Clean():
		return 0, fmt.Errorf("found %+v", r.Findings)
	case r.Info.LogInUse:
		return powertest.Replay, nil
	}
	return powertest.Whole, nil
}

func cutRepair(dir *powertest.Folder) (bool, error) {
	f, err := dir.Open(cutFile)
	if err != nil {
		return false, err
	}
	r, err := Repair(f)
	return len(r.Mended) > 0, err
}

var (
	cutKindDynamic      = powertest.Kind{Name: "vhdx dynamic", New: cutDynamic}
	cutKindFixed        = powertest.Kind{Name: "vhdx fixed", New: cutFixed}
	cutKindDifferencing = powertest.Kind{Name: "vhdx differencing", New: cutDifferencing}
)

func TestPowerCuts(t *testing.T) {
	powertest.Run(t, 60, &sabotage, cutKindDynamic, cutKindDifferencing, cutKindFixed, cutKindDifferencing)
}

// TestSabotage shows that the soak would notice: with a step left out it fails.
func TestSabotage(t *testing.T) {
	for _, tt := range []struct {
		name string
		kind powertest.Kind
	}{
		{"log-entry-skipped", cutKindDynamic},
		{"header-early", cutKindDynamic},
		{"flush-swallowed", cutKindFixed},
		{"data-after-bat", cutKindDynamic},
		{"bitmap-early", cutKindDifferencing},
		{"resize-early", cutKindDynamic},
	} {
		t.Run(tt.name, func(t *testing.T) { powertest.Sabotage(t, tt.name, &sabotage, tt.kind) })
	}
}
