package shares

import (
	"context"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// What handlers report to the notifier, and with what filters (MS-FSA, "Send
// directory change notification").

const (
	// notifyOverwritten are the persistent attributes that overwriting a file changes.
	notifyOverwritten = smb2.NotifyChangeAttributes | smb2.NotifyChangeSize | smb2.NotifyChangeLastWrite |
		smb2.NotifyChangeLastAccess | smb2.NotifyChangeEA
	// notifyReplaced: another file has the name now (MS-FSA 2.1.5.15.12).
	notifyReplaced = smb2.NotifyChangeAttributes | smb2.NotifyChangeSize | smb2.NotifyChangeLastWrite |
		smb2.NotifyChangeLastAccess | smb2.NotifyChangeCreation | smb2.NotifyChangeSecurity | smb2.NotifyChangeEA
)

// nameFilter is the filter for what happens to a name.
func nameFilter(dir bool) smb2.CompletionFilter {
	if dir {
		return smb2.NotifyChangeDirName
	}
	return smb2.NotifyChangeFileName
}

// watched says whether it is worth finding out what has changed.
func (s *share) watched() bool { return s.srv != nil && s.srv.notifier.watched() }

func (s *share) report(ctx context.Context, changes ...change) {
	if s.watched() {
		s.srv.notifier.report(ctx, s, changes...)
	}
}

// reportCreate reports what a CREATE has made or emptied (MS-FSA 2.1.5.1.1, 2.1.5.1.2).
func (c *creation) reportCreate(ctx context.Context, o *open) {
	s := c.r.tree.share
	if o.dir && c.req.CreateOptions&smb2.FileDeleteOnClose != 0 {
		o.watch.doom()
	}
	if c.action != smb2.FileOpened {
		o.folderChanged(ctx, c.path)
	}
	if c.action == smb2.FileOpened || !s.watched() {
		return
	}
	var list []change
	stream := c.path + ":" + c.name.stream
	switch {
	case c.name.stream == "" && c.action == smb2.FileCreated:
		list = append(list, change{c.path, fscc.FILE_ACTION_ADDED, nameFilter(o.dir)})
	case c.name.stream == "":
		list = append(list, change{c.path, fscc.FILE_ACTION_MODIFIED, notifyOverwritten})
	case c.action == smb2.FileCreated:
		if c.madeFile {
			list = append(list, change{c.path, fscc.FILE_ACTION_ADDED, smb2.NotifyChangeFileName})
		}
		list = append(list, change{stream, fscc.FILE_ACTION_ADDED_STREAM, smb2.NotifyChangeStreamName})
	default:
		list = append(list, change{stream, fscc.FILE_ACTION_MODIFIED_STREAM,
			smb2.NotifyChangeStreamSize | smb2.NotifyChangeStreamWrite})
	}
	s.report(ctx, list...)
}

// modified reports that something about the open's file has changed; of a stream, its
// data and size are reported as the stream's, all else as the file's.
func (o *open) modified(ctx context.Context, filter smb2.CompletionFilter) {
	if filter != 0 {
		o.ownFolderChanged(ctx)
	}
	o.reportModified(ctx, filter)
}

// reportModified is modified for a change that the folder's leases hear of later.
func (o *open) reportModified(ctx context.Context, filter smb2.CompletionFilter) {
	s := o.share
	if filter == 0 || !s.watched() {
		return
	}
	path, err := o.file.Name()
	if err != nil {
		return // it has no name any more
	}
	c := change{path, fscc.FILE_ACTION_MODIFIED, filter}
	if o.stream != nil {
		var own smb2.CompletionFilter
		if filter&smb2.NotifyChangeSize != 0 {
			own |= smb2.NotifyChangeStreamSize
		}
		if filter&smb2.NotifyChangeLastWrite != 0 {
			own |= smb2.NotifyChangeStreamWrite
		}
		if own != 0 {
			name, err := o.stream.StreamName()
			if err != nil {
				return
			}
			s.report(ctx, change{path + ":" + name, fscc.FILE_ACTION_MODIFIED_STREAM, own})
		}
		if c.filter &^= smb2.NotifyChangeSize; c.filter == 0 {
			return
		}
	}
	s.report(ctx, c)
}

// wroteNothing, wroteOnce and wroteMore are how far the reporting of writes is.
const (
	wroteNothing = iota
	wroteOnce    // the first write has been reported
	wroteMore    // others since; that is reported when the open is closed
)

// wrote notes n bytes written at off. The first write of an open is reported when it
// is done, the others together when the open is closed.
func (o *open) wrote(ctx context.Context, off, n int64) {
	if n > 0 {
		o.breakLate(ctx)
	}
	if n == 0 || !o.share.watched() && !o.foldersCached() {
		return
	}
	if !o.writes.CompareAndSwap(wroteNothing, wroteOnce) {
		o.writes.Store(wroteMore)
		return
	}
	filter := smb2.NotifyChangeLastWrite
	if info, err := o.file.Stat(ctx); err == nil && info.Size == off+n {
		filter |= smb2.NotifyChangeSize
	}
	o.reportModified(ctx, filter)
}

// reportWrites reports the writes that have not been, and tells those who cache the
// folder of all of them: sizes and times in it have changed.
func (o *open) reportWrites(ctx context.Context) {
	switch o.writes.Load() {
	case wroteOnce:
		o.ownFolderChanged(ctx)
	case wroteMore:
		o.modified(ctx, smb2.NotifyChangeLastWrite|smb2.NotifyChangeSize)
	}
}

// removing prepares to report that the name of f, or of the stream it is, goes: the function
// it returns does, once it has gone.
func (o *open) removing(f fs.File) (gone func(ctx context.Context)) {
	s := o.share
	path, err := f.Name()
	if err != nil {
		return func(context.Context) {}
	}
	c := change{path, fscc.FILE_ACTION_REMOVED, nameFilter(f.Dir())}
	if stream := fs.StreamOf(f); stream != nil {
		name, err := stream.StreamName()
		if err != nil {
			return func(context.Context) {}
		}
		c = change{path + ":" + name, fscc.FILE_ACTION_REMOVED_STREAM, smb2.NotifyChangeStreamName}
	}
	tunnelled := !f.Dir() && c.action == fscc.FILE_ACTION_REMOVED
	return func(ctx context.Context) {
		if tunnelled {
			s.srv.tunnel.left(s, path)
		}
		o.folderChanged(ctx, path)
		s.report(ctx, c)
	}
}

// reportRename reports a rename (MS-FSA 2.1.5.15.12). replaced says that another file had
// the name.
func (o *open) reportRename(ctx context.Context, from, to string, replaced bool) {
	filter := nameFilter(o.baseFile().Dir())
	oldFolder, _ := splitPath(from, '/')
	newFolder, _ := splitPath(to, '/')
	moved := oldFolder != newFolder
	o.folderChanged(ctx, to)
	if moved {
		o.folderChanged(ctx, from)
	}
	gone := change{from, fscc.FILE_ACTION_RENAMED_OLD_NAME, filter}
	come := change{to, fscc.FILE_ACTION_RENAMED_NEW_NAME, filter}
	if moved || replaced {
		gone.action = fscc.FILE_ACTION_REMOVED
	}
	switch {
	case replaced:
		come.action, come.filter = fscc.FILE_ACTION_MODIFIED, notifyReplaced
	case moved:
		come.action = fscc.FILE_ACTION_ADDED
	}
	o.share.report(ctx, gone, come)
}

// reportStreamRename reports that a stream has another name. No action says so.
func (o *open) reportStreamRename(ctx context.Context, from, to string) {
	path, err := o.file.Name()
	if err != nil || fscc.UpcaseName(from) == fscc.UpcaseName(to) {
		return
	}
	o.tree.share.report(ctx, change{path + ":" + from, fscc.FILE_ACTION_REMOVED_STREAM, smb2.NotifyChangeStreamName},
		change{path + ":" + to, fscc.FILE_ACTION_ADDED_STREAM, smb2.NotifyChangeStreamName})
}

// reportLink reports a new link (MS-FSA 2.1.5.15.7).
func (o *open) reportLink(ctx context.Context, to string, replaced bool) {
	o.folderChanged(ctx, to)
	c := change{to, fscc.FILE_ACTION_ADDED, smb2.NotifyChangeFileName}
	if replaced {
		c.action, c.filter = fscc.FILE_ACTION_MODIFIED, notifyReplaced
	}
	o.share.report(ctx, c)
}

// basicFilter is the filter for what FileBasicInformation sets (MS-FSA 2.1.5.15.2).
func basicFilter(b *fscc.BasicInfo) (filter smb2.CompletionFilter) {
	if b.Attributes != 0 {
		filter |= smb2.NotifyChangeAttributes
	}
	for _, t := range []struct {
		at     fscc.Filetime
		filter smb2.CompletionFilter
	}{
		{b.CreationTime, smb2.NotifyChangeCreation}, {b.LastAccessTime, smb2.NotifyChangeLastAccess},
		{b.LastWriteTime, smb2.NotifyChangeLastWrite},
	} {
		if t.at.IsTime() {
			filter |= t.filter
		}
	}
	return filter
}
