package shares

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lunless/shares/fs"
	"lunless/shares/services"
	"lunless/shares/state"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// open is one open of a file, a folder or a pipe, as a session has it (MS-SMB2
// 3.3.1.10). What is not marked otherwise never changes after CREATE, so that READ
// and WRITE take no lock.
//
// A durable open outlives its session: the session that reclaims it has an open of
// its own with the same handle, and the old open is dead.
type open struct {
	*handle
	id      smb2.FileID // Persistent is its state.OpenID, unique on the server
	tree    *tree
	session *session
	closed  atomic.Bool // no more of the session's
	busy    gate        // requests that are using the open
}

// handle is what of an open does not belong to a session.
type handle struct {
	access  smb2.AccessMask // granted, generic rights mapped
	options smb2.CreateOptions

	// One of the two is there.
	file fs.File
	pipe *services.Pipe

	stream   fs.Stream // file, if that is an alternate data stream
	streamOf string    // name of the stream's file, for when it is closed

	table  *openTable
	store  state.Store
	fileID fs.FileID
	token  *state.Token // byte-range locks of the file
	dir    bool         // a folder
	ca     bool         // of a continuously available share: everything is written through

	owner *clientHost // whose limit it counts for; nil until a session has it

	position  atomic.Int64
	mode      atomic.Uint32 // FileModeInformation
	times     pinnedTimes
	writeTime *writeTime // of the file; nil if the open may not write to it
	listing   listing
	watch     watch
	eas       eaScan
	writes    atomic.Uint32 // wroteNothing and so on

	share    *share
	create   createKey // what its CREATE can be recognised by
	hasLease bool
	lease    state.LeaseKey
	parent   parentLease

	outlives   atomic.Bool // its connection, if nothing changes
	persistent bool        // it outlives the server
	parked     atomic.Bool // without a session
	expiry     atomic.Pointer[time.Timer]
	doomed     atomic.Bool // was to be taken back while no session had it yet
	replayable atomic.Bool // Open.IsReplayEligible
	action     smb2.CreateAction
}

// createKey is empty where the CREATE brought no CreateGuid.
func (h *handle) createKey() createKey { return h.create }

// writeThrough says that a WRITE is on stable storage before it is answered
// (MS-SMB2 3.3.5.13).
func (o *open) writeThrough() bool { return o.ca || o.mode.Load()&fscc.FILE_WRITE_THROUGH != 0 }

// stateID is the open's name in shares/state.
func (o *open) stateID() state.OpenID { return state.OpenID(o.id.Persistent) }

// checkRead says whether the open may read n bytes at off: STATUS_ACCESS_DENIED,
// STATUS_FILE_LOCK_CONFLICT (MS-SMB2 3.3.5.12). It neither waits nor allocates
// where the answer is yes.
func (o *open) checkRead(off, n uint64) error {
	if o.access&(smb2.FileReadData|smb2.FileExecute) == 0 {
		return smb2.StatusAccessDenied
	}
	if o.token != nil && o.token.Conflicts(o.stateID(), off, n, false) {
		return smb2.StatusFileLockConflict
	}
	return nil
}

// checkWrite is checkRead for n bytes to be written at off (MS-SMB2 3.3.5.13).
// off is where the bytes go in fact; an open with FILE_APPEND_DATA alone may
// write anywhere, as on Windows, which leaves it to the client.
func (o *open) checkWrite(off, n uint64) error {
	if o.access&(smb2.FileWriteData|smb2.FileAppendData) == 0 {
		return smb2.StatusAccessDenied
	}
	if o.token != nil && o.token.Conflicts(o.stateID(), off, n, true) {
		return smb2.StatusFileLockConflict
	}
	o.times.wrote()
	return nil
}

// record is what the state has of the open, and of its lease if it has one.
func (o *open) record(ctx context.Context) (rec state.Open, lease state.Lease, err error) {
	_, err = o.store.Update(ctx, o.fileID, func(r state.Record) (state.Record, state.Effects, error) {
		i := slices.IndexFunc(r.Opens, func(s state.Open) bool { return s.ID == o.stateID() })
		if i < 0 {
			return r, state.Effects{}, state.ErrUnknownOpen
		}
		rec = r.Opens[i]
		if j := slices.IndexFunc(r.Leases, func(l state.Lease) bool { return l.Key == rec.Lease }); rec.HasLease && j >= 0 {
			lease = r.Leases[j]
		}
		return r, state.Effects{}, nil
	})
	return rec, lease, err
}

// breakOthers has others give up what they cache of the file, as by says, before it
// is changed through the open. It returns a *mustWait as long as they have not.
func (o *open) breakOthers(ctx context.Context, by func(state.OpenID, state.Ticket) state.Change) error {
	if o.token == nil || !o.token.MustBreak(o.stateID()) {
		return nil
	}
	_, err := commit(ctx, o.store, o.fileID, func(t state.Ticket) state.Change { return by(o.stateID(), t) })
	return err
}

// breakLate takes read caching, after the file has been changed, from whoever has got
// it while the change was on its way: he may have read what was there before.
func (o *open) breakLate(ctx context.Context) {
	if o.token.MustBreak(o.stateID()) {
		o.store.Update(context.WithoutCancel(ctx), o.fileID, state.BreakForWrite(o.stateID(), 0))
	}
}

// breakHandles is breakOthers for what takes handle caching: renames, deletes and
// the like.
func (o *open) breakHandles(ctx context.Context, by func(state.OpenID, state.Ticket) state.Change) error {
	_, err := commit(ctx, o.store, o.fileID, func(t state.Ticket) state.Change { return by(o.stateID(), t) })
	return err
}

// close ends the open once, whoever calls: CLOSE, tree disconnect, logoff, the
// connection's end (MS-SMB2 3.3.4.17, MS-FSA 2.1.5.5). It is not for the
// session's table, which the caller has taken the open from. why is for the log.
func (o *open) close(ctx context.Context, why error) error {
	if o.closed.Swap(true) {
		return fs.ErrClosed
	}
	if t := o.expiry.Load(); t != nil {
		t.Stop()
	}
	if p := o.owner; p != nil {
		p.opens.Add(-1)
		p.srv.handles.Add(-1)
	}
	if o.pipe != nil {
		return o.pipe.Close()
	}
	// The end of the client must not keep its opens in the record.
	ctx = context.WithoutCancel(ctx)
	if o.times.restore(ctx, o.file) && o.ca {
		_ = o.file.Sync(ctx) // times are not worth failing for
	}
	o.settleClosing(ctx)
	o.listing.close()
	o.watch.close()
	o.reportWrites(ctx)
	file, err := o.release(ctx)
	o.table.remove(o)
	if err != nil {
		o.share.srv.log.Warn("close failed", "file", file, "reason", why, "err", err)
	}
	return err
}

// release takes a file's open out of the sharing state, and the name away where
// the last open of it was to delete it.
//
// An open that may write is closed first, which waits for its writes in flight:
// nothing of it may reach the file once it does not keep others out any more.
// What is to be deleted anyway is not opened by anybody until it is gone. It
// returns the open's link, for the log.
func (o *open) release(ctx context.Context) (string, error) {
	if o.stream != nil {
		return o.releaseStream(ctx)
	}
	full := o.dir && o.options&smb2.FileDeleteOnClose != 0 && isEmpty(ctx, o.file) != nil
	var name string
	var err error
	drained := !o.dir && o.access&(smb2.FileWriteData|smb2.FileAppendData) != 0 && !o.goesAway(ctx)
	if drained {
		name, _ = o.file.Name()
		err = o.file.Close()
	}
	fx, uerr := o.store.Update(ctx, o.fileID, state.RemoveOpen(o.stateID(), full))
	if o.dir && o.options&smb2.FileDeleteOnClose != 0 && !full {
		o.share.srv.notifier.doomed(o.fileID)
	}
	switch {
	case uerr != nil:
	case fx.Delete && drained: // marked between the two, by an open that has gone since
		uerr = o.removeNamed(ctx, name, fx.Link)
	case fx.Delete:
		uerr = o.remove(ctx, o.file, fx.Link)
	}
	if !drained {
		err = o.file.Close()
	}
	return fx.Link, errors.Join(uerr, err)
}

// goesAway says whether the file will be deleted with its last open.
func (o *open) goesAway(ctx context.Context) (yes bool) {
	if o.options&smb2.FileDeleteOnClose != 0 {
		return true
	}
	o.store.Update(ctx, o.fileID, func(r state.Record) (state.Record, state.Effects, error) {
		yes = len(r.Deleting) > 0
		return r, state.Effects{}, nil
	})
	return yes
}

// removeNamed is remove for an open whose file is closed already.
func (o *open) removeNamed(ctx context.Context, name, link string) error {
	f, err := o.share.FS.Open(ctx, name, 0)
	if err == nil {
		defer f.Close()
		if f.ID() == o.fileID {
			return o.remove(ctx, f, link)
		}
	}
	_, uerr := o.store.Update(ctx, o.fileID, state.Deleted(link))
	return errors.Join(err, uerr)
}

// remove takes the file's name away, and lets others open what has it next. A
// folder that is not empty any more stays, which is no error (MS-FSA 2.1.5.5).
func (o *open) remove(ctx context.Context, f fs.File, link string) error {
	return o.removeFrom(ctx, f, o.fileID, link)
}

// removeFrom is remove of the file with the record id.
func (o *open) removeFrom(ctx context.Context, f fs.File, id fs.FileID, link string) error {
	gone := o.removing(f)
	err := o.share.FS.Remove(ctx, f)
	if err == nil {
		gone(ctx)
		if o.ca {
			err = o.share.settleName(ctx, f)
		}
	}
	if errors.Is(err, fs.ErrNotEmpty) {
		err = nil
	}
	_, uerr := o.store.Update(ctx, id, state.Deleted(link))
	return errors.Join(err, uerr)
}

// pinnedTimes are times a client has set or frozen on an open: what is done
// through it later does not change them (MS-FSA 2.1.5.15.2). The file system
// changes them all the same, so they are put back before anybody looks.
type pinnedTimes struct {
	any   atomic.Bool // something is pinned
	dirty atomic.Bool // the open has written since
	mu    sync.Mutex  // guards change
	at    fs.TimeChange
}

func (p *pinnedTimes) wrote() {
	if p.any.Load() {
		p.dirty.Store(true)
	}
}

// changed is the pinned change time, or nil.
func (p *pinnedTimes) changed() *time.Time { return p.pinned().Changed }

// written is the pinned last write time, or nil.
func (p *pinnedTimes) written() *time.Time { return p.pinned().Written }

func (p *pinnedTimes) pinned() fs.TimeChange {
	if !p.any.Load() {
		return fs.TimeChange{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at
}

// restore puts pinned times back after writes, and says whether there were any.
// Times are not worth failing for.
func (p *pinnedTimes) restore(ctx context.Context, f fs.File) bool {
	if !p.dirty.Swap(false) {
		return false
	}
	p.mu.Lock()
	at := p.at
	p.mu.Unlock()
	_ = f.SetTimes(ctx, at)
	return true
}

// pin replaces what is pinned: nil leaves, a zero time lets go, a time pins it.
func (p *pinnedTimes) pin(c fs.TimeChange) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range []struct{ at, to **time.Time }{
		{&p.at.Accessed, &c.Accessed}, {&p.at.Written, &c.Written}, {&p.at.Changed, &c.Changed},
	} {
		switch {
		case *t.to == nil:
		case (*t.to).IsZero():
			*t.at = nil
		default:
			*t.at = *t.to
		}
	}
	p.any.Store(p.at.Accessed != nil || p.at.Written != nil || p.at.Changed != nil)
}
