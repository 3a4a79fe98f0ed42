package fs

import (
	"context"
	"math"
	"slices"
	"sync"
	"sync/atomic"
)

// Watch says whether a range of a file has been changed since it was made. Its
// methods may be called concurrently.
type Watch struct {
	off, end int64
	list     *watchList
	changed  atomic.Bool
}

// Changed reports whether anything of the range has been changed, or is being.
func (w *Watch) Changed() bool { return w.changed.Load() }

// Stop ends the watch.
func (w *Watch) Stop() { w.list.remove(w) }

// watchList is the watches of a node. A change costs one look at a pointer, before
// it is made and after, where there are none.
type watchList struct {
	mu   sync.Mutex // changes of list
	list atomic.Pointer[[]*Watch]
}

func (l *watchList) add(w *Watch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []*Watch
	if old := l.list.Load(); old != nil {
		list = *old
	}
	list = append(slices.Clip(list), w)
	l.list.Store(&list)
}

func (l *watchList) remove(w *Watch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.list.Load()
	if old == nil {
		return
	}
	list := slices.DeleteFunc(slices.Clone(*old), func(o *Watch) bool { return o == w })
	if len(list) == 0 {
		l.list.Store(nil)
		return
	}
	l.list.Store(&list)
}

// touch marks the watches of what [off, off+n) overlaps; of no bytes, none.
func (l *watchList) touch(off, n int64) {
	list := l.list.Load()
	if list == nil || n == 0 {
		return
	}
	for _, w := range *list {
		if off < w.end && (w.off <= off || w.off-off < n) {
			w.changed.Store(true)
		}
	}
}

// Watch implements Watcher.
func (f *posixFile) Watch(off, n int64) (*Watch, error) {
	const op = "watch"
	if off < 0 || n <= 0 || off > math.MaxInt64-n {
		return nil, f.fail(op, ErrInvalid)
	}
	if err := f.enter(context.Background(), op); err != nil {
		return nil, err
	}
	defer f.leave()
	w := &Watch{off: off, end: off + n, list: &f.node.watches}
	w.list.add(w)
	return w, nil
}

// enterData is enter for calls that change the data at [off, off+n).
func (f *posixFile) enterData(ctx context.Context, op string, off, n int64) error {
	if err := f.enter(ctx, op); err != nil {
		return err
	}
	if err := f.writable(op); err != nil {
		f.leave()
		return err
	}
	f.node.watches.touch(off, n)
	return nil
}

func (f *posixFile) leaveData(off, n int64) {
	f.node.watches.touch(off, n)
	f.leave()
}
