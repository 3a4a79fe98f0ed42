package smbstore

import (
	"errors"
	"fmt"

	"github.com/cloudsoda/go-smb2"

	"lunless/smbstore/block"
)

// logged is one acknowledged change: data at off; zeroes from off, if zero is not
// 0; else off is a new size.
type logged struct {
	off  int64
	data []byte
	zero int64
}

// weight is what an entry counts for against Options.ReplayBuffer. Zeroes take
// no memory, but time to write again.
func (l *logged) weight() int64 { return 64 + int64(len(l.data)) + l.zero/64 }

// intact reports whether nothing acknowledged and unsynced can have been lost:
// there is no such thing, or every handle so far still lives. It is asked after
// the new session was made: a handle that answers then shows that the server
// has been the same all along.
func (f *smbFile) intact(conn int) bool {
	f.logMu.Lock()
	clean := len(f.log) == 0 && f.unloggedDone.Load() == f.unloggedSynced.Load()
	f.logMu.Unlock()
	if clean {
		return true
	}
	for i, h := range f.handles {
		if h == nil {
			continue
		}
		if i == conn || h.sess.dead.Load() {
			return false
		}
		h.sess.begin() // a server that is silent here as well is noticed
		_, err := h.f.Stat()
		h.sess.end()
		if err != nil {
			if lost(err) {
				h.sess.kill()
			}
			return false
		}
	}
	return true
}

func (f *smbFile) replay(h *smb2.File) error {
	f.logMu.Lock()
	defer f.logMu.Unlock()
	for _, l := range f.log {
		var err error
		switch {
		case l.zero > 0:
			err = zeroAgain(h, l.off, l.zero)
		case l.data == nil:
			err = h.Truncate(l.off)
		default:
			_, err = h.WriteAt(l.data, l.off)
		}
		if err != nil {
			return fmt.Errorf("cannot repeat the unsynced write at %d: %w", l.off, err)
		}
	}
	return nil
}

// zeroAgain writes zeroes, up to the end of the file.
func zeroAgain(h *smb2.File, off, n int64) error {
	st, err := h.Stat()
	if err != nil {
		return err
	}
	zeroes := make([]byte, chunkSize)
	for end := min(off+n, st.Size()); off < end; off += chunkSize {
		if _, err := h.WriteAt(zeroes[:min(chunkSize, end-off)], off); err != nil {
			return err
		}
	}
	return nil
}

// remember logs an acknowledged change. It is called with mu held for reading,
// so that no replay comes between the acknowledgement and the log.
func (f *smbFile) remember(l logged) {
	f.logMu.Lock()
	defer f.logMu.Unlock()
	f.log = append(f.log, l)
	f.logBytes += l.weight()
}

func (f *smbFile) overfull() bool {
	f.logMu.Lock()
	defer f.logMu.Unlock()
	return f.logBytes > f.store.opts.ReplayBuffer
}

// syncOverfull syncs for the sake of the log's bound; those who find it over
// the bound together sync once.
func (f *smbFile) syncOverfull() error {
	f.syncMu.Lock()
	defer f.syncMu.Unlock()
	if !f.overfull() {
		return nil
	}
	return f.Sync()
}

// forget drops the log's entries before the one of number end, counted from the
// file's opening; an overlapping Sync may have dropped them already.
func (f *smbFile) forget(end int) {
	f.logMu.Lock()
	defer f.logMu.Unlock()
	n := end - f.logStart
	if n <= 0 {
		return
	}
	for _, l := range f.log[:n] {
		f.logBytes -= l.weight()
	}
	f.log = append([]logged(nil), f.log[n:]...)
	f.logStart = end
}

// zeroed has the server zero a range, and logs that.
func (f *smbFile) zeroed(off, n int64, change func() error) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.closed {
		return block.ErrClosed
	}
	err := change()
	if err == nil && n > 0 {
		f.remember(logged{off: off, zero: n})
	}
	return err
}

// unlogged runs a change that is not in the log: should a connection be lost
// before the next Sync, the file fails.
func (f *smbFile) unlogged(change func() error) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.closed {
		return block.ErrClosed
	}
	err := change()
	if !errors.Is(err, block.ErrNotSupported) {
		// If it is not supported, part of it may have been done; what the caller
		// does instead covers that.
		f.unloggedDone.Add(1)
	}
	return err
}

// forgetUnlogged notes that a Sync covered the first n.
func (f *smbFile) forgetUnlogged(n int64) {
	for old := f.unloggedSynced.Load(); n > old && !f.unloggedSynced.CompareAndSwap(old, n); old = f.unloggedSynced.Load() {
	}
}
