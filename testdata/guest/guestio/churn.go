package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	churnFiles = 4
	churnMost  = 2 << 20 // bytes of a file
	churnPiece = 96 << 10
)

// churned is a file and what must be in it.
type churned struct {
	path string
	f    *os.File
	want []byte
}

// churner does random operations; its random source alone decides which.
type churner struct {
	dir   string
	rnd   *rand.Rand
	files []*churned
	done  map[string]int
	names int
}

// churn does random operations until the time is up, then reads everything
// again through new opens.
func churn(dir string, seed uint64, until time.Time) (string, error) {
	c := &churner{dir: dir, rnd: rand.New(rand.NewPCG(seed, seed)), done: map[string]int{}}
	for range churnFiles {
		if err := c.add(); err != nil {
			return "", err
		}
	}
	ops := []struct {
		name   string
		weight int
		do     func(*churned) error
	}{
		{"write", 30, c.write}, {"read", 30, c.read}, {"truncate", 6, c.truncate}, {"append", 6, c.append},
		{"sync", 4, func(f *churned) error { return f.f.Sync() }}, {"reopen", 4, c.reopen}, {"mapped", 8, c.mapped},
		{"punch", 4, c.punch}, {"copy", 3, c.copyRange}, {"rename", 3, c.rename}, {"replace", 1, c.replace}, {"lock", 2, c.lock},
	}
	total := 0
	for _, op := range ops {
		total += op.weight
	}
	n := 0
	for ; time.Now().Before(until); n++ {
		pick := c.rnd.IntN(total)
		for _, op := range ops {
			if pick -= op.weight; pick >= 0 {
				continue
			}
			f := c.files[c.rnd.IntN(len(c.files))]
			if err := op.do(f); err != nil {
				return "", fmt.Errorf("seed %d, operation %d (%s) on %s: %w", seed, n, op.name, filepath.Base(f.path), err)
			}
			c.done[op.name]++
			break
		}
	}
	for _, f := range c.files {
		if err := c.reopen(f); err != nil {
			return "", err
		}
		if err := f.check(0, churnMost); err != nil {
			return "", fmt.Errorf("seed %d, at the end: %s: %w", seed, f.path, err)
		}
		f.f.Close()
	}
	return fmt.Sprintf("%d operations %v", n, c.done), nil
}

func (c *churner) add() error {
	c.names++
	p := filepath.Join(c.dir, fmt.Sprintf("churn-%d.dat", c.names))
	f, err := os.OpenFile(p, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	c.files = append(c.files, &churned{path: p, f: f})
	return nil
}

// place is a range that may begin behind the end.
func (c *churner) place() (off, n int) {
	n = 1 + c.rnd.IntN(churnPiece)
	return c.rnd.IntN(churnMost - n), n
}

func (c *churner) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(c.rnd.Uint32())
	}
	return b
}

// put notes what has been written.
func (f *churned) put(off int, b []byte) {
	if grow := off + len(b) - len(f.want); grow > 0 {
		f.want = append(f.want, make([]byte, grow)...)
	}
	copy(f.want[off:], b)
}

// check compares [off, off+n), as far as the file goes, and its size.
func (f *churned) check(off, n int) error {
	st, err := f.f.Stat()
	if err != nil {
		return err
	}
	if st.Size() != int64(len(f.want)) {
		return fmt.Errorf("size %d, must be %d", st.Size(), len(f.want))
	}
	if off >= len(f.want) {
		return nil
	}
	n = min(n, len(f.want)-off)
	got := make([]byte, n)
	if _, err := f.f.ReadAt(got, int64(off)); err != nil {
		return err
	}
	return same(got, f.want[off:off+n], off)
}

func same(got, want []byte, off int) error {
	if bytes.Equal(got, want) {
		return nil
	}
	for i := range got {
		if got[i] != want[i] {
			return fmt.Errorf("byte %d is %#x, must be %#x (range of %d from %d)", off+i, got[i], want[i], len(want), off)
		}
	}
	return nil
}

func (c *churner) write(f *churned) error {
	off, n := c.place()
	b := c.bytes(n)
	if _, err := f.f.WriteAt(b, int64(off)); err != nil {
		return err
	}
	f.put(off, b)
	return nil
}

func (c *churner) read(f *churned) error { return f.check(c.place()) }

func (c *churner) truncate(f *churned) error {
	n := c.rnd.IntN(churnMost)
	if err := f.f.Truncate(int64(n)); err != nil {
		return err
	}
	if n <= len(f.want) {
		f.want = f.want[:n:n]
	} else {
		f.put(len(f.want), make([]byte, n-len(f.want)))
	}
	return nil
}

func (c *churner) append(f *churned) error {
	n := min(1+c.rnd.IntN(churnPiece), churnMost-len(f.want))
	if n <= 0 {
		return c.truncate(f)
	}
	b := c.bytes(n)
	g, err := os.OpenFile(f.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	if _, err := g.Write(b); err != nil {
		g.Close()
		return err
	}
	f.put(len(f.want), b)
	return g.Close()
}

func (c *churner) reopen(f *churned) error {
	if err := f.f.Close(); err != nil {
		return err
	}
	var err error
	f.f, err = os.OpenFile(f.path, os.O_RDWR, 0)
	return err
}

// mapped writes through a mapping and reads the rest through it.
func (c *churner) mapped(f *churned) error {
	if len(f.want) == 0 {
		return nil
	}
	m, err := unix.Mmap(int(f.f.Fd()), 0, len(f.want), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	off := c.rnd.IntN(len(f.want))
	b := c.bytes(1 + c.rnd.IntN(min(churnPiece, len(f.want)-off)))
	copy(m[off:], b)
	f.put(off, b)
	err = same(m, f.want, 0)
	if err == nil {
		err = unix.Msync(m, unix.MS_SYNC)
	}
	return errors.Join(err, unix.Munmap(m))
}

// punch makes a range read as zeroes.
func (c *churner) punch(f *churned) error {
	off, n := c.place()
	err := unix.Fallocate(int(f.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n))
	if err != nil {
		return fmt.Errorf("punch: %w", err)
	}
	if off < len(f.want) {
		clear(f.want[off:min(off+n, len(f.want))])
	}
	return f.check(off, n)
}

// copyRange copies between two files of the share.
func (c *churner) copyRange(f *churned) error {
	src := c.files[c.rnd.IntN(len(c.files))]
	if src == f || len(src.want) == 0 {
		return nil
	}
	from := int64(c.rnd.IntN(len(src.want)))
	to := int64(c.rnd.IntN(churnMost / 2))
	n := min(1+c.rnd.IntN(churnPiece), len(src.want)-int(from))
	if err := src.f.Sync(); err != nil {
		return err
	}
	soff, doff := from, to
	for left := n; left > 0; {
		m, err := unix.CopyFileRange(int(src.f.Fd()), &soff, int(f.f.Fd()), &doff, left, 0)
		if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EOPNOTSUPP) {
			return nil // the client has no server-side copy here
		}
		if err != nil || m == 0 {
			return fmt.Errorf("copy_file_range: %d of %d: %w", m, left, err)
		}
		left -= m
	}
	f.put(int(to), src.want[from:int(from)+n])
	return f.check(int(to), n)
}

func (c *churner) rename(f *churned) error {
	c.names++
	p := filepath.Join(c.dir, fmt.Sprintf("churn-%d.dat", c.names))
	if err := os.Rename(f.path, p); err != nil {
		return err
	}
	if _, err := os.Stat(f.path); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("the old name is there after a rename: %w", err)
	}
	f.path = p
	return nil
}

// replace removes the file and makes another.
func (c *churner) replace(f *churned) error {
	if err := errors.Join(f.f.Close(), os.Remove(f.path)); err != nil {
		return err
	}
	if err := c.add(); err != nil {
		return err
	}
	last := len(c.files) - 1
	*f = *c.files[last]
	c.files = c.files[:last]
	return nil
}

// lock takes a byte-range lock, writes below it and lets it go.
func (c *churner) lock(f *churned) error {
	off, n := c.place()
	l := unix.Flock_t{Type: unix.F_WRLCK, Start: int64(off), Len: int64(n)}
	if err := unix.FcntlFlock(f.f.Fd(), unix.F_SETLKW, &l); err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	b := c.bytes(n)
	if _, err := f.f.WriteAt(b, int64(off)); err != nil {
		return err
	}
	f.put(off, b)
	l.Type = unix.F_UNLCK
	return unix.FcntlFlock(f.f.Fd(), unix.F_SETLKW, &l)
}
