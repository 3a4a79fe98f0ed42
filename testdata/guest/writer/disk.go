package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"lunless/testdata/guest/stamp"
)

// disk is one that is written to.
type disk struct {
	g      *guest
	name   string
	fd     int
	size   int64
	super  *stamp.Super
	expect *stamp.Expect
	fresh  bool
	big    []byte // aligned, for reading a lot

	mu       sync.Mutex
	changed  sync.Cond
	paused   bool
	issued   uint64
	flushed  uint64
	flying   []stamp.Op // reads among them, of Seq 0
	rate     int
	issuing  sync.Mutex // taken before mu
	next     time.Time  // of the rate; under issuing
	noDisc   bool       // the device has no trim
	flushing bool       // somebody waits for a flush
}

const bigBuffer = 512 << 10

// openDisks waits until as many disks are there as there are to be.
func (g *guest) openDisks(ctx context.Context) error {
	seen := map[string]bool{}
	for began := time.Now(); time.Since(began) < diskWait; time.Sleep(20 * time.Millisecond) {
		names, _ := filepath.Glob("/dev/[vs]d[a-z]")
		for _, name := range names {
			if seen[name] {
				continue
			}
			seen[name] = true
			if err := g.openDisk(name); err != nil {
				return err
			}
		}
		if len(g.disks) >= int(g.cfg.disks) {
			return g.begin(ctx)
		}
	}
	return fmt.Errorf("%d disks to write to after %v, not %d", len(g.disks), diskWait, g.cfg.disks)
}

const diskWait = 10 * time.Second

func (g *guest) openDisk(name string) error {
	whole, err := open(g, name)
	if err != nil {
		return err
	}
	off, _, err := stamp.Locate(aligner{whole}, whole.size)
	if err != nil {
		unix.Close(whole.fd) // somebody else's
		return nil
	}
	if off > 0 {
		unix.Close(whole.fd)
		if whole, err = open(g, partition(name, off)); err != nil {
			return err
		}
	}
	if whole.size < stamp.Reserved*stamp.BlockSize {
		return nil
	}
	whole.super, err = stamp.ReadSuper(aligner{whole}, whole.size)
	if errors.Is(err, stamp.ErrBlank) {
		whole.fresh, err = true, nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if len(g.disks) == stamp.MaxDisks {
		return fmt.Errorf("more than %d disks", stamp.MaxDisks)
	}
	g.disks = append(g.disks, whole)
	return nil
}

// partition is the device that begins off bytes into the disk.
func partition(name string, off int64) string {
	base := filepath.Base(name)
	starts, _ := filepath.Glob("/sys/block/" + base + "/" + base + "*/start")
	for _, s := range starts {
		b, _ := os.ReadFile(s)
		if string(bytes.TrimSpace(b)) == fmt.Sprint(off/512) {
			return "/dev/" + filepath.Base(filepath.Dir(s))
		}
	}
	return name + "?"
}

func open(g *guest, name string) (*disk, error) {
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	size, err := unix.Seek(fd, 0, 2)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	d := &disk{g: g, name: filepath.Base(name), fd: fd, size: size, paused: true, rate: int(g.cfg.rate), big: aligned(bigBuffer)}
	d.changed.L = &d.mu
	return d, nil
}

// ReadAt implements io.ReaderAt, tries again what failed, and tells of it. p is
// aligned.
func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	err := d.try("read", 0, func() error { return full(unix.Pread(d.fd, p, off))(len(p)) })
	return len(p), err
}

// aligner reads through an aligned buffer.
type aligner struct{ d *disk }

func (a aligner) ReadAt(p []byte, off int64) (int, error) {
	if off%stamp.BlockSize != 0 || len(p) > bigBuffer {
		return 0, errors.New("unaligned read")
	}
	n := (len(p) + stamp.BlockSize - 1) / stamp.BlockSize * stamp.BlockSize
	_, err := a.d.ReadAt(a.d.big[:n], off)
	return copy(p, a.d.big), err
}

// full makes a short transfer an error.
func full(n int, err error) func(want int) error {
	return func(want int) error {
		if err == nil && n != want {
			return fmt.Errorf("%d bytes of %d", n, want)
		}
		return err
	}
}

// aligned is memory that O_DIRECT takes.
func aligned(n int) []byte {
	const page = 4096
	b := make([]byte, n+page)
	skip := page - int(uintptr(unsafe.Pointer(&b[0]))%page)
	return b[skip : skip+n : skip+n]
}

// writeSuper makes the superblock stable.
func (d *disk) writeSuper() error {
	b, off, err := d.super.Encode()
	if err != nil {
		return err
	}
	copy(d.big, b)
	if err := d.try("write", 0, func() error { return full(unix.Pwrite(d.fd, d.big[:len(b)], off))(len(b)) }); err != nil {
		return err
	}
	return d.try("flush", 0, func() error { return unix.Fdatasync(d.fd) })
}
