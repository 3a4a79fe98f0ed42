package vhdx_test

import (
	"context"
	"testing"

	"lunless/smbstore/block"
	"lunless/smbstore/block/blocktest"
	"lunless/smbstore/vhdx"
)

// plainFile hides the optional abilities of a file.
type plainFile struct{ block.File }

func TestConformance(t *testing.T) {
	for _, c := range []struct {
		name  string
		opts  vhdx.CreateOptions
		plain bool
	}{
		{"dynamic 1M", vhdx.CreateOptions{BlockSize: 1 << 20}, false},
		{"dynamic 2M, 4096-byte sectors", vhdx.CreateOptions{BlockSize: 2 << 20, LogicalSectorSize: 4096}, false},
		{"dynamic 32M", vhdx.CreateOptions{}, false},
		{"fixed", vhdx.CreateOptions{BlockSize: 1 << 20, Fixed: true}, false},
		{"file without abilities", vhdx.CreateOptions{BlockSize: 1 << 20}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			blocktest.Run(t, func(t testing.TB, size int64) blocktest.Fixture {
				var f block.File = noClose{block.NewMemFile(0)}
				if c.plain {
					f = plainFile{f}
				}
				return fixture(t, c.opts, size, f)
			})
		})
	}
}

// TestConformanceLayer: a differencing disk is a device like any other. The
// parent is empty, and shorter or longer than the disk.
func TestConformanceLayer(t *testing.T) {
	for _, c := range []struct {
		name  string
		opts  vhdx.CreateOptions
		other int64 // how much longer the parent is
	}{
		{"1M", vhdx.CreateOptions{BlockSize: 1 << 20}, 0},
		{"2M, 4096-byte sectors", vhdx.CreateOptions{BlockSize: 2 << 20, LogicalSectorSize: 4096}, 3 << 20},
		{"256M", vhdx.CreateOptions{BlockSize: 256 << 20}, -4 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			blocktest.Run(t, func(t testing.TB, size int64) blocktest.Fixture {
				pf, f := noClose{block.NewMemFile(0)}, noClose{block.NewMemFile(0)}
				parent, err := vhdx.Create(pf, vhdx.CreateOptions{Size: max(1<<20, size+c.other), LogicalSectorSize: c.opts.LogicalSectorSize})
				if err != nil {
					t.Fatal(err)
				}
				opts := c.opts
				opts.Size, opts.ParentDevice = size, parent
				opts.Parent = &vhdx.ParentLink{Linkage: parent.Info().DataWriteGUID, Relative: "parent.vhdx"}
				d, err := vhdx.Create(f, opts)
				if err != nil {
					t.Fatal(err)
				}
				return blocktest.Fixture{Dev: d, Reopen: func() block.Device {
					if err := d.Close(); err != nil {
						t.Fatal(err)
					}
					mustBeClean(t, f)
					parent, err := vhdx.Open(pf, vhdx.OpenOptions{ReadOnly: true})
					if err != nil {
						t.Fatal(err)
					}
					if d, err = vhdx.Open(f, vhdx.OpenOptions{Parent: parent}); err != nil {
						t.Fatal(err)
					}
					return d
				}}
			})
		})
	}
}

func fixture(t testing.TB, opts vhdx.CreateOptions, size int64, f block.File) blocktest.Fixture {
	t.Helper()
	opts.Size = size
	d, err := vhdx.Create(f, opts)
	if err != nil {
		t.Fatal(err)
	}
	return blocktest.Fixture{Dev: d, Reopen: func() block.Device {
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		mustBeClean(t, f)
		if d, err = vhdx.Open(f, vhdx.OpenOptions{}); err != nil {
			t.Fatal(err)
		}
		return d
	}}
}

// noClose is a file in memory that outlives its disk.
type noClose struct{ *block.MemFile }

func (noClose) Close() error { return nil }

func mustBeClean(t testing.TB, f block.File) {
	t.Helper()
	r, err := vhdx.Check(f)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Clean() {
		t.Fatalf("check: %+v", r.Findings)
	}
}

var ctx = context.Background()
