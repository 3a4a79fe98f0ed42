package shares

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"lunless/shares/fs"
)

// xfsRoot is an empty folder on an XFS of its own, which lets files share blocks:
// a loop mount, which only root may make. The test fails where root cannot.
func xfsRoot(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	image, mnt := filepath.Join(dir, "xfs.img"), filepath.Join(dir, "xfs")
	if err := os.Mkdir(mnt, 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(400 << 20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	for _, args := range [][]string{{"mkfs.xfs", "-q", image}, {"mount", "-o", "loop", image, mnt}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s (the test runs as root, and wants xfsprogs and the right to mount a loop file)", args, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", mnt).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return mnt
}

// startReflink starts a server whose share is on a file system where files share
// blocks: XFS for root, else one that pretends to.
func startReflink(t *testing.T) (srv *testServer, real bool) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Log("not root: block cloning is tested over a file system that copies instead")
		return startServer(t, func(cfg *Config) { cfg.Shares[0].FS = pretendFS{cfg.Shares[0].FS} }), false
	}
	root := xfsRoot(t)
	store, err := fs.NewPOSIX(root, fs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	srv = startServer(t, func(cfg *Config) { cfg.Shares[0].FS, cfg.Shares[0].Path = store, root })
	srv.root = root
	return srv, true
}

// pretendFS is an FS whose files seem to share blocks; they are copied.
type pretendFS struct{ fs.FS }

func (p pretendFS) Volume(ctx context.Context) (fs.Volume, error) {
	v, err := p.FS.Volume(ctx)
	v.Reflink = true
	return v, err
}

func (p pretendFS) Open(ctx context.Context, name string, access fs.Access) (fs.File, error) {
	f, err := p.FS.Open(ctx, name, access)
	return p.wrap(f, err)
}

func (p pretendFS) Create(ctx context.Context, name string, o fs.CreateOptions) (fs.File, error) {
	f, err := p.FS.Create(ctx, name, o)
	return p.wrap(f, err)
}

func (p pretendFS) wrap(f fs.File, err error) (fs.File, error) {
	if err != nil {
		return nil, err
	}
	return pretendFile{f, p.FS}, nil
}

type pretendFile struct {
	fs.File
	fs fs.FS
}

func (f pretendFile) Unwrap() fs.File { return f.File }

func (f pretendFile) CloneRange(ctx context.Context, src fs.File, from, to, n int64) error {
	_, err := f.CopyRange(ctx, src, from, to, n)
	return err
}

func (f pretendFile) Snapshot(ctx context.Context, off, n int64) (fs.File, error) {
	s, err := f.fs.Create(ctx, "snapshot", fs.CreateOptions{Access: fs.ReadData | fs.WriteData})
	if err == nil {
		err = f.fs.Remove(ctx, s)
	}
	if err == nil {
		_, err = s.CopyRange(ctx, f.File, off, off, n)
	}
	return s, err
}

func (f pretendFile) Trim(ctx context.Context, off, n int64) error {
	return fs.Trim(ctx, f.File, off, n)
}

func (f pretendFile) Reserve(ctx context.Context, size int64) error {
	return fs.Reserve(ctx, f.File, size)
}
