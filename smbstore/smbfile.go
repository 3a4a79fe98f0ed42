package smbstore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudsoda/go-smb2"
	"golang.org/x/sync/errgroup"

	"lunless/smbstore/block"
)

// chunkSize is the largest single request, in bytes: servers of every kind take
// it, and it is what the client sends at most.
const chunkSize = 1 << 20

// smbFile is a file on a share: one handle a connection, opened when first used.
//
// When a connection is lost, the file is opened again on a new one, and what was
// in flight is sent again. A server that went down with its machine may have
// lost writes it had acknowledged but not synced, and a client cannot tell that
// from a dropped connection. So every write since the last Sync is kept
// (bounded by Options.ReplayBuffer, at which the file is synced) and written
// again after each reconnect, in order, while no other I/O on the file runs:
// no read sees old data in between, and a Sync that succeeds covers everything
// acknowledged before it.
//
// A write of the lost connection must not land after its repetition, on what
// was written since. So a connection that is given up is ended in order, and
// nothing is repeated before the server has ended it too: it then has read all
// that came over it. Not covered, because nothing in the protocol the client
// speaks allows it: a write that a server carries out after it has closed the
// connection it came over, or after partingWait.
type smbFile struct {
	store *smbStore
	name  string
	flags Flags
	id    uint64 // the server's 64-bit file number, 0 if it gave none

	// Lock order: mu, then syncMu, then logMu.
	mu      sync.RWMutex // I/O holds it for reading; reopening, replay and Close for writing
	handles []*handle    // by connection; nil until used; one may stand for several
	closed  bool

	next   atomic.Uint32 // round robin over the connections
	failed atomic.Bool   // a flush failed for good, or what cannot be repeated may be lost

	// Changes that are not in the log, counted from the file's opening: done, and
	// covered by a Sync.
	unloggedDone, unloggedSynced atomic.Int64

	syncMu sync.Mutex // one implicit Sync at a time

	logMu    sync.Mutex
	log      []logged // what was acknowledged since the last good Sync
	logStart int      // number of the log's first entry
	logBytes int64
}

type handle struct {
	sess *session
	f    *smb2.File
}

var _ File = (*smbFile)(nil)

func (f *smbFile) Name() string { return f.name }

func (f *smbFile) wrap(op string, err error) error {
	return opError(op, f.store.loc.Join(f.name), mapSMB(err))
}

// adopt takes the handle that opened the file, on the first connection, and
// remembers which file it is.
func (f *smbFile) adopt(sess *session, h *smb2.File) error {
	st, err := h.Stat()
	if err == nil && st.IsDir() {
		err = fmt.Errorf("is a folder")
	}
	if err != nil {
		_ = h.Close()
		return err
	}
	if fs, ok := st.(*smb2.FileStat); ok {
		f.id = fs.FileId
	}
	runtime.SetFinalizer(h, nil) // closed by us, or gone with its connection
	f.handles[0] = &handle{sess: sess, f: h}
	return nil
}

// fewRequests is how many requests of a file go over the connection it was
// opened on before the others are used: small files need one handle.
const fewRequests = 8

// io runs fn on a live handle, again after a lost connection. fn must be safe
// to repeat.
func (f *smbFile) io(op string, fn func(h *smb2.File) error) error {
	conn := 0
	if n := f.next.Add(1); n > fewRequests {
		conn = int(n) % len(f.handles)
	}
	var deadline time.Time
	for {
		f.mu.RLock()
		if f.closed {
			f.mu.RUnlock()
			return f.wrap(op, block.ErrClosed)
		}
		if h := f.handles[conn]; h != nil && !h.sess.dead.Load() {
			h.sess.begin()
			err := fn(h.f)
			h.sess.end()
			f.mu.RUnlock()
			if err == nil || err == io.EOF {
				return err
			}
			if !lost(err) {
				return f.wrap(op, err)
			}
			f.store.opts.Logger.Info("connection lost, reconnecting", "file", f.name, "operation", op, "error", err)
			h.sess.kill()
		} else {
			f.mu.RUnlock()
		}
		if deadline.IsZero() {
			deadline = time.Now().Add(f.store.opts.ReconnectTimeout)
		}
		if err := f.reopen(conn, deadline); err != nil {
			return f.wrap(op, err)
		}
	}
}

// reopen opens the file on a connection, and replays the log if the connection
// had been lost.
func (f *smbFile) reopen(conn int, deadline time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return block.ErrClosed
	}
	old := f.handles[conn]
	if old != nil && !old.sess.dead.Load() {
		return nil // another caller did it
	}
	for {
		sess, err := f.store.conns[conn].get(deadline)
		if err != nil {
			return err
		}
		sess.begin()
		h, err := f.openAgain(sess)
		if err == nil && !f.intact(conn) {
			if f.unloggedDone.Load() > f.unloggedSynced.Load() {
				f.failed.Store(true)
			}
			if err = f.replay(h); err != nil && !lost(err) {
				_ = h.Close()
			}
		}
		sess.end()
		switch {
		case err == nil:
			f.drop(conn)
			f.handles[conn] = &handle{sess: sess, f: h}
			return nil
		case lost(err):
			sess.kill()
		case errors.Is(mapSMB(err), ErrSharing) && time.Now().Before(deadline):
			// The server may not have noticed yet that our old handle is gone.
			time.Sleep(100 * time.Millisecond)
		case old == nil && f.alive() != nil:
			// The name leads elsewhere by now, but the file lives on in a handle.
			f.handles[conn] = f.alive()
			return nil
		default:
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: %w", ErrUnreachable, err)
		}
	}
}

// alive is a handle that is usable as far as anybody knows.
func (f *smbFile) alive() *handle {
	for _, h := range f.handles {
		if h != nil && !h.sess.dead.Load() {
			return h
		}
	}
	return nil
}

// openAgain opens what is there, and checks that it is the same file.
func (f *smbFile) openAgain(sess *session) (*smb2.File, error) {
	p, err := f.store.full(f.name)
	if err != nil {
		return nil, err
	}
	h, err := sess.share.OpenFile(p, openMode(f.flags&ReadWrite), 0o666)
	if err != nil {
		return nil, err
	}
	runtime.SetFinalizer(h, nil) // closed by us, or gone with its connection
	st, err := h.Stat()
	if err == nil {
		if fs, ok := st.(*smb2.FileStat); ok && f.id != 0 && fs.FileId != f.id {
			err = ErrReplaced
		}
	}
	if err != nil {
		_ = h.Close()
		return nil, err
	}
	return h, nil
}

// drop forgets a handle whose connection is gone.
func (f *smbFile) drop(conn int) {
	if h := f.handles[conn]; h != nil {
		runtime.SetFinalizer(h.f, nil)
		f.handles[conn] = nil
	}
}

// ReadAt is io.ReaderAt: io.EOF, unwrapped, at the end of the file.
func (f *smbFile) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, f.wrap("read", block.ErrOutOfRange)
	}
	if len(p) <= chunkSize {
		return f.readChunk(p, off)
	}
	counts := make([]int, (len(p)+chunkSize-1)/chunkSize)
	var g errgroup.Group
	g.SetLimit(f.store.opts.Parallel)
	for i := range counts {
		g.Go(func() error {
			lo := i * chunkSize
			n, err := f.readChunk(p[lo:min(lo+chunkSize, len(p))], off+int64(lo))
			counts[i] = n
			if err == io.EOF {
				return nil
			}
			return err
		})
	}
	err := g.Wait()
	n := 0
	for i, c := range counts {
		n += c
		if c < min(chunkSize, len(p)-i*chunkSize) {
			break
		}
	}
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

func (f *smbFile) readChunk(p []byte, off int64) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	err = f.io("read", func(h *smb2.File) error {
		n, err = h.ReadAt(p, off)
		// The client reports a read cut by the end of the file as a success.
		if err == nil && n < len(p) {
			err = io.EOF
		}
		return err
	})
	return n, err
}

func (f *smbFile) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, f.wrap("write", block.ErrOutOfRange)
	}
	var err error
	if len(p) <= chunkSize {
		err = f.writeChunk(p, off)
	} else {
		var g errgroup.Group
		g.SetLimit(f.store.opts.Parallel)
		for lo := 0; lo < len(p); lo += chunkSize {
			g.Go(func() error { return f.writeChunk(p[lo:min(lo+chunkSize, len(p))], off+int64(lo)) })
		}
		err = g.Wait()
	}
	if err == nil && f.overfull() {
		err = f.syncOverfull()
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *smbFile) writeChunk(p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	return f.io("write", func(h *smb2.File) error {
		if _, err := h.WriteAt(p, off); err != nil {
			return err
		}
		f.remember(logged{off: off, data: append([]byte(nil), p...)})
		return nil
	})
}

// Sync has the server write everything to stable storage. After the server
// reported a failure the file stays failed.
func (f *smbFile) Sync() error {
	if f.failed.Load() {
		return f.wrap("sync", block.ErrFailed)
	}
	err := f.io("sync", func(h *smb2.File) error {
		f.logMu.Lock()
		covered, unlogged := f.logStart+len(f.log), f.unloggedDone.Load()
		f.logMu.Unlock()
		if f.failed.Load() {
			return block.ErrFailed
		}
		if err := h.Sync(); err != nil {
			return err
		}
		f.forget(covered)
		f.forgetUnlogged(unlogged)
		return nil
	})
	if err != nil && f.flags&Write != 0 {
		if _, refused := statusOf(err); refused {
			f.failed.Store(true)
		}
	}
	return err
}

func (f *smbFile) Truncate(size int64) error {
	if size < 0 {
		return f.wrap("truncate", block.ErrOutOfRange)
	}
	return f.io("truncate", func(h *smb2.File) error {
		if err := h.Truncate(size); err != nil {
			return err
		}
		f.remember(logged{off: size})
		return nil
	})
}

func (f *smbFile) Size() (n int64, err error) {
	err = f.io("stat", func(h *smb2.File) error {
		st, err := h.Stat()
		if err == nil {
			n = st.Size()
		}
		return err
	})
	return n, err
}

// Close closes the handles. What was written and not synced is the server's to
// keep; Close syncs nothing.
func (f *smbFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return f.wrap("close", block.ErrClosed)
	}
	f.closed = true
	f.store.control.forget(f)
	f.store.mu.Lock()
	delete(f.store.files, f)
	f.store.mu.Unlock()
	var first error
	for i, h := range f.handles {
		if h == nil {
			continue
		}
		if !h.sess.dead.Load() {
			h.sess.begin()
			err := h.f.Close()
			h.sess.end()
			if err != nil && !lost(err) && !errors.Is(err, os.ErrInvalid) && first == nil {
				first = err
			}
		}
		f.drop(i)
	}
	return f.wrap("close", first)
}
