package shares

import (
	"sync"
	"sync/atomic"

	"lunless/shares/fs"
	"lunless/shares/state"
	"lunless/smbstore/smb2"
)

// openTable is every open of files and folders of the server, whichever session
// has it, or none (MS-SMB2 3.3.1.5 GlobalOpenTable, GlobalLeaseTableList).
type openTable struct {
	mu      sync.Mutex // innermost, but for written's
	byID    map[state.OpenID]*open
	guids   map[createKey]*open
	leases  map[state.LeaseKey]*leaseFile
	folders atomic.Int64 // opens of folders that have a lease
	written writeTimes
	// creating are the CREATEs that have not come to an end yet; each channel is
	// closed when it has.
	creating map[createKey]chan struct{}
}

// createKey names the CREATE that made an open: a client sends the same again if
// it has not heard what came of it.
type createKey struct{ client, create smb2.GUID }

// leaseFile is the file that a lease key stands for, as long as an open has it or
// is being made with it.
type leaseFile struct {
	id    fs.FileID
	users int
	opens map[state.OpenID]struct{} // those in the table
}

func newOpenTable() openTable {
	return openTable{
		byID: map[state.OpenID]*open{}, guids: map[createKey]*open{}, leases: map[state.LeaseKey]*leaseFile{},
		creating: map[createKey]chan struct{}{}, written: newWriteTimes(),
	}
}

// find finds an open by its id, or nil.
func (t *openTable) find(id state.OpenID) *open {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byID[id]
}

// findCreate finds the open that a CREATE with a CreateGuid has made, or nil.
func (t *openTable) findCreate(k createKey) *open {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.guids[k]
}

// beginCreate enters a CREATE that has begun, or says what to wait for if it has
// begun before and has not come to an end.
func (t *openTable) beginCreate(k createKey) (first <-chan struct{}, began bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c, there := t.creating[k]; there {
		return c, false
	}
	t.creating[k] = make(chan struct{})
	return nil, true
}

func (t *openTable) endCreate(k createKey) {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.creating[k])
	delete(t.creating, k)
}

// add enters an open, in place of one with the same id if there is one: a session
// that reclaims an open has an open of its own with the same handle.
func (t *openTable) add(o *open) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.byID[o.stateID()] = o
	t.written.enter(o.handle)
	// An open that can be replayed keeps its CreateGuid.
	if k := o.createKey(); !k.create.IsZero() {
		if first := t.guids[k]; first == nil || first.handle == o.handle || !first.replayable.Load() {
			t.guids[k] = o
		}
	}
	if l := t.leases[o.lease]; o.hasLease && l != nil {
		if _, there := l.opens[o.stateID()]; !there && o.dir {
			t.folders.Add(1)
		}
		l.opens[o.stateID()] = struct{}{}
	}
}

// remove takes an open out, whichever session has it by now.
func (t *openTable) remove(o *open) {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := o.stateID()
	now := t.byID[id]
	if now == nil {
		return
	}
	delete(t.byID, id)
	t.written.leave(now.handle)
	if k := o.createKey(); t.guids[k] == now {
		delete(t.guids, k)
	}
	if o.hasLease {
		if l := t.leases[o.lease]; l != nil {
			delete(l.opens, id)
		}
		if o.dir {
			t.folders.Add(-1)
		}
		t.dropLease(o.lease)
	}
}

// holdLease keeps a lease key for one file until the open that is made with it, and
// has to be added, is removed. It reports false if the key
// stands for another file (MS-SMB2 3.3.5.9.8).
func (t *openTable) holdLease(k state.LeaseKey, id fs.FileID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.leases[k]
	if l == nil {
		l = &leaseFile{id: id, opens: map[state.OpenID]struct{}{}}
		t.leases[k] = l
	}
	if l.id != id {
		return false
	}
	l.users++
	return true
}

// dropLease ends one holdLease. mu is held.
func (t *openTable) dropLease(k state.LeaseKey) {
	l := t.leases[k]
	if l == nil {
		return
	}
	if l.users--; l.users == 0 {
		delete(t.leases, k)
	}
}

// leaseFile is the file a lease key stands for.
func (t *openTable) leaseFile(k state.LeaseKey) (fs.FileID, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.leases[k]
	if l == nil {
		return fs.FileID{}, false
	}
	return l.id, true
}

// list is every open that keep says yes to.
func (t *openTable) list(keep func(o *open) bool) []*open {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []*open
	for _, o := range t.byID {
		if keep(o) {
			list = append(list, o)
		}
	}
	return list
}
