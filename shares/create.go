package shares

import (
	"context"
	"errors"
	"fmt"

	"lunless/shares/fs"
	"lunless/shares/state"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// handleCreate opens or creates what a name says (MS-SMB2 3.3.5.9). It waits for
// other clients to give up what they cache, or to close what keeps it out.
func handleCreate(ctx context.Context, r *request) error {
	c := &creation{r: r}
	if err := c.req.Decode(r.msg); err != nil {
		return err
	}
	_, v1 := smb2.FindCreateContext(c.req.Contexts, smb2.CreateContextDurableReconnect)
	_, v2 := smb2.FindCreateContext(c.req.Contexts, smb2.CreateContextDurableReconnectV2)
	if c.req.ImpersonationLevel > smb2.ImpersonationDelegate && !v1 && !v2 { // who reclaims says little that counts
		return smb2.StatusBadImpersonationLevel
	}
	if r.tree.ipc {
		return c.openPipe(ctx)
	}
	if err := c.begin(); err != nil {
		return err
	}
	return r.waiting(ctx, c.attempt, c.finish)
}

// attempt runs the CREATE from the beginning: what a name leads to may be another
// file after a wait.
func (c *creation) attempt(ctx context.Context, off bool) error {
	r := c.r
	if c.first != nil && off { // in the order in which they came
		select {
		case <-c.first:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := c.req.Decode(r.msg); err != nil {
		return err
	}
	o, err := c.runNamed(ctx)
	if waitOf(err) != nil {
		return err
	}
	if err != nil {
		return &nameError{c.req.Name, fmt.Errorf("create %q, access %#x, disposition %d, options %#x: %w", c.req.Name,
			uint32(c.req.DesiredAccess), c.req.CreateDisposition, uint32(c.req.CreateOptions), err)}
	}
	if !c.attached && !c.reclaimed {
		o.action = c.action
		c.reportCreate(ctx, o)
	}
	m, err := c.response(ctx, o)
	if err == nil && !c.attached && !r.session.addOpen(o) {
		err = smb2.StatusNetworkNameDeleted // the tree connect ended meanwhile
	}
	if err == nil && !c.attached && o.doomed.Load() {
		o.takeBack(ctx, r.conn.srv, errForced)
		return state.ErrForcedClosed
	}
	if err != nil {
		if c.attached {
			return err
		}
		return errors.Join(err, c.giveBack(ctx, o, err))
	}
	if c.ctxs.app != nil && !c.attached {
		c.logInstance(o)
	}
	r.open = o
	return r.respond(m)
}

// creation is a CREATE on a disk share while it is worked on.
type creation struct {
	r    *request
	req  smb2.CreateRequest
	ctxs createContexts

	name    pathName
	path    string          // of the file, as it is stored
	info    fs.Info         // of what was there
	desired fscc.AccessMask // generic rights mapped, MAXIMUM_ALLOWED taken out
	maximum bool            // MAXIMUM_ALLOWED was asked for
	wantDir bool
	attrs   fs.Attributes // asked for, only those that can be set
	granted fscc.AccessMask
	action  smb2.CreateAction

	madeFile  bool // and not just a stream in one
	caching   grantedCaching
	made      bool            // an earlier attempt has created the file, and had to wait then
	takeOver  bool            // the user may read the file
	key       createKey       // it is entered in openTable.creating under; zero: it is not
	first     <-chan struct{} // ends the same CREATE, that was being worked on when this came; or nil
	reclaimed bool            // the open is an old one
	attached  bool            // the open was in the session before: the request is a replay
}

const (
	// attributesKnown are the bits of FileAttributes that a CREATE may carry.
	attributesKnown = 0x00007FB7
	// attributesSettable can be given to a new file (MS-FSA 2.1.5.1.1).
	attributesSettable = fscc.FILE_ATTRIBUTE_READONLY | fscc.FILE_ATTRIBUTE_HIDDEN | fscc.FILE_ATTRIBUTE_SYSTEM |
		fscc.FILE_ATTRIBUTE_ARCHIVE | fscc.FILE_ATTRIBUTE_TEMPORARY | fscc.FILE_ATTRIBUTE_OFFLINE |
		fscc.FILE_ATTRIBUTE_NOT_CONTENT_INDEXED

	// accessReserved are bits no file has a right for (MS-FSA 2.1.5.1).
	accessReserved = 0x0CE0FE00

	// accessAlone asks for nothing by itself: it is no right of a share (MS-SMB2 3.3.5.9).
	accessAlone = smb2.AccessSystemSecurity

	// optionsDirectory may stand beside FILE_DIRECTORY_FILE (MS-FSA 2.1.5.1).
	optionsDirectory = smb2.FileDirectoryFile | smb2.FileWriteThrough | smb2.FileOpenRemoteInstance |
		smb2.FileOpenForBackupIntent | smb2.FileDeleteOnClose | smb2.FileNoCompression |
		smb2.FileOpenReparsePoint | smb2.FileOpenRequiringOplock

	// optionsIgnored mean nothing to a server (MS-SMB2 3.3.5.9) or change nothing here.
	optionsIgnored = smb2.FileCompleteIfOplocked | smb2.FileSynchronousIOAlert | smb2.FileSynchronousIONonalert |
		smb2.FileOpenForFreeSpaceQuery

	optionsRefused = smb2.FileOpenByFileID | smb2.FileReserveOpfilter | 0x80 // 0x80: FILE_CREATE_TREE_CONNECTION
	optionsInvalid = 0xFF000000
)

// validate checks the parameters (MS-FSA 2.1.5.1 phase 1, MS-SMB2 2.2.13).
func (c *creation) validate() error {
	q := &c.req
	opts := q.CreateOptions
	switch {
	case opts&optionsInvalid != 0:
		return smb2.StatusInvalidParameter
	case opts&optionsRefused != 0:
		return smb2.StatusNotSupported
	case q.DesiredAccess&^accessAlone == 0, q.DesiredAccess&accessReserved != 0:
		return smb2.StatusAccessDenied
	case fscc.AccessMask(q.DesiredAccess)&fscc.ACCESS_SYSTEM_SECURITY&^(privilegedRights(&c.r.session.token)|c.backupRights()) != 0:
		return smb2.StatusPrivilegeNotHeld
	case q.CreateDisposition > smb2.FileOverwriteIf,
		q.ShareAccess&^(smb2.FileShareRead|smb2.FileShareWrite|smb2.FileShareDelete) != 0,
		q.FileAttributes&^attributesKnown != 0,
		opts&smb2.FileDirectoryFile != 0 && opts&smb2.FileNonDirectoryFile != 0:
		return smb2.StatusInvalidParameter
	}
	c.wantDir = opts&smb2.FileDirectoryFile != 0
	q.CreateOptions &^= optionsIgnored
	if c.wantDir {
		d := q.CreateDisposition
		if q.CreateOptions&^optionsDirectory != 0 || d != smb2.FileCreate && d != smb2.FileOpen && d != smb2.FileOpenIf {
			return smb2.StatusInvalidParameter
		}
	}
	if q.CreateOptions&smb2.FileNoIntermediateBuffering != 0 {
		q.DesiredAccess &^= smb2.FileAppendData // MS-SMB2 3.3.5.9
	}
	c.maximum = q.DesiredAccess&smb2.MaximumAllowed != 0
	if c.maximum {
		q.DesiredAccess &^= smb2.GenericExecute // as Windows has it: beside the maximum it demands nothing
	}
	c.desired = fscc.AccessMask(q.DesiredAccess &^ smb2.MaximumAllowed).MapGeneric()
	c.attrs = fs.Attributes(q.FileAttributes & attributesSettable)
	if opts&smb2.FileDeleteOnClose != 0 {
		if c.desired&fscc.DELETE == 0 && !c.maximum {
			return smb2.StatusInvalidParameter
		}
		if c.r.tree.access&smb2.Delete == 0 {
			return smb2.StatusAccessDenied
		}
	}
	return c.parseName()
}

func (c *creation) parseName() (err error) {
	if c.name, err = parsePath(c.req.Name); err != nil {
		return err
	}
	if c.name.trailing && c.req.CreateOptions&smb2.FileNonDirectoryFile != 0 {
		return smb2.StatusObjectNameInvalid
	}
	if c.wantDir && (c.name.data || c.name.stream != "") {
		return smb2.StatusNotADirectory
	}
	c.wantDir = c.wantDir || c.name.index
	return nil
}

// overwrites says that the disposition replaces the data of a file that exists.
func (c *creation) overwrites() bool {
	switch c.req.CreateDisposition {
	case smb2.FileSupersede, smb2.FileOverwrite, smb2.FileOverwriteIf:
		return true
	}
	return false
}

// creates says that the disposition makes a file that does not exist.
func (c *creation) creates() bool {
	return c.req.CreateDisposition != smb2.FileOpen && c.req.CreateDisposition != smb2.FileOverwrite
}

// runNamed is run while no name of the share is given to another file.
func (c *creation) runNamed(ctx context.Context) (*open, error) {
	names := &c.r.tree.share.names
	names.RLock()
	defer names.RUnlock() // whatever becomes of it: who renames waits for this
	return c.run(ctx)
}

// run opens what is there or makes it. Names come and go between the two; who
// loses such a race tries again.
func (c *creation) run(ctx context.Context) (*open, error) {
	if o, err, done := c.reclaim(ctx); done {
		return o, err
	}
	if err := c.validate(); err != nil {
		return nil, err
	}
	if err := c.ctxs.parse(c.req.Contexts, c.r.conn.neg.dialect); err != nil {
		return nil, err
	}
	if o, err := c.replay(ctx); o != nil || err != nil {
		return o, err
	}
	for range 16 {
		f, err := c.openFile(ctx)
		switch {
		case err == nil:
			o, err := c.openExisting(ctx, f)
			if !errors.Is(err, fs.ErrNotExist) || !c.creates() {
				return o, err
			}
			continue // removed between the two
		case !errors.Is(err, fs.ErrNotExist) || !c.creates():
			return nil, err
		}
		o, err := c.create(ctx)
		if !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
			return o, err
		}
	}
	return nil, smb2.StatusRetry
}

// fsAccess is what the descriptor of an open with these rights is for.
func fsAccess(granted fscc.AccessMask) (a fs.Access) {
	if granted&(fscc.FILE_READ_DATA|fscc.FILE_EXECUTE) != 0 {
		a |= fs.ReadData
	}
	if granted&(fscc.FILE_WRITE_DATA|fscc.FILE_APPEND_DATA) != 0 {
		a |= fs.WriteData
	}
	return a
}

// openFile opens the file for all that the request may be granted. Nothing is
// changed by that; who may do what is decided when it is known what the file is.
func (c *creation) openFile(ctx context.Context) (fs.File, error) {
	access := fsAccess(c.desired)
	if c.overwrites() {
		access |= fs.WriteData
	}
	if !c.maximum {
		return c.openAs(ctx, access)
	}
	f, err := c.openAs(ctx, fs.ReadData|fs.WriteData)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrReadOnlyFS) {
		f, err = c.openAs(ctx, access)
	}
	return f, err
}

// newOpen makes the open of f. It is in no table yet.
func (c *creation) newOpen(f fs.File) *open {
	srv, t := c.r.conn.srv, c.r.tree
	id := srv.ids.next()
	for srv.table.find(state.OpenID(id)) != nil { // of an earlier run of the server
		id = srv.ids.next()
	}
	o := &open{
		id: smb2.FileID{Persistent: id, Volatile: id}, tree: t, session: c.r.session,
		handle: &handle{
			access: smb2.AccessMask(c.granted), options: c.req.CreateOptions,
			file: f, stream: fs.StreamOf(f), table: &srv.table, store: srv.store, fileID: f.ID(), dir: f.Dir(), share: t.share,
			ca:     t.share.ContinuouslyAvailable,
			create: createKey{client: c.r.conn.neg.clientGUID},
		},
	}
	if c.ctxs.durableV2 != nil {
		o.create.create = c.ctxs.durableV2.CreateGUID
	}
	if c.wantsLease(o.dir) {
		o.hasLease, o.lease = true, leaseKey(c.r.conn.neg.clientGUID, c.ctxs.lease.LeaseKey)
		if l := c.ctxs.lease; l.Flags&smb2.LeaseFlagParentLeaseKeySet != 0 {
			o.parent = parentLease{true, leaseKey(c.r.conn.neg.clientGUID, l.ParentLeaseKey)}
		}
	}
	o.mode.Store(uint32(c.req.CreateOptions) & modeOptions)
	return o
}

// modeOptions are the create options FileModeInformation tells of (MS-FSA 2.1.5.1).
const modeOptions = fscc.FILE_WRITE_THROUGH | fscc.FILE_SEQUENTIAL_ONLY | fscc.FILE_NO_INTERMEDIATE_BUFFERING |
	fscc.FILE_SYNCHRONOUS_IO_ALERT | fscc.FILE_SYNCHRONOUS_IO_NONALERT | fscc.FILE_DELETE_ON_CLOSE

// share enters the open into the file's record: from then on it counts for others.
// transient are rights the opening needs and the open does not keep. A *mustWait
// says that others have to give up something first. The last of the opens before
// may have taken the name away until then: fs.ErrNotExist.
func (c *creation) share(ctx context.Context, o *open, transient fscc.AccessMask) error {
	if err := c.shareBase(ctx, o); err != nil {
		return err
	}
	table := &c.r.conn.srv.table
	if o.hasLease && !table.holdLease(o.lease, o.fileID) {
		// The lease is another file's (MS-SMB2 3.3.5.9.8).
		return errors.Join(smb2.StatusInvalidParameter, o.unshareBase(context.WithoutCancel(ctx)))
	}
	table.add(o) // before the record: a break may come at once
	c.r.holdNotices()
	var replayable bool
	fx, err := commit(ctx, o.store, o.fileID, func(t state.Ticket) state.Change {
		q := c.openRequest(o, transient, t)
		replayable = q.Open.Handle.Replayable
		return state.AddOpen(q)
	})
	if err != nil {
		c.r.dropHold()
		table.remove(o)
		return errors.Join(err, o.unshareBase(context.WithoutCancel(ctx)))
	}
	c.caching = grantedCaching{open: fx.Open, lease: fx.Lease}
	o.outlives.Store(fx.Open.Handle.Kind != state.NotDurable)
	o.persistent = fx.Open.Handle.Kind == state.Persistent
	o.replayable.Store(replayable) // whatever it caches
	o.token = o.store.Token(o.fileID)
	if _, err := o.file.Name(); err != nil {
		return errors.Join(err, c.unshare(ctx, o))
	}
	return nil
}

func (c *creation) openRequest(o *open, transient fscc.AccessMask, t state.Ticket) state.OpenRequest {
	q := state.OpenRequest{
		Open: state.Open{
			ID:            o.stateID(),
			Access:        uint32(o.access),
			Share:         uint32(c.req.ShareAccess),
			Link:          c.recordLink(o),
			DeleteOnClose: c.req.CreateOptions&smb2.FileDeleteOnClose != 0,
			HasLease:      o.hasLease,
			Lease:         o.lease,
			Handle:        c.wantedHandle(o),
		},
		Transient: uint32(transient), Overwrites: c.overwrites(), Dir: o.dir, Allocation: uint64(allocation(&c.info)),
		Want: c.wanted(o.dir), TakeOver: c.takeOver, Ticket: t,
	}
	if l := c.ctxs.lease; o.hasLease {
		q.Lease = state.LeaseRequest{
			Key: o.lease, Version: uint8(l.Version), Epoch: l.Epoch,
			HasParent: l.Flags&smb2.LeaseFlagParentLeaseKeySet != 0, Parent: l.ParentLeaseKey,
		}
	}
	return q
}

// deleting fails with state.ErrDeletePending if the name by which f was opened is
// going away, and with fs.ErrNotExist if it is gone. It returns the name as stored.
func (r *request) deleting(ctx context.Context, f fs.File) (string, error) {
	path, err := f.Name()
	if err != nil {
		return "", err
	}
	link, id := r.tree.share.link(path), f.ID()
	if s := fs.StreamOf(f); s != nil {
		if err := r.streamDeleting(ctx, s); err != nil {
			return "", err
		}
		id = s.Base().ID()
	}
	_, err = r.conn.srv.store.Update(ctx, id, func(r state.Record) (state.Record, state.Effects, error) {
		if r.IsDeleting(link) {
			return r, state.Effects{}, state.ErrDeletePending
		}
		return r, state.Effects{}, nil
	})
	return path, err
}

// response describes the open (MS-SMB2 2.2.14).
func (c *creation) response(ctx context.Context, o *open) (*smb2.CreateResponse, error) {
	info := c.info
	if c.action != smb2.FileOpened {
		var err error
		if info, err = o.file.Stat(ctx); err != nil {
			return nil, err
		}
	}
	o.table.written.show(&info)
	m := &smb2.CreateResponse{
		OplockLevel:    c.caching.level(),
		CreateAction:   c.action,
		CreationTime:   smb2.Filetime(fscc.FiletimeOf(info.Created)),
		LastAccessTime: smb2.Filetime(fscc.FiletimeOf(info.Accessed)),
		LastWriteTime:  smb2.Filetime(fscc.FiletimeOf(info.Written)),
		ChangeTime:     smb2.Filetime(fscc.FiletimeOf(info.Changed)),
		AllocationSize: uint64(allocation(&info)),
		EndOfFile:      uint64(info.Size),
		FileAttributes: attributes(&info),
		FileID:         o.id,
	}
	contexts, err := c.responseContexts(ctx, o, &info)
	m.Contexts = contexts
	return m, err
}
