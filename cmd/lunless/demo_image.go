package main

import (
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

func copySource(ctx context.Context, disk filesystem.FileSystem, source string, want map[string]digest) error {
	files, total := 0, int64(0)
	made := map[string]bool{"/": true}
	return filepath.WalkDir(source, func(p string, d fs.DirEntry, err error) error {
		if err != nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		rel, err := filepath.Rel(source, p)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if strings.HasPrefix(d.Name(), ".") && rel != "." || d.Name() == "bin" {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil || !info.Mode().IsRegular() || info.Size() == 0 || total+info.Size() > demoMaxBytes {
			return err
		}
		if files++; files > demoMaxFiles {
			return fs.SkipAll
		}
		total += info.Size()
		name := "/" + filepath.ToSlash(rel)
		if dir := path.Dir(name); !made[dir] {
			if err := disk.Mkdir(dir); err != nil {
				return err
			}
			made[dir] = true
		}
		in, err := os.Open(p)
		if err != nil {
			return err
		}
		defer in.Close()
		return writeInto(disk, name, in, want)
	})
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
