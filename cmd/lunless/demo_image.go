package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem"
	"github.com/diskfs/go-diskfs/filesystem/fat32"

	"lunless/smbstore/block"
)

// What the demo's disk image holds: the files of the current folder if it is
// small enough to be a source tree, and some made up for bulk.
const (
	demoMaxFiles = 400
	demoMaxSeen  = 20_000 // files and folders looked at
	demoMaxBytes = 24 << 20
	demoBulk     = 16 << 20 // bytes each of demoBulkFiles
	demoBulkN    = 4
)

type digest [sha256.Size]byte

// makeDemoImage makes a raw image of n bytes with a FAT32 file system and
// returns what its files hold. The writer of the live migration has the space
// behind the file system, from fsSize on, to itself.
func makeDemoImage(ctx context.Context, name string, fsSize, n int64, source string) (map[string]digest, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(n); err != nil {
		return nil, err
	}
	disk, err := fat32.Create(file.New(f, false), fsSize, 0, 512, "LUNLESS", true)
	if err != nil {
		return nil, fmt.Errorf("making the demo's file system: %w", err)
	}
	want := map[string]digest{}
	if err := copySource(ctx, disk, source, want); err != nil {
		return nil, err
	}
	rng := rand.NewChaCha8([32]byte{'d', 'e', 'm', 'o'})
	for i := range demoBulkN {
		name := fmt.Sprintf("/bulk-%d.bin", i)
		if err := writeInto(disk, name, io.LimitReader(rng, demoBulk), want); err != nil {
			return nil, err
		}
	}
	if err := disk.Close(); err != nil {
		return nil, err
	}
	return want, f.Sync()
}

// copySource puts files of a folder into the file system: small ones, until
// there are enough. What cannot be read here, or have its name there, is left
// out: the current folder may be anyone's.
func copySource(ctx context.Context, disk filesystem.FileSystem, source string, want map[string]digest) error {
	device, seen, total := deviceOf(source), 0, int64(0)
	files, folders := map[string]bool{}, map[string]bool{"/": true} // by name in capitals
	return filepath.WalkDir(source, func(p string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		rel, relErr := filepath.Rel(source, p)
		if seen++; seen > demoMaxSeen || len(want) >= demoMaxFiles || relErr != nil {
			return fs.SkipAll
		}
		name := "/" + filepath.ToSlash(rel)
		switch {
		case d == nil:
			return fs.SkipAll // the folder itself cannot be looked at
		case d.IsDir():
			if err != nil || rel != "." && (!fatName(d.Name()) || d.Name() == "bin" || deviceOf(p) != device) {
				return fs.SkipDir
			}
			return nil
		case err != nil || !d.Type().IsRegular() || !fatName(d.Name()):
			return nil
		}
		upper, dir := strings.ToUpper(name), path.Dir(name)
		if files[upper] || folders[upper] || files[path.Dir(upper)] {
			return nil
		}
		content, ok := readSmall(p, demoMaxBytes-total)
		if !ok {
			return nil
		}
		total += int64(len(content))
		if !folders[path.Dir(upper)] {
			if err := disk.Mkdir(dir); err != nil {
				return fmt.Errorf("making folder %s in the demo's image: %w", dir, err)
			}
			for up := path.Dir(upper); up != "/"; up = path.Dir(up) {
				folders[up] = true
			}
		}
		files[upper] = true
		return writeInto(disk, name, bytes.NewReader(content), want)
	})
}

// fatName tells whether a name means the same on FAT: plain ASCII, no dot at
// either end, so that hidden files are left out too.
func fatName(s string) bool {
	return len(s) <= 100 && !strings.HasPrefix(s, ".") && !strings.HasSuffix(s, ".") && !strings.HasSuffix(s, " ") &&
		!strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e || strings.ContainsRune(`"*/:<>?\|+,;=[]`, r) })
}

// deviceOf is the number of the file system a folder lies on, 0 if that cannot be told.
func deviceOf(folder string) uint64 {
	var st syscall.Stat_t
	if syscall.Lstat(folder, &st) != nil {
		return 0
	}
	return uint64(st.Dev)
}

// readSmall reads a file that is neither empty nor larger than limit.
func readSmall(name string, limit int64) ([]byte, bool) {
	f, err := os.Open(name)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Size() == 0 || st.Size() > limit {
		return nil, false
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	return b, err == nil && len(b) > 0 && int64(len(b)) <= limit
}

func writeInto(disk filesystem.FileSystem, name string, content io.Reader, want map[string]digest) error {
	out, err := disk.OpenFile(name, os.O_CREATE|os.O_RDWR)
	if err != nil {
		return fmt.Errorf("making %s in the demo's image: %w", name, err)
	}
	h := sha256.New()
	_, err = io.CopyBuffer(struct{ io.Writer }{out}, io.TeeReader(content, h), make([]byte, 1<<20))
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("writing %s in the demo's image: %w", name, err)
	}
	want[name] = sum(h)
	return nil
}

func sum(h hash.Hash) digest { return digest(h.Sum(nil)) }

// checkDemoFiles mounts the file system on a device and compares every file.
func checkDemoFiles(ctx context.Context, dev block.Device, fsSize int64, want map[string]digest) error {
	disk, err := fat32.Read(file.New(&deviceFile{ctx: ctx, dev: dev}, true), fsSize, 0, 512)
	if err != nil {
		return fmt.Errorf("the disk's file system cannot be read: %w", err)
	}
	for name, digest := range want {
		f, err := disk.OpenFile(name, os.O_RDONLY)
		if err != nil {
			return fmt.Errorf("file %s on the disk: %w", name, err)
		}
		h := sha256.New()
		_, err = io.CopyBuffer(h, struct{ io.Reader }{f}, make([]byte, 1<<20))
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("file %s on the disk: %w", name, err)
		}
		if sum(h) != digest {
			return fmt.Errorf("file %s on the disk differs from what was put there", name)
		}
	}
	return nil
}

// deviceFile shows a device as the read-only file that go-diskfs asks for. It
// reads in chunks and keeps some, as a guest's page cache does: go-diskfs reads
// a cluster at a time.
type deviceFile struct {
	ctx    context.Context
	dev    block.Device
	pos    int64
	chunks map[int64][]byte // by number
}

const (
	deviceChunk  = 256 << 10
	deviceChunks = 64
)

func (d *deviceFile) chunk(n int64) ([]byte, error) {
	if b := d.chunks[n]; b != nil {
		return b, nil
	}
	if d.chunks == nil || len(d.chunks) >= deviceChunks {
		d.chunks = map[int64][]byte{}
	}
	off := n * deviceChunk
	b := make([]byte, min(deviceChunk, d.dev.Size()-off))
	if err := d.dev.ReadAt(d.ctx, b, off); err != nil {
		return nil, err
	}
	d.chunks[n] = b
	return b, nil
}

func (d *deviceFile) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		at := off + int64(n)
		if at >= d.dev.Size() {
			return n, io.EOF
		}
		b, err := d.chunk(at / deviceChunk)
		if err != nil {
			return n, err
		}
		n += copy(p[n:], b[at%deviceChunk:])
	}
	return n, nil
}

func (d *deviceFile) Read(p []byte) (int, error) {
	n, err := d.ReadAt(p, d.pos)
	d.pos += int64(n)
	return n, err
}

func (d *deviceFile) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += d.pos
	case io.SeekEnd:
		off += d.dev.Size()
	}
	if off < 0 {
		return 0, errors.New("seek before the start")
	}
	d.pos = off
	return off, nil
}

func (d *deviceFile) Close() error               { return nil }
func (d *deviceFile) Stat() (fs.FileInfo, error) { return d, nil }
func (d *deviceFile) Name() string               { return "disk" }
func (d *deviceFile) Size() int64                { return d.dev.Size() }
func (d *deviceFile) Mode() fs.FileMode          { return 0o400 }
func (d *deviceFile) ModTime() time.Time         { return time.Time{} }
func (d *deviceFile) IsDir() bool                { return false }
func (d *deviceFile) Sys() any                   { return nil }
