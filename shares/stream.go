package shares

import (
	"context"
	"errors"

	"lunless/shares/fs"
	"lunless/shares/state"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// Alternate data streams (MS-FSA 2.1.1.5). An open of a stream has the stream's
// FileID, and with it a record of its own: share modes, byte-range locks,
// caching and a pending delete are a stream's. It stands in the record of its
// file as well (state.Open.OfStream), for what the delete of a file has to do
// with all opens of it.

// streamLink is the state.Open.Link of opens of streams: a stream has one name,
// whatever that is.
const streamLink = ":"

// streamsOf is f as what has streams. A store without them knows no such names.
func streamsOf(f fs.File) (fs.Streamer, error) {
	if s, ok := f.(fs.Streamer); ok {
		return s, nil
	}
	return nil, smb2.StatusObjectNameInvalid
}

// openAs opens what the name leads to, a file, a folder or a stream.
func (c *creation) openAs(ctx context.Context, access fs.Access) (fs.File, error) {
	if c.name.stream == "" {
		return c.r.tree.fs.Open(ctx, c.name.path, access)
	}
	base, err := c.r.tree.fs.Open(ctx, c.name.path, 0)
	if err != nil {
		return nil, err
	}
	defer base.Close()
	streams, err := streamsOf(base)
	if err != nil {
		return nil, err
	}
	s, err := streams.OpenStream(ctx, c.name.stream, access)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// create makes what is not there: a file or a folder, or a stream with its file
// or in one that exists.
func (c *creation) create(ctx context.Context) (*open, error) {
	if c.name.stream == "" {
		return c.createNew(ctx)
	}
	base, err := c.r.tree.fs.Open(ctx, c.name.path, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return c.createNew(ctx)
	}
	if err != nil {
		return nil, err
	}
	defer base.Close()
	return c.addStream(ctx, base)
}

// addStream makes a stream of a file that exists (MS-FSA 2.1.5.1.2, "Stream not found").
func (c *creation) addStream(ctx context.Context, base fs.File) (*open, error) {
	if err := c.checkLease(nil); err != nil {
		return nil, err
	}
	info, err := base.Stat(ctx)
	if err != nil {
		return nil, err
	}
	if c.path, err = c.r.deleting(ctx, base); err != nil {
		return nil, err
	}
	if err := c.checkAccess(ctx, base, &info, fscc.FILE_WRITE_DATA); err != nil {
		return nil, err
	}
	if c.req.CreateOptions&smb2.FileDeleteOnClose != 0 && info.Attributes&fscc.FILE_ATTRIBUTE_READONLY != 0 {
		return nil, smb2.StatusCannotDelete
	}
	s, err := c.newStream(ctx, base)
	if err != nil {
		return nil, err
	}
	if !info.Dir && info.Attributes&fscc.FILE_ATTRIBUTE_ARCHIVE == 0 {
		err = base.SetAttributes(ctx, info.Attributes|fscc.FILE_ATTRIBUTE_ARCHIVE)
	}
	c.action = smb2.FileCreated
	o := c.newOpen(s)
	if err == nil {
		err = c.settleNew(ctx, s)
	}
	if err == nil {
		err = c.share(ctx, o, 0)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return o, nil
}

func (c *creation) newStream(ctx context.Context, base fs.File) (fs.Stream, error) {
	streams, err := streamsOf(base)
	if err != nil {
		return nil, err
	}
	return streams.CreateStream(ctx, c.name.stream, fs.StreamOptions{
		Access: fsAccess(c.granted), AllocationSize: c.ctxs.allocation,
	})
}

// withStream makes the stream of a file that has just been made, and takes the
// file back where that fails. A name without a stream means the file itself.
func (c *creation) withStream(ctx context.Context, f fs.File) (fs.File, error) {
	if c.name.stream == "" {
		return f, nil
	}
	s, err := c.newStream(ctx, f)
	if err != nil {
		err = errors.Join(err, c.r.tree.fs.Remove(ctx, f))
	}
	f.Close()
	if err != nil {
		return nil, err
	}
	return s, nil
}

// shareBase enters an open of a stream into the record of its file.
func (c *creation) shareBase(ctx context.Context, o *open) error {
	if o.stream == nil {
		return nil
	}
	_, err := o.store.Update(ctx, o.stream.Base().ID(), state.AddStreamOpen(state.Open{
		ID: o.stateID(), Access: uint32(o.access), Share: uint32(c.req.ShareAccess), Link: c.r.tree.share.link(c.path),
	}))
	return err
}

// reshareBase enters an open of a stream that a restart has brought back into the
// record of its file again, where it is not kept.
func (o *open) reshareBase(ctx context.Context, share uint32) {
	if o.stream == nil {
		return
	}
	name, err := o.stream.Name()
	if err != nil {
		return // the file is going away, and its streams with it
	}
	o.store.Update(ctx, o.stream.Base().ID(), state.AddStreamOpen(state.Open{
		ID: o.stateID(), Access: uint32(o.access), Share: share, Link: o.share.link(name),
	}))
}

// recordLink is the link of the open in the record of what it is an open of.
func (c *creation) recordLink(o *open) string {
	if o.stream != nil {
		return streamLink
	}
	return c.r.tree.share.link(c.path)
}

// unshareBase takes an open of a stream out of the record of its file, and the
// file's name away where that was all that kept it.
func (o *open) unshareBase(ctx context.Context) error {
	if o.stream == nil {
		return nil
	}
	base := o.stream.Base()
	fx, err := o.store.Update(ctx, base.ID(), state.RemoveOpen(o.stateID(), true))
	if errors.Is(err, state.ErrUnknownOpen) {
		return nil // a persistent open's, forgotten by a restart
	}
	if err == nil && fx.Delete {
		err = o.removeBase(ctx, base, fx.Link)
	}
	return err
}

// removeBase is remove for the file of a stream. The stream may be closed
// already, and the file with it.
func (o *open) removeBase(ctx context.Context, base fs.File, link string) error {
	name, err := base.Name()
	if errors.Is(err, fs.ErrClosed) {
		name, err = o.streamOf, nil
	}
	var f fs.File
	if err == nil {
		f, err = o.share.FS.Open(ctx, name, 0)
	}
	if err == nil {
		defer f.Close()
		if f.ID() == base.ID() {
			return o.removeFrom(ctx, f, base.ID(), link)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	_, uerr := o.store.Update(ctx, base.ID(), state.Deleted(link))
	return errors.Join(err, uerr)
}

// releaseStream is release for an open of a stream.
func (o *open) releaseStream(ctx context.Context) (string, error) {
	o.streamOf, _ = o.file.Name()
	name, _ := o.stream.StreamName()
	var err error
	drained := o.access&(smb2.FileWriteData|smb2.FileAppendData) != 0 && !o.goesAway(ctx)
	if drained {
		err = o.file.Close()
	}
	fx, uerr := o.store.Update(ctx, o.fileID, state.RemoveOpen(o.stateID(), false))
	if uerr == nil && fx.Delete {
		uerr = o.removeStream(ctx, name, drained)
	}
	err = errors.Join(err, uerr, o.unshareBase(ctx))
	if !drained {
		err = errors.Join(err, o.file.Close())
	}
	return o.streamOf + ":" + name, err
}

// removeStream takes a stream's name away (MS-FSA 2.1.5.5 phase 2).
func (o *open) removeStream(ctx context.Context, name string, closed bool) error {
	remove := func() error {
		s := o.stream
		if closed {
			base, err := o.share.FS.Open(ctx, o.streamOf, 0)
			if err != nil {
				return err
			}
			defer base.Close()
			streams, err := streamsOf(base)
			if err != nil {
				return err
			}
			if s, err = streams.OpenStream(ctx, name, 0); err != nil {
				return err
			}
			defer s.Close()
			if s.ID() != o.fileID {
				return fs.ErrNotExist
			}
		}
		gone := o.removing(s)
		err := o.share.FS.Remove(ctx, s)
		if err != nil {
			return err
		}
		gone(ctx)
		if o.ca {
			return o.share.settleName(ctx, s)
		}
		return nil
	}
	err := remove()
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // its file has gone
	}
	_, uerr := o.store.Update(ctx, o.fileID, state.Deleted(streamLink))
	return errors.Join(err, uerr)
}

// streamDeleting fails with state.ErrDeletePending if the stream is going away.
func (r *request) streamDeleting(ctx context.Context, s fs.Stream) error {
	_, err := r.conn.srv.store.Update(ctx, s.ID(), func(rec state.Record) (state.Record, state.Effects, error) {
		if rec.IsDeleting(streamLink) {
			return rec, state.Effects{}, state.ErrDeletePending
		}
		return rec, state.Effects{}, nil
	})
	return err
}

// wireName is the name of what is open, from the share's root.
func (o *open) wireName() (string, error) {
	name, err := o.file.Name()
	if err != nil {
		return "", err
	}
	name = wirePath(name)
	if o.stream != nil {
		stream, err := o.stream.StreamName()
		if err != nil {
			return "", err
		}
		name += ":" + stream
	}
	return name, nil
}

// queryStreams lists the streams of the open's file, the unnamed one of a file
// first (MS-FSA 2.1.5.12.29).
func (o *open) queryStreams(ctx context.Context) (answer, error) {
	file := o.baseFile()
	info, err := file.Stat(ctx)
	if err != nil {
		return answer{}, err
	}
	var list []fscc.StreamEntry
	if !info.Dir {
		list = append(list, fscc.StreamEntry{Name: "::$DATA", Size: info.Size, AllocationSize: info.AllocationSize})
	}
	if s, ok := file.(fs.Streamer); ok {
		named, err := s.Streams(ctx)
		if err != nil && !errors.Is(err, fs.ErrNotSupported) {
			return answer{}, err
		}
		for _, s := range named {
			list = append(list, fscc.StreamEntry{Name: ":" + s.Name + ":$DATA", Size: s.Size, AllocationSize: s.AllocationSize})
		}
	}
	if len(list) == 0 {
		return whole(raw(nil))
	}
	size := 0
	for i := range list {
		size += 32 + fscc.UTF16Len(list[i].Name)
	}
	b := make([]byte, size)
	w := fscc.NewStreamWriter(b)
	for i := range list {
		w.Add(&list[i])
	}
	return answer{raw(b[:w.Len()]), streamInfoLeast}, nil
}
