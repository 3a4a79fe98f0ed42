package shares

import (
	"context"
	"errors"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// refusal is the status of an open that the share does not let have what it asks
// for: who may not see what is there does not learn that it is (MS-SMB2 3.3.5.9).
func (s *share) refusal(d smb2.CreateDisposition) error {
	if s.AccessBased && d == smb2.FileOpen {
		return smb2.StatusObjectNameNotFound
	}
	return smb2.StatusAccessDenied
}

// visible says whether a listing shows the entry called name to the user: on a
// share with access-based enumeration those that he may read (MS-SMB2 3.3.5.18).
// What goes away meanwhile, or cannot be looked at, is not shown.
func (o *open) visible(ctx context.Context, name string) (bool, error) {
	if !o.tree.share.AccessBased {
		return true, nil
	}
	folder, err := o.file.Name()
	if err != nil {
		return false, err
	}
	path := name
	if folder != "" {
		path = folder + "/" + name
	}
	f, err := o.tree.fs.Open(ctx, path, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPathNotExist), errors.Is(err, fs.ErrPermission):
		return false, nil
	case err != nil:
		return false, err
	}
	defer f.Close()
	sd, err := descriptor(ctx, f)
	if err != nil {
		return false, nil // one that does not decode lets nobody in
	}
	_, err = sd.AccessCheck(&o.session.token, fscc.GENERIC_READ)
	return err == nil, nil
}
