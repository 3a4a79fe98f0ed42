package fs

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// node is what the open Files of one FileID share.
type node struct {
	refs int // guarded by nodes.mu

	// failed: a flush failed; nothing on this ID is written or flushed until all its Files are closed.
	failed atomic.Bool
	// meta says whether metadata may have changed since the last flush, so that
	// flushing the data alone is not enough.
	meta    changes
	watches watchList // told of each change of data, before it is made and after
	// wish is the size SetAllocation was last asked for; it is no less than what
	// the file takes where the file system cannot reserve room.
	wish atomic.Int64
	// sizeMu keeps the end of file where it is while zeroes are written below it.
	sizeMu sync.RWMutex
	// named is what folderFlushes.changes was, plus one, when the names that lead to
	// the object were on stable storage.
	named    atomic.Uint64
	parentMu sync.Mutex
	parents  []parent   // folders SyncParent has to flush; guarded by parentMu
	attrMu   sync.Mutex // held while user.lunless.attr is read, changed and written
}

// nodes holds a node for each FileID with open Files and no others.
type nodes struct {
	mu sync.Mutex
	m  map[FileID]*node
}

func (ns *nodes) open(id FileID) *node {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	n := ns.m[id]
	if n == nil {
		n = &node{}
		n.meta.add() // by whoever had it open before
		if ns.m == nil {
			ns.m = make(map[FileID]*node)
		}
		ns.m[id] = n
	}
	n.refs++
	return n
}

func (ns *nodes) close(id FileID, n *node) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if n.refs--; n.refs == 0 {
		delete(ns.m, id)
		for _, p := range n.parents {
			unix.Close(p.dir)
		}
		n.parents = nil
	}
}

// changes counts what is to be flushed. A flush covers what was counted when it
// began, and only once it has ended: until then everyone else flushes too.
type changes struct{ made, flushed atomic.Uint64 }

// add notes a change that has been made.
func (c *changes) add() { c.made.Add(1) }

// pending says whether anything is to be flushed, and what number to give to done.
func (c *changes) pending() (upTo uint64, some bool) {
	upTo = c.made.Load()
	return upTo, upTo > c.flushed.Load()
}

// done notes that all up to upTo is on stable storage.
func (c *changes) done(upTo uint64) {
	for {
		old := c.flushed.Load()
		if upTo <= old || c.flushed.CompareAndSwap(old, upTo) {
			return
		}
	}
}
