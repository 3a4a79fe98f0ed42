package fs_test

import (
	"context"
	"fmt"
	"io"
	"testing"

	"lunless/shares/fs"
)

var ctx = context.Background()

const readWrite = fs.ReadData | fs.WriteData

const crowd = 10_000

// crowded makes a folder of 10,000 entries.
func crowded(t testing.TB) *fs.POSIX {
	t.Helper()
	p := newPOSIX(t)
	mustClose(t)(p.Create(ctx, "Dir", fs.CreateOptions{Dir: true}))
	for i := range crowd {
		mustClose(t)(p.Create(ctx, fmt.Sprintf("Dir/Entry number %05d.vhdx", i), fs.CreateOptions{Attributes: 0x20}))
	}
	return p
}

func mustClose(t testing.TB) func(fs.File, error) {
	return func(f fs.File, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
}

func BenchmarkFolder(b *testing.B) {
	p := crowded(b)
	b.Run("open-exact", func(b *testing.B) {
		for i := range b.N {
			mustClose(b)(p.Open(ctx, fmt.Sprintf("Dir/Entry number %05d.vhdx", i%crowd), fs.ReadData))
		}
	})
	b.Run("open-other-case", func(b *testing.B) {
		for i := range b.N {
			mustClose(b)(p.Open(ctx, fmt.Sprintf("dir/ENTRY NUMBER %05d.VHDX", i%crowd), fs.ReadData))
		}
	})
	b.Run("open-missing", func(b *testing.B) {
		for i := range b.N {
			if _, err := p.Open(ctx, fmt.Sprintf("Dir/missing %d", i), fs.ReadData); err == nil {
				b.Fatal("opened")
			}
		}
	})
	b.Run("create-remove", func(b *testing.B) {
		for i := range b.N {
			f, err := p.Create(ctx, fmt.Sprintf("Dir/new %d", i), fs.CreateOptions{Attributes: 0x20})
			if err == nil {
				err = p.Remove(ctx, f)
			}
			mustClose(b)(f, err)
		}
	})
	b.Run("list", func(b *testing.B) {
		for range b.N {
			if n := count(b, p, "Dir", nil); n != crowd {
				b.Fatal(n)
			}
		}
	})
	b.Run("list-one", func(b *testing.B) {
		for range b.N {
			if n := count(b, p, "Dir", func(n string) bool { return n == "Entry number 07777.vhdx" }); n != 1 {
				b.Fatal(n)
			}
		}
	})
}

func count(t testing.TB, p fs.FS, name string, match func(string) bool) int {
	t.Helper()
	dir, err := p.Open(ctx, name, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	r, err := dir.ReadDir(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for n := 0; ; n++ {
		if _, err := r.Next(match); err == io.EOF {
			return n
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkData(b *testing.B) {
	p := newPOSIX(b)
	f, err := p.Create(ctx, "file", fs.CreateOptions{Access: readWrite})
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 4096)
	if _, err := f.WriteAt(make([]byte, 1<<20), 0); err != nil {
		b.Fatal(err)
	}
	for name, call := range map[string]func([]byte, int64) (int, error){
		"read-4k": f.ReadAt, "read-cached-4k": f.ReadAtCached, "write-4k": f.WriteAt,
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				if n, err := call(buf, int64(i%256)*4096); n != len(buf) || err != nil {
					b.Fatal(n, err)
				}
			}
		})
	}
}
