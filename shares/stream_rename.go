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

// renameStream gives a stream of the open's file another name (MS-FSA
// 2.1.5.15.12.1): the open's own, or the unnamed one, whose data goes to a new
// stream.
func (r *request) renameStream(ctx context.Context, in *fscc.RenameInfo) error {
	o := r.open
	to, err := parseStreamRename(in.Name)
	switch {
	case err != nil:
		return err
	case in.RootDirectory != 0, to == "" && o.isOfFolder(ctx), o.dir:
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
	if to == "" {
		return o.streamToFile(ctx, in.ReplaceIfExists)
	}
	if err := r.checkStreamTarget(ctx, to, in.ReplaceIfExists); err != nil {
		return err
	}
	if o.stream != nil {
		return o.stream.RenameStream(ctx, to, in.ReplaceIfExists)
	}
	return o.fileToStream(ctx, to)
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

// isOfFolder says whether the open is of a stream of a folder.
func (o *open) isOfFolder(context.Context) bool { return o.stream != nil && o.stream.Base().Dir() }

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

func (o *open) streamToFile(context.Context, bool) error   { return smb2.StatusNotSupported }
func (o *open) fileToStream(context.Context, string) error { return smb2.StatusNotSupported }
