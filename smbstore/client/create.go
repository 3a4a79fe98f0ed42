package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// Durability says what of a handle outlives its connection.
type Durability uint8

const (
	// NotDurable: the handle ends with its session.
	NotDurable Durability = iota
	// Durable: it survives a lost network, for as long as nobody else wants the file.
	Durable
	// Persistent: it survives the server too, on a share that is continuously
	// available; elsewhere the same as Durable.
	Persistent
)

func (d Durability) String() string {
	return [...]string{"not durable", "durable", "persistent"}[min(d, Persistent)]
}

// LeaseRequest asks for a lease.
type LeaseRequest struct {
	State smb2.LeaseState
	// Key is random and shared by the client's opens of one name if zero. An open
	// breaks no lease of its own key.
	Key smb2.GUID
	// Parent is the key of the lease on the folder, zero for none (SMB 3).
	Parent smb2.GUID
}

// CreateOptions say how to open (MS-SMB2 2.2.13). The zero value opens nothing:
// Access is needed.
type CreateOptions struct {
	Access      smb2.AccessMask
	Share       smb2.ShareAccess
	Disposition smb2.CreateDisposition
	Options     smb2.CreateOptions
	Attributes  uint32 // of a new file (MS-FSCC 2.6)
	// WriteThrough has every change on stable storage before it is acknowledged.
	WriteThrough bool
	// Durable asks for a handle that survives; what came of it: File.Granted. It
	// comes with a lease for reading and handle caching unless Lease says otherwise.
	Durable Durability
	// Timeout is how long the server is to keep the handle; 0 leaves it to the server.
	Timeout time.Duration
	Lease   *LeaseRequest
	// AppInstanceID names the application whose open takes the place of its older
	// ones, of a lower or no AppInstanceVersion (SMB 3; MS-SMB2 3.3.5.9.13). With a
	// version it needs SMB 3.1.1, and is left out before: without its version an older
	// instance would take the place of a newer.
	AppInstanceID      smb2.GUID
	AppInstanceVersion *smb2.AppInstanceVersion
	AllocationSize     uint64 // of a new file, bytes
	SecurityDescriptor []byte // of a new file, self-relative (MS-DTYP 2.4.6)
	ExtendedAttributes []byte // of a new file, a list of FILE_FULL_EA_INFORMATION
	MaximalAccess      bool   // ask for it: CreateInfo.MaximalAccess
}

// CreateInfo is what a CREATE found or made.
type CreateInfo struct {
	Action         smb2.CreateAction
	Created        fscc.Filetime
	Accessed       fscc.Filetime
	Written        fscc.Filetime
	Changed        fscc.Filetime
	AllocationSize int64
	Size           int64
	Attributes     uint32
	MaximalAccess  smb2.AccessMask // 0 if not asked for or not told
	FileID         uint64          // on the volume, 0 if not told
}

// maxTries bounds how often one request is sent again because its connection was
// lost each time.
const maxTries = 64

// Create opens or makes a file or folder. name has '\' or '/' between components.
//
// An open whose answer is lost is sent again: as a replay that the server answers
// from the first one if it was to be durable, and otherwise if it changes nothing.
// For others the error is ErrConnectionLost. Refusals are *StatusError.
func (t *Tree) Create(ctx context.Context, name string, o CreateOptions) (*File, error) {
	f := &File{tree: t, name: wirePath(name), opts: o}
	if o.Durable != NotDurable {
		_, _ = rand.Read(f.guid[:]) // never fails (crypto/rand)
	}
	if err := f.prepareLease(); err != nil {
		return nil, err
	}
	if err := f.open(ctx); err != nil {
		f.dropLease()
		return nil, err
	}
	t.mu.Lock()
	closed := t.closed
	if !closed {
		t.files[f] = struct{}{}
	}
	t.mu.Unlock()
	if f.durability() != NotDurable {
		t.client.durables.Add(1)
	}
	if closed {
		return nil, ErrClosed
	}
	return f, nil
}

// prepareLease chooses the lease that the open asks for.
func (f *File) prepareLease() error {
	s := f.tree.client.cur.Load()
	want := f.opts.Lease
	if want == nil && f.opts.Durable != NotDurable {
		want = &LeaseRequest{State: smb2.LeaseReadCaching | smb2.LeaseHandleCaching}
	}
	if want == nil || want.State == 0 {
		return nil
	}
	if s.neg.dialect < smb2.Dialect210 || s.neg.capabilities&smb2.CapLeasing == 0 {
		if f.opts.Lease != nil {
			return fmt.Errorf("lease: %w", ErrNotSupported)
		}
		f.batch = true
		return nil
	}
	f.want = want
	f.leaseID, f.lease = f.tree.client.leases.use(f.tree, f.name, want.Key)
	return nil
}

func (f *File) dropLease() {
	if f.lease != nil {
		f.tree.client.leases.drop(f.leaseID)
	}
}

// open runs the CREATE until it is answered.
func (f *File) open(ctx context.Context) error {
	replay := false
	for try := 0; ; try++ {
		l, err := f.tree.link(ctx)
		if err != nil {
			return err
		}
		k, err := f.create(ctx, l, f.contexts(l), replay)
		if err == nil {
			return f.adopt(k, l)
		}
		var refused *StatusError
		switch {
		case errors.As(err, &refused):
			if sessionGone(refused.Status) {
				l.s.end(err)
			} else if refused.Status == smb2.StatusFileNotAvailable && f.tree.client.sequence.Load() > 0 {
				// What the file is kept for may be this very open, if its lease was
				// acknowledged through another: that ends replays (MS-SMB2 3.3.5.22.2).
				if replay && f.reclaimUnknown(ctx, l) == nil {
					return nil
				}
				if err := pause(ctx, try); err != nil {
					return err
				}
			} else if replay && stillAtIt(refused.Status) {
				if err := pause(ctx, try); err != nil {
					return err
				}
			} else if replay && refused.Status == smb2.StatusObjectNameCollision && f.opts.Disposition == smb2.FileCreate {
				// A server that knows no replays may have found our own doing.
				return &lostError{err}
			} else if !(replay && refused.Status == smb2.StatusDuplicateObjectid) {
				return err
			} else if err = f.reclaimUnknown(ctx, l); err == nil {
				return nil
			}
		case !isLost(err):
			return err
		default:
			v2 := l.s.neg.dialect >= smb2.Dialect300 && f.opts.Durable != NotDurable
			harmless := f.opts.Disposition == smb2.FileOpen && f.opts.Options&smb2.FileDeleteOnClose == 0
			if !v2 && !harmless {
				return err
			}
			replay = v2
		}
		if try >= maxTries {
			return err
		}
	}
}

// stillAtIt tells the statuses with which a server answers a replay while it still
// works on the CREATE that came over the lost connection, or takes that
// connection's opens down: Windows says STATUS_ACCESS_DENIED.
func stillAtIt(status smb2.Status) bool {
	return status == smb2.StatusAccessDenied || status == smb2.StatusFileClosed
}

// reclaimUnknown takes over an open of which the answer was lost with the session:
// only a persistent one can be found by its CreateGuid alone (MS-SMB2 3.3.5.9.12).
func (f *File) reclaimUnknown(ctx context.Context, l *treeLink) error {
	lost := &lostError{errors.New("the server keeps an open whose answer was lost")}
	if f.opts.Durable != Persistent || !caps(l) {
		return lost
	}
	r := smb2.DurableReconnectV2{CreateGUID: f.guid, Flags: smb2.DurableFlagPersistent}
	k, err := f.create(ctx, l, f.leaseContext(l, []smb2.CreateContext{r.Context()}), false)
	if err != nil {
		return err
	}
	return f.adopt(k, l)
}

// caps reports whether a tree connect gives persistent handles.
func caps(l *treeLink) bool {
	return l.info.Capabilities&smb2.ShareCapContinuousAvailability != 0 && l.s.neg.capabilities&smb2.CapPersistentHandles != 0
}

// contexts are those of a new open.
func (f *File) contexts(l *treeLink) []smb2.CreateContext {
	o := &f.opts
	v3 := l.s.neg.dialect >= smb2.Dialect300
	var list []smb2.CreateContext
	switch {
	case o.Durable == NotDurable:
	case v3:
		q := smb2.DurableRequestV2{Timeout: uint32(min(o.Timeout.Milliseconds(), 1<<31)), CreateGUID: f.guid}
		if o.Durable == Persistent && caps(l) {
			q.Flags = smb2.DurableFlagPersistent
		}
		list = append(list, q.Context())
	case l.s.neg.dialect >= smb2.Dialect202:
		list = append(list, smb2.DurableRequest{}.Context())
	}
	list = f.leaseContext(l, list)
	if versioned := o.AppInstanceVersion != nil; !o.AppInstanceID.IsZero() && v3 && (!versioned || l.s.neg.dialect >= smb2.Dialect311) {
		c := smb2.AppInstanceID{ID: o.AppInstanceID}
		list = append(list, c.Context())
		if versioned {
			list = append(list, o.AppInstanceVersion.Context())
		}
	}
	if o.AllocationSize > 0 {
		c := smb2.AllocationSize{AllocationSize: o.AllocationSize}
		list = append(list, c.Context())
	}
	if len(o.SecurityDescriptor) > 0 {
		list = append(list, smb2.SDBufferContext(o.SecurityDescriptor))
	}
	if len(o.ExtendedAttributes) > 0 {
		list = append(list, smb2.EABufferContext(o.ExtendedAttributes))
	}
	if o.MaximalAccess {
		c := smb2.MaximalAccessRequest{}
		list = append(list, c.Context())
	}
	return append(list, smb2.OnDiskIDRequest())
}

// leaseContext adds the context of the file's lease, if it has one.
func (f *File) leaseContext(l *treeLink, list []smb2.CreateContext) []smb2.CreateContext {
	if f.lease == nil {
		return list
	}
	state, epoch := f.tree.client.leases.get(f.lease)
	if f.cur.Load() == nil {
		state |= f.want.State
	}
	c := smb2.Lease{Version: 1, LeaseKey: f.lease.key, LeaseState: state}
	if l.s.neg.dialect >= smb2.Dialect300 {
		c.Version, c.Epoch = 2, epoch
		if !f.want.Parent.IsZero() {
			c.ParentLeaseKey, c.Flags = f.want.Parent, smb2.LeaseFlagParentLeaseKeySet
		}
	}
	return append(list, c.Context())
}

// create sends one CREATE and gives its successful response.
func (f *File) create(ctx context.Context, l *treeLink, contexts []smb2.CreateContext, replay bool) (*call, error) {
	c, err := l.s.channel(ctx)
	if err != nil {
		return nil, err
	}
	o := &f.opts
	q := &smb2.CreateRequest{
		ImpersonationLevel: smb2.ImpersonationImpersonation, DesiredAccess: o.Access, FileAttributes: o.Attributes,
		ShareAccess: o.Share, CreateDisposition: o.Disposition, CreateOptions: o.Options, Name: f.name, Contexts: contexts,
	}
	if o.WriteThrough {
		q.CreateOptions |= smb2.FileWriteThrough
	}
	switch {
	case f.lease != nil:
		q.RequestedOplockLevel = smb2.OplockLease
	case f.batch:
		q.RequestedOplockLevel = smb2.OplockBatch
	}
	f.mu.Lock()
	if f.renamed != "" {
		q.Name = f.renamed
	}
	f.mu.Unlock()
	k := newCall(smb2.CommandCreate)
	k.patient = true
	k.late = closeLate(l)
	f.tree.client.prepare(k, c, l, replay)
	if err := c.reserve(ctx, k, 1); err != nil {
		return nil, err
	}
	c.send(ctx, k, q, nil)
	if err := k.wait(ctx); err != nil {
		return nil, err
	}
	if k.resp.Status != smb2.StatusSuccess {
		defer k.free()
		return nil, &StatusError{Command: smb2.CommandCreate, Name: f.name, Status: k.resp.Status}
	}
	return k, nil
}

// closeLate closes what was opened for a caller that had stopped waiting.
func closeLate(l *treeLink) func(*conn, []byte) {
	return func(c *conn, body []byte) {
		var m smb2.CreateResponse
		if m.Decode(body) != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), c.cfg.RequestTimeout)
		defer cancel()
		k := newCall(smb2.CommandClose)
		k.hdr.TreeID = l.id
		c.protect(k, l.encrypt)
		_, _ = c.exchange(ctx, k, &smb2.CloseRequest{FileID: m.FileID})
	}
}

// adopt takes in the response of a CREATE, new or reclaiming, and frees it.
func (f *File) adopt(k *call, l *treeLink) error {
	defer k.free()
	var m smb2.CreateResponse
	if err := m.Decode(k.body); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	g := Grant{}
	for _, x := range m.Contexts {
		if err := f.adoptContext(&g, x); err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
	}
	if m.EndOfFile > 1<<63-1 || m.AllocationSize > 1<<63-1 {
		return protocolError("a file of %d bytes, %d allocated", m.EndOfFile, m.AllocationSize)
	}
	f.oplock.Store(uint32(m.OplockLevel))
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.opened {
		f.opened = true
		f.info.Action, f.info.Attributes = m.CreateAction, m.FileAttributes
		f.info.Created, f.info.Accessed = fscc.Filetime(m.CreationTime), fscc.Filetime(m.LastAccessTime)
		f.info.Written, f.info.Changed = fscc.Filetime(m.LastWriteTime), fscc.Filetime(m.ChangeTime)
		f.info.AllocationSize, f.info.Size = int64(m.AllocationSize), int64(m.EndOfFile)
		f.info.MaximalAccess, f.info.FileID = g.maximal, g.diskID
		f.grant = g
	}
	f.cur.Store(&handle{link: l, id: m.FileID})
	return nil
}

func (f *File) adoptContext(g *Grant, x smb2.CreateContext) error {
	switch x.Name {
	case smb2.CreateContextDurableRequestV2:
		var r smb2.DurableResponseV2
		if err := r.Decode(x.Data); err != nil {
			return err
		}
		g.Durability, g.Timeout = Durable, time.Duration(r.Timeout)*time.Millisecond
		if r.Flags&smb2.DurableFlagPersistent != 0 {
			g.Durability = Persistent
		}
	case smb2.CreateContextDurableRequest:
		g.Durability = Durable
	case smb2.CreateContextLease:
		var r smb2.Lease
		if err := r.Decode(x.Data); err != nil {
			return err
		}
		if f.lease == nil || r.LeaseKey != f.lease.key {
			return errors.New("a lease that was not asked for")
		}
		f.tree.client.leases.set(f.lease, r.LeaseState, r.Epoch)
		g.leased = true
	case smb2.CreateContextMaximalAccess:
		var r smb2.MaximalAccessResponse
		if err := r.Decode(x.Data); err != nil {
			return err
		}
		if r.QueryStatus == smb2.StatusSuccess {
			g.maximal = r.MaximalAccess
		}
	case smb2.CreateContextOnDiskID:
		var r smb2.OnDiskID
		if err := r.Decode(x.Data); err != nil {
			return err
		}
		g.diskID = r.DiskFileID
	}
	return nil
}
