package shares

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// change is something that has happened to a name (MS-FSA 2.1.4.1).
type change struct {
	path   string // for fs.FS, of a stream with ":" and its name behind it
	action uint32 // FILE_ACTION_ADDED and so on
	filter smb2.CompletionFilter
}

// notifier tells the watchers of folders what changes in them, whichever share and
// session it is changed by. Handlers report what they have done; as long as nobody
// watches, that costs one atomic load. What processes of the node do to the files
// beside the server is not seen.
type notifier struct {
	watching atomic.Int32 // watchers
	trees    atomic.Int32 // those of whole trees among them
	held     atomic.Int64 // bytes of events that wait for a request, of all watchers

	mu      sync.Mutex // guards folders; before watcher.mu
	folders map[fs.FileID][]*watcher
}

// maxNotifyHeld bounds what is kept for all watchers together. Past it a watcher
// is told to look for itself.
const maxNotifyHeld = 64 << 20

// watched says whether anybody watches anything.
func (n *notifier) watched() bool { return n.watching.Load() != 0 }

func (n *notifier) add(w *watcher) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.folders == nil {
		n.folders = make(map[fs.FileID][]*watcher)
	}
	n.folders[w.folder] = append(n.folders[w.folder], w)
	if w.tree {
		n.trees.Add(1)
	}
	n.watching.Add(1)
}

func (n *notifier) remove(w *watcher) {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := n.folders[w.folder]
	for i := range list {
		if list[i] != w {
			continue
		}
		n.watching.Add(-1)
		if w.tree {
			n.trees.Add(-1)
		}
		if len(list) == 1 {
			delete(n.folders, w.folder)
		} else {
			n.folders[w.folder] = append(list[:i:i], list[i+1:]...)
		}
		return
	}
}

// doomed ends the watching of a folder that is to be deleted (MS-FSA 2.1.5.15.3).
func (n *notifier) doomed(folder fs.FileID) {
	if !n.watched() {
		return
	}
	n.mu.Lock()
	list := append([]*watcher(nil), n.folders[folder]...)
	n.mu.Unlock()
	for _, w := range list {
		w.end(smb2.StatusDeletePending)
	}
}

// report tells who watches of changes in a share, in their order. All that one watcher
// is told of it comes in one response.
func (n *notifier) report(ctx context.Context, s *share, changes ...change) {
	if !n.watched() {
		return
	}
	var told []*watcher
	events := make(map[*watcher][]fscc.NotifyEntry)
	for i := range changes {
		c := &changes[i]
		for _, above := range n.above(context.WithoutCancel(ctx), s, c.path) {
			n.mu.Lock()
			for _, w := range n.folders[above.id] {
				if w.filter&c.filter == 0 || above.far && !w.tree {
					continue
				}
				if events[w] == nil {
					told = append(told, w)
				}
				events[w] = append(events[w], fscc.NotifyEntry{Action: c.action, Name: wirePath(above.name)})
			}
			n.mu.Unlock()
		}
	}
	for _, w := range told {
		w.tell(events[w])
	}
}

// ancestor is a folder above something that has changed.
type ancestor struct {
	id   fs.FileID
	name string // of what has changed, below the folder
	far  bool   // it is not in the folder itself
}

// above lists the folders above a name: the nearest alone, where nobody watches a tree. Shares may
// lie in each other; then those of the outer ones go on where the inner one ends.
func (n *notifier) above(ctx context.Context, s *share, path string) (list []ancestor) {
	climb := func(s *share, folder, name string) (name2 string) {
		for {
			if i := strings.LastIndexByte(folder, '/'); i >= 0 {
				folder, name = folder[:i], join(folder[i+1:], name)
			} else {
				folder, name = "", join(folder, name)
			}
			if f, err := s.FS.Open(ctx, folder, 0); err == nil {
				list = append(list, ancestor{id: f.ID(), name: name, far: len(list) > 0})
				f.Close()
			}
			if folder == "" || n.trees.Load() == 0 {
				return name
			}
		}
	}
	if path == "" {
		return nil // the folder itself is in none that the share knows
	}
	name := climb(s, path, "")
	if n.trees.Load() == 0 {
		return list
	}
	for _, outer := range s.around() {
		climb(outer.share, outer.inside, name)
	}
	return list
}

// outerShare is a share that another one lies in.
type outerShare struct {
	share  *share
	inside string // where
}

// around lists the shares that s lies in.
func (s *share) around() (list []outerShare) {
	if s.srv == nil || s.Path == "" {
		return nil
	}
	s.srv.mu.Lock()
	defer s.srv.mu.Unlock()
	for _, o := range s.srv.shares {
		if o == s || o.Path == "" {
			continue
		}
		inside, err := filepath.Rel(o.Path, s.Path)
		if err == nil && inside != "." && inside != ".." && !strings.HasPrefix(inside, "../") {
			list = append(list, outerShare{o, inside})
		}
	}
	return list
}

func join(folder, name string) string {
	switch {
	case folder == "":
		return name
	case name == "":
		return folder
	}
	return folder + "/" + name
}

// watcher is an open that watches its folder (MS-FSA 2.1.1.8). Filter and tree are
// those of its first request.
type watcher struct {
	notifier *notifier
	folder   fs.FileID
	tree     bool
	filter   smb2.CompletionFilter
	limit    int // most bytes of events that are kept between requests

	mu       sync.Mutex // innermost; guards all below
	events   []fscc.NotifyEntry
	size     int  // of events, encoded
	overflow bool // events were lost since the last response
	ended    smb2.Status
	waiting  []*notifyWait // requests, the oldest first
}

// notifyWait is a request that waits for changes.
type notifyWait struct {
	room int
	done chan notified // has room for the one answer
}

// notified is the answer to a request.
type notified struct {
	status smb2.Status // STATUS_SUCCESS with output, STATUS_NOTIFY_ENUM_DIR, or the end
	output []byte
}

// maxNotifyEvents bounds what is kept for one watcher, bytes as encoded.
const maxNotifyEvents = 64 << 10

func notifySize(e *fscc.NotifyEntry) int { return (12 + fscc.UTF16Len(e.Name) + 3) &^ 3 }

// tell adds events and answers the oldest request.
func (w *watcher) tell(events []fscc.NotifyEntry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended != 0 {
		return
	}
	for i := range events {
		if w.overflow {
			break
		}
		size := notifySize(&events[i])
		if w.size+size > w.limit || w.notifier.held.Add(int64(size)) > maxNotifyHeld {
			if w.size+size <= w.limit {
				w.notifier.held.Add(-int64(size))
			}
			w.forget()
			w.overflow = true
			break
		}
		w.events, w.size = append(w.events, events[i]), w.size+size
	}
	w.answer()
}

// forget drops the events that are kept.
func (w *watcher) forget() {
	w.notifier.held.Add(-int64(w.size))
	w.events, w.size, w.overflow = nil, 0, false
}

// wait enters a request; its answer may be there at once.
func (w *watcher) wait(room int) *notifyWait {
	p := &notifyWait{room: room, done: make(chan notified, 1)}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting = append(w.waiting, p)
	w.answer()
	return p
}

// answer answers requests while there is something to tell (MS-FSA 2.1.5.11.1).
func (w *watcher) answer() {
	for len(w.waiting) > 0 && (w.ended != 0 || w.overflow || len(w.events) > 0) {
		p := w.waiting[0]
		w.waiting = w.waiting[1:]
		a := notified{status: w.ended}
		if w.ended == 0 {
			a = w.encode(p.room)
			w.forget()
		}
		p.done <- a
	}
}

func (w *watcher) encode(room int) notified {
	if w.overflow || w.size > room {
		return notified{status: smb2.StatusNotifyEnumDir}
	}
	b := make([]byte, w.size)
	out := fscc.NewNotifyWriter(b)
	for i := range w.events {
		out.Add(&w.events[i])
	}
	return notified{output: b[:out.Len()]}
}

// cancel takes a request back; false if it has been answered.
func (w *watcher) cancel(p *notifyWait) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.waiting {
		if w.waiting[i] == p {
			w.waiting = append(w.waiting[:i:i], w.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// end answers all requests, those to come too, with a status.
func (w *watcher) end(why smb2.Status) {
	w.notifier.remove(w)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended == 0 {
		w.ended = why
		w.forget()
	}
	w.answer()
}
