package shares

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"lunless/shares/fs"
	"lunless/shares/state"
)

var errNotServed = errors.New("its share is not served")

// endLost takes an open out of the sharing state that is in no table: a record is
// all that is left of it. A name that was to go with it goes, as with CLOSE
// (MS-FSA 2.1.5.5), where a share still leads to it; where none does, it stays, and
// may be opened again.
func (srv *Server) endLost(ctx context.Context, id fs.FileID, open state.OpenID) {
	var rec state.Open
	fx, err := srv.store.Update(ctx, id, func(r state.Record) (state.Record, state.Effects, error) {
		if i := slices.IndexFunc(r.Opens, func(o state.Open) bool { return o.ID == open }); i >= 0 {
			rec = r.Opens[i]
		}
		return state.RemoveOpen(open, false)(r)
	})
	switch {
	case errors.Is(err, state.ErrUnknownOpen):
		return // somebody else has ended it
	case err == nil && fx.Delete:
		err = srv.removeLost(ctx, id, &rec)
	}
	if err != nil {
		srv.log.Error("open not ended", "file", rec.Link, "user", rec.Handle.Owner, "err", err)
	}
}

// removeLost takes away the name that an open, which is no more, was to delete.
func (srv *Server) removeLost(ctx context.Context, id fs.FileID, rec *state.Open) error {
	f, s, err := srv.findLost(ctx, id, rec)
	if err != nil {
		_, uerr := srv.store.Update(ctx, id, state.Deleted(rec.Link))
		if notThere(err) {
			err = nil // the name is gone
		}
		return errors.Join(err, uerr)
	}
	defer f.Close()
	o := &open{handle: &handle{file: f, share: s, table: &srv.table, store: srv.store, fileID: id, ca: s.ContinuouslyAvailable}}
	return o.remove(ctx, f, rec.Link)
}

// findLost opens the file of an open in no table, by the name it had last.
func (srv *Server) findLost(ctx context.Context, id fs.FileID, rec *state.Open) (fs.File, *share, error) {
	name := rec.Handle.Share
	if before, _, ok := strings.Cut(rec.Link, "/"); ok {
		name = before
	}
	s := srv.findShare(name)
	if s == nil || s.ipc {
		return nil, nil, fmt.Errorf("share %q: %w", name, errNotServed)
	}
	bare := *rec
	bare.Access = 0 // to remove a name takes no descriptor that can read or write
	f, err := s.reopen(ctx, &bare)
	if err != nil {
		return nil, nil, err
	}
	if f.ID() != id {
		return nil, nil, errors.Join(errOtherFile, f.Close())
	}
	return f, s, nil
}
