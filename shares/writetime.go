package shares

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// A file system may take notice of a write later, up to when the open that wrote is
// closed (MS-FSA 2.1.4.17, note 43), as NTFS long did. Here the file has its time at
// once, which is what counts after a crash and once nobody has it open to write; what
// is deferred, and not for long, is only that clients are told.
const (
	writeTimeDelay = 2 * time.Second  // from the first write until it shows
	writeTimeAgain = 10 * time.Second // of those after that, if the file is not flushed
)

// writeTime is the last write time of a file, as clients are told it while an open
// may write to the file.
type writeTime struct {
	users int // opens that may write; guarded by the table's mutex

	began atomic.Int64 // when the first write was begun that does not show yet, since clockStart; 0: all show
	again atomic.Bool  // writes have shown since the file was flushed
	told  atomic.Int64 // fscc.Filetime that clients have been told last; 0: none
	stale atomic.Bool  // and the file had a later one by then, since the last settle
	hid   atomic.Int64 // what began was then
}

var clockStart = time.Now().Add(-time.Nanosecond) // now() is never 0

func now() int64 { return int64(time.Since(clockStart)) }

// write notes that data is about to be written. It allocates nothing, and does
// nothing but look at began in the steady state.
func (w *writeTime) write() {
	if w != nil && w.began.Load() == 0 {
		w.began.CompareAndSwap(0, now())
	}
}

// show puts into info what clients are told. at is the time of now.
func (w *writeTime) show(info *fs.Info, at int64, delay, again time.Duration) {
	began, told := w.began.Load(), fscc.Filetime(w.told.Load())
	if w.again.Load() {
		delay = again
	}
	if began != 0 && told != 0 && at-began < int64(delay) {
		if fscc.FiletimeOf(info.Written) != told {
			w.stale.Store(true)
			w.hid.Store(began)
			info.Written = told.Time()
		}
		return
	}
	if began != 0 && w.began.CompareAndSwap(began, 0) && told != 0 {
		w.again.Store(true)
	}
	w.told.Store(int64(fscc.FiletimeOf(info.Written)))
}

// settle has the file's own time show, whatever has been told. It says whether clients
// have been told another one meanwhile, and whether of writes that have not shown yet.
func (w *writeTime) settle() (stale, hidden bool) {
	w.again.Store(false)
	w.told.Store(0)
	began := w.began.Swap(0)
	return w.stale.Swap(false), began != 0 && w.hid.Load() == began
}

// settleWrites has the writes to the open's file show in its last write time, where
// that has been deferred: it is flushed, or changed otherwise.
func (o *open) settleWrites(ctx context.Context) {
	if o.writeTime == nil {
		return
	}
	if stale, _ := o.writeTime.settle(); stale {
		o.ownFolderChanged(ctx)
	}
}

// settleClosing is settleWrites for an open that is closed. A file system that defers
// a time to then sets what the clock says then.
func (o *open) settleClosing(ctx context.Context) {
	if o.writeTime == nil {
		return
	}
	stale, hidden := o.writeTime.settle()
	if at := time.Now(); hidden && o.times.written() == nil {
		_ = o.file.SetTimes(ctx, fs.TimeChange{Written: &at}) // it has a newer one than was told without that
	}
	if stale {
		o.ownFolderChanged(ctx)
	}
}

// writeTimes has the writeTime of each file that an open may write to.
type writeTimes struct {
	delay, again time.Duration

	mu    sync.Mutex // innermost, inside of openTable.mu
	files map[fs.FileID]*writeTime
}

func newWriteTimes() writeTimes {
	return writeTimes{delay: writeTimeDelay, again: writeTimeAgain, files: map[fs.FileID]*writeTime{}}
}

// enter gives a handle that may write its file's; the first time it is in the table.
func (t *writeTimes) enter(h *handle) {
	if h.writeTime != nil || h.file == nil || h.dir || h.stream != nil || h.access&(smb2.FileWriteData|smb2.FileAppendData) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.files[h.fileID]
	if w == nil {
		w = &writeTime{}
		t.files[h.fileID] = w
	}
	w.users++
	h.writeTime = w
}

// leave ends enter.
func (t *writeTimes) leave(h *handle) {
	if h.writeTime == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if h.writeTime.users--; h.writeTime.users == 0 && t.files[h.fileID] == h.writeTime {
		delete(t.files, h.fileID)
	}
}

// show puts into info, which is of any file, what clients are told.
func (t *writeTimes) show(info *fs.Info) {
	if info.Dir {
		return
	}
	t.mu.Lock()
	w := t.files[info.ID]
	t.mu.Unlock()
	if w != nil {
		w.show(info, now(), t.delay, t.again)
	}
}
