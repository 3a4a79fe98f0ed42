package block_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"lunless/smbstore/block"
	"lunless/smbstore/block/blocktest"
)

// plainFile hides the optional abilities of a file.
type plainFile struct{ block.File }

func TestConformance(t *testing.T) {
	raw := func(t testing.TB, f block.File) *block.Raw {
		r, err := block.NewRaw(f, block.RawOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	t.Run("memory", func(t *testing.T) {
		blocktest.Run(t, func(t testing.TB, size int64) blocktest.Fixture {
			return blocktest.Fixture{Dev: block.NewMem(size)}
		})
	})
	t.Run("file without abilities", func(t *testing.T) {
		blocktest.Run(t, func(t testing.TB, size int64) blocktest.Fixture {
			return blocktest.Fixture{Dev: raw(t, plainFile{block.NewMemFile(size)})}
		})
	})
	t.Run("local", func(t *testing.T) {
		blocktest.Run(t, func(t testing.TB, size int64) blocktest.Fixture {
			path := filepath.Join(t.TempDir(), "disk.raw")
			open := func() *block.Raw {
				f, err := block.OpenLocal(path, os.O_RDWR|os.O_CREATE, 0o600)
				if err != nil {
					t.Fatal(err)
				}
				if err := f.Truncate(size); err != nil {
					t.Fatal(err)
				}
				return raw(t, f)
			}
			dev := open()
			return blocktest.Fixture{Dev: dev, Reopen: func() block.Device {
				if err := dev.Close(); err != nil {
					t.Fatal(err)
				}
				dev = open()
				return dev
			}}
		})
	})
	t.Run("power cut file", func(t *testing.T) {
		blocktest.Run(t, func(t testing.TB, size int64) blocktest.Fixture {
			p := block.NewPowerCut(block.NewMemFile(size))
			return blocktest.Fixture{Dev: raw(t, p), Reopen: func() block.Device { return raw(t, p) }}
		})
	})
	t.Run("mirror", func(t *testing.T) {
		blocktest.Run(t, func(t testing.TB, size int64) blocktest.Fixture {
			return blocktest.Fixture{Dev: newMirror(t, block.NewMem(size), block.NewMem(size))}
		})
	})
	t.Run("mirror being copied", func(t *testing.T) {
		blocktest.Run(t, func(t testing.TB, size int64) blocktest.Fixture {
			m := newMirror(t, block.NewMem(size), block.NewMem(size))
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan struct{})
			go func() {
				defer close(done)
				_ = m.CopyPass(ctx, block.CopyOptions{ChunkSize: 64 << 10})
			}()
			t.Cleanup(func() { cancel(); <-done })
			return blocktest.Fixture{Dev: m}
		})
	})
	t.Run("mirror switched, in a slot", func(t *testing.T) {
		blocktest.Run(t, func(t testing.TB, size int64) blocktest.Fixture {
			m := newMirror(t, block.NewMem(size), block.NewMem(size))
			if err := m.CopyPass(context.Background(), block.CopyOptions{}); err != nil {
				t.Fatal(err)
			}
			if _, err := m.Switch(context.Background(), nil); err != nil {
				t.Fatal(err)
			}
			return blocktest.Fixture{Dev: block.NewSlot(m)}
		})
	})
	t.Run("delayed", func(t *testing.T) {
		blocktest.Run(t, func(t testing.TB, size int64) blocktest.Fixture {
			hook := block.DelayBy(func(op block.Op) time.Duration { return time.Duration(op.Off%7) * time.Microsecond })
			file := block.NewInterceptFile(block.NewMemFile(size), hook)
			return blocktest.Fixture{Dev: block.NewIntercept(raw(t, file), hook)}
		})
	})
}

func newMirror(t testing.TB, src, dst block.Device) *block.Mirror {
	t.Helper()
	m, err := block.NewMirror(src, dst, block.MirrorOptions{Granularity: 64 << 10, DestinationZero: true})
	if err != nil {
		t.Fatal(err)
	}
	return m
}
