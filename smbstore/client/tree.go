package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"lunless/smbstore/smb2"
)

// Tree is a share that the Client is connected to.
type Tree struct {
	client *Client
	share  string
	cur    atomic.Pointer[treeLink]

	connecting sync.Mutex // held while connecting

	mu     sync.Mutex // guards files and closed
	files  map[*File]struct{}
	closed bool
}

// treeLink is a tree connect within one session.
type treeLink struct {
	s       *session
	id      uint32
	info    smb2.TreeConnectResponse
	encrypt bool
}

// TreeConnect connects to a share (MS-SMB2 3.2.4.2.4). Errors are *StatusError,
// with STATUS_BAD_NETWORK_NAME for a share that is not there, and ErrSecurity.
func (cl *Client) TreeConnect(ctx context.Context, share string) (*Tree, error) {
	t := &Tree{client: cl, share: share, files: map[*File]struct{}{}}
	if _, err := t.link(ctx); err != nil {
		return nil, err
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.closed {
		return nil, ErrClosed
	}
	cl.trees[t] = struct{}{}
	return t, nil
}

// link gives the tree connect of a live session, connecting if need be.
func (t *Tree) link(ctx context.Context) (*treeLink, error) {
	for try := 0; ; try++ {
		if l := t.cur.Load(); l != nil && !l.s.over.Load() {
			return l, nil
		}
		s, err := t.client.session(ctx)
		if err != nil {
			return nil, err
		}
		l, err := t.connect(ctx, s)
		if err == nil || !isLost(err) || try >= maxTries {
			return l, err
		}
	}
}

// connect makes the tree connect of a session, once.
func (t *Tree) connect(ctx context.Context, s *session) (*treeLink, error) {
	t.connecting.Lock()
	defer t.connecting.Unlock()
	t.mu.Lock()
	closed := t.closed
	t.mu.Unlock()
	if closed {
		return nil, ErrClosed
	}
	if l := t.cur.Load(); l != nil && l.s == s {
		return l, nil
	}
	c, err := s.channel(ctx)
	if err != nil {
		return nil, err
	}
	k := newCall(smb2.CommandTreeConnect)
	c.protect(k, false)
	k.sign = !k.seal // MS-SMB2 3.2.4.1.1 leaves it open; 3.1.1 servers insist (3.3.5.2.4)
	if err := c.reserve(ctx, k, 1); err != nil {
		return nil, err
	}
	c.send(ctx, k, &smb2.TreeConnectRequest{Path: `\\` + t.client.cfg.ServerName + `\` + t.share}, nil)
	if err := k.wait(ctx); err != nil {
		return nil, err
	}
	defer k.free()
	if k.resp.Status != smb2.StatusSuccess {
		return nil, &StatusError{Command: smb2.CommandTreeConnect, Name: t.share, Status: k.resp.Status}
	}
	l := &treeLink{s: s, id: k.resp.TreeID}
	if err := l.info.Decode(k.body); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	l.encrypt = s.encrypt || l.info.ShareFlags&smb2.ShareFlagEncryptData != 0
	if l.encrypt && s.sealer == nil {
		return nil, fmt.Errorf("%w: share %s wants encryption, and no cipher was agreed on", ErrSecurity, t.share)
	}
	if err := s.validateNegotiate(ctx, c, l.id, l.encrypt); err != nil {
		if !isLost(err) && ctx.Err() == nil {
			c.kill(err)
		}
		return nil, err
	}
	t.cur.Store(l)
	return l, nil
}

// restore connects again within a new session and reclaims what the server kept.
// Its errors are about the connection; refusals stay with the tree and its files.
func (t *Tree) restore(ctx context.Context, s *session) error {
	if _, err := t.connect(ctx, s); err != nil {
		var refused *StatusError
		if errors.As(err, &refused) || errors.Is(err, ErrClosed) {
			return nil
		}
		return err
	}
	t.mu.Lock()
	files := make([]*File, 0, len(t.files))
	for f := range t.files {
		files = append(files, f)
	}
	t.mu.Unlock()
	for _, f := range files {
		if err := f.reclaim(ctx, s); err != nil && !errors.Is(err, ErrHandleLost) && !errors.Is(err, ErrClosed) {
			return err
		}
	}
	return nil
}

// Share is the name the share was connected by.
func (t *Tree) Share() string { return t.share }

// Flags and Capabilities are the share's, as of the last connect.
func (t *Tree) Flags() smb2.ShareFlags               { return t.cur.Load().info.ShareFlags }
func (t *Tree) Capabilities() smb2.ShareCapabilities { return t.cur.Load().info.Capabilities }

// MaximalAccess is what the user may do at most on the share.
func (t *Tree) MaximalAccess() smb2.AccessMask { return t.cur.Load().info.MaximalAccess }

// ContinuouslyAvailable reports whether the share keeps persistent handles.
func (t *Tree) ContinuouslyAvailable() bool {
	l := t.cur.Load()
	return l.info.Capabilities&smb2.ShareCapContinuousAvailability != 0 && l.s.neg.capabilities&smb2.CapPersistentHandles != 0
}

// Encrypted reports whether what belongs to the share travels encrypted.
func (t *Tree) Encrypted() bool { return t.cur.Load().encrypt }

// Close disconnects from the share. Its files are of no more use.
func (t *Tree) Close() error {
	t.mu.Lock()
	closed := t.closed
	t.closed = true
	t.mu.Unlock()
	if closed {
		return nil
	}
	t.client.mu.Lock()
	delete(t.client.trees, t)
	t.client.mu.Unlock()
	l := t.cur.Load()
	c := l.s.pick()
	if c == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(t.client.ctx, t.client.cfg.RequestTimeout)
	defer cancel()
	k := newCall(smb2.CommandTreeDisconnect)
	c.protect(k, l.encrypt)
	k.hdr.TreeID = l.id
	_, err := c.exchange(ctx, k, &smb2.TreeDisconnectRequest{})
	if isLost(err) {
		return nil
	}
	return err
}

// wirePath is a name as it travels: '\' between components, none in front.
func wirePath(name string) string {
	return strings.Trim(strings.ReplaceAll(name, "/", `\`), `\`)
}

// linkOf is the tree connect within a session, nil if that is another one's.
func (t *Tree) linkOf(s *session) *treeLink {
	if t == nil {
		return nil
	}
	if l := t.cur.Load(); l != nil && l.s == s {
		return l
	}
	return nil
}
