package vhd

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"lunless/smbstore/block"
	"lunless/smbstore/block/powertest"
)

// The disks whose power is cut: small ones with several sectors of table, the
// blocks in use at the borders of these, smaller than Create makes them, for speed.

const (
	cutFile  = "disk.vhd"
	cutBlock = 64 << 10
	cutSize  = 700*cutBlock + 10*512
)

var cutBlocks = []int64{0, 1, 2, 126, 127, 128, 255, 256, 383, 384, 385, 512, 639, 640, 700}

// cutDynamic has blocks with a bitmap full of gaps to begin with, and garbage in
// the gaps.
func cutDynamic(*rand.Rand) *powertest.Disk {
	d := cutDisk(1)
	d.Create = func(dir *powertest.Folder, _ func(block.Device) error) error {
		if err := cutCreate(dir, cutFile, CreateOptions{Size: d.Size, BlockSize: d.BlockSize}, nil); err != nil {
			return err
		}
		f, err := dir.Open(cutFile)
		if err != nil {
			return err
		}
		return cutSpoil(f, 1, 127, 384, 639)
	}
	return d
}

func cutFixed(*rand.Rand) *powertest.Disk {
	d := cutDisk(1)
	d.Size = 9*cutBlock + 10*512
	d.Blocks = []int64{0, 1, 2, 8, 9}
	d.Create = func(dir *powertest.Folder, _ func(block.Device) error) error {
		return cutCreate(dir, cutFile, CreateOptions{Size: d.Size, Fixed: true}, nil)
	}
	return d
}

// cutDifferencing lies on a disk that may be smaller or larger, or on two.
func cutDifferencing(rnd *rand.Rand) *powertest.Disk {
	depth := 2 + rnd.IntN(2)
	d := cutDisk(depth)
	d.Create = func(dir *powertest.Folder, fill func(block.Device) error) error {
		for i := depth; i > 0; i-- {
			o := CreateOptions{Size: d.Size, BlockSize: d.BlockSize}
			if i > 1 {
				o.Size = []int64{cutSize, 640*cutBlock + 5*512, 720 * cutBlock}[rnd.IntN(3)]
			}
			if i < depth {
				o.Parent = cutLink(0)
			}
			err := cutCreate(dir, cutName(i), o, func() error {
				dev, err := cutOpen(dir, i, depth, false)
				if err != nil {
					return err
				}
				if err := fill(dev); err != nil {
					return err
				}
				return dev.Close()
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
	d.Relink = func(ctx context.Context, dev block.Device, link uint64) error {
		return dev.(*Disk).Relink(ctx, *cutLink(link))
	}
	d.Link = func(dev block.Device) (uint64, error) {
		p := dev.(*Disk).ParentLink()
		if want := cutLink(uint64(p.Time)); *p != *want {
			return 0, fmt.Errorf("found a link of several: %+v, want %+v", p, want)
		}
		return uint64(p.Time), nil
	}
	return d
}

// cutName is the file of the nth disk of a chain, 1 being the leaf.
func cutName(n int) string {
	if n == 1 {
		return cutFile
	}
	return fmt.Sprintf("parent%d.vhd", n)
}

// cutLink is a link like no other, and of another length.
func cutLink(n uint64) *ParentLink {
	return &ParentLink{
		ID: ID{9, byte(n), byte(n >> 8)}, Time: uint32(n), Name: fmt.Sprintf("élan%d.vhd", n),
		Relative: `..\` + strings.Repeat(`x\`, int(n%600)) + "p.vhd", Absolute: `\\?\d:\p.vhd`,
	}
}

// cutCreate makes a disk with blocks of any size; then fills it.
func cutCreate(dir *powertest.Folder, name string, o CreateOptions, then func() error) error {
	f, err := dir.Create(name)
	if err != nil {
		return err
	}
	if err := format(f, o); err != nil || then == nil {
		return err
	}
	return then()
}

// cutOpen opens the chain from its nth disk on; parents are read.
func cutOpen(dir *powertest.Folder, n, depth int, readOnly bool) (dev block.Device, err error) {
	for i := depth; i >= n; i-- {
		f, err := dir.Open(cutName(i))
		if err != nil {
			return nil, err
		}
		if dev, err = asDevice(Open(f, OpenOptions{ReadOnly: readOnly || i > n, Parent: dev})); err != nil {
			return nil, err
		}
	}
	return dev, nil
}

func asDevice(d *Disk, err error) (block.Device, error) {
	if err != nil {
		return nil, err
	}
	return d, nil
}

func cutDisk(depth int) *powertest.Disk {
	return &powertest.Disk{
		Size: cutSize, BlockSize: cutBlock, Sector: SectorSize, Blocks: cutBlocks,
		Open: func(dir *powertest.Folder, readOnly bool) (block.Device, error) {
			return cutOpen(dir, 1, depth, readOnly)
		},
		Check: func(dir *powertest.Folder) (powertest.State, error) {
			f, err := dir.Open(cutFile)
			if err != nil {
				return 0, err
			}
			r, err := Check(f)
			return cutState(r, err)
		},
		Repair: func(dir *powertest.Folder) (bool, error) {
			f, err := dir.Open(cutFile)
			if err != nil {
				return false, err
			}
			r, err := Repair(f)
			return len(r.Mended) > 0, err
		},
	}
}

// cutState is what a report means to the soak.
func cutState(r Report, err error) (powertest.State, error) {
	footer := func(f Finding) bool { return strings.Contains(f.What, "footer") }
	switch {
	case err != nil:
		return 0, err
	case !r.Clean():
		return 0, fmt.Errorf("found %+v", r.Findings)
	case slices.ContainsFunc(r.Findings, footer):
		return powertest.Mend, nil
	}
	return powertest.Whole, nil
}

// cutSpoil gives blocks room with every other bit of the bitmap set, zeroes
// there, and garbage in the sectors without a bit.
func cutSpoil(f block.File, blocks ...int64) error {
	d, err := Open(f, OpenOptions{})
	if err != nil {
		return err
	}
	for _, blk := range blocks {
		if err := d.WriteZeroes(context.Background(), blk*d.blockSize, 512, block.NoUnmap); err != nil {
			return err
		}
		at := int64(d.table[blk].Load()) * SectorSize
		if _, err := f.WriteAt(bytes.Repeat([]byte{0xaa}, int(d.blockSize/SectorSize/8)), at); err != nil {
			return err
		}
		for s := int64(1); s < d.blockSize/SectorSize; s += 2 {
			if _, err := f.WriteAt(bytes.Repeat([]byte{0xbd}, SectorSize), at+d.mapSize+s*SectorSize); err != nil {
				return err
			}
		}
	}
	return d.Close()
}

var (
	kindDynamic      = powertest.Kind{Name: "vhd dynamic", New: cutDynamic}
	kindFixed        = powertest.Kind{Name: "vhd fixed", New: cutFixed}
	kindDifferencing = powertest.Kind{Name: "vhd differencing", New: cutDifferencing}
)

func TestPowerCuts(t *testing.T) {
	powertest.Run(t, powerCuts, &sabotage, kindDynamic, kindDifferencing, kindFixed, kindDifferencing)
}
