package fs_test

import (
	"sync/atomic"
	"testing"
	"time"

	"lunless/shares/fs"
	"lunless/shares/fs/fstest"
)

func newPOSIX(t testing.TB) *fs.POSIX {
	t.Helper()
	return servePOSIX(t, t.TempDir())
}

func servePOSIX(t testing.TB, root string) *fs.POSIX {
	t.Helper()
	p, err := fs.NewPOSIX(root, fs.Options{})
	if err != nil {
		t.Fatalf("%v (tests need a TMPDIR with user extended attributes)", err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestPOSIX(t *testing.T) {
	fstest.Run(t, func(t *testing.T) fs.FS { return newPOSIX(t) })
}

// A Fault that only delays moves every race and changes no answer.
func TestDelays(t *testing.T) {
	fstest.Run(t, func(t *testing.T) fs.FS {
		f := fs.NewFault(newPOSIX(t))
		var calls atomic.Int64
		f.Set(func(op fs.Op, _ string) error {
			if calls.Add(1)%7 == 0 {
				time.Sleep(20 * time.Microsecond)
			}
			if op == fs.OpReadCached && calls.Load()%3 == 0 {
				return fs.ErrWouldBlock
			}
			return nil
		})
		return f
	})
}

// A cache with room for next to nothing gives the same answers.
func TestSmallCache(t *testing.T) {
	fstest.Run(t, func(t *testing.T) fs.FS {
		p, err := fs.NewPOSIX(t.TempDir(), fs.Options{CachedNames: 3})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		return p
	})
}
