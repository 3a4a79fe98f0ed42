package fs

import (
	"container/list"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel finds a name by its exact spelling only. A nameCache remembers,
// for the folders used of late, which spelling is stored under each folded
// name, so that a look-up in another case, and above all the look-up of a name
// that is not there, reads no folder.
//
// A cached folder is good as long as the folder's time stamps are what they
// were when it was read. Two things weaken that, and only a negative answer
// relies on it (a positive one is verified by opening what was found):
//
//   - Time stamps advance in ticks of some milliseconds. A folder read within
//     settle of its last change might miss a change of the same tick.
//   - A change of our own moves the stamps, and a change by somebody else right
//     beside it would be taken for ours.
//
// So a folder is settled if it was read settle after its last change; one that
// follows our own changes is relied on for followFor (or, where reading it is
// slow, followCost times that) and then read again; any other is read for each
// negative answer.
const (
	settle     = 20 * time.Millisecond
	followFor  = time.Second
	followCost = 50
)

// folderKey names a folder for as long as it exists.
type folderKey struct{ dev, ino uint64 }

// stamp changes whenever a folder's entries do. Birth tells a folder from
// another that got its inode.
type stamp struct{ written, changed, birth unix.StatxTimestamp }

// folder is one cached folder. Its contents belong to the holder of the
// folder's lock (POSIX.lockFolder).
type folder struct {
	key     folderKey
	stamp   stamp
	names   map[string]string   // folded -> stored
	more    map[string][]string // further stored names that fold to the same
	settled bool
	until   time.Time     // while not settled: how long a negative answer may be given; zero: not at all
	cost    time.Duration // to read it
	counted int           // names charged to the cache for it; guarded by nameCache.mu
}

func (f *folder) add(name string) {
	key := fold(name)
	have, ok := f.names[key]
	switch {
	case !ok:
		f.names[key] = name
	case have != name:
		for _, n := range f.more[key] {
			if n == name {
				return
			}
		}
		if f.more == nil {
			f.more = make(map[string][]string)
		}
		f.more[key] = append(f.more[key], name)
	}
}

func (f *folder) remove(name string) {
	key := fold(name)
	more := f.more[key]
	if f.names[key] == name {
		if len(more) == 0 {
			delete(f.names, key)
			return
		}
		f.names[key], more = more[0], more[1:]
	} else {
		for i, n := range more {
			if n == name {
				more = append(more[:i:i], more[i+1:]...)
				break
			}
		}
	}
	if len(more) == 0 {
		delete(f.more, key)
	} else {
		f.more[key] = more
	}
}

// find returns the stored names that name stands for, the one found first first.
func (f *folder) find(key string) (string, []string) { return f.names[key], f.more[key] }

// followed takes over the stamps a folder has after a change of our own.
func (f *folder) followed(s stamp, now time.Time) {
	f.stamp = s
	if f.settled || f.until.IsZero() {
		f.until = now.Add(max(followFor, followCost*f.cost))
	}
	f.settled = false
}

// nameCache holds folders, least recently used last, up to limit names in all;
// the folder used last stays whatever its size.
type nameCache struct {
	mu      sync.Mutex
	limit   int
	total   int
	order   list.List // of *folder
	folders map[folderKey]*list.Element
}

func (c *nameCache) get(key folderKey) *folder {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.folders[key]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*folder)
}

// put keeps f, or accounts for its new size.
func (c *nameCache) put(f *folder) {
	size := len(f.names)
	for _, m := range f.more {
		size += len(m)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.folders == nil {
		c.folders = make(map[folderKey]*list.Element)
	}
	if e := c.folders[f.key]; e != nil {
		if e.Value != f {
			c.total -= e.Value.(*folder).counted
			e.Value = f
			f.counted = 0
		}
		c.order.MoveToFront(e)
	} else {
		f.counted = 0
		c.folders[f.key] = c.order.PushFront(f)
	}
	c.total += size - f.counted
	f.counted = size
	for c.total > c.limit && c.order.Len() > 1 {
		c.evict(c.order.Back())
	}
}

func (c *nameCache) drop(key folderKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.folders[key]; e != nil {
		c.evict(e)
	}
}

func (c *nameCache) evict(e *list.Element) {
	f := c.order.Remove(e).(*folder)
	delete(c.folders, f.key)
	c.total -= f.counted
}
