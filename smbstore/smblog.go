package smbstore

import (
	"fmt"

	"lunless/smbstore/client"
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

// dirty reports whether something acknowledged is not synced.
func (f *smbFile) dirty() bool {
	f.logMu.Lock()
	defer f.logMu.Unlock()
	return len(f.log) > 0 || f.unloggedDone.Load() > f.unloggedSynced.Load()
}

func (f *smbFile) replay(h *client.File) error {
	f.logMu.Lock()
	defer f.logMu.Unlock()
	for _, l := range f.log {
		var err error
		switch {
		case l.zero > 0:
			err = f.zeroAgain(h, l.off, l.zero)
		case l.data == nil:
			err = h.Truncate(f.store.ctx, l.off)
		default:
			_, err = h.WriteAtContext(f.store.ctx, l.data, l.off)
		}
		if err != nil {
			return fmt.Errorf("cannot repeat the unsynced write at %d: %w", l.off, err)
		}
	}
	return nil
}

// zeroAgain zeroes a range, by writing if it must be, up to the end of the file.
func (f *smbFile) zeroAgain(h *client.File, off, n int64) error {
	if err := h.Zero(f.store.ctx, off, n); err == nil || lost(err) {
		return err
	}
	size, err := h.Size(f.store.ctx)
	if err != nil {
		return err
	}
	zeroes := make([]byte, 1<<20)
	for end := min(off+n, size); off < end; off += int64(len(zeroes)) {
		if _, err := h.WriteAtContext(f.store.ctx, zeroes[:min(int64(len(zeroes)), end-off)], off); err != nil {
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

// forgetUnlogged notes that a Sync covered the first n.
func (f *smbFile) forgetUnlogged(n int64) {
	for old := f.unloggedSynced.Load(); n > old && !f.unloggedSynced.CompareAndSwap(old, n); old = f.unloggedSynced.Load() {
	}
}
