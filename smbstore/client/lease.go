package client

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// lease is a caching state that the opens of one name share (MS-SMB2 3.2.1.5,
// File). The client itself caches nothing: leases are held for the durability that
// handle caching gives, and for who wants to know that nobody else has been there.
type lease struct {
	key   smb2.GUID
	tree  *Tree // whose file it is
	state smb2.LeaseState
	epoch uint16
	refs  int
}

// leaseTable holds the leases of a Client by share and name.
type leaseTable struct {
	mu sync.Mutex
	m  map[string]*lease
}

// use gives the lease of a name, a new one if it has none, and counts its use. An
// explicit key has a lease of its own.
func (t *leaseTable) use(tree *Tree, name string, key smb2.GUID) (id string, l *lease) {
	id = fscc.UpcaseName(tree.share + `\` + name)
	if !key.IsZero() {
		id = string(key[:])
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	l = t.m[id]
	if l == nil {
		l = &lease{key: key, tree: tree}
		if key.IsZero() {
			_, _ = rand.Read(l.key[:]) // never fails (crypto/rand)
		}
		t.m[id] = l
	}
	l.refs++
	return id, l
}

func (t *leaseTable) drop(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.m[id]; l != nil {
		if l.refs--; l.refs == 0 {
			delete(t.m, id)
		}
	}
}

// set notes what the server granted.
func (t *leaseTable) set(l *lease, state smb2.LeaseState, epoch uint16) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l.state, l.epoch = state, epoch
}

func (t *leaseTable) get(l *lease) (smb2.LeaseState, uint16) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return l.state, l.epoch
}

// broken notes a break and gives the tree of the lease, nil if there is no such
// lease any more.
func (t *leaseTable) broken(key smb2.GUID, to smb2.LeaseState, epoch uint16) *Tree {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.m {
		if l.key == key {
			l.state = to
			if epoch != 0 {
				l.epoch = epoch
			}
			return l.tree
		}
	}
	return nil
}

// maxBreaks bounds the breaks that wait to be acknowledged. A server that sends
// more than that without waiting for an answer is given up.
const maxBreaks = 4096

type breakNotice struct {
	s   *session
	msg []byte
}

func (cl *Client) queueBreak(s *session, msg []byte) error {
	select {
	case cl.breaks <- breakNotice{s, append([]byte(nil), msg...)}:
		return nil
	default:
		return protocolError("more than %d breaks at once", maxBreaks)
	}
}

// serveBreaks acknowledges breaks at once: the client has nothing cached to write
// back (MS-SMB2 3.2.5.19).
func (cl *Client) serveBreaks() {
	for {
		select {
		case <-cl.ctx.Done():
			return
		case b := <-cl.breaks:
			if err := cl.serveBreak(b.s, b.msg); err != nil {
				cl.cfg.Logger.Info("break not acknowledged", "server", cl.cfg.Addr, "error", err)
			}
		}
	}
}

func (cl *Client) serveBreak(s *session, msg []byte) error {
	ctx, cancel := context.WithTimeout(cl.ctx, cl.cfg.RequestTimeout)
	defer cancel()
	if !smb2.IsLeaseBreak(msg) {
		return cl.serveOplockBreak(ctx, s, msg)
	}
	var m smb2.LeaseBreakNotification
	if err := m.Decode(msg); err != nil {
		return err
	}
	t := cl.leases.broken(m.LeaseKey, m.NewLeaseState, m.NewEpoch)
	var err error
	if l := t.linkOf(s); l != nil && m.Flags&smb2.LeaseFlagBreakAckRequired != 0 {
		err = s.acknowledge(ctx, l, &smb2.LeaseBreakAcknowledgment{LeaseKey: m.LeaseKey, LeaseState: m.NewLeaseState})
	}
	if cl.cfg.LeaseBreak != nil {
		cl.cfg.LeaseBreak(LeaseBreak{Key: m.LeaseKey, From: m.CurrentLeaseState, To: m.NewLeaseState})
	}
	return err
}

// oplockState is what an oplock level lets a client cache.
func oplockState(l smb2.OplockLevel) smb2.LeaseState {
	switch l {
	case smb2.OplockII:
		return smb2.LeaseReadCaching
	case smb2.OplockExclusive:
		return smb2.LeaseReadCaching | smb2.LeaseWriteCaching
	case smb2.OplockBatch:
		return smb2.LeaseReadCaching | smb2.LeaseWriteCaching | smb2.LeaseHandleCaching
	}
	return 0
}

func (cl *Client) serveOplockBreak(ctx context.Context, s *session, msg []byte) error {
	var m smb2.OplockBreakNotification
	if err := m.Decode(msg); err != nil {
		return err
	}
	f := cl.findFile(s, m.FileID)
	for range 50 { // the break may have overtaken whoever takes in the CREATE's response
		if f != nil {
			break
		}
		time.Sleep(2 * time.Millisecond)
		f = cl.findFile(s, m.FileID)
	}
	if f == nil {
		return fmt.Errorf("oplock break of a file that is not open: %v", m.FileID)
	}
	h := f.cur.Load()
	from := smb2.OplockLevel(f.oplock.Swap(uint32(m.OplockLevel)))
	var err error
	if from == smb2.OplockExclusive || from == smb2.OplockBatch {
		err = s.acknowledge(ctx, h.link, &smb2.OplockBreakAcknowledgment{OplockLevel: m.OplockLevel, FileID: m.FileID})
	}
	if cl.cfg.LeaseBreak != nil {
		cl.cfg.LeaseBreak(LeaseBreak{FileID: m.FileID, From: oplockState(from), To: oplockState(m.OplockLevel)})
	}
	return err
}

// acknowledge answers a break. A server that has given up waiting refuses it.
func (s *session) acknowledge(ctx context.Context, l *treeLink, m message) error {
	c, err := s.channel(ctx)
	if err != nil {
		return err
	}
	k := newCall(smb2.CommandOplockBreak)
	k.hdr.TreeID = l.id
	c.protect(k, l.encrypt)
	_, err = c.exchange(ctx, k, m)
	return err
}

func (cl *Client) findFile(s *session, id smb2.FileID) *File {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	for t := range cl.trees {
		t.mu.Lock()
		for f := range t.files {
			if h := f.cur.Load(); h != nil && h.link.s == s && h.id == id {
				t.mu.Unlock()
				return f
			}
		}
		t.mu.Unlock()
	}
	return nil
}
