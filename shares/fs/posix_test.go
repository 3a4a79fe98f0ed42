package fs_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lunless/shares/fs"

	"golang.org/x/sys/unix"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestNoExtendedAttributes(t *testing.T) {
	_, err := fs.NewPOSIX("/proc", fs.Options{}) // root or not, nothing is stored there
	if err == nil || !strings.Contains(err.Error(), "extended attributes") {
		t.Errorf("error %v", err)
	}
	_, err = fs.NewPOSIX(filepath.Join(t.TempDir(), "none"), fs.Options{})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	if _, err = fs.NewPOSIX(file, fs.Options{}); !errors.Is(err, fs.ErrNotDir) {
		t.Errorf("error %v", err)
	}
}

// The probe of a new store leaves nothing behind.
func TestNewLeavesNothing(t *testing.T) {
	root := t.TempDir()
	servePOSIX(t, root)
	if left, err := os.ReadDir(root); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestClosedStore(t *testing.T) {
	p := newPOSIX(t)
	f, err := p.Create(ctx, "f", fs.CreateOptions{Access: readWrite})
	must(t, err)
	defer f.Close()
	must(t, p.Close())
	_, open := p.Open(ctx, "f", 0)
	_, create := p.Create(ctx, "g", fs.CreateOptions{})
	_, volume := p.Volume(ctx)
	_, name := f.Name()
	for i, err := range []error{open, create, volume, name, p.Remove(ctx, f), p.Rename(ctx, f, "g", false),
		p.SyncParent(ctx, f), p.Close()} {
		if !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%d: %v", i, err)
		}
	}
	if _, err := f.WriteAt([]byte("x"), 0); err != nil {
		t.Error(err)
	}
}

// hostile fills a share with what must not be followed, opened or shown.
func hostile(t *testing.T) (root string, names []string) {
	t.Helper()
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600))
	root = t.TempDir()
	must(t, os.Mkdir(filepath.Join(root, "dir"), 0o700))
	must(t, os.WriteFile(filepath.Join(root, "dir/file"), []byte("file"), 0o600))
	for name, to := range map[string]string{
		"up": "..", "abs": outside, "abs-file": outside + "/secret", "rel": "../" + filepath.Base(outside) + "/secret",
		"in": "dir", "in-file": "dir/file", "dangling": "nothing", "loop": "loop", "proc": "/proc/self/root",
	} {
		must(t, os.Symlink(to, filepath.Join(root, name)))
		names = append(names, name)
	}
	return root, names
}

func TestSymbolicLinks(t *testing.T) {
	root, links := hostile(t)
	p := servePOSIX(t, root)
	var names []string
	for _, l := range links {
		names = append(names, l, strings.ToUpper(l), l+"/secret", l+"/dir/file", strings.ToUpper(l)+"/file")
	}
	for _, name := range names {
		for _, access := range []fs.Access{0, fs.ReadData, readWrite} {
			if f, err := p.Open(ctx, name, access); !errors.Is(err, fs.ErrEscapes) {
				t.Errorf("Open(%q): %v, %v", name, f, err)
			}
		}
		for _, dir := range []bool{false, true} {
			f, err := p.Create(ctx, name, fs.CreateOptions{Dir: dir})
			if !errors.Is(err, fs.ErrEscapes) && !(errors.Is(err, fs.ErrExist) && !strings.Contains(name, "/")) {
				t.Errorf("Create(%q): %v, %v", name, f, err)
			}
		}
	}
	f, err := p.Open(ctx, "dir/file", readWrite)
	must(t, err)
	defer f.Close()
	for _, l := range links {
		for _, replace := range []bool{false, true} {
			if err := p.Rename(ctx, f, strings.ToUpper(l), replace); !errors.Is(err, fs.ErrExist) {
				t.Errorf("rename over the link %s: %v", l, err)
			}
			if err := p.Link(ctx, f, l, replace); !errors.Is(err, fs.ErrExist) {
				t.Errorf("link over the link %s: %v", l, err)
			}
			if err := p.Rename(ctx, f, l+"/x", replace); !errors.Is(err, fs.ErrEscapes) {
				t.Errorf("rename through the link %s: %v", l, err)
			}
		}
	}
	if n := count(t, p, "", nil); n != 1 {
		t.Errorf("%d entries listed, want the folder alone", n)
	}
}

// What is no file and no folder is neither opened (a pipe would wait for its
// other end) nor shown, and neither are names Windows cannot have.
func TestSpecialFiles(t *testing.T) {
	root := t.TempDir()
	must(t, unix.Mkfifo(filepath.Join(root, "pipe"), 0o600))
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(root, "socket")}))
	for _, name := range []string{"a:b", "que?", "back\\slash", "new\nline", "\xff\xfe", "\xed\xa0\x80\xed\xb0\x80"} {
		must(t, os.WriteFile(filepath.Join(root, name), nil, 0o600))
	}
	p := servePOSIX(t, root)
	for _, name := range []string{"pipe", "PIPE", "socket", "Socket"} {
		for _, access := range []fs.Access{0, fs.ReadData, readWrite} {
			if _, err := p.Open(ctx, name, access); !errors.Is(err, fs.ErrPermission) {
				t.Errorf("Open(%q): %v", name, err)
			}
		}
		if _, err := p.Create(ctx, name, fs.CreateOptions{}); !errors.Is(err, fs.ErrExist) {
			t.Errorf("Create(%q): %v", name, err)
		}
	}
	if n := count(t, p, "", nil); n != 0 {
		t.Errorf("%d entries listed", n)
	}
	dir, err := p.Open(ctx, "", 0)
	must(t, err)
	defer dir.Close()
}

// A folder of the path is swapped for a link that leads out, again and again, while
// it is used. Nothing outside is ever read, made or removed.
func TestSwappedLink(t *testing.T) {
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "file"), []byte("outside"), 0o600))
	root := t.TempDir()
	p := servePOSIX(t, root)
	mustClose(t)(p.Create(ctx, "dir", fs.CreateOptions{Dir: true}))
	inside, err := p.Create(ctx, "dir/file", fs.CreateOptions{Access: readWrite})
	must(t, err)
	_, err = inside.WriteAt([]byte("inside."), 0)
	must(t, err)
	inside.Close()
	must(t, os.Symlink(outside, filepath.Join(root, "link")))

	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !stop.Load() {
			err := unix.Renameat2(unix.AT_FDCWD, filepath.Join(root, "dir"), unix.AT_FDCWD, filepath.Join(root, "link"), unix.RENAME_EXCHANGE)
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := range 3000 {
		for _, name := range []string{"dir/file", "DIR/FILE", "link/File"} {
			f, err := p.Open(ctx, name, fs.ReadData)
			if err != nil {
				continue
			}
			b := make([]byte, 7)
			if _, err := f.ReadAt(b, 0); err != nil || string(b) != "inside." {
				t.Errorf("read %q, %v", b, err)
			}
			f.Close()
		}
		if f, err := p.Create(ctx, fmt.Sprintf("Dir/new%d", i), fs.CreateOptions{}); err == nil {
			p.Remove(ctx, f)
			f.Close()
		}
	}
	stop.Store(true)
	wg.Wait()
	if left, err := os.ReadDir(outside); err != nil || len(left) != 1 {
		t.Errorf("outside the share: %v, %v", left, err)
	}
}

func TestNameFollowsRoot(t *testing.T) {
	top := t.TempDir()
	root := filepath.Join(top, "root")
	must(t, os.Mkdir(root, 0o700))
	p := servePOSIX(t, root)
	mustClose(t)(p.Create(ctx, "dir", fs.CreateOptions{Dir: true}))
	f, err := p.Create(ctx, "dir/file", fs.CreateOptions{})
	must(t, err)
	defer f.Close()
	must(t, os.Rename(root, filepath.Join(top, "moved")))
	if name, err := f.Name(); name != "dir/file" || err != nil {
		t.Errorf("%q, %v", name, err)
	}
	mustClose(t)(p.Open(ctx, "DIR/FILE", 0))
	// An object taken out of the share has no name in it.
	must(t, os.Rename(filepath.Join(top, "moved/dir/file"), filepath.Join(top, "file")))
	if name, err := f.Name(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%q, %v", name, err)
	}
	if err := p.Remove(ctx, f); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// An object whose name was taken by another is not mistaken for it.
func TestRemoveChecksObject(t *testing.T) {
	root := t.TempDir()
	p := servePOSIX(t, root)
	f, err := p.Create(ctx, "file", fs.CreateOptions{})
	must(t, err)
	defer f.Close()
	must(t, os.Rename(filepath.Join(root, "file"), filepath.Join(root, "elsewhere")))
	must(t, os.WriteFile(filepath.Join(root, "file"), nil, 0o600))
	must(t, p.Remove(ctx, f))
	left, err := os.ReadDir(root)
	if err != nil || len(left) != 1 || left[0].Name() != "file" {
		t.Errorf("left %v, %v", left, err)
	}
}

// What others do to a folder is seen at once, in any case.
func TestOthersChanges(t *testing.T) {
	root := t.TempDir()
	p := servePOSIX(t, root)
	for i := range 300 {
		lower, upper := fmt.Sprintf("name%d", i), fmt.Sprintf("NAME%d", i)
		if _, err := p.Open(ctx, upper, 0); !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		must(t, os.WriteFile(filepath.Join(root, lower), nil, 0o600))
		f, err := p.Open(ctx, upper, 0)
		if err != nil {
			t.Fatalf("file %d, made by another: %v", i, err)
		}
		f.Close()
		if _, err := p.Create(ctx, upper, fs.CreateOptions{}); !errors.Is(err, fs.ErrExist) {
			t.Fatal(err)
		}
		if i%2 == 0 {
			must(t, os.Remove(filepath.Join(root, lower)))
			if _, err := p.Open(ctx, upper, 0); !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
		}
	}
	// Two names another made equal but for case: each is found by its spelling,
	// any other finds the one that sorts first.
	must(t, os.WriteFile(filepath.Join(root, "TWIN"), []byte("1"), 0o600))
	must(t, os.WriteFile(filepath.Join(root, "twin"), []byte("22"), 0o600))
	for name, size := range map[string]int64{"TWIN": 1, "twin": 2, "Twin": 1} {
		f, err := p.Open(ctx, name, 0)
		must(t, err)
		if info, err := f.Stat(ctx); err != nil || info.Size != size {
			t.Errorf("%s: size %d, %v", name, info.Size, err)
		}
		f.Close()
	}
}

// Making files in a folder reads it a few times a second at most, not once a file.
//
// What it takes is the processor's time of this thread, held against that of reading
// the folder once: neither depends on what else the machine does.
func TestCrowdedFolder(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start := threadTime(t)
	p := crowded(t)
	t.Logf("%d files made in %v", crowd, threadTime(t)-start)
	start = threadTime(t)
	if n := count(t, p, "dir", nil); n != crowd {
		t.Errorf("%d entries", n)
	}
	once := threadTime(t) - start
	start = threadTime(t)
	for i := range 1000 {
		if _, err := p.Open(ctx, fmt.Sprintf("DIR/missing %d", i), 0); !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		mustClose(t)(p.Open(ctx, fmt.Sprintf("dir/entry NUMBER %05d.vhdx", i), 0))
	}
	took := threadTime(t) - start
	t.Logf("listed in %v, 2,000 look-ups in %v", once, took)
	// They take about as long as the listing; were each to read the folder's names, a
	// twentieth of a listing or more, they would take a hundred times that.
	if took > 10*once {
		t.Errorf("2,000 look-ups took %v, a listing %v", took, once)
	}
	if perEntry := once / crowd; perEntry > took/20 {
		t.Errorf("a listing took %v for each entry, a look-up %v", perEntry, took/2000)
	}
}

// threadTime is what this thread has had of the processor.
func threadTime(t *testing.T) time.Duration {
	t.Helper()
	var had unix.Timespec
	must(t, unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &had))
	return time.Duration(had.Nano())
}

// diskDir is a folder beside the test: the one for temporary files may be in
// memory, where RWF_NOWAIT does not work.
func diskDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(".", ".test-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestAllocations(t *testing.T) {
	p := servePOSIX(t, diskDir(t))
	f, err := p.Create(ctx, "f", fs.CreateOptions{Access: readWrite})
	must(t, err)
	defer f.Close()
	var sink error
	for name, call := range map[string]func([]byte, int64) (int, error){
		"ReadAt": f.ReadAt, "ReadAtCached": f.ReadAtCached, "WriteAt": f.WriteAt,
	} {
		buf := make([]byte, 4096)
		_, err := f.WriteAt(buf, 0)
		must(t, err)
		if n := testing.AllocsPerRun(200, func() { _, sink = call(buf, 0) }); n != 0 || sink != nil {
			t.Errorf("%s allocates %v times, %v", name, n, sink)
		}
	}
}

// What is in the page cache is read without waiting; what is not is left alone.
func TestReadAtCached(t *testing.T) {
	root := diskDir(t)
	p := servePOSIX(t, root)
	f, err := p.Create(ctx, "f", fs.CreateOptions{Access: readWrite})
	must(t, err)
	defer f.Close()
	data := []byte(strings.Repeat("0123456789abcdef", 64<<10))
	_, err = f.WriteAt(data, 0)
	must(t, err)
	buf := make([]byte, len(data)+100)
	n, err := f.ReadAtCached(buf, 0)
	if errors.Is(err, fs.ErrWouldBlock) {
		t.Fatal("just written, and not in memory: run the test in a checkout on ext4, XFS or btrfs (RWF_NOWAIT)")
	}
	if err != nil || !slices.Equal(buf[:n], data) {
		t.Errorf("%d bytes, %v", n, err)
	}
	must(t, f.Sync(ctx))
	raw, err := os.Open(filepath.Join(root, "f"))
	must(t, err)
	defer raw.Close()
	must(t, unix.Fadvise(int(raw.Fd()), 0, 0, unix.FADV_DONTNEED))
	if n, err := f.ReadAtCached(buf, 0); !errors.Is(err, fs.ErrWouldBlock) || n != 0 {
		t.Errorf("not in memory: %d, %v", n, err)
	}
	if n, err := f.ReadAt(buf, 0); n != len(data) || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

// A source on another file system is copied through memory.
func TestCopyBetweenFileSystems(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "lunless-")
	must(t, err)
	defer os.RemoveAll(dir)
	src, dst := servePOSIX(t, dir), servePOSIX(t, diskDir(t))
	s, err := src.Create(ctx, "s", fs.CreateOptions{Access: readWrite})
	must(t, err)
	defer s.Close()
	d, err := dst.Create(ctx, "d", fs.CreateOptions{Access: readWrite})
	must(t, err)
	defer d.Close()
	data := []byte(strings.Repeat("0123456789abcdef", 50_000))
	_, err = s.WriteAt(data, 0)
	must(t, err)
	for _, from := range []fs.File{s, foreign{s}} {
		must(t, d.Truncate(ctx, 0))
		n, err := d.CopyRange(ctx, from, 16, 3, 1<<30)
		if n != int64(len(data)-16) || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		got := make([]byte, len(data))
		m, err := d.ReadAt(got, 3)
		if err != nil || !slices.Equal(got[:m], data[16:]) {
			t.Error("the copy differs", err)
		}
	}
	if s.ID().Volume == d.ID().Volume {
		t.Error("two file systems have one volume")
	}
	if err := dst.Rename(ctx, s, "x", false); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("rename of another store's object: %v", err)
	}
}

type foreign struct{ fs.File }

// Every descriptor is given back, whatever failed: those of look-ups, of
// listings, of folders remembered for SyncParent.
func TestDescriptorsGivenBack(t *testing.T) {
	root, _ := hostile(t)
	open := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(list)
	}
	before := open()
	p, err := fs.NewPOSIX(root, fs.Options{})
	must(t, err)
	for range 20 {
		for _, name := range []string{"", "dir/file", "DIR/FILE", "none", "Dir/none", "none/x", "dir/file/x", "loop", "up/x", "a*"} {
			for _, access := range []fs.Access{0, fs.ReadData, readWrite} {
				if f, err := p.Open(ctx, name, access); err == nil {
					f.Close()
				}
			}
			if f, err := p.Create(ctx, name, fs.CreateOptions{SecurityDescriptor: make([]byte, 1<<20)}); err == nil {
				t.Errorf("%q made with a security descriptor of 1 MiB", name)
				f.Close()
			}
			if f, err := p.Create(ctx, name, fs.CreateOptions{Dir: true, SecurityDescriptor: make([]byte, 1<<20)}); err == nil {
				f.Close()
			}
		}
	}
	if n := count(t, p, "", nil); n != 1 {
		t.Errorf("%d objects, those that failed included", n)
	}
	f, err := p.Create(ctx, "wanderer", fs.CreateOptions{})
	must(t, err)
	for i := range 20 {
		folder := fmt.Sprintf("folder%d", i)
		mustClose(t)(p.Create(ctx, folder, fs.CreateOptions{Dir: true}))
		must(t, p.Rename(ctx, f, folder+"/here", false))
	}
	if n := open() - before; n > 12 {
		t.Errorf("%d descriptors in use by one file", n)
	}
	must(t, p.SyncParent(ctx, f))
	if n := open() - before; n != 2 {
		t.Errorf("%d descriptors in use, want the root's and the file's", n)
	}
	must(t, p.Rename(ctx, f, "FOLDER3/there", false))
	must(t, p.Remove(ctx, f))
	must(t, f.Close())
	must(t, p.Close())
	if after := open(); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

// A reservation that cannot succeed takes nothing: what it got before it failed
// would be all the room that others have.
func TestTooMuchReserved(t *testing.T) {
	p := servePOSIX(t, diskDir(t))
	v, err := p.Volume(t.Context())
	must(t, err)
	tooMuch := int64(2 * v.TotalBytes)
	f, err := p.Create(t.Context(), "file", fs.CreateOptions{Access: fs.WriteData})
	must(t, err)
	defer f.Close()
	if err := f.SetAllocation(t.Context(), tooMuch); !errors.Is(err, fs.ErrNoSpace) {
		t.Errorf("reserving twice the volume: %v", err)
	}
	if info, err := f.Stat(t.Context()); err != nil || info.AllocationSize > 1<<20 {
		t.Errorf("%d bytes reserved, %v", info.AllocationSize, err)
	}
	if _, err := p.Create(t.Context(), "other", fs.CreateOptions{AllocationSize: tooMuch}); !errors.Is(err, fs.ErrNoSpace) {
		t.Errorf("a new file of twice the volume: %v", err)
	}
	must(t, f.SetAllocation(t.Context(), 1<<20))
	must(t, f.SetAllocation(t.Context(), 1<<20))
}

// TestZeroReservesNothing: zeroing the holes of a huge file must not fill the
// volume; what was data reads as zeroes.
func TestZeroReservesNothing(t *testing.T) {
	p := servePOSIX(t, diskDir(t))
	f, err := p.Create(t.Context(), "file", fs.CreateOptions{Access: fs.ReadData | fs.WriteData})
	must(t, err)
	defer f.Close()
	const size = 1 << 40
	must(t, f.Truncate(t.Context(), size))
	data := bytes.Repeat([]byte{1}, 64<<10)
	for _, off := range []int64{1 << 30, size - int64(len(data))} {
		_, err = f.WriteAt(data, off)
		must(t, err)
	}
	must(t, f.Zero(t.Context(), 100, size-200))
	info, err := f.Stat(t.Context())
	must(t, err)
	if info.AllocationSize > 1<<20 || info.Size != size {
		t.Errorf("%d bytes of %d allocated after zeroing holes", info.AllocationSize, info.Size)
	}
	got := make([]byte, len(data))
	_, err = f.ReadAt(got, 1<<30)
	must(t, err)
	if !bytes.Equal(got, make([]byte, len(data))) {
		t.Error("data is still there")
	}
	_, err = f.ReadAt(got, size-int64(len(data)))
	must(t, err)
	if n := len(got) - 100; !bytes.Equal(got[:n], make([]byte, n)) || !bytes.Equal(got[n:], data[n:]) {
		t.Error("the end of the range is not exact")
	}
}
