package smbstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudsoda/go-smb2"
	"github.com/google/uuid"
)

// smbStore is a folder on a share. Several may lie on one share's connections:
// only the one that opened them closes them.
type smbStore struct {
	*smbShare
	loc      Location
	borrowed bool
}

// smbShare is a share over several connections. Requests for names go over the
// first; files spread theirs over all.
type smbShare struct {
	loc        Location // that it was opened with
	opts       Options
	cred       Credentials
	clientGUID [16]byte // one a store: the connections are one client's
	conns      []*smbConn
	ctx        context.Context // done when the store is closed
	cancel     context.CancelFunc
	control    *controlConn
	closed     atomic.Bool
	outage     outage

	mu    sync.Mutex // guards files
	files map[*smbFile]struct{}
}

func openSMB(ctx context.Context, l Location, o Options) (*smbStore, error) {
	cred, err := o.resolve(ctx, l)
	if err != nil {
		return nil, err
	}
	s := &smbShare{loc: l, opts: o, cred: cred, clientGUID: uuid.New(), files: map[*smbFile]struct{}{}}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.control = &controlConn{store: s}
	for range o.Connections {
		s.conns = append(s.conns, &smbConn{store: s})
	}
	dctx, cancel := context.WithTimeout(ctx, o.RequestTimeout)
	defer cancel()
	first, err := s.dial(dctx)
	if err != nil {
		s.cancel()
		if ctx.Err() == nil && dctx.Err() != nil {
			err = fmt.Errorf("%w: %s: %w", ErrUnreachable, l.Addr(), err)
		}
		return nil, opError("open", l, err)
	}
	s.conns[0].cur = first
	return &smbStore{smbShare: s, loc: l}, nil
}

func (s *smbStore) Location() Location { return s.loc }
func (s *smbStore) DeniesWrite() bool  { return false }

// full is a name's path in the share.
func (s *smbStore) full(name string) (string, error) {
	if name == "" {
		return s.loc.Path, nil
	}
	if err := checkName(name); err != nil {
		return "", err
	}
	return path.Join(s.loc.Path, name), nil
}

// do runs one operation on names, again after a lost connection. fn is told
// whether an earlier attempt was lost: what it then finds may be its own doing.
func (s *smbStore) do(op, name string, fn func(sh *smb2.Share, p string, again bool) error) error {
	return s.doSession(op, name, func(sess *session, p string, again bool) error { return fn(sess.share, p, again) })
}

func (s *smbStore) doSession(op, name string, fn func(sess *session, p string, again bool) error) error {
	p, err := s.full(name)
	if err != nil {
		return opError(op, s.loc.Join(name), err)
	}
	deadline := time.Now().Add(s.opts.ReconnectTimeout)
	for again := false; ; again = true {
		sess, err := s.conns[0].get(deadline)
		if err != nil {
			return opError(op, s.loc.Join(name), err)
		}
		sess.begin()
		err = fn(sess, p, again)
		sess.end()
		if !lost(err) {
			return opError(op, s.loc.Join(name), mapSMB(err))
		}
		if time.Now().After(deadline) {
			return opError(op, s.loc.Join(name), fmt.Errorf("%w: %w", ErrUnreachable, err))
		}
		s.opts.Logger.Info("connection lost, reconnecting", "server", s.loc.Addr(), "operation", op, "name", name, "error", err)
		sess.kill()
	}
}

func (s *smbStore) Mkdir(name string) error {
	return s.do("create folder", name, func(sh *smb2.Share, p string, again bool) error {
		err := sh.Mkdir(p, 0o777)
		if again && errors.Is(err, os.ErrExist) {
			return ErrUncertain
		}
		return err
	})
}

func (s *smbStore) MkdirAll(name string) error {
	return s.do("create folder", name, func(sh *smb2.Share, p string, _ bool) error {
		if p == "" {
			return nil
		}
		// Most often it is there, or only the last component is missing.
		if st, err := sh.Stat(p); err == nil {
			if !st.IsDir() {
				return ErrExist
			}
			return nil
		} else if lost(err) {
			return err
		}
		at := ""
		for c := range strings.SplitSeq(p, "/") {
			at = path.Join(at, c)
			if err := sh.Mkdir(at, 0o777); err != nil && !errors.Is(err, os.ErrExist) {
				// A share may refuse creation in a folder that exists.
				if st, serr := sh.Stat(at); serr == nil && st.IsDir() {
					continue
				}
				return err
			}
		}
		return nil
	})
}

func (s *smbStore) Remove(name string) error {
	if name == "" {
		return opError("remove", s.loc, ErrIsRoot)
	}
	return s.do("remove", name, func(sh *smb2.Share, p string, again bool) error {
		for patience := time.Now().Add(busyPatience); ; time.Sleep(20 * time.Millisecond) {
			err := sh.Remove(p)
			if code, _ := statusOf(err); code == statusSharingViolation && time.Now().Before(patience) {
				continue
			}
			if again && errors.Is(err, os.ErrNotExist) {
				return nil
			}
			return err
		}
	})
}

func (s *smbStore) RemoveAll(name string) error { return removeAll(s, name) }

// busyPatience bounds how long a rename or a removal waits for a reader of a small
// file, who holds it open for a few requests' time: the client in use opens
// without FILE_SHARE_DELETE.
const busyPatience = 3 * time.Second

func (s *smbStore) Rename(oldName, newName string) error {
	if oldName == "" || newName == "" {
		return opError("rename", s.loc, ErrIsRoot)
	}
	to, err := s.full(newName)
	if err != nil {
		return opError("rename", s.loc.Join(oldName), err)
	}
	return s.do("rename", oldName, func(sh *smb2.Share, from string, again bool) error {
		if st, err := sh.Stat(to); err == nil && st.IsDir() && !again {
			return fmt.Errorf("to %s: %w", newName, ErrExist)
		}
		patience := time.Now().Add(busyPatience)
		for {
			err := sh.Rename(from, to)
			code, _ := statusOf(err)
			busy := code == statusSharingViolation || errors.Is(err, os.ErrPermission)
			if busy && time.Now().Before(patience) {
				time.Sleep(20 * time.Millisecond)
				continue
			}
			if again && errors.Is(err, os.ErrNotExist) {
				// Lost the first time. Gone from here and present there: it was done.
				if _, serr := sh.Stat(to); serr == nil {
					return nil
				} else if errors.Is(serr, os.ErrNotExist) {
					return ErrUncertain
				}
			}
			return err
		}
	})
}

func (s *smbStore) ReadDir(name string) ([]Info, error) {
	var infos []Info
	err := s.do("list", name, func(sh *smb2.Share, p string, _ bool) error {
		entries, err := sh.ReadDir(p)
		if err != nil {
			return err
		}
		infos = make([]Info, 0, len(entries))
		for _, e := range entries {
			if n := e.Name(); n == "." || n == ".." || strings.ContainsAny(n, "/\\\x00") {
				continue // a name that leads elsewhere is none
			}
			infos = append(infos, smbInfo(e))
		}
		return nil
	})
	return infos, err
}

func smbInfo(st os.FileInfo) Info {
	i := Info{Name: st.Name(), Dir: st.IsDir(), ModTime: st.ModTime()}
	if !i.Dir {
		i.Size = st.Size()
	}
	return i
}

func (s *smbStore) Stat(name string) (Info, error) {
	var i Info
	err := s.do("stat", name, func(sh *smb2.Share, p string, _ bool) error {
		st, err := sh.Stat(p)
		if err == nil {
			i = smbInfo(st)
		}
		return err
	})
	return i, err
}

// SyncDir flushes a handle to the folder (MS-SMB2 3.3.5.11). A server that
// refuses to flush folders keeps their entries safe in its own way, or not at
// all: there is nothing more a client can ask of it.
func (s *smbStore) SyncDir(name string) error {
	return s.do("sync", name, func(sh *smb2.Share, p string, _ bool) error {
		d, err := sh.OpenFile(p, os.O_RDWR, 0o666)
		if err != nil {
			if code, ok := statusOf(err); ok && code == statusFileIsADirectory || errors.Is(err, os.ErrPermission) {
				return nil
			}
			return err
		}
		defer d.Close()
		err = d.Sync()
		if code, ok := statusOf(err); ok && (code == statusInvalidParameter || code == statusNotSupported) ||
			errors.Is(err, os.ErrPermission) {
			return nil
		}
		return err
	})
}

func (s *smbStore) OpenFile(name string, flags Flags) (File, error) {
	if err := checkFlags(flags); err != nil {
		return nil, opError("open", s.loc.Join(name), err)
	}
	if name == "" && s.loc.Path == "" {
		return nil, opError("open", s.loc, ErrIsRoot)
	}
	f := &smbFile{store: s, name: name, flags: flags, handles: make([]*handle, len(s.conns))}
	err := s.doSession("open", name, func(sess *session, p string, again bool) error {
		h, err := sess.share.OpenFile(p, openMode(flags), 0o666)
		if again && flags&Exclusive != 0 && errors.Is(err, os.ErrExist) {
			return ErrUncertain
		}
		if err != nil {
			return err
		}
		return f.adopt(sess, h)
	})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return nil, opError("open", s.loc.Join(name), ErrStoreClosed)
	}
	s.files[f] = struct{}{}
	return f, nil
}

func openMode(flags Flags) int {
	mode := os.O_RDONLY
	switch flags & ReadWrite {
	case Write:
		mode = os.O_WRONLY
	case ReadWrite:
		mode = os.O_RDWR
	}
	if flags&Create != 0 {
		mode |= os.O_CREATE
	}
	if flags&Exclusive != 0 {
		mode |= os.O_EXCL
	}
	if flags&Truncate != 0 {
		mode |= os.O_TRUNC
	}
	return mode
}

// closeWait is how long Close lets the server answer.
const closeWait = 3 * time.Second

// giveUp ends every connection, also one being made.
func (s *smbShare) giveUp() {
	s.cancel()
	for _, c := range s.conns {
		c.mu.Lock()
		if c.cur != nil {
			c.cur.kill()
		}
		c.mu.Unlock()
	}
}

// Close closes the files still open, logs off and disconnects. It waits for a
// silent server a few seconds at most.
func (s *smbStore) Close() error {
	if s.borrowed || s.closed.Swap(true) {
		return nil
	}
	s.mu.Lock()
	files := make([]*smbFile, 0, len(s.files))
	for f := range s.files {
		files = append(files, f)
	}
	s.mu.Unlock()
	patience := time.AfterFunc(closeWait, s.giveUp)
	defer patience.Stop()
	var errs []error
	for _, f := range files {
		errs = append(errs, f.Close())
	}
	s.cancel()
	s.control.close()
	for _, c := range s.conns {
		c.mu.Lock()
		if c.cur != nil && !c.cur.dead.Load() {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			_ = c.cur.share.WithContext(ctx).Umount()
			_ = c.cur.sess.WithContext(ctx).Logoff()
			cancel()
		}
		if c.cur != nil {
			c.cur.kill()
		}
		c.mu.Unlock()
	}
	if err := errors.Join(errs...); err != nil {
		return opError("close", s.loc, err)
	}
	return nil
}
