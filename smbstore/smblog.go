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
	mem  *[]byte // what data lies in, for logFree; nil if that is not used again
	zero int64
}

// weight is what an entry counts for against Options.ReplayBuffer. Zeroes take
// no memory, but time to write again.
func (l *logged) weight() int64 { return 64 + int64(cap(l.data)) + l.zero/64 }

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

// fill is how full the log is, in bytes.
func (f *smbFile) fill() int64 {
	f.logMu.Lock()
	defer f.logMu.Unlock()
	return f.logBytes
}

// bound keeps the log within Options.ReplayBuffer. From half of that on the file is
// synced beside the writes, so that those who write much need not stand still for a
// server that puts much on its disk at once; who finds the log full waits for it.
func (f *smbFile) bound() error {
	limit := f.store.opts.ReplayBuffer
	fill := f.fill()
	if fill > limit {
		return f.syncAbove(limit)
	}
	if fill > limit/2 && f.behind.CompareAndSwap(false, true) {
		go func() {
			defer f.behind.Store(false)
			if err := f.syncAbove(limit / 2); err != nil && f.failed.Load() {
				f.behindErr.CompareAndSwap(nil, &err)
			}
		}()
	}
	if err := f.behindErr.Load(); err != nil {
		return *err // a write has to tell why the file failed
	}
	return nil
}

// syncAbove syncs for the sake of the log's bound; those who find it above that
// together sync once.
func (f *smbFile) syncAbove(bound int64) error {
	f.syncMu.Lock()
	defer f.syncMu.Unlock()
	if f.fill() <= bound {
		return nil
	}
	return f.Sync()
}

// forget drops the log's entries before the one of number end, counted from the
// file's opening; an overlapping Sync may have dropped them already. It is called
// with mu held for reading: no replay uses them.
func (f *smbFile) forget(end int) {
	f.logMu.Lock()
	defer f.logMu.Unlock()
	n := end - f.logStart
	if n <= 0 {
		return
	}
	for _, l := range f.log[:n] {
		f.logBytes -= l.weight()
		logFree(l.mem)
	}
	f.log = append([]logged(nil), f.log[n:]...)
	f.logStart = end
}

// forgetUnlogged notes that a Sync covered the first n.
func (f *smbFile) forgetUnlogged(n int64) {
	for old := f.unloggedSynced.Load(); n > old && !f.unloggedSynced.CompareAndSwap(old, n); old = f.unloggedSynced.Load() {
	}
}
