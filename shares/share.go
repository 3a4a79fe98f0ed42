package shares

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"sync"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

const ipcName = "IPC$"

// share is a Share in use (MS-SMB2 3.3.1.6).
type share struct {
	Share
	srv *Server
	ipc bool

	// names is held for reading by CREATE and for writing while a name is given to
	// another file, so that nothing is opened by the name, or below it, meanwhile.
	// Outside of all other locks.
	names sync.RWMutex

	mu    sync.Mutex // innermost
	gone  bool       // removed: no new tree connects
	trees map[*tree]struct{}
}

func (srv *Server) newShare(s Share) *share {
	return &share{Share: s, srv: srv, trees: map[*tree]struct{}{}}
}

// maximalAccess is the most an open of the user on the share may have; 0 for whom
// the share is not. Privileges count for files, not for shares.
func (s *share) maximalAccess(user *fscc.Token) smb2.AccessMask {
	m := s.mostAccess()
	if s.Security == nil {
		return m
	}
	bare := *user
	bare.Privileges = 0
	granted, err := s.Security.AccessCheck(&bare, fscc.MAXIMUM_ALLOWED)
	if err != nil {
		return 0
	}
	return m & smb2.AccessMask(granted)
}

// everyone is the descriptor of a share that grants every account everything.
var everyone = &fscc.SecurityDescriptor{Control: fscc.SE_DACL_PRESENT, DACL: &fscc.ACL{
	ACEs: []fscc.ACE{fscc.Allow(fscc.SIDEveryone, fscc.FILE_ALL_ACCESS, 0)}}}

// securityDescriptor is Security for listings (MS-SRVS 2.2.4.26), nil if it
// cannot be encoded.
func (s *share) securityDescriptor() []byte {
	sd := s.Security
	if sd == nil {
		sd = everyone
	}
	b, err := sd.Marshal()
	if err != nil {
		return nil
	}
	return b
}

// mostAccess is the most an open on the share may have, whoever the user is.
func (s *share) mostAccess() smb2.AccessMask {
	const (
		read = smb2.FileReadData | smb2.FileReadEA | smb2.FileExecute | smb2.FileReadAttributes |
			smb2.ReadControl | smb2.Synchronize
		all = read | smb2.FileWriteData | smb2.FileAppendData | smb2.FileWriteEA | smb2.FileDeleteChild |
			smb2.FileWriteAttributes | smb2.Delete | smb2.WriteDAC | smb2.WriteOwner
	)
	if s.ReadOnly {
		return read
	}
	return all
}

// connect counts a tree connect; false if the share has been removed.
func (s *share) connect(t *tree) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return false
	}
	s.trees[t] = struct{}{}
	t.session.srv.metrics.trees.Inc()
	return true
}

func (s *share) disconnect(t *tree) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.trees[t]; ok {
		delete(s.trees, t)
		t.session.srv.metrics.trees.Dec()
	}
}

// close ends the share's tree connects, as after its removal (MS-SMB2 3.3.4.15).
func (s *share) close(ctx context.Context) {
	s.mu.Lock()
	s.gone = true
	var list []*tree
	for t := range s.trees {
		list = append(list, t)
	}
	s.mu.Unlock()
	for _, t := range list {
		t.end(ctx, errShareGone)
	}
	s.srv.closeParked(ctx, errShareGone, func(o *open) bool { return o.share == s })
}

// shareKey is the name under which a share is looked up.
func shareKey(name string) string { return strings.ToUpper(name) }

// findShare looks a share up by name, IPC$ included.
func (srv *Server) findShare(name string) *share {
	key := shareKey(name)
	if key == ipcName {
		return srv.ipc
	}
	srv.mu.Lock()
	defer srv.mu.Unlock()
	return srv.shares[key]
}

// Shares lists what the server shares, without IPC$, in no order.
func (srv *Server) Shares() []Share {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	list := make([]Share, 0, len(srv.shares))
	for _, s := range srv.shares {
		list = append(list, s.Share)
	}
	return list
}

// AddShare starts to serve a share: ErrShareExists, ErrShareName, ErrNoState, ErrNoFS.
func (srv *Server) AddShare(s Share) error {
	if err := s.check(); err != nil {
		return err
	}
	if err := srv.keepState(&s); err != nil {
		return err
	}
	n := srv.newShare(s)
	srv.restoreOpens(context.Background(), n)
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if srv.shares[shareKey(s.Name)] != nil {
		return fmt.Errorf("share %q: %w", s.Name, ErrShareExists)
	}
	srv.shares[shareKey(s.Name)] = n
	return nil
}

// RemoveShare stops serving a share: its tree connects end, and what is open in
// them is closed before it returns. ErrNoShare if there is none.
func (srv *Server) RemoveShare(ctx context.Context, name string) error {
	srv.mu.Lock()
	s := srv.shares[shareKey(name)]
	delete(srv.shares, shareKey(name))
	srv.mu.Unlock()
	if s == nil {
		return fmt.Errorf("share %q: %w", name, ErrNoShare)
	}
	s.close(ctx)
	srv.offloads.dropOf(s)
	return nil
}

// same reports whether nothing has changed between the two.
func (s *Share) same(t *Share) bool {
	a, b := *s, *t
	a.Security, b.Security = nil, nil
	return reflect.TypeOf(s.FS).Comparable() && a == b && reflect.DeepEqual(s.Security, t.Security)
}

// SetShares makes list what the server shares. Shares that are in it unchanged
// go on undisturbed; those that have changed or are missing end first. Nothing
// changes if one of the list is refused.
func (srv *Server) SetShares(ctx context.Context, list []Share) error {
	next := make(map[string]*share, len(list))
	for _, s := range list {
		if err := s.check(); err != nil {
			return err
		}
		if err := srv.keepState(&s); err != nil {
			return err
		}
		if next[shareKey(s.Name)] != nil {
			return fmt.Errorf("share %q: %w", s.Name, ErrShareExists)
		}
		next[shareKey(s.Name)] = srv.newShare(s)
	}
	for _, n := range next {
		srv.restoreOpens(ctx, n)
	}
	var ended []*share
	srv.mu.Lock()
	for key, s := range srv.shares {
		if n := next[key]; n != nil && n.Share.same(&s.Share) {
			next[key] = s
		} else {
			ended = append(ended, s)
		}
	}
	srv.shares = next
	srv.mu.Unlock()
	for _, s := range ended {
		s.close(ctx)
		srv.offloads.dropOf(s)
	}
	return nil
}
