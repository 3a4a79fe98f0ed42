package fs

import (
	"context"
	"io"

	"golang.org/x/sys/unix"
)

// posixDir is one listing. It has a descriptor of its own, and with it a place of its own.
type posixDir struct {
	fs      *POSIX
	label   string
	entries dirents
	prefix  string // of a path to an entry, for getxattr
	closed  bool
}

func (f *posixFile) ReadDir(ctx context.Context) (DirReader, error) {
	const op = "list"
	if err := f.enter(ctx, op); err != nil {
		return nil, err
	}
	defer f.leave()
	if !f.dir {
		return nil, f.fail(op, ErrNotDir)
	}
	fd, err := openBeneath(f.fd.fd, "", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, f.fail(op, err)
	}
	return &posixDir{fs: f.fs, label: f.label, entries: dirents{fd: fd}, prefix: procPath(fd) + "/"}, nil
}

// Next costs two calls of the kernel for each entry that matches, and no more
// than a share of one for the others.
func (d *posixDir) Next(match func(name string) bool) (DirEntry, error) {
	if d.closed {
		return DirEntry{}, fail("list", d.label, ErrClosed)
	}
	for {
		name, kind, err := d.entries.next()
		if err != nil {
			return DirEntry{}, fail("list", d.label, err)
		}
		if name == "" {
			return DirEntry{}, io.EOF
		}
		if !shown(kind) || !expressible(name) || match != nil && !match(name) {
			continue
		}
		entry, ok, err := d.look(name)
		if err != nil {
			return DirEntry{}, fail("list", join(d.label, name), err)
		}
		if ok {
			return entry, nil
		}
	}
}

func shown(kind byte) bool {
	return kind == unix.DT_REG || kind == unix.DT_DIR || kind == unix.DT_UNKNOWN
}

// look gets an entry's Info; false if it has gone or is not for clients.
func (d *posixDir) look(name string) (DirEntry, bool, error) {
	st, err := statAt(d.entries.fd, name)
	if err == unix.ENOENT {
		return DirEntry{}, false, nil
	}
	if err != nil {
		return DirEntry{}, false, err
	}
	if t := st.Mode & unix.S_IFMT; t != unix.S_IFREG && t != unix.S_IFDIR {
		return DirEntry{}, false, nil
	}
	attr, err := readStoredAttr(d.prefix+name, false)
	if err != nil && err != unix.ENOENT {
		return DirEntry{}, false, err
	}
	return DirEntry{Name: name, Info: infoOf(d.fs.idAt(d.entries.fd, name, &st), &st, attr)}, true, nil
}

func (d *posixDir) Close() error {
	if d.closed {
		return fail("list", d.label, ErrClosed)
	}
	d.closed = true
	unix.Close(d.entries.fd)
	return nil
}
