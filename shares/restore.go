package shares

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"lunless/shares/fs"
	"lunless/shares/state"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// expireRestored ends persistent opens of an earlier run that nobody reclaims in
// time, those of shares too that are served no more: their files must not be kept
// from other shares for good.
func (srv *Server) expireRestored() {
	ctx := context.Background()
	srv.store.Walk(ctx, func(id fs.FileID, r state.Record) bool {
		for _, o := range r.Opens {
			if o.Handle.Disconnected {
				time.AfterFunc(time.Until(o.Handle.Deadline), func() {
					if !srv.stopping.Load() {
						srv.store.Update(ctx, id, state.Expire(o.ID, time.Now()))
					}
				})
			}
		}
		return true
	})
}

// errOtherFile is why an open of an earlier run of the server is not restored.
var errOtherFile = errors.New("the name leads to another file now")

// restoreOpens opens again what clients had open of a share, with persistent
// handles, when the server last stopped, in whichever way: their files are found by
// their names and told by their FileIDs. They wait to be reclaimed. It is called
// before the share is served.
func (srv *Server) restoreOpens(ctx context.Context, s *share) {
	if !s.ContinuouslyAvailable {
		return
	}
	type lost struct {
		id    fs.FileID
		open  state.Open
		lease state.Lease
		going bool // marked to be deleted
	}
	var list []lost
	srv.store.Walk(ctx, func(id fs.FileID, r state.Record) bool {
		for _, o := range r.Opens {
			h := &o.Handle
			if h.Kind != state.Persistent || !h.Disconnected || shareKey(h.Share) != shareKey(s.Name) || srv.table.find(o.ID) != nil {
				continue
			}
			l := lost{id: id, open: o, going: r.IsDeleting(o.Link)}
			for i := range r.Leases {
				if o.HasLease && r.Leases[i].Key == o.Lease {
					l.lease = r.Leases[i]
				}
			}
			list = append(list, l)
		}
		return true
	})
	var missing []fs.FileID
	failed := map[int]error{}
	for i := range list {
		l := &list[i]
		if err := srv.restoreOpen(ctx, s, l.id, &l.open, &l.lease); err != nil {
			failed[i] = err
			if notThere(err) && l.open.Link != streamLink {
				missing = append(missing, l.id)
			}
		}
	}
	names, err := findFiles(ctx, s.FS, missing)
	if err != nil {
		srv.log.Error("looking for files that were renamed", "share", s.Name, "err", err)
	}
	volume := volumeOf(ctx, s.FS)
	for i, err := range failed {
		l := &list[i]
		if notThere(err) && l.id.Volume != volume {
			srv.log.Error("a persistent handle cannot be found: its file system is not there; mount it and start the server again",
				"share", s.Name, "file", l.open.Link, "user", l.open.Handle.Owner, "err", err)
			continue // its record keeps others from the file until then
		}
		if name, ok := names[l.id]; ok {
			err = srv.restoreRenamed(ctx, s, l.id, &l.open, &l.lease, name)
		}
		if err != nil {
			level := slog.LevelError
			if l.going && notThere(err) { // its last CLOSE had come as far as that
				level = slog.LevelDebug
			}
			srv.log.Log(ctx, level, "persistent handle lost", "share", s.Name, "file", l.open.Link, "user", l.open.Handle.Owner, "err", err)
			if fx, err := srv.store.Update(ctx, l.id, state.RemoveOpen(l.open.ID, true)); err == nil && fx.Delete {
				srv.store.Update(ctx, l.id, state.Deleted(fx.Link))
			}
		}
	}
	if len(list) > 0 {
		srv.log.Info("persistent handles kept for their clients", "share", s.Name, "handles", len(list))
	}
}

// volumeOf is the file system that the root of a share lies on, 0 if it cannot be told.
func volumeOf(ctx context.Context, store fs.FS) uint64 {
	f, err := store.Open(ctx, "", 0)
	if err != nil {
		return 0
	}
	defer f.Close()
	return f.ID().Volume
}

// restoreRenamed is restoreOpen of a file that has another name than its record
// says: the server stopped between its rename and the commit of that, so that the
// client has had no answer, and may know it by either name.
func (srv *Server) restoreRenamed(ctx context.Context, s *share, id fs.FileID, rec *state.Open, lease *state.Lease, name string) error {
	if _, err := srv.store.Update(ctx, id, state.Recover(rec.Link, s.link(name))); err != nil {
		return err
	}
	srv.log.Warn("a rename was under way when the server stopped", "share", s.Name, "from", rec.Link, "to", name)
	rec.Link = s.link(name)
	return srv.restoreOpen(ctx, s, id, rec, lease)
}

func (srv *Server) restoreOpen(ctx context.Context, s *share, id fs.FileID, rec *state.Open, lease *state.Lease) error {
	f, err := s.reopen(ctx, rec)
	if err != nil {
		return err
	}
	h := &rec.Handle
	if f.ID() != id {
		return errors.Join(fmt.Errorf("%w: %+v, not %+v", errOtherFile, f.ID(), id), f.Close())
	}
	o := &open{
		id: smb2.FileID{Persistent: uint64(rec.ID), Volatile: uint64(rec.ID)},
		handle: &handle{
			access: smb2.AccessMask(rec.Access), options: smb2.CreateOptions(h.Options),
			file: f, stream: fs.StreamOf(f), table: &srv.table, store: srv.store, fileID: id, dir: f.Dir(),
			ca: true, share: s, create: createKey{h.ClientGUID, h.CreateGUID}, persistent: true,
			hasLease: rec.HasLease, lease: rec.Lease, action: smb2.FileOpened,
		},
	}
	if o.hasLease {
		if lease.HasParent {
			o.parent = parentLease{true, state.LeaseKey{Client: rec.Lease.Client, Key: lease.Parent}}
		}
		if !srv.table.holdLease(o.lease, id) {
			return errors.Join(errors.New("its lease is another file's"), f.Close())
		}
	}
	o.mode.Store(h.Options & modeOptions)
	o.outlives.Store(true)
	o.parked.Store(true)
	o.replayable.Store(h.Replayable)
	o.token = srv.store.Token(id)
	o.reshareBase(ctx, rec.Share)
	if sabotaged("lock-forgotten-on-reclaim") {
		srv.store.Update(ctx, id, func(r state.Record) (state.Record, state.Effects, error) {
			r.Locks = nil
			return r, state.Effects{}, nil
		})
	}
	srv.opens.Add(1)
	srv.table.add(o)
	return nil
}

// reopen opens the file of an open by the name it had last.
func (s *share) reopen(ctx context.Context, rec *state.Open) (fs.File, error) {
	access := fsAccess(fscc.AccessMask(rec.Access))
	if rec.Link != streamLink {
		path, ok := strings.CutPrefix(rec.Link, shareKey(s.Name)+"/")
		if !ok {
			return nil, fmt.Errorf("name %q: %w", rec.Link, fs.ErrNotExist)
		}
		return s.FS.Open(ctx, path, access)
	}
	name, err := parsePath(rec.Handle.Name) // a stream is known by the name it was opened by
	if err != nil {
		return nil, err
	}
	base, err := s.FS.Open(ctx, name.path, 0)
	if err != nil {
		return nil, err
	}
	defer base.Close()
	streams, err := streamsOf(base)
	if err != nil {
		return nil, err
	}
	return streams.OpenStream(ctx, name.stream, access)
}
