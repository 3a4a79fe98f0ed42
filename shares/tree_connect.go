package shares

import (
	"context"
	"errors"
	"strings"

	"lunless/smbstore/smb2"
)

// handleTreeConnect answers TREE_CONNECT (MS-SMB2 3.3.5.7).
func handleTreeConnect(_ context.Context, r *request) error {
	c, s := r.conn, r.session
	if c.neg.dialect == smb2.Dialect311 && !s.anonymous && !r.encrypted && r.hdr.Flags&smb2.FlagSigned == 0 {
		return errDisconnect
	}
	if c.neg.dialect < smb2.Dialect311 { // Flags is reserved (2.2.9)
		clear(r.msg[smb2.HeaderSize+2 : smb2.HeaderSize+4])
	}
	var q smb2.TreeConnectRequest
	if err := q.Decode(r.msg); err != nil {
		return err
	}
	name, ok := shareOfPath(q.Path)
	if !ok {
		return smb2.StatusInvalidParameter
	}
	sh := c.srv.findShare(name)
	switch {
	case sh == nil:
		return smb2.StatusBadNetworkName
	case s.anonymous && !sh.ipc, sh.Encrypt && c.neg.cipher == 0:
		return smb2.StatusAccessDenied
	}
	access := sh.maximalAccess(&s.token)
	if access == 0 {
		return smb2.StatusAccessDenied
	}
	t := &tree{session: s, share: sh, fs: sh.FS, access: access, ipc: sh.ipc, encrypt: sh.Encrypt}
	if err := s.addTree(t); err != nil {
		return err
	}
	r.hdr.TreeID = t.id
	c.log.Info("tree connected", "user", s.user, "share", sh.Name)
	return r.respond(t.response())
}

// shareOfPath is the share's name in \\server\share (MS-SMB2 2.2.9).
func shareOfPath(path string) (string, bool) {
	rest, ok := strings.CutPrefix(path, `\\`)
	if !ok {
		return "", false
	}
	server, name, ok := strings.Cut(rest, `\`)
	name = strings.TrimSuffix(name, "\x00")
	return name, ok && server != "" && name != "" && !strings.Contains(name, `\`)
}

// addTree gives a tree connect its id: unique in the session, never 0 or all ones.
func (s *session) addTree(t *tree) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.valid.Load() {
		return smb2.StatusUserSessionDeleted
	}
	if len(s.trees) >= s.srv.cfg.Limits.Trees {
		return smb2.StatusInsufficientResources
	}
	if !t.share.connect(t) {
		return smb2.StatusBadNetworkName
	}
	for t.id == 0 || t.id == ^uint32(0) || s.trees[t.id] != nil {
		s.lastTree++
		t.id = s.lastTree
	}
	s.trees[t.id] = t
	return nil
}

// response describes the share. The server caches nothing on behalf of clients,
// and is no cluster. Continuous availability is for SMB 3 (MS-SMB2 3.3.5.7).
func (t *tree) response() *smb2.TreeConnectResponse {
	m := &smb2.TreeConnectResponse{ShareType: smb2.ShareTypeDisk, MaximalAccess: t.access}
	if t.ipc {
		m.ShareType = smb2.ShareTypePipe
		m.ShareFlags |= smb2.ShareFlagNoCaching
	}
	if t.share.ContinuouslyAvailable && t.session.dialect >= smb2.Dialect300 {
		m.Capabilities |= smb2.ShareCapContinuousAvailability
	}
	if t.encrypt {
		m.ShareFlags |= smb2.ShareFlagEncryptData
	}
	if t.share.AccessBased {
		m.ShareFlags |= smb2.ShareFlagAccessBasedDirectoryEnum
	}
	return m
}

var errTreeDisconnect = errors.New("disconnected by the client")

// handleTreeDisconnect answers TREE_DISCONNECT (MS-SMB2 3.3.5.8).
func handleTreeDisconnect(ctx context.Context, r *request) error {
	if !r.tree.end(ctx, errTreeDisconnect) {
		return smb2.StatusNetworkNameDeleted
	}
	return r.respond(&smb2.TreeDisconnectResponse{})
}
