package smbstore

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"lunless/smbstore/block"
	"lunless/smbstore/client"
)

// smbFile is a file on a share.
//
// While the server keeps the handle, a lost connection shows in nothing but time
// (see package client). Where it does not, since it grants none that outlive a
// connection, or went down itself, the file is opened again, and what was in flight
// is sent again. A server that went down with its machine may have lost writes it
// had acknowledged but not synced, and a client cannot tell that from a server that
// only forgot the handle. So every write since the last Sync is kept (bounded by
// Options.ReplayBuffer; see bound) and written again when the
// file was opened again, in order, while no other I/O on the file runs: no read
// sees old data in between, and a Sync that succeeds covers everything acknowledged
// before it. Through a persistent handle, what is acknowledged is on stable storage
// (MS-SMB2 3.3.5.9, TreeConnect.Share.IsCA), and nothing is kept.
type smbFile struct {
	store *smbStore
	name  string
	flags Flags

	// Lock order: mu, then syncMu, then logMu.
	mu     sync.RWMutex // I/O holds it for reading; opening again, replay and Close for writing
	h      *client.File
	taken  error  // a later owner of the VM has the file: nothing goes on
	id     uint64 // the server's 64-bit file number, 0 if it gave none
	stable bool   // the handle is persistent
	closed bool

	failed   atomic.Bool // a flush failed for good, or what cannot be repeated may be lost
	copyLost atomic.Bool // it failed for the latter alone

	// Changes that are not in the log, counted from the file's opening: done, and
	// covered by a Sync.
	unloggedDone, unloggedSynced atomic.Int64

	syncMu    sync.Mutex  // one implicit Sync at a time
	behind    atomic.Bool // one runs, or is to run, beside the writes
	behindErr atomic.Pointer[error]

	logMu    sync.Mutex
	log      []logged // what was acknowledged since the last good Sync
	logStart int      // number of the log's first entry
	logBytes int64
}

var _ File = (*smbFile)(nil)

func (f *smbFile) Name() string { return f.name }

func (f *smbFile) wrap(op string, err error) error {
	return opError(op, f.store.loc.Join(f.name), mapSMB(err))
}

// adopt takes in a handle, the first or one of the file opened again.
func (f *smbFile) adopt(h *client.File) {
	f.h, f.id = h, h.Info().FileID
	f.stable = h.Granted().Durability == client.Persistent
}

// io runs fn on the handle, again after it was lost. fn must be safe to repeat.
func (f *smbFile) io(op string, fn func(h *client.File) error) error {
	var deadline time.Time
	for {
		f.mu.RLock()
		if f.closed {
			f.mu.RUnlock()
			return f.wrap(op, block.ErrClosed)
		}
		if f.taken != nil {
			f.mu.RUnlock()
			return f.wrap(op, f.taken)
		}
		h := f.h
		err := fn(h)
		f.mu.RUnlock()
		switch {
		case err == nil || err == io.EOF:
			return err
		case !lost(err):
			return f.wrap(op, err)
		}
		f.store.opts.Logger.Info("handle lost, opening again", "file", f.name, "operation", op, "error", err)
		if deadline.IsZero() {
			deadline = time.Now().Add(f.store.opts.ReconnectTimeout)
		}
		if err := f.reopen(h, deadline); err != nil {
			return f.wrap(op, err)
		}
	}
}

// reopen opens the file again in place of a lost handle, and replays the log.
func (f *smbFile) reopen(old *client.File, deadline time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return block.ErrClosed
	}
	if f.h != old {
		return nil // another caller did it
	}
	if f.taken != nil {
		return f.taken
	}
	for {
		h, err := f.openAgain()
		if err == nil && f.dirty() {
			if f.unloggedDone.Load() > f.unloggedSynced.Load() {
				if !f.failed.Load() {
					f.copyLost.Store(true)
				}
				f.failed.Store(true)
			}
			if err = f.replay(h); err != nil {
				_ = h.CloseContext(f.store.ctx)
			}
		}
		switch {
		case err == nil:
			_ = old.CloseContext(f.store.ctx) // it is gone, or of no use
			f.adopt(h)
			return nil
		case errors.Is(err, ErrTaken):
			f.taken = err
			return err
		case lost(err), errors.Is(err, ErrUnreachable):
		case errors.Is(mapSMB(err), ErrSharing) && time.Now().Before(deadline):
			// The server may not have noticed yet that our old handle is gone.
			time.Sleep(100 * time.Millisecond)
		default:
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: %w", ErrUnreachable, err)
		}
	}
}

// openAgain opens what is there, and checks that it is the same file.
func (f *smbFile) openAgain() (*client.File, error) {
	p, err := f.store.full(f.name)
	if err != nil {
		return nil, err
	}
	flags := f.flags & (ReadWrite | DenyWrite)
	h, err := f.store.tree.Create(f.store.ctx, p, f.openOptions(flags))
	if err != nil {
		return nil, f.whoHas(err)
	}
	if id := h.Info().FileID; f.id != 0 && id != f.id {
		_ = h.CloseContext(f.store.ctx)
		return nil, ErrReplaced
	}
	if fence := &f.store.fence; fence.covers(flags) {
		// While the handle was lost a later owner may have come and gone.
		if err := fence.check(flags); err != nil {
			_ = h.CloseContext(f.store.ctx)
			return nil, err
		}
	}
	return h, nil
}

// openOptions are those of the flags, with the store's fence.
func (f *smbFile) openOptions(flags Flags) client.CreateOptions {
	o := openOptions(flags, f.store.opts)
	f.store.fence.apply(flags, &o)
	return o
}

// whoHas names the owner for whom the server refused an open, if that is why.
func (f *smbFile) whoHas(err error) error {
	fence := &f.store.fence
	switch {
	case !fence.covers(f.flags):
		return err
	case forcedClosed(err):
		return opError("open", f.store.loc.Join(f.name), fence.refused())
	}
	if errors.Is(mapSMB(err), ErrSharing) {
		if lost := fence.check(Write); errors.Is(lost, ErrTaken) {
			return lost
		}
	}
	return err
}

// ReadAt is io.ReaderAt: io.EOF, unwrapped, at the end of the file.
func (f *smbFile) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, f.wrap("read", block.ErrOutOfRange)
	}
	if len(p) == 0 {
		return 0, nil
	}
	err = f.io("read", func(h *client.File) error {
		n, err = h.ReadAtContext(f.store.ctx, p, off)
		return err
	})
	return n, err
}

func (f *smbFile) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, f.wrap("write", block.ErrOutOfRange)
	}
	if len(p) == 0 {
		return 0, nil
	}
	err := f.io("write", func(h *client.File) error {
		if _, err := h.WriteAtContext(f.store.ctx, p, off); err != nil {
			return err
		}
		if !f.stable {
			data, mem := logCopy(p)
			f.remember(logged{off: off, data: data, mem: mem})
		}
		return nil
	})
	if err == nil {
		err = f.bound()
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Sync has the server write everything to stable storage. After the server
// reported a failure the file stays failed.
func (f *smbFile) Sync() error {
	if f.failed.Load() {
		return f.wrap("sync", f.failure())
	}
	err := f.io("sync", func(h *client.File) error {
		f.logMu.Lock()
		covered, unlogged := f.logStart+len(f.log), f.unloggedDone.Load()
		f.logMu.Unlock()
		if f.failed.Load() {
			return f.failure()
		}
		if err := h.Flush(f.store.ctx); err != nil {
			return err
		}
		f.forget(covered)
		f.forgetUnlogged(unlogged)
		return nil
	})
	if err != nil && f.flags&Write != 0 {
		if _, refused := client.StatusOf(err); refused && !lost(err) {
			f.failed.Store(true)
		}
	}
	return err
}

// failure is what a Sync of a failed file says.
func (f *smbFile) failure() error {
	if f.copyLost.Load() {
		return fmt.Errorf("%w: %w", block.ErrFailed, ErrCopyLost)
	}
	return block.ErrFailed
}

func (f *smbFile) Truncate(size int64) error {
	if size < 0 {
		return f.wrap("truncate", block.ErrOutOfRange)
	}
	return f.io("truncate", func(h *client.File) error {
		if err := h.Truncate(f.store.ctx, size); err != nil {
			return err
		}
		if !f.stable {
			f.remember(logged{off: size})
		}
		return nil
	})
}

func (f *smbFile) Size() (n int64, err error) {
	err = f.io("stat", func(h *client.File) error {
		n, err = h.Size(f.store.ctx)
		return err
	})
	return n, err
}

// Close closes the handle. What was written and not synced is the server's to
// keep; Close syncs nothing.
func (f *smbFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return f.wrap("close", block.ErrClosed)
	}
	f.closed = true
	f.store.mu.Lock()
	delete(f.store.files, f)
	f.store.mu.Unlock()
	return f.wrap("close", f.h.CloseContext(f.store.ctx))
}
