package fs

import (
	"context"

	"golang.org/x/sys/unix"
)

const xattrMark = "user.lunless.mark" // CreateOptions.Mark

// Mark implements Marked.
func (f *posixFile) Mark(ctx context.Context) ([]byte, error) {
	const op = "read mark"
	if err := f.enter(ctx, op); err != nil {
		return nil, err
	}
	defer f.leave()
	mark, err := readXattr(f.fd.fd, xattrMark)
	return mark, f.fail(op, err)
}

// createMarked makes a file without a name, with all it is made with, and gives it
// its name once that is on stable storage. The folder's lock is held.
func (p *POSIX) createMarked(at place, name string, opts CreateOptions) (*posixFile, error) {
	fd, hidden, err := p.nameless(at.dir, opts)
	if err != nil {
		return nil, err
	}
	if hidden != "" {
		defer unix.Unlinkat(at.dir, hidden, 0)
	}
	if err := unix.Fsetxattr(fd, xattrMark, opts.Mark, 0); err != nil {
		unix.Close(fd)
		return nil, err
	}
	f, err := p.furnish(fd, name, opts)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	changed := p.changing(at.dir)
	if err = f.flush(unix.Fsync); err == nil {
		err = linkFD(f.fd.fd, at)
	}
	if err != nil {
		return nil, err
	}
	changed(func(c *folder) { c.add(at.base) })
	// The kernel tells no name of what was opened without one.
	named, err := openBeneath(at.dir, at.base, pathFlags, 0)
	if err != nil {
		return nil, err
	}
	g, err := p.newFile(named, name, opts.Access)
	if err == nil && g.id != f.id {
		g.Close()
		err = errRaces
	}
	if err != nil {
		return nil, err
	}
	return g, nil
}

// nameless makes a file that has no name, or, where the file system cannot, one
// that no client sees.
func (p *POSIX) nameless(dir int, opts CreateOptions) (fd int, hidden string, err error) {
	const mode = unix.O_RDWR // O_TMPFILE is for writing
	fd, err = openBeneath(dir, "", mode|unix.O_TMPFILE, p.opts.FileMode)
	if err != unix.EOPNOTSUPP && err != unix.EISDIR {
		return fd, "", err
	}
	hidden = hiddenName("create")
	fd, err = openBeneath(dir, hidden, mode|unix.O_CREAT|unix.O_EXCL, p.opts.FileMode)
	return fd, hidden, err
}
