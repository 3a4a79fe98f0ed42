package shares

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// session is an authenticated user (MS-SMB2 3.3.1.8). It lives in the server's
// table and is reached over its channels, one a connection; it ends with the last
// of them. What is open in it belongs to it, not to any connection.
type session struct {
	id      uint64
	srv     *Server
	peer    *clientHost  // of the connection it began on
	log     *slog.Logger // of the connection it began on
	created time.Time

	// Of the connection the session began on; those of its other channels agree.
	dialect    smb2.Dialect
	clientGUID smb2.GUID
	cipher     smb2.Cipher
	signing    smb2.SigningAlgorithm

	// setupMu serialises the legs of authentications, on whichever channel they
	// arrive. It is outermost.
	setupMu sync.Mutex

	// Set while the session is set up, under setupMu, and not changed once it is
	// valid.
	user            string     // DOMAIN\name, for logs
	token           fscc.Token // who the user is to security descriptors
	anonymous       bool
	signingRequired bool
	encrypt         bool         // every request must arrive encrypted
	signer          *smb2.Signer // Session.SigningKey: the first channel's; nil for an anonymous session
	sealer          *smb2.Sealer // nil where the connection cannot encrypt; all channels share its nonces
	opener          *smb2.Opener

	expires atomic.Int64 // when, by clock; 0: never
	valid   atomic.Bool  // authenticated, and not ended; set under mu, after all above

	mu       sync.RWMutex // after conn.mu; before an open's locks
	ended    bool         // or about to: takes no channel any more
	channels []*channel   // those that are bound, oldest first
	trees    map[uint32]*tree
	lastTree uint32
	opens    map[uint64]*open // by the volatile part of the FileId

	over     chan struct{} // closed when the session, which was valid, has ended
	outlived atomic.Int32  // CREATEs that wait on though their channel is lost
}

// Reasons for which the context of an async request ends.
var (
	errCancelled    = errors.New("cancelled by the client")
	errConnEnded    = errors.New("connection ended")
	errSessionEnded = errors.New("session ended")
	errShareGone    = errors.New("share removed")
	errServerStops  = errors.New("server is stopping")
)

// isValid reports whether the session is authenticated and has not ended.
func (s *session) isValid() bool { return s.valid.Load() }

// tree finds a tree connect of the session, or nil.
func (s *session) tree(id uint32) *tree {
	s.mu.RLock()
	t := s.trees[id]
	s.mu.RUnlock()
	return t
}

// findOpen finds an open of the session by its FileId, or nil. Both halves must match.
func (s *session) findOpen(id smb2.FileID) *open {
	s.mu.RLock()
	o := s.opens[id.Volatile]
	s.mu.RUnlock()
	if o == nil || o.id != id {
		return nil
	}
	return o
}

// addOpen enters an open under o.id. It reports false if the session or the
// open's tree connect has ended meanwhile: the caller closes the open then.
func (s *session) addOpen(o *open) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.valid.Load() || s.trees[o.tree.id] != o.tree {
		return false
	}
	s.opens[o.id.Volatile] = o
	if o.owner == nil { // else it has been counted, before it was reclaimed
		o.owner = s.peer
		o.owner.opens.Add(1)
		s.srv.handles.Add(1)
	}
	s.srv.opens.Add(1)
	s.srv.metrics.opens.Inc()
	return true
}

// removeOpen takes an open out and reports whether it was there: whoever removes
// it closes it.
func (s *session) removeOpen(o *open) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opens[o.id.Volatile] != o {
		return false
	}
	delete(s.opens, o.id.Volatile)
	s.srv.opens.Add(-1)
	s.srv.metrics.opens.Dec()
	return true
}

// countOpens is how many opens the session has.
func (s *session) countOpens() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.opens)
}

// mayOpen says whether the session may open one more. That the process runs out of
// descriptors would shut out everybody.
func (s *session) mayOpen() bool {
	srv := s.srv
	limit := srv.cfg.Limits.Opens
	if s.anonymous {
		limit = min(limit, maxAnonymousOpens)
	}
	l := &srv.cfg.Limits
	return s.countOpens() < limit && srv.handles.Load() < int64(l.AllOpens) && s.peer.opens.Load() < int64(l.ClientOpens)
}

// openList is what is open at the moment, of one tree connect or (nil) of all.
func (s *session) openList(t *tree) []*open {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []*open
	for _, o := range s.opens {
		if t == nil || o.tree == t {
			list = append(list, o)
		}
	}
	return list
}

// closeOpens closes the opens of one tree connect or (nil) of all (MS-SMB2
// 3.3.4.17), each once its requests in flight are through.
func (s *session) closeOpens(ctx context.Context, t *tree, why error) {
	for _, o := range s.openList(t) {
		if s.removeOpen(o) {
			o.drain(why)
			o.close(ctx, why)
		}
	}
}

// end takes the session down on all its channels: its requests in progress are
// cancelled, its tree connects and opens closed. It may be called more than once.
func (s *session) end(ctx context.Context, why error) {
	defer s.srv.ending.begin(s.id)()
	s.srv.forgetSession(s)
	s.mu.Lock()
	s.ended = true
	wasValid := s.valid.Swap(false)
	channels := s.channels
	s.channels = nil
	trees := slices.Collect(maps.Values(s.trees))
	clear(s.trees)
	s.mu.Unlock()
	if wasValid {
		close(s.over)
	}

	for _, ch := range channels {
		ch.conn.removeChannel(ch)
		ch.conn.cancelAsync(why, func(op *asyncOp) bool { return op.session == s })
	}
	for _, t := range trees {
		t.share.disconnect(t)
	}
	if keepsOpens(why) {
		detachAll(ctx, slices.DeleteFunc(s.openList(nil), func(o *open) bool { return !s.removeOpen(o) }), why)
	}
	s.closeOpens(ctx, nil, why)
	if wasValid {
		s.srv.metrics.sessions.Dec()
		s.log.Info("session ended", "user", s.user, "session", s.id, "reason", why)
	}
}
