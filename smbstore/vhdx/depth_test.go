package vhdx

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"lunless/smbstore/block"
)

// heap is how many bytes of memory are in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// sparse is a local file, which takes none of this process's memory.
func sparse(t testing.TB, name string) block.File {
	t.Helper()
	f, err := block.OpenLocal(filepath.Join(t.TempDir(), name), os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	return unsynced{f}
}

// unsynced is a file whose test cuts no power.
type unsynced struct{ *block.Local }

func (unsynced) Sync() error { return nil }

// chain returns a disk over layers-1 others in local files. Layer i has a sector
// of its own number in block i, and one in block 0. between, if not nil, goes
// between an image and its parent.
func chain(t testing.TB, layers int, size int64, pages int, between func(block.Device) block.Device) *Disk {
	t.Helper()
	var dev *Disk
	for i := range layers {
		f := sparse(t, fmt.Sprint(i))
		o := CreateOptions{Size: size, BlockSize: mib}
		oo := OpenOptions{CachePages: pages}
		if dev != nil {
			o.Parent = &ParentLink{Linkage: dev.Info().DataWriteGUID, Relative: "p"}
			oo.Parent = dev
			if between != nil {
				oo.Parent = between(dev)
			}
		}
		// Made bare, then opened with what it is over.
		bare, err := Create(keepOpen{f}, o)
		must(t, err)
		must(t, bare.Close())
		d, err := Open(f, oo)
		must(t, err)
		p := bytes.Repeat([]byte{byte(i + 1)}, 512)
		must(t, d.WriteAt(ctx, p, int64(i+1)*mib, 0))
		must(t, d.WriteAt(ctx, p, int64(i)*512, 0))
		must(t, d.Flush(ctx))
		dev = d
	}
	t.Cleanup(func() { must(t, dev.Close()) })
	return dev
}

// keepOpen is a file that outlives its disk.
type keepOpen struct{ block.File }

func (keepOpen) Close() error { return nil }
