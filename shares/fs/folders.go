package fs

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// maxClean bounds the folders that are known to be on stable storage.
const maxClean = 1 << 16

// folderFlushes flushes folders: those whose entries have changed through this
// store since they were flushed last, once for all who ask at the same time.
type folderFlushes struct {
	changes atomic.Uint64 // of any folder's entries

	mu     sync.Mutex                 // guards what follows
	clean  map[folderKey]struct{}     // nothing of theirs is to be flushed
	going  map[folderKey]*folderFlush // somebody flushes or is about to
	failed map[folderKey]struct{}     // a flush failed: what it lost cannot be told
}

type folderFlush struct {
	users   int    // guarded by folderFlushes.mu
	changes uint64 // guarded by folderFlushes.mu

	started  atomic.Uint64 // flushes begun
	mu       sync.Mutex    // held while a flush runs
	finished uint64        // number of the last flush that ended; guarded by mu
}

// changed notes that an entry of the folder has been added or taken away.
func (s *folderFlushes) changed(key folderKey) {
	s.mu.Lock()
	delete(s.clean, key)
	if f := s.going[key]; f != nil {
		f.changes++
	}
	s.mu.Unlock()
	s.changes.Add(1)
}

// changedAny is changed of a folder that is not known.
func (s *folderFlushes) changedAny() {
	s.mu.Lock()
	s.clean = nil
	for _, f := range s.going {
		f.changes++
	}
	s.mu.Unlock()
	s.changes.Add(1)
}

// flush puts the folder's entries, as they are when it is called, on stable
// storage. dir is a descriptor of it. ErrFailed for good after a failure.
func (s *folderFlushes) flush(key folderKey, dir int) error {
	s.mu.Lock()
	if _, bad := s.failed[key]; bad {
		s.mu.Unlock()
		return ErrFailed
	}
	if _, clean := s.clean[key]; clean {
		s.mu.Unlock()
		return nil
	}
	f := s.going[key]
	if f == nil {
		f = new(folderFlush)
		if s.going == nil {
			s.going = make(map[folderKey]*folderFlush)
		}
		s.going[key] = f
	}
	f.users++
	want := f.started.Load() + 1
	s.mu.Unlock()

	err := s.share(key, dir, f, want)

	s.mu.Lock()
	if f.users--; f.users == 0 {
		delete(s.going, key)
	}
	s.mu.Unlock()
	return err
}

// share waits for a flush of number want or a later one, or makes it.
func (s *folderFlushes) share(key folderKey, dir int, f *folderFlush, want uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.mu.Lock()
	_, bad := s.failed[key]
	before := f.changes
	s.mu.Unlock()
	if bad {
		return ErrFailed
	}
	if f.finished >= want {
		return nil
	}
	number := f.started.Add(1)
	err := syncFolder(dir)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if s.failed == nil {
			s.failed = make(map[folderKey]struct{})
		}
		s.failed[key] = struct{}{}
		return err
	}
	f.finished = number
	if f.changes == before {
		if s.clean == nil || len(s.clean) >= maxClean {
			s.clean = make(map[folderKey]struct{})
		}
		s.clean[key] = struct{}{}
	}
	return nil
}

func syncFolder(dir int) error {
	fd, err := openBeneath(dir, "", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return again(func() error { return unix.Fsync(fd) })
}

// flushUp flushes the folder and those above it, up to the root of the share.
func (p *POSIX) flushUp(dir int) error {
	root := keyOf(&p.rootStat)
	fd, err := unix.FcntlInt(uintptr(dir), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { unix.Close(fd) }()
	for last := (folderKey{}); ; {
		st, err := statFD(fd)
		if err != nil {
			return err
		}
		key := keyOf(&st)
		if key == last { // above the root: the folder has been moved out of the share
			return nil
		}
		if err := p.folders.flush(key, fd); err != nil || key == root {
			return err
		}
		last = key
		up, err := unix.Openat(fd, "..", pathFlags|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		unix.Close(fd)
		fd = up
	}
}
