package fs

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lunless/smbstore/fscc"

	"golang.org/x/sys/unix"
)

func store(t testing.TB) (*POSIX, string) {
	t.Helper()
	root := t.TempDir()
	p, err := NewPOSIX(root, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p, root
}

func TestFailedFlush(t *testing.T) {
	ctx := context.Background()
	p, _ := store(t)
	made, err := p.Create(ctx, "f", CreateOptions{Access: ReadData | WriteData})
	if err != nil {
		t.Fatal(err)
	}
	other, err := p.Open(ctx, "F", WriteData)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.(*posixFile).poison(unix.EIO); err != unix.EIO {
		t.Fatal(err)
	}
	check := func(f File, want error) {
		t.Helper()
		_, err := f.WriteAt([]byte("x"), 0)
		for i, err := range []error{err, f.Sync(ctx), p.SyncParent(ctx, f), f.Truncate(ctx, 1)} {
			if !errors.Is(err, want) {
				t.Errorf("call %d: %v, want %v", i, err, want)
			}
		}
	}
	check(made, ErrFailed)
	check(other, ErrFailed)
	other.Close()
	third, err := p.Open(ctx, "f", WriteData)
	if err != nil {
		t.Fatal(err)
	}
	check(third, ErrFailed)
	if _, err := made.ReadAt(make([]byte, 1), 0); err != nil {
		t.Errorf("read: %v", err)
	}
	made.Close()
	third.Close()
	fresh, err := p.Open(ctx, "f", WriteData)
	if err != nil {
		t.Fatal(err)
	}
	check(fresh, nil)
	fresh.Close()
	if n := len(p.nodes.m); n != 0 {
		t.Errorf("%d nodes left", n)
	}
}

// The file systems at hand zero in the kernel; this is what others get.
func TestZeroByWriting(t *testing.T) {
	ctx := context.Background()
	p, _ := store(t)
	file, err := p.Create(ctx, "f", CreateOptions{Access: ReadData | WriteData})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	f := file.(*posixFile)
	if _, err := f.WriteAt([]byte(strings.Repeat("x", 1000)), 0); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ off, n, want int64 }{{10, 20, 20}, {990, 100, 10}, {1000, 5, 0}, {5000, 5, 0}} {
		if n, err := f.zeroStep(0, c.off, c.n); n != c.want || err != nil {
			t.Errorf("zeroStep(%d, %d): %d, %v, want %d", c.off, c.n, n, err, c.want)
		}
	}
	b := make([]byte, 2000)
	n, err := f.ReadAt(b, 0)
	want := strings.Repeat("x", 10) + strings.Repeat("\x00", 20) + strings.Repeat("x", 960) + strings.Repeat("\x00", 10)
	if string(b[:n]) != want || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestMangledAttributes(t *testing.T) {
	ctx := context.Background()
	p, root := store(t)
	f, err := p.Create(ctx, "f", CreateOptions{Attributes: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, value := range []string{"", "x", strings.Repeat("\xff", 16), strings.Repeat("x", 4000)} {
		if err := unix.Setxattr(filepath.Join(root, "f"), xattrAttr, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
		if info, err := f.Stat(ctx); err != nil || info.Attributes != 0 || info.Created.Year() < 2000 {
			t.Errorf("%q: %+v, %v", value, info, err)
		}
		if err := f.SetAttributes(ctx, 4); err != nil {
			t.Error(err)
		}
		if info, err := f.Stat(ctx); err != nil || info.Attributes != 4 {
			t.Errorf("%q: %+v, %v", value, info, err)
		}
	}
}

// When a negative answer from the cache may be relied on.
func TestFolderTrust(t *testing.T) {
	now := time.Now()
	f := &folder{settled: true, cost: time.Millisecond}
	f.followed(stamp{}, now)
	if f.settled || !f.until.Equal(now.Add(followFor)) {
		t.Errorf("after a change of ours: %+v", f)
	}
	later := now.Add(time.Second / 2)
	f.followed(stamp{}, later)
	if !f.until.Equal(now.Add(followFor)) {
		t.Error("further changes put off the next reading")
	}
	slow := &folder{settled: true, cost: time.Second}
	slow.followed(stamp{}, now)
	if !slow.until.Equal(now.Add(followCost * time.Second)) {
		t.Error("a folder that is slow to read is read too often")
	}
}

func TestFolderNames(t *testing.T) {
	f := &folder{names: map[string]string{}}
	for _, n := range []string{"abc", "ABC", "Abc", "abc", "x"} {
		f.add(n)
	}
	for _, step := range []struct {
		remove string
		left   int
	}{{"ABC", 2}, {"none", 2}, {"abc", 1}, {"aBC", 1}, {"Abc", 0}} {
		f.remove(step.remove)
		first, more := f.find("ABC")
		n := len(more)
		if first != "" {
			n++
		}
		if n != step.left {
			t.Errorf("after %q: %q and %q", step.remove, first, more)
		}
	}
	if len(f.names) != 1 || len(f.more) != 0 {
		t.Errorf("left: %+v", f)
	}
}

func TestCacheBound(t *testing.T) {
	c := nameCache{limit: 1000}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	for range 5000 {
		key := folderKey{1, r.Uint64N(200)}
		switch f := c.get(key); {
		case r.IntN(5) == 0:
			c.drop(key)
		case f == nil || r.IntN(5) == 0:
			f = &folder{key: key, names: map[string]string{}}
			for i := range r.IntN(50) {
				f.add(strings.Repeat("x", i))
			}
			c.put(f)
		default:
			f.add(strings.Repeat("y", r.IntN(200)))
			c.put(f)
		}
		sum := 0
		for e := c.order.Front(); e != nil; e = e.Next() {
			sum += len(e.Value.(*folder).names)
		}
		if sum != c.total || sum > c.limit || c.order.Len() != len(c.folders) {
			t.Fatalf("seed %d: holds %d names, counts %d, in %d and %d folders", seed, sum, c.total, c.order.Len(), len(c.folders))
		}
	}
}

func TestDirentsMalformed(t *testing.T) {
	record := func(size byte, name string) []byte {
		b := make([]byte, direntHeader, 64)
		b[0], b[16] = 1, size
		return append(b, name...)
	}
	for _, b := range [][]byte{{1}, record(18, ""), record(0, "abc"), record(200, "abc\x00")} {
		d := dirents{fd: -1, left: b}
		if name, _, err := d.next(); err != errDirent {
			t.Errorf("%v: %q, %v", b, name, err)
		}
	}
	d := dirents{fd: -1, left: record(23, "abc\x00")}
	if name, _, err := d.next(); name != "abc" || err != nil {
		t.Errorf("%q, %v", name, err)
	}
}

func FuzzStoredAttr(f *testing.F) {
	f.Add(storedAttr{}.encode())
	f.Add(storedAttr{attributes: settable, created: fscc.FiletimeOf(time.Unix(1, 100))}.encode())
	f.Add(storedAttr{created: 5, changed: 7, until: 9}.encode())
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, ok := decodeStoredAttr(b)
		if !ok {
			if a != (storedAttr{}) {
				t.Fatalf("%x: refused, and %+v", b, a)
			}
			return
		}
		if again := a.encode(); string(again) != string(b) {
			t.Fatalf("%x became %x", b, again)
		}
	})
}

// A component that passes survives the way over the wire and is one Windows can
// have; folding it twice is folding it once.
func FuzzName(f *testing.F) {
	for _, s := range []string{"a", "ÄÖ", "\xed\xa0\x80", "\xed\xa0\x80\xed\xb0\x80", "\xed\xb0\x80\xed\xa0\x80", "a:b", "..", "a/b", "\xf0\x9f\x98\x80", "\xff", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if checkName(s) != nil || s == "" {
			return
		}
		for c := range strings.SplitSeq(s, "/") {
			if checkComponent(c) != nil || c == "" || c == "." || c == ".." || strings.ContainsAny(c, "\x00:\\*?\"<>|\n") {
				t.Fatalf("%q passed in %q", c, s)
			}
			wire := fscc.EncodeUTF16(c)
			if back := fscc.DecodeUTF16(wire); back != c {
				t.Fatalf("%q came back as %q", c, back)
			}
			if len(wire) > 2*maxComponent {
				t.Fatalf("%q takes %d bytes on the wire", c, len(wire))
			}
			if k := fold(c); fold(k) != k || checkComponentFold(k) != nil {
				t.Fatalf("%q folds to %q", c, k)
			}
		}
	})
}

// checkComponentFold is checkComponent without the bound: folding may lengthen.
func checkComponentFold(k string) error {
	if !expressible(k) {
		return ErrBadName
	}
	return nil
}

// A flush covers what was changed before it began, and nobody relies on one that
// has not ended.
func TestChanges(t *testing.T) {
	var c changes
	pending := func(want bool) uint64 {
		t.Helper()
		upTo, some := c.pending()
		if some != want {
			t.Errorf("pending: %v, want %v", some, want)
		}
		return upTo
	}
	pending(false)
	c.add()
	first := pending(true)
	pending(true) // the first has not ended
	c.add()       // while it runs
	c.done(first)
	second := pending(true)
	c.done(second)
	c.done(first) // late
	pending(false)
}

// What the kernel says of a close is the caller's, and the end of writing to the
// object through others.
func TestFailedClose(t *testing.T) {
	var d descriptor
	d.init(1 << 30)
	if !d.close() || d.err != unix.EBADF {
		t.Errorf("close of no descriptor: %v", d.err)
	}
	p, err := NewPOSIX(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	one, err := p.Create(t.Context(), "f", CreateOptions{Access: WriteData})
	if err != nil {
		t.Fatal(err)
	}
	two, err := p.Open(t.Context(), "f", WriteData)
	if err != nil {
		t.Fatal(err)
	}
	defer two.Close()
	fd := &one.(*posixFile).fd
	unix.Close(fd.fd)
	fd.fd = 1 << 30
	if err := one.Close(); err == nil {
		t.Error("a close that failed says nothing")
	}
	if _, err := two.WriteAt([]byte("x"), 0); !errors.Is(err, ErrFailed) {
		t.Errorf("write after that: %v", err)
	}
}
