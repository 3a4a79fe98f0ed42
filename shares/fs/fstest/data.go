package fstest

import (
	"bytes"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"strings"

	"lunless/shares/fs"
)

func testReadWrite(e *env) {
	f := e.create("file")
	e.holds(f, "")
	e.write(f, 0, "hello")
	e.write(f, 10, "world")
	e.write(f, 3, "")
	e.holds(f, "hello\x00\x00\x00\x00\x00world")
	e.write(f, 1, "EL")
	for _, c := range []struct {
		off  int64
		len  int
		want string
	}{{0, 5, "hELlo"}, {10, 5, "world"}, {12, 100, "rld"}, {15, 1, ""}, {1 << 40, 9, ""}, {0, 0, ""}} {
		for name, read := range map[string]func([]byte, int64) (int, error){"ReadAt": f.ReadAt, "ReadAtCached": f.ReadAtCached} {
			p := bytes.Repeat([]byte{0xEE}, c.len)
			n, err := read(p, c.off)
			if name == "ReadAtCached" && errors.Is(err, fs.ErrWouldBlock) {
				continue
			}
			if err != nil || string(p[:n]) != c.want {
				e.Errorf("%s(%d, %d): %q, %v, want %q", name, c.len, c.off, p[:n], err, c.want)
			}
		}
	}
	if size := e.stat(f).Size; size != 15 {
		e.Errorf("size %d", size)
	}
	second := e.open("FILE", fs.ReadData)
	e.holds(second, e.content(f))

	big := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{1}).Read(big)
	e.write(f, 1<<20+1, string(big))
	p := make([]byte, len(big))
	if n, err := second.ReadAt(p, 1<<20+1); n != len(p) || err != nil || !bytes.Equal(p, big) {
		e.Errorf("3 MiB came back as %d bytes, %v", n, err)
	}
}

func testDataErrors(e *env) {
	file := e.create("file")
	e.write(file, 0, "data")
	dir := e.mkdir("dir")
	one := make([]byte, 1)
	visit := func(int64, int64) error { return nil }

	reader, writer, meta := e.open("file", fs.ReadData), e.open("file", fs.WriteData), e.open("file", 0)
	_, err := writer.ReadAt(one, 0)
	e.is(err, fs.ErrPermission)
	_, err = writer.ReadAtCached(one, 0)
	e.is(err, fs.ErrPermission)
	_, err = writer.CopyRange(ctx, writer, 0, 8, 1)
	e.is(err, fs.ErrPermission)
	_, err = meta.ReadAt(one, 0)
	e.is(err, fs.ErrPermission)
	e.is(meta.Allocated(ctx, 0, 1, visit), fs.ErrPermission)
	for _, f := range []fs.File{reader, meta} {
		_, err = f.WriteAt(one, 0)
		e.is(err, fs.ErrPermission)
		e.is(f.Truncate(ctx, 0), fs.ErrPermission)
		e.is(f.SetAllocation(ctx, 0), fs.ErrPermission)
		e.is(f.Zero(ctx, 0, 1), fs.ErrPermission)
		_, err = f.CopyRange(ctx, reader, 0, 0, 1)
		e.is(err, fs.ErrPermission)
	}
	_, err = dir.ReadAt(one, 0)
	e.is(err, fs.ErrIsDir)
	_, err = dir.WriteAt(one, 0)
	e.is(err, fs.ErrIsDir)
	e.is(dir.Truncate(ctx, 0), fs.ErrIsDir)
	e.is(dir.Zero(ctx, 0, 1), fs.ErrIsDir)
	e.is(dir.Allocated(ctx, 0, 1, visit), fs.ErrIsDir)
	_, err = file.CopyRange(ctx, dir, 0, 0, 1)
	e.is(err, fs.ErrIsDir)

	_, err = file.ReadAt(one, -1)
	e.is(err, fs.ErrInvalid)
	_, err = file.WriteAt(one, -1)
	e.is(err, fs.ErrInvalid)
	e.is(file.Truncate(ctx, -1), fs.ErrInvalid)
	e.is(file.SetAllocation(ctx, -1), fs.ErrInvalid)
	for _, r := range [][2]int64{{-1, 1}, {0, -1}, {math.MaxInt64, 1}, {1, math.MaxInt64}} {
		e.is(file.Zero(ctx, r[0], r[1]), fs.ErrInvalid)
		e.is(file.Allocated(ctx, r[0], r[1], visit), fs.ErrInvalid)
		_, err = file.CopyRange(ctx, file, r[0], 0, r[1])
		e.is(err, fs.ErrInvalid)
		_, err = file.CopyRange(ctx, file, 0, r[0], r[1])
		e.is(err, fs.ErrInvalid)
	}
	e.holds(file, "data")
}

func testTruncate(e *env) {
	f := e.create("file")
	e.write(f, 0, "0123456789")
	e.ok(f.Truncate(ctx, 4))
	e.holds(f, "0123")
	e.ok(f.Truncate(ctx, 6))
	e.holds(f, "0123\x00\x00")
	e.ok(f.Truncate(ctx, 1<<40))
	if size := e.stat(f).Size; size != 1<<40 {
		e.Errorf("size %d", size)
	}
	e.ok(f.Truncate(ctx, 0))
	e.holds(f, "")
}

// MS-FSA 2.1.5.15.1
func testAllocation(e *env) {
	f := e.create("file")
	e.write(f, 0, "0123456789")
	e.ok(f.SetAllocation(ctx, 1<<20))
	if info := e.stat(f); info.Size != 10 || info.AllocationSize < 1<<20 {
		e.Errorf("size %d, allocation %d", info.Size, info.AllocationSize)
	}
	e.holds(f, "0123456789")
	e.ok(f.SetAllocation(ctx, 4))
	e.holds(f, "0123")
	if info := e.stat(f); info.AllocationSize >= 1<<20 {
		e.Errorf("allocation %d after it was cut", info.AllocationSize)
	}
	e.ok(f.SetAllocation(ctx, 0))
	e.holds(f, "")
}

func testZero(e *env) {
	const size = 1 << 20
	for _, attr := range []fs.Attributes{0, 0x200} {
		f := e.create("file-" + map[fs.Attributes]string{0: "full", 0x200: "sparse"}[attr])
		e.ok(f.SetAttributes(ctx, attr))
		want := []byte(strings.Repeat("x", size))
		e.write(f, 0, string(want))
		for _, r := range [][2]int64{{0, 0}, {1, 1}, {4095, 2}, {8192, 4096}, {100_001, 500_000}, {size - 3, 3}} {
			e.ok(f.Zero(ctx, r[0], r[1]))
			clear(want[r[0] : r[0]+r[1]])
			if e.content(f) != string(want) {
				e.Fatalf("attributes %#x: wrong bytes after Zero(%d, %d)", attr, r[0], r[1])
			}
		}
		for _, r := range [][2]int64{{size - 1, 100}, {size, 100}, {size + 5000, 1 << 30}, {1 << 40, math.MaxInt64 - 1<<40}} {
			e.ok(f.Zero(ctx, r[0], r[1]))
		}
		if info := e.stat(f); info.Size != size {
			e.Errorf("end of file moved to %d", info.Size)
		}
		e.ok(f.Zero(ctx, 0, math.MaxInt64))
		e.holds(f, string(make([]byte, size)))
	}
}

func testAllocated(e *env) {
	f := e.create("file")
	const size = 8 << 20
	e.ok(f.SetAttributes(ctx, 0x200))
	e.ok(f.Truncate(ctx, size))
	data := [][2]int64{{0, 100}, {1 << 20, 70_000}, {3<<20 + 5, 1}, {size - 10, 10}}
	for _, r := range data {
		e.write(f, r[0], strings.Repeat("x", int(r[1])))
	}
	var runs [][2]int64
	e.ok(f.Allocated(ctx, 0, math.MaxInt64, func(off, n int64) error {
		runs = append(runs, [2]int64{off, n})
		return nil
	}))
	last := int64(-1)
	for _, r := range runs {
		if r[1] <= 0 || r[0] <= last || r[0]+r[1] > size {
			e.Errorf("runs out of order or range: %v", runs)
		}
		last = r[0] + r[1] - 1
	}
	for _, d := range data {
		covered := false
		for _, r := range runs {
			covered = covered || r[0] <= d[0] && d[0]+d[1] <= r[0]+r[1]
		}
		if !covered {
			e.Errorf("written %v is not in %v", d, runs)
		}
	}
	e.ok(f.Allocated(ctx, 1<<20+10, 20, func(off, n int64) error {
		if off != 1<<20+10 || n != 20 {
			e.Errorf("run %d, %d is not cut to what was asked", off, n)
		}
		return nil
	}))
	stop := errors.New("stop")
	calls := 0
	e.is(f.Allocated(ctx, 0, size, func(int64, int64) error { calls++; return stop }), stop)
	if calls != 1 {
		e.Errorf("visit called %d times after its error", calls)
	}
	none := func(off, n int64) error { e.Errorf("run %d, %d past the end", off, n); return nil }
	e.ok(f.Allocated(ctx, size, 100, none))
	e.ok(f.Allocated(ctx, 0, 0, none))
}

func testCopyRange(e *env) {
	src, dst := e.create("src"), e.create("dst")
	const size = 17<<20 + 123
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{2}).Read(data)
	e.write(src, 0, string(data))
	copied := func(from fs.File, srcOff, dstOff, n, want int64) {
		e.Helper()
		got, err := dst.CopyRange(ctx, from, srcOff, dstOff, n)
		if err != nil || got != want {
			e.Errorf("CopyRange(%d, %d, %d): %d, %v, want %d", srcOff, dstOff, n, got, err, want)
		}
	}
	reader := e.open("src", fs.ReadData)
	copied(reader, 0, 0, size, size)
	if e.content(dst) != string(data) {
		e.Error("the copy differs")
	}
	copied(src, 1, size+7, 1000, 1000)
	if got := e.content(dst); got[size:] != strings.Repeat("\x00", 7)+string(data[1:1001]) {
		e.Error("a copy past the end differs")
	}
	copied(dst, 0, 1<<20, 1<<20, 1<<20)
	if got := e.content(dst); got[1<<20:2<<20] != string(data[:1<<20]) {
		e.Error("a copy within one file differs")
	}
	copied(src, size-5, 0, 100, 5) // ends with the source
	copied(src, size, 0, 100, 0)
	copied(src, 0, 0, 0, 0)

	some, cancel := context.WithCancel(ctx)
	cancel()
	if n, err := dst.CopyRange(some, src, 0, 0, size); n != 0 || !errors.Is(err, context.Canceled) {
		e.Errorf("cancelled: %d, %v", n, err)
	}
}

func testSync(e *env) {
	dir := e.mkdir("dir")
	f := e.create("dir/file")
	e.write(f, 0, "x")
	for _, f := range []fs.File{f, dir, e.open("dir/file", 0), e.open("dir/file", fs.ReadData), e.open("", 0)} {
		e.ok(f.Sync(ctx))
		e.ok(e.fs.SyncParent(ctx, f))
	}
	e.ok(e.fs.Rename(ctx, f, "moved", false))
	e.ok(e.fs.SyncParent(ctx, f))
	e.ok(e.fs.Link(ctx, f, "dir/second", false))
	e.ok(e.fs.SyncParent(ctx, f))
	e.ok(e.fs.Remove(ctx, f))
	e.ok(e.fs.SyncParent(ctx, f))
	e.ok(f.Sync(ctx))
}
