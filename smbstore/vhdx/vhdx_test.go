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
