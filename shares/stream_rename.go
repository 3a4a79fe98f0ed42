package shares

import (
	"context"
	"errors"
	"strings"

	"lunless/shares/fs"
	"lunless/shares/state"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// renameStream gives the open's stream another name (MS-FSA 2.1.5.15.12.1), or
// none, which makes its data the file's.
func (r *request) renameStream(ctx context.Context, in *fscc.RenameInfo) error {
	o := r.open
	to, err := parseStreamRename(in.Name)
	switch {
	case err != nil:
		return err
	case in.RootDirectory != 0, to == "" && o.baseFile().Dir(), o.dir:
		return smb2.StatusInvalidParameter
	}
	names := &r.tree.share.names
	names.Lock() // nobody opens the target meanwhile
	defer names.Unlock()
	if _, err := r.deleting(ctx, o.file); errors.Is(err, state.ErrDeletePending) {
		return smb2.StatusAccessDenied
	} else if err != nil {
		return err
	}
	if o.stream == nil {
		return smb2.StatusNotSupported // the unnamed stream keeps its data
	}
	if to == "" {
		return o.streamToFile(ctx, in.ReplaceIfExists)
	}
	if err := r.checkStreamTarget(ctx, to, in.ReplaceIfExists); err != nil {
		return err
	}
	old, err := o.stream.StreamName()
	if err != nil {
		return err
	}
	if err := o.stream.RenameStream(ctx, to, in.ReplaceIfExists); err != nil {
		return err
	}
	o.reportStreamRename(ctx, old, to)
	if o.ca {
		return o.tree.fs.SyncParent(ctx, o.file)
	}
	return nil
}

// parseStreamRename is the new name of a stream: :name, :name:$DATA or ::$DATA.
func parseStreamRename(name string) (string, error) {
	name, kind, typed := strings.Cut(name[1:], ":")
	switch {
	case typed && kind == "", strings.Contains(kind, ":"), !typed && name == "",
		name != "" && fs.CheckStreamName(name) != nil:
		return "", smb2.StatusInvalidParameter
	case typed && !strings.EqualFold(kind, "$DATA"):
		return "", statusObjectTypeMismatch
	}
	return name, nil
}

// baseFile is the file or folder that is open, or that the open stream is of.
func (o *open) baseFile() fs.File {
	if o.stream != nil {
		return o.stream.Base()
	}
	return o.file
}

// checkStreamTarget asks whether a stream may take the name: no other has it, or, with
// replace, an empty one that nobody has open.
func (r *request) checkStreamTarget(ctx context.Context, name string, replace bool) error {
	streams, err := streamsOf(r.open.baseFile())
	if err != nil {
		return err
	}
	target, err := streams.OpenStream(ctx, name, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer target.Close()
	if target.ID() == r.open.fileID {
		return nil
	}
	if !replace {
		return smb2.StatusObjectNameCollision
	}
	info, err := target.Stat(ctx)
	if err != nil {
		return err
	}
	if info.Size != 0 {
		return smb2.StatusInvalidParameter
	}
	_, err = r.conn.srv.store.Update(ctx, target.ID(), state.Replaceable(streamLink))
	if errors.Is(err, state.ErrInUse) {
		return smb2.StatusInvalidParameter
	}
	return err
}

// streamToFile makes the data of an open stream its file's. Nobody else may have
// either of them open: the open is of neither afterwards, and reads and writes
// nothing any more.
func (o *open) streamToFile(ctx context.Context, replace bool) error {
	base := o.stream.Base()
	if !replace {
		info, err := base.Stat(ctx)
		if err != nil {
			return err
		}
		if info.Size > 0 {
			return smb2.StatusObjectNameCollision
		}
	}
	for _, id := range []fs.FileID{base.ID(), o.fileID} {
		if _, err := o.store.Update(ctx, id, state.OpenAlone(o.stateID())); err != nil {
			return err
		}
	}
	if err := o.stream.RenameStream(ctx, "", replace); err != nil {
		return err
	}
	o.modified(ctx, smb2.NotifyChangeSize|smb2.NotifyChangeLastWrite)
	return nil
}
