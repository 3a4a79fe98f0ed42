package shares

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// session is an authenticated user on a connection (MS-SMB2 3.3.1.8).
type session struct {
	id      uint64
	conn    *conn
	created time.Time

	// Set while the session is set up, under the connection's lane, and not
	// changed once it is valid.
	user            string     // DOMAIN\name, for logs
	token           fscc.Token // who the user is to security descriptors
	anonymous       bool
	signingRequired bool
	encrypt         bool         // every request must arrive encrypted
	signer          *smb2.Signer // nil for an anonymous session
	sealer          *smb2.Sealer // nil where the connection cannot encrypt
	opener          *smb2.Opener
	setup           sessionSetup // the exchange in progress

	valid atomic.Bool // authenticated, and not ended; set under mu, after all above

	mu       sync.RWMutex // after conn.mu; before an open's locks
	trees    map[uint32]*tree
	lastTree uint32
	opens    map[uint64]*open // by the volatile part of the FileId
}

// Reasons for which the context of an async request ends.
var (
	errCancelled   = errors.New("cancelled by the client")
	errConnEnded   = errors.New("connection ended")
	errShareGone   = errors.New("share removed")
	errServerStops = errors.New("server is stopping")
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
	s.conn.srv.opens.Add(1)
	s.conn.srv.metrics.opens.Inc()
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
	s.conn.srv.opens.Add(-1)
	s.conn.srv.metrics.opens.Dec()
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
	srv := s.conn.srv
	limit := srv.cfg.Limits.Opens
	if s.anonymous {
		limit = min(limit, maxAnonymousOpens)
	}
	return s.countOpens() < limit && srv.opens.Load() < int64(srv.cfg.Limits.AllOpens)
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

// closeOpens closes the opens of one tree connect or (nil) of all (MS-SMB2 3.3.4.17).
func (s *session) closeOpens(ctx context.Context, t *tree, why error) {
	for _, o := range s.openList(t) {
		if s.removeOpen(o) {
			o.close(ctx, why)
		}
	}
}

// end takes the session down: its requests in progress are cancelled, its tree
// connects and opens closed. It may be called more than once.
func (s *session) end(ctx context.Context, why error) {
	s.conn.removeSession(s)
	s.mu.Lock()
	wasValid := s.valid.Swap(false)
	trees := slices.Collect(maps.Values(s.trees))
	clear(s.trees)
	s.mu.Unlock()

	s.conn.cancelAsync(why, func(r *request) bool { return r.session == s })
	for _, t := range trees {
		t.share.disconnect(t)
	}
	s.closeOpens(ctx, nil, why)
	if wasValid {
		s.conn.srv.metrics.sessions.Dec()
		s.conn.log.Info("session ended", "user", s.user, "session", s.id, "reason", why)
	}
}
