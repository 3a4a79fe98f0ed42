package fs

import (
	"context"

	"golang.org/x/sys/unix"
)

// Open opens what exists under any case of name. An exact spelling costs one
// look-up of the kernel.
func (p *POSIX) Open(ctx context.Context, name string, access Access) (File, error) {
	const op = "open"
	root, err := p.enter(ctx, op, name)
	if err != nil {
		return nil, err
	}
	defer p.leave()
	if err := checkName(name); err != nil {
		return nil, fail(op, name, err)
	}
	fd, err := p.lookup(root, name)
	if err != nil {
		return nil, failPath(op, name, err)
	}
	if p.creating.Load() > 0 {
		p.awaitCreate(root, name)
	}
	f, err := p.newFile(fd, name, access)
	if err != nil {
		return nil, fail(op, name, err)
	}
	return f, nil
}

// lookup returns an O_PATH descriptor of what is called name.
func (p *POSIX) lookup(root int, name string) (int, error) {
	fd, err := openBeneath(root, name, pathFlags, 0)
	if err != unix.ENOENT || name == "" {
		return fd, err
	}
	parent, base := split(name)
	dir, err := p.openFolder(root, parent)
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	return p.openIn(dir, base, pathFlags)
}

// awaitCreate returns when the Create that made the object called name, if one
// is still at it, has given it its metadata: nobody sees a file without the
// security descriptor it is made with.
func (p *POSIX) awaitCreate(root int, name string) {
	parent, _ := split(name)
	dir, err := p.openFolder(root, parent)
	if err != nil {
		return
	}
	defer unix.Close(dir)
	if st, err := statFD(dir); err == nil {
		p.lockFolder(keyOf(&st)).Unlock()
	}
}

// newFile makes a File of an O_PATH descriptor, which it takes over. Devices,
// pipes and sockets are not opened, so that opening never waits and never
// touches hardware.
func (p *POSIX) newFile(fd int, name string, access Access) (*posixFile, error) {
	st, err := statFD(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return p.wrap(fd, &st, name, 0, true), nil
	case unix.S_IFREG:
	default:
		unix.Close(fd)
		return nil, ErrPermission
	}
	if st.Nlink == 0 { // a Create that failed took it back
		unix.Close(fd)
		return nil, ErrNotExist
	}
	if access&(ReadData|WriteData) == 0 {
		return p.wrap(fd, &st, name, 0, true), nil
	}
	data, err := unix.Open(procPath(fd), openMode(access)|unix.O_CLOEXEC, 0)
	unix.Close(fd)
	if err != nil {
		return nil, err
	}
	return p.wrap(data, &st, name, access, false), nil
}

func (p *POSIX) wrap(fd int, st *unix.Statx_t, name string, access Access, pathOnly bool) *posixFile {
	f := &posixFile{
		fs:       p,
		label:    name,
		id:       p.idOf(fd, st),
		dir:      st.Mode&unix.S_IFMT == unix.S_IFDIR,
		access:   access,
		pathOnly: pathOnly,
	}
	f.fd.init(fd)
	f.node = p.nodes.open(f.id)
	return f
}

func openMode(access Access) int {
	switch access & (ReadData | WriteData) {
	case ReadData | WriteData:
		return unix.O_RDWR
	case WriteData:
		return unix.O_WRONLY
	}
	return unix.O_RDONLY
}

// Create makes a file or folder. Everything it is made with is in place before
// anyone else can open it here.
func (p *POSIX) Create(ctx context.Context, name string, opts CreateOptions) (File, error) {
	const op = "create"
	root, err := p.enter(ctx, op, name)
	if err != nil {
		return nil, err
	}
	defer p.leave()
	if err := checkName(name); err != nil {
		return nil, fail(op, name, err)
	}
	if name == "" {
		return nil, fail(op, name, ErrExist)
	}
	if opts.AllocationSize < 0 {
		return nil, fail(op, name, ErrInvalid)
	}
	parent, base := split(name)
	dir, err := p.openFolder(root, parent)
	if err != nil {
		return nil, failPath(op, name, err)
	}
	defer unix.Close(dir)
	f, err := p.createIn(dir, base, name, opts)
	if err != nil {
		return nil, failPath(op, name, err)
	}
	return f, nil
}

func (p *POSIX) createIn(dir int, base, name string, opts CreateOptions) (*posixFile, error) {
	st, err := statFD(dir)
	if err != nil {
		return nil, err
	}
	lock := p.lockFolder(keyOf(&st))
	defer lock.Unlock()
	taken, _, err := p.find(dir, base)
	if err != nil {
		return nil, err
	}
	if taken != "" {
		return nil, ErrExist
	}
	if opts.Mark != nil && !opts.Dir {
		f, err := p.createMarked(place{dir, keyOf(&st), base}, name, opts)
		if err == unix.ENOENT {
			err = ErrPathNotExist // the folder has been removed
		}
		return f, err
	}
	p.creating.Add(1)
	defer p.creating.Add(-1)
	changed := p.changing(dir)
	fd, err := p.makeObject(dir, base, opts)
	if err != nil {
		if err == unix.ENOENT {
			err = ErrPathNotExist // the folder has been removed
		}
		return nil, err
	}
	changed(func(f *folder) { f.add(base) })
	f, err := p.furnish(fd, name, opts)
	if err != nil {
		changed = p.changing(dir)
		flag := 0
		if opts.Dir {
			flag = unix.AT_REMOVEDIR
		}
		if unix.Unlinkat(dir, base, flag) == nil {
			changed(func(f *folder) { f.remove(base) })
		}
		return nil, err
	}
	return f, nil
}

// makeObject makes the bare object and opens it.
func (p *POSIX) makeObject(dir int, base string, opts CreateOptions) (int, error) {
	if !opts.Dir {
		return openBeneath(dir, base, openMode(opts.Access)|unix.O_CREAT|unix.O_EXCL, p.opts.FileMode)
	}
	if err := again(func() error { return unix.Mkdirat(dir, base, p.opts.FolderMode) }); err != nil {
		return -1, err
	}
	return openBeneath(dir, base, pathFlags|unix.O_DIRECTORY, 0)
}

// furnish gives a new object its metadata; it takes fd over.
func (p *POSIX) furnish(fd int, name string, opts CreateOptions) (*posixFile, error) {
	st, err := statFD(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	attr := storedAttr{attributes: opts.Attributes & settable}
	if st.Mask&unix.STATX_BTIME == 0 {
		attr.created = filetime(createdTime(&st))
	}
	if attr != (storedAttr{}) {
		err = writeStoredAttr(fd, attr)
	}
	if err == nil && opts.SecurityDescriptor != nil {
		err = writeSD(fd, opts.SecurityDescriptor)
	}
	if err == nil && opts.AllocationSize > 0 && !opts.Dir {
		err = p.reserve(fd, opts, &st)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	f := p.wrap(fd, &st, name, opts.Access&(ReadData|WriteData), opts.Dir)
	f.node.wish.Store(opts.AllocationSize)
	return f, nil
}

// reserve takes room for a new file, which may have been opened for less.
func (p *POSIX) reserve(fd int, opts CreateOptions, st *unix.Statx_t) error {
	if opts.Access&WriteData == 0 {
		w, err := unix.Open(procPath(fd), unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(w)
		fd = w
	}
	return preallocate(fd, int64(st.Size), opts.AllocationSize)
}
