package smbstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"lunless/smbstore/client"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// smbStore is a folder on a share. Several may lie on one share's session: only
// the one that opened it closes it.
type smbStore struct {
	*smbShare
	loc      Location
	borrowed bool
	fence    Fence
}

// smbShare is a share with the session it was connected to in.
type smbShare struct {
	loc    Location // that it was opened with
	opts   Options
	cred   Credentials
	client *client.Client
	tree   *client.Tree
	ctx    context.Context // done when the store is closed
	cancel context.CancelFunc
	closed atomic.Bool
	// noOffload: the server has no offloaded copies.
	noOffload atomic.Bool

	mu    sync.Mutex // guards files
	files map[*smbFile]struct{}
}

func openSMB(ctx context.Context, l Location, o Options) (*smbStore, error) {
	cred, err := o.ResolveCredentials(ctx, l)
	if err != nil {
		return nil, err
	}
	s := &smbShare{loc: l, opts: o, cred: cred, files: map[*smbFile]struct{}{}}
	dctx, cancel := context.WithTimeout(ctx, o.RequestTimeout)
	defer cancel()
	if err := s.connect(dctx); err != nil {
		var dial *net.OpError
		if ctx.Err() == nil && (dctx.Err() != nil || errors.Is(err, client.ErrConnectionLost) || errors.As(err, &dial) && dial.Op == "dial") {
			err = fmt.Errorf("%w: %s: %w", ErrUnreachable, l.Addr(), err)
		}
		return nil, opError("open", l, err)
	}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return &smbStore{smbShare: s, loc: l}, nil
}

// connect logs on and connects to the share.
func (s *smbShare) connect(ctx context.Context) (err error) {
	s.client, err = client.Dial(ctx, client.Config{
		Addr: s.loc.Addr(), ServerName: s.loc.Host, ClientGUID: smb2.GUID(uuid.New()),
		Credentials:    client.Credentials{User: s.cred.User, Domain: s.cred.Domain, Password: s.cred.Password},
		RequireSigning: s.opts.RequireSigning, Channels: s.opts.Connections, Depth: s.opts.Parallel,
		RequestTimeout: s.opts.RequestTimeout, ReconnectTimeout: s.opts.ReconnectTimeout, Logger: s.opts.Logger,
		DialFunc: s.opts.Dial,
	})
	if err != nil {
		return mapSMB(err)
	}
	if s.tree, err = s.client.TreeConnect(ctx, s.loc.Share); err != nil {
		_ = s.client.Close()
		return fmt.Errorf("share %s: %w", s.loc.Share, mapSMB(err))
	}
	return nil
}

func (s *smbStore) Location() Location { return s.loc }
func (s *smbStore) DeniesWrite() bool  { return true }

// Connection says in what dialect the server is spoken to, and how messages are
// protected.
func (s *smbStore) Connection() string {
	g := s.client.Granted()
	protection := "unsigned"
	switch {
	case g.Encrypted || s.tree.Encrypted():
		protection = fmt.Sprint("encrypted, ", g.Cipher)
	case g.Signed:
		protection = fmt.Sprint("signed, ", g.Signing)
	}
	return fmt.Sprintf("SMB %s, %s", g.Dialect, protection)
}

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

// lost reports whether an error means that the connection or the handle is gone,
// rather than that the server refused.
func lost(err error) bool {
	return errors.Is(err, client.ErrHandleLost) || errors.Is(err, client.ErrConnectionLost)
}

// do runs one operation on names, again after a lost connection. fn is told
// whether an earlier attempt was lost: what it then finds may be its own doing.
func (s *smbStore) do(op, name string, fn func(p string, again bool) error) error {
	p, err := s.full(name)
	if err != nil {
		return opError(op, s.loc.Join(name), err)
	}
	var deadline time.Time
	for again := false; ; again = true {
		err := fn(p, again)
		switch {
		case !lost(err):
			return opError(op, s.loc.Join(name), mapSMB(err))
		case deadline.IsZero():
			deadline = time.Now().Add(s.opts.ReconnectTimeout)
		case time.Now().After(deadline):
			return opError(op, s.loc.Join(name), fmt.Errorf("%w: %w", ErrUnreachable, err))
		}
		s.opts.Logger.Info("connection lost, trying again", "server", s.loc.Addr(), "operation", op, "name", name, "error", err)
	}
}

const shareAll = smb2.FileShareRead | smb2.FileShareWrite | smb2.FileShareDelete

// with opens what a path leads to for the time of fn.
func (s *smbStore) with(p string, o client.CreateOptions, fn func(f *client.File) error) error {
	o.Share = shareAll
	f, err := s.tree.Create(s.ctx, p, o)
	if err != nil {
		return err
	}
	if fn != nil {
		err = fn(f)
	}
	return errors.Join(err, f.CloseContext(s.ctx))
}

// stat says what a path leads to.
func (s *smbStore) stat(p string) (i client.CreateInfo, err error) {
	err = s.with(p, client.CreateOptions{Access: smb2.FileReadAttributes, Disposition: smb2.FileOpen}, func(f *client.File) error {
		i = f.Info()
		return nil
	})
	return i, err
}

func isDir(i client.CreateInfo) bool { return i.Attributes&fscc.FILE_ATTRIBUTE_DIRECTORY != 0 }

func (s *smbStore) mkdir(p string) error {
	return s.with(p, client.CreateOptions{
		Access: smb2.FileReadAttributes, Disposition: smb2.FileCreate, Options: smb2.FileDirectoryFile,
	}, nil)
}

func (s *smbStore) Mkdir(name string) error {
	return s.do("create folder", name, func(p string, again bool) error {
		err := s.mkdir(p)
		if again && errors.Is(err, ErrExist) {
			return ErrUncertain
		}
		return err
	})
}

func (s *smbStore) MkdirAll(name string) error {
	return s.do("create folder", name, func(p string, _ bool) error {
		if p == "" {
			return nil
		}
		// Most often it is there, or only the last component is missing.
		if st, err := s.stat(p); err == nil {
			if !isDir(st) {
				return ErrExist
			}
			return nil
		} else if lost(err) {
			return err
		}
		at := ""
		for c := range strings.SplitSeq(p, "/") {
			at = path.Join(at, c)
			if err := s.mkdir(at); err != nil && !errors.Is(err, ErrExist) {
				// A share may refuse creation in a folder that exists.
				if st, serr := s.stat(at); serr == nil && isDir(st) {
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
	return s.do("remove", name, func(p string, again bool) error {
		for patience := time.Now().Add(busyPatience); ; time.Sleep(20 * time.Millisecond) {
			err := s.with(p, client.CreateOptions{
				Access: smb2.Delete | smb2.FileReadAttributes, Disposition: smb2.FileOpen, Options: smb2.FileOpenReparsePoint,
			}, func(f *client.File) error { return f.Delete(s.ctx, true) })
			if status, _ := client.StatusOf(err); status == smb2.StatusSharingViolation && time.Now().Before(patience) {
				continue
			}
			if again && errors.Is(err, ErrNotExist) {
				return nil
			}
			return err
		}
	})
}

func (s *smbStore) RemoveAll(name string) error { return removeAll(s, name) }

// busyPatience bounds how long a rename or a removal waits for a reader of a small
// file, who holds it open for a few requests' time: there are clients that open
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
	return s.do("rename", oldName, func(from string, again bool) error {
		if st, err := s.stat(to); err == nil && isDir(st) && !again {
			return fmt.Errorf("to %s: %w", newName, ErrExist)
		}
		patience := time.Now().Add(busyPatience)
		for {
			err := s.tree.RenameWhole(s.ctx, from, to, true)
			if errors.Is(err, client.ErrNotSupported) {
				err = s.with(from, client.CreateOptions{
					Access: smb2.Delete | smb2.FileReadAttributes, Disposition: smb2.FileOpen, Options: smb2.FileOpenReparsePoint,
				}, func(f *client.File) error { return f.Rename(s.ctx, to, true) })
			}
			status, _ := client.StatusOf(err)
			busy := status == smb2.StatusSharingViolation || errors.Is(err, ErrPermission)
			if busy && time.Now().Before(patience) {
				time.Sleep(20 * time.Millisecond)
				continue
			}
			if again && errors.Is(err, ErrNotExist) {
				// Lost the first time. Gone from here and present there: it was done.
				if _, serr := s.stat(to); serr == nil {
					return nil
				} else if errors.Is(serr, ErrNotExist) {
					return ErrUncertain
				}
			}
			return err
		}
	})
}

func (s *smbStore) ReadDir(name string) ([]Info, error) {
	var infos []Info
	err := s.do("list", name, func(p string, _ bool) error {
		infos = infos[:0]
		return s.with(p, client.CreateOptions{
			Access: smb2.FileListDirectory, Disposition: smb2.FileOpen, Options: smb2.FileDirectoryFile,
		}, func(f *client.File) error {
			return f.QueryDirectory(s.ctx, "*", func(e *fscc.DirEntry) error {
				if n := e.Name; n == "." || n == ".." || strings.ContainsAny(n, "/\\\x00") {
					return nil // a name that leads elsewhere is none
				}
				infos = append(infos, smbInfo(e.Name, e.Attributes, e.EndOfFile, e.LastWriteTime))
				return nil
			})
		})
	})
	return infos, err
}

func smbInfo(name string, attributes uint32, size int64, written fscc.Filetime) Info {
	i := Info{Name: name, Dir: attributes&fscc.FILE_ATTRIBUTE_DIRECTORY != 0, ModTime: written.Time()}
	if !i.Dir {
		i.Size = size
	}
	return i
}

func (s *smbStore) Stat(name string) (Info, error) {
	var i Info
	err := s.do("stat", name, func(p string, _ bool) error {
		st, err := s.stat(p)
		if err == nil {
			i = smbInfo(path.Base(p), st.Attributes, st.Size, st.Written)
		}
		return err
	})
	return i, err
}

// SyncDir flushes a handle to the folder (MS-SMB2 3.3.5.11). A server that
// refuses to flush folders keeps their entries safe in its own way, or not at
// all: there is nothing more a client can ask of it.
func (s *smbStore) SyncDir(name string) error {
	return s.do("sync", name, func(p string, _ bool) error {
		err := s.with(p, client.CreateOptions{
			Access: smb2.FileListDirectory | smb2.FileAddFile | smb2.FileAddSubdirectory, Disposition: smb2.FileOpen,
			Options: smb2.FileDirectoryFile,
		}, func(f *client.File) error { return f.Flush(s.ctx) })
		switch status, _ := client.StatusOf(err); status {
		case smb2.StatusInvalidParameter, smb2.StatusNotSupported, smb2.StatusFileIsADirectory, smb2.StatusAccessDenied,
			smb2.StatusInvalidDeviceRequest:
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
	f := &smbFile{store: s, name: name, flags: flags}
	err := s.do("open", name, func(p string, again bool) error {
		h, err := s.tree.Create(s.ctx, p, f.openOptions(flags))
		if again && flags&Exclusive != 0 && errors.Is(err, ErrExist) {
			return ErrUncertain
		}
		if err == nil {
			f.adopt(h)
		}
		return err
	})
	if err != nil {
		return nil, f.whoHas(err)
	}
	if s.fence.covers(flags) {
		if err := s.fence.check(flags); err != nil {
			return nil, errors.Join(opError("open", s.loc.Join(name), err), f.h.CloseContext(s.ctx))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return nil, opError("open", s.loc.Join(name), ErrStoreClosed)
	}
	s.files[f] = struct{}{}
	return f, nil
}

// openOptions are what the flags ask for. Handles that write are to survive the
// connection, as long as nobody else wants the file. Those that keep others from
// writing survive, on a share that is continuously available, the server and whoever
// else comes too: a disk's, which a VM's next owner has closed by its fence. A copy,
// a small file or a lock has none, and its handle must not keep anybody out once
// its process is gone; one that a server forgot is opened again (see smbFile).
// Without a file's renaming and removal by others nothing of ours goes on, so that
// is always allowed.
func openOptions(flags Flags, o Options) client.CreateOptions {
	c := client.CreateOptions{
		Access: smb2.FileReadAttributes | smb2.Synchronize, Share: shareAll, Disposition: smb2.FileOpen,
		Options: smb2.FileNonDirectoryFile, Attributes: fscc.FILE_ATTRIBUTE_NORMAL,
	}
	if flags&Read != 0 {
		c.Access |= smb2.FileReadData | smb2.FileReadEA
	}
	if flags&Write != 0 {
		c.Access |= smb2.FileWriteData | smb2.FileAppendData | smb2.FileWriteAttributes | smb2.FileWriteEA
	}
	if flags&DenyWrite != 0 {
		c.Share &^= smb2.FileShareWrite
	}
	switch {
	case flags&DenyWrite != 0:
		c.Durable, c.Timeout = client.Persistent, o.ReconnectTimeout
	case flags&Write != 0:
		c.Durable, c.Timeout = client.Durable, o.ReconnectTimeout
	}
	switch {
	case flags&Exclusive != 0:
		c.Disposition = smb2.FileCreate
	case flags&(Create|Truncate) == Create|Truncate:
		c.Disposition = smb2.FileOverwriteIf
	case flags&Create != 0:
		c.Disposition = smb2.FileOpenIf
	case flags&Truncate != 0:
		c.Disposition = smb2.FileOverwrite
	}
	return c
}

// closeWait is how long Close lets the server answer.
const closeWait = 3 * time.Second

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
	patience := time.AfterFunc(closeWait, s.cancel)
	defer patience.Stop()
	var errs []error
	for _, f := range files {
		if err := f.Close(); s.ctx.Err() == nil {
			errs = append(errs, err)
		}
	}
	s.cancel()
	_ = s.client.Close()
	if err := errors.Join(errs...); err != nil {
		return opError("close", s.loc, err)
	}
	return nil
}

// abandon closes the store without a word to its server.
func (s *smbStore) abandon() {
	if s.borrowed {
		return
	}
	s.closed.Store(true)
	s.cancel()
	s.client.Abandon()
}

// mapSMB turns the client's errors into this package's.
func mapSMB(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, client.ErrLogon):
		if status, ok := client.StatusOf(err); ok {
			err = status
		}
		return fmt.Errorf("%w (%w)", ErrLogon, err)
	case errors.Is(err, client.ErrUnreachable):
		return fmt.Errorf("%w (%w)", ErrUnreachable, err)
	case errors.Is(err, client.ErrClosed), errors.Is(err, context.Canceled):
		return ErrStoreClosed
	case errors.Is(err, context.DeadlineExceeded):
		return err
	}
	var refused *client.StatusError
	if !errors.As(err, &refused) {
		return err
	}
	var to error
	switch refused.Status {
	case smb2.StatusSharingViolation:
		to = ErrSharing
	case smb2.StatusFileNotAvailable:
		return fmt.Errorf("%w, and kept for a client that is away (%w)", ErrSharing, refused.Status)
	case smb2.StatusDeletePending:
		to = ErrNotExist
	case smb2.StatusDiskFull:
		to = ErrNoSpace
	case smb2.StatusDirectoryNotEmpty:
		to = ErrNotEmpty
	case smb2.StatusBadNetworkName:
		to = ErrNoShare
	case smb2.StatusObjectNameInvalid:
		to = ErrBadName
	default:
		for _, e := range []error{ErrNotExist, ErrExist, ErrPermission} {
			if errors.Is(refused, e) {
				to = e
			}
		}
		if to == nil {
			return err
		}
	}
	return fmt.Errorf("%w (%w)", to, refused.Status)
}
