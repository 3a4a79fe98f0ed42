package client

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"lunless/smbstore/smb2"
)

// File is an open file or folder. See the package comment for what becomes of it
// when the connection is lost.
type File struct {
	tree *Tree
	name string // as it travels
	guid smb2.GUID
	opts CreateOptions

	want    *LeaseRequest // nil: no lease
	lease   *lease
	leaseID string
	batch   bool // a batch oplock stands in for a lease

	cur    atomic.Pointer[handle]
	oplock atomic.Uint32

	reclaiming sync.Mutex // held while the handle is reclaimed

	mu      sync.Mutex // guards what follows
	opened  bool
	info    CreateInfo
	grant   Grant
	renamed string // the name it has by now, "" if never renamed
	// renaming is the name that it is being given: while the answer is out, it may
	// have either.
	renaming string
	ended    error // ErrClosed or *HandleLostError
	buckets  [lockBuckets]lockBucket
}

// handle is an open within one session.
type handle struct {
	link *treeLink
	id   smb2.FileID
}

// Grant is what the server granted of what an open asked for.
type Grant struct {
	Durability Durability
	Resilient  bool          // by RequestResiliency
	Timeout    time.Duration // how long the server keeps the handle; 0 if it did not say
	Lease      smb2.LeaseState
	Oplock     smb2.OplockLevel

	leased  bool
	maximal smb2.AccessMask
	diskID  uint64
}

// Name is the path within the share, with '\' between components.
func (f *File) Name() string { return f.name }

// Info is what the open found.
func (f *File) Info() CreateInfo {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.info
}

// Granted tells what the handle survives, and its lease or oplock of now.
func (f *File) Granted() Grant {
	f.mu.Lock()
	g := f.grant
	f.mu.Unlock()
	g.Oplock = smb2.OplockLevel(f.oplock.Load())
	if g.leased {
		g.Lease, _ = f.tree.client.leases.get(f.lease)
	}
	return g
}

func (f *File) durability() Durability {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.grant.Resilient && f.grant.Durability == NotDurable {
		return Durable
	}
	return f.grant.Durability
}

// gone is why the file is of no more use, nil if it is.
func (f *File) gone() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ended
}

// lose ends the file for good, unless it has ended.
func (f *File) lose(err error) error {
	f.mu.Lock()
	first := f.ended == nil
	if first {
		f.ended = err
	}
	err = f.ended
	f.mu.Unlock()
	if first {
		f.forget()
	}
	return err
}

// forget takes the file out of its tree.
func (f *File) forget() {
	if f.durability() != NotDurable {
		f.tree.client.durables.Add(-1)
	}
	f.tree.mu.Lock()
	delete(f.tree.files, f)
	f.tree.mu.Unlock()
	f.dropLease()
}

// live gives a handle of a live session, waiting for it to be reclaimed.
func (f *File) live(ctx context.Context) (*handle, error) {
	for try := 0; ; try++ {
		h := f.cur.Load()
		if err := f.gone(); err != nil {
			return nil, err
		}
		if !h.link.s.over.Load() {
			return h, nil
		}
		if f.durability() == NotDurable {
			return nil, f.lose(&HandleLostError{Name: f.name})
		}
		s, err := f.tree.client.session(ctx)
		if err != nil {
			return nil, err
		}
		if err := f.reclaim(ctx, s); err != nil && (!isLost(err) || try >= maxTries) {
			return nil, err
		}
	}
}

// reclaim has the server give the handle to a new session (MS-SMB2 3.2.4.4). Its
// errors are *HandleLostError, ErrClosed, and those of the connection.
func (f *File) reclaim(ctx context.Context, s *session) error {
	f.reclaiming.Lock()
	defer f.reclaiming.Unlock()
	if err := f.gone(); err != nil {
		return err
	}
	h := f.cur.Load()
	if h.link.s == s {
		return nil
	}
	if f.durability() == NotDurable {
		return f.lose(&HandleLostError{Name: f.name})
	}
	l, err := f.tree.connect(ctx, s)
	if err != nil {
		var refused *StatusError
		if errors.As(err, &refused) {
			return f.lose(&HandleLostError{Name: f.name, Err: err})
		}
		return err
	}
	var contexts []smb2.CreateContext
	if s.neg.dialect >= smb2.Dialect300 {
		r := smb2.DurableReconnectV2{FileID: h.id, CreateGUID: f.guid}
		if f.durability() == Persistent {
			r.Flags = smb2.DurableFlagPersistent
		}
		contexts = append(contexts, r.Context())
	} else {
		r := smb2.DurableReconnect{FileID: h.id}
		contexts = append(contexts, r.Context())
	}
	contexts = f.leaseContext(l, contexts)
	other := f.otherName()
	for try := 0; ; try++ {
		k, err := f.create(ctx, l, contexts, false)
		if err == nil {
			return f.adopt(k, l)
		}
		var refused *StatusError
		if !errors.As(err, &refused) {
			return err
		}
		if sessionGone(refused.Status) {
			s.end(err)
			return &lostError{err}
		}
		if refused.Status == smb2.StatusInvalidParameter && other != "" {
			// The name is not the one that the server has of it (MS-SMB2 3.3.5.9.12).
			f.mu.Lock()
			f.renamed, other = other, ""
			f.mu.Unlock()
			continue
		}
		if !reclaimAgain(refused.Status, try) {
			return f.lose(&HandleLostError{Name: f.name, Status: refused.Status})
		}
		if err := pause(ctx, try); err != nil {
			return err
		}
	}
}

// otherName is the name that a rename without an answer may have given the file,
// or "".
func (f *File) otherName() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.renaming
}

// reclaimAgain tells refusals that mean "not yet" from those that are final. A
// server may still be busy ending the session that the handle belonged to, or
// starting.
func reclaimAgain(status smb2.Status, try int) bool {
	switch status {
	case smb2.StatusFileNotAvailable, smb2.StatusServerUnavailable, smb2.StatusShareUnavailable, smb2.StatusDeviceNotReady, smb2.StatusRetry:
		return try < 30
	case smb2.StatusObjectNameNotFound, smb2.StatusSharingViolation, smb2.StatusInsufficientResources:
		return try < 3
	}
	return false
}

// sessionGone tells the statuses by which a server says that it no longer knows
// the session, or the tree connect within it.
func sessionGone(status smb2.Status) bool {
	return status == smb2.StatusUserSessionDeleted || status == smb2.StatusNetworkSessionExpired ||
		status == smb2.StatusNetworkNameDeleted || status == smb2.StatusConnectionDisconnected || status == smb2.StatusConnectionReset
}

// handleGone tells the statuses by which a server says that it no longer knows
// the handle.
func handleGone(status smb2.Status) bool {
	return status == smb2.StatusFileClosed || status == smb2.StatusFileForcedClosed || status == smb2.StatusInvalidHandle
}

// pause waits before the try-th repetition of what the server could not do yet.
func pause(ctx context.Context, try int) error {
	t := time.NewTimer(min(10*time.Millisecond<<min(try, 6), 500*time.Millisecond))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// prepare sets what a request within a tree connect has in its header.
func (cl *Client) prepare(k *call, c *conn, l *treeLink, replay bool) {
	k.hdr.TreeID = l.id
	if l.s.neg.dialect >= smb2.Dialect300 {
		k.hdr.ChannelSequence = uint16(cl.sequence.Load())
		if replay {
			k.hdr.Flags |= smb2.FlagReplayOperation
		}
	}
	c.protect(k, l.encrypt)
}

// verdict is what to do about a response or its absence.
type verdict struct {
	replay bool // the next try may repeat what was done
	try    int
	since  time.Time // when the server first said "not yet"
}

// again decides whether a request that failed is to be sent again, and waits if
// that is better. It returns the error to fail with, or nil to try again. status
// counts if err is nil.
func (v *verdict) again(ctx context.Context, f *File, h *handle, command smb2.Command, err error, status smb2.Status) error {
	v.try++
	switch {
	case err != nil && !isLost(err):
		return err
	case err != nil:
		v.replay = true
	case sessionGone(status):
		err = &StatusError{Command: command, Name: f.name, Status: status}
		h.link.s.end(err)
	case handleGone(status):
		return f.lose(&HandleLostError{Name: f.name, Status: status})
	case status == smb2.StatusFileNotAvailable && f.tree.client.sequence.Load() > 0:
		// An older request under an older sequence number is still being carried out,
		// or this one was overtaken by a newer number (MS-SMB2 3.3.5.2.10).
		err = &StatusError{Command: command, Name: f.name, Status: status}
		if v.since.IsZero() {
			v.since = time.Now()
		}
		if time.Since(v.since) > f.tree.client.cfg.ReconnectTimeout {
			return err
		}
		v.try--
		return pause(ctx, int(time.Since(v.since)/(20*time.Millisecond)))
	default:
		return &StatusError{Command: command, Name: f.name, Status: status}
	}
	if v.try > maxTries {
		return err
	}
	return nil
}

// request is one exchange about an open file.
type request struct {
	command smb2.Command
	charge  int // credits for its larger direction
	patient bool
	// build makes the message for a handle and the room that the credits give, bytes.
	build func(id smb2.FileID, room int) message
	// accept tells which statuses besides success come back with a response.
	accept func(smb2.Status) bool
}

// do runs a request until it is answered and gives a copy of the response.
func (f *File) do(ctx context.Context, q request) ([]byte, smb2.Status, error) {
	var v verdict
	for {
		h, err := f.live(ctx)
		if err != nil {
			return nil, 0, err
		}
		body, status, err := f.try(ctx, h, &q, v.replay)
		if err == nil && (status == smb2.StatusSuccess || q.accept != nil && q.accept(status)) {
			return body, status, nil
		}
		if err := v.again(ctx, f, h, q.command, err, status); err != nil {
			return nil, status, err
		}
	}
}

// try sends a request once.
func (f *File) try(ctx context.Context, h *handle, q *request, replay bool) ([]byte, smb2.Status, error) {
	c, err := h.link.s.channel(ctx)
	if err != nil {
		return nil, 0, err
	}
	k := newCall(q.command)
	k.patient = q.patient
	f.tree.client.prepare(k, c, h.link, replay)
	if err := c.reserve(ctx, k, q.charge); err != nil {
		return nil, 0, err
	}
	c.send(ctx, k, q.build(h.id, k.room()), nil)
	if err := k.wait(ctx); err != nil {
		return nil, 0, err
	}
	defer k.free()
	return append([]byte(nil), k.body...), k.resp.Status, nil
}

// Close closes the handle at the server. A second Close is ErrClosed.
func (f *File) Close() error {
	return f.CloseContext(context.Background())
}

// CloseContext is Close within the time that ctx gives; then the server keeps the
// handle until its session ends.
func (f *File) CloseContext(ctx context.Context) error {
	_, _, err := f.do(ctx, request{command: smb2.CommandClose, charge: 1, patient: true,
		build:  func(id smb2.FileID, _ int) message { return &smb2.CloseRequest{FileID: id} },
		accept: handleGone})
	lost := errors.Is(err, ErrHandleLost)
	f.mu.Lock()
	was := f.ended
	f.ended = ErrClosed
	f.mu.Unlock()
	if was == nil {
		f.forget()
	}
	if was == ErrClosed {
		return ErrClosed
	}
	if lost {
		return nil
	}
	return err
}
