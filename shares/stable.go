package shares

import (
	"bytes"
	"context"
	"errors"
	"time"

	"lunless/shares/fs"
	"lunless/smbstore/smb2"
)

// What is on stable storage when a request is answered.
//
// FLUSH, and a WRITE that is to go through (MS-SMB2 3.3.5.11, 3.3.5.13), put the
// file's data and metadata there, and the names that lead to it: what cannot be found
// after a loss of power has not been kept.
//
// On a continuously available share that is so of everything that is answered with
// success: a file is there with its name when its CREATE is answered, a rename in
// both of its folders, a delete when the CLOSE is answered that made it, and what a
// persistent handle needs in the state file (state.Bolt). A CREATE does them in this
// order, each on stable storage before the next is begun:
//
//  1. the file, with the attributes and the security descriptor it is made with
//  2. its name
//  3. the open, with the CreateGuid, in the state file
//  4. the response
//
// A client that got no response connects again and replays the CREATE (MS-SMB2
// 3.3.5.9.10). Power lost before 2 leaves no file: the replay makes it. Power lost
// after 3 leaves all of it: the replay finds the open by its CreateGuid, and is
// answered as it would have been. In between the file is there and nobody has it
// open; it bears the CreateGuid as a mark, which has been there before the name, so
// that the replay knows it as its own and is answered that it has made it. To begin
// with 3 would be wrong: there would be handles to reclaim of files that never were.

// flush puts the open's file on stable storage, its names too.
func (o *open) flush(ctx context.Context) error {
	if err := o.flushData(ctx); err != nil {
		return err
	}
	if o.stream != nil {
		if err := o.share.settle(ctx, o.stream.Base()); err != nil {
			return err
		}
	}
	return o.share.settleName(ctx, o.file)
}

// flushData puts the open's file on stable storage.
func (o *open) flushData(ctx context.Context) error {
	o.times.restore(ctx, o.file)
	defer o.settleWrites(ctx)
	return syncFile(ctx, o.file)
}

// syncFile puts a file on stable storage.
func syncFile(ctx context.Context, f fs.File) error {
	switch {
	case sabotaged("fsync-skipped"):
		return nil
	case sabotaged("ack-early"):
		time.AfterFunc(time.Millisecond, func() { _ = f.Sync(context.WithoutCancel(ctx)) })
		return nil
	}
	return f.Sync(ctx)
}

// through puts on stable storage what has been done to the data, if the open wants
// that.
func (o *open) through(ctx context.Context) error {
	if !o.writeThrough() {
		return nil
	}
	return o.flushWritten(ctx)
}

// flushWritten is flush after data has been changed: the names of a continuously
// available share are on stable storage already.
func (o *open) flushWritten(ctx context.Context) error {
	if o.ca {
		return o.flushData(ctx)
	}
	return o.flush(ctx)
}

// settle puts a file and its names on stable storage.
func (s *share) settle(ctx context.Context, f fs.File) error {
	if err := syncFile(ctx, f); err != nil {
		return err
	}
	return s.settleName(ctx, f)
}

// settleName puts the names of a file on stable storage, or that it has none any more.
func (s *share) settleName(ctx context.Context, f fs.File) error {
	if sabotaged("parent-not-synced") {
		return nil
	}
	err := s.FS.SyncParent(ctx, f)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// settleNew puts a file or a stream that has just been made on stable storage, where
// the share promises that, and takes it back where that fails.
func (c *creation) settleNew(ctx context.Context, f fs.File) error {
	s := c.r.tree.share
	if !s.ContinuouslyAvailable {
		return nil
	}
	err := s.settle(ctx, f)
	if stream := fs.StreamOf(f); stream != nil && err == nil {
		err = s.settle(ctx, stream.Base())
	}
	if err != nil {
		err = errors.Join(err, s.FS.Remove(context.WithoutCancel(ctx), f))
	}
	return err
}

// mark is what a file is made with by which a replay of its CREATE knows it: nil
// unless the request is for a persistent handle. A file with more to it than can be
// made in one step has none.
func (c *creation) mark() []byte {
	d := c.ctxs.durableV2
	if d == nil || d.CreateGUID.IsZero() || d.Flags&smb2.DurableFlagPersistent == 0 || !c.r.tree.share.ContinuouslyAvailable ||
		c.wantDir || c.name.stream != "" || c.ctxs.extendedAttributes != nil {
		return nil
	}
	client := c.r.conn.neg.clientGUID
	return append(append([]byte{}, client[:]...), d.CreateGUID[:]...)
}

// recognize sees whether f has been made by the request itself, which is a replay.
func (c *creation) recognize(ctx context.Context, f fs.File) error {
	want := c.mark()
	if want == nil || c.r.hdr.Flags&smb2.FlagReplayOperation == 0 {
		return nil
	}
	have, err := fs.Mark(ctx, f)
	if err != nil || !bytes.Equal(have, want) {
		return err
	}
	c.made = true
	return nil
}
