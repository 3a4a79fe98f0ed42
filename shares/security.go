package shares

import (
	"context"
	"errors"
	"fmt"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// defaultDescriptor is that of files and folders for which none is stored: what
// lay in a share before it was one. Whoever is let into the share may do
// everything, and objects made there inherit that.
var defaultDescriptor = func() *fscc.SecurityDescriptor {
	const inherit = fscc.OBJECT_INHERIT_ACE | fscc.CONTAINER_INHERIT_ACE
	return &fscc.SecurityDescriptor{
		Control: fscc.SE_DACL_PRESENT,
		Owner:   fscc.SIDAdministrators,
		Group:   fscc.SIDAdministrators,
		DACL: &fscc.ACL{ACEs: []fscc.ACE{
			fscc.Allow(fscc.SIDLocalSystem, fscc.FILE_ALL_ACCESS, inherit),
			fscc.Allow(fscc.SIDAdministrators, fscc.FILE_ALL_ACCESS, inherit),
			fscc.Allow(fscc.SIDAuthenticatedUsers, fscc.FILE_ALL_ACCESS, inherit),
		}},
	}
}()

// descriptor is the security descriptor of f; it must not be changed.
func descriptor(ctx context.Context, f fs.File) (*fscc.SecurityDescriptor, error) {
	raw, err := f.SecurityDescriptor(ctx)
	if err != nil {
		return nil, err
	}
	if raw == nil {
		return defaultDescriptor, nil
	}
	sd := new(fscc.SecurityDescriptor)
	if err := sd.Decode(raw); err != nil {
		return nil, fmt.Errorf("stored security descriptor: %w: %w", smb2.StatusAccessDenied, err)
	}
	return sd, nil
}

// allowed is all that the descriptor of f lets the user do.
func (r *request) allowed(ctx context.Context, f fs.File) (fscc.AccessMask, error) {
	sd, err := descriptor(ctx, f)
	if err != nil {
		return 0, err
	}
	return maximum(sd.AccessCheck(&r.session.token, fscc.MAXIMUM_ALLOWED))
}

// maximum makes nothing of an access check that grants nothing.
func maximum(m fscc.AccessMask, err error) (fscc.AccessMask, error) {
	if errors.Is(err, fscc.ErrAccessDenied) {
		return 0, nil
	}
	return m, err
}

// maximalAccess is all that the user may do with f, what the folder above it
// adds included (MS-FSA 2.1.5.1.2.1). That one is looked at only if all must be
// known, or if it decides about something in want.
func (r *request) maximalAccess(ctx context.Context, f fs.File, path string, want fscc.AccessMask, all bool) (fscc.AccessMask, error) {
	const fromParent = fscc.DELETE | fscc.FILE_READ_ATTRIBUTES
	m, err := r.allowed(ctx, f)
	if err != nil {
		return 0, err
	}
	m |= want & privilegedRights(&r.session.token)
	missing := want &^ m
	if all {
		missing |= fromParent &^ m
	}
	if path == "" || missing&fromParent == 0 {
		return m, nil
	}
	folder, _ := splitPath(path, '/')
	parent, err := r.tree.openFolder(ctx, folder)
	if err != nil {
		return 0, err
	}
	defer parent.Close()
	p, err := r.allowed(ctx, parent)
	if p&fscc.FILE_DELETE_CHILD != 0 {
		m |= fscc.DELETE
	}
	if p&fscc.FILE_LIST_DIRECTORY != 0 {
		m |= fscc.FILE_READ_ATTRIBUTES
	}
	return m, err
}

// privilegedRights are those a privilege gives, whatever a descriptor says, where
// they are asked for by name (MS-DTYP 2.5.3.2).
func privilegedRights(t *fscc.Token) (m fscc.AccessMask) {
	if t.Privileges&fscc.SeSecurityPrivilege != 0 {
		m |= fscc.ACCESS_SYSTEM_SECURITY
	}
	if t.Privileges&fscc.SeTakeOwnershipPrivilege != 0 {
		m |= fscc.WRITE_OWNER
	}
	return m
}

// backupRights are those that privileges to back up and to restore give an open
// which says that it is for that (MS-FSA 2.1.5.1 phase 4).
func (c *creation) backupRights() (m fscc.AccessMask) {
	if c.req.CreateOptions&smb2.FileOpenForBackupIntent == 0 {
		return 0
	}
	has := c.r.session.token.Privileges
	switch c.req.CreateDisposition {
	case smb2.FileOpen, smb2.FileOpenIf, smb2.FileOverwriteIf:
		if has&fscc.SeBackupPrivilege != 0 {
			m |= fscc.FILE_GENERIC_READ | fscc.FILE_TRAVERSE | fscc.ACCESS_SYSTEM_SECURITY
		}
	}
	if has&fscc.SeRestorePrivilege != 0 {
		m |= fscc.FILE_GENERIC_WRITE | fscc.WRITE_DAC | fscc.WRITE_OWNER | fscc.DELETE | fscc.ACCESS_SYSTEM_SECURITY
	}
	return m
}

// newSecurity is the descriptor of what is created in parent (MS-DTYP 2.5.3.4),
// from the request's own, if it brings one, and what the folder hands down.
func (c *creation) newSecurity(ctx context.Context, parent fs.File) ([]byte, error) {
	above, err := descriptor(ctx, parent)
	if err != nil {
		return nil, err
	}
	token := &c.r.session.token
	if c.ctxs.sd != nil && !c.ctxs.sd.Owner.IsZero() && !token.MayOwn(c.ctxs.sd.Owner) {
		return nil, smb2.StatusInvalidOwner
	}
	sd, err := fscc.NewDescriptor(above, c.ctxs.sd, token, c.wantDir)
	if err != nil {
		return nil, err
	}
	return sd.Marshal()
}

// querySecurity is the part of the descriptor that info names (MS-SMB2 3.3.5.20.3).
func (o *open) querySecurity(ctx context.Context, info fscc.SecurityInformation) ([]byte, error) {
	if info.NeedsToQuery()&^fscc.AccessMask(o.access) != 0 {
		return nil, smb2.StatusAccessDenied
	}
	sd, err := descriptor(ctx, o.file)
	if err != nil {
		return nil, err
	}
	return sd.Select(info).Marshal()
}

// setSecurity sets the part of the descriptor that info names (MS-SMB2 3.3.5.21.3).
func (o *open) setSecurity(ctx context.Context, info fscc.SecurityInformation, raw []byte) error {
	if info.NeedsToSet()&^fscc.AccessMask(o.access) != 0 || o.tree.share.ReadOnly {
		return smb2.StatusAccessDenied // a privilege gives ACCESS_SYSTEM_SECURITY on any share
	}
	var set fscc.SecurityDescriptor
	if err := set.Decode(raw); err != nil {
		return fmt.Errorf("%w: %w", smb2.StatusInvalidSecurityDescr, err)
	}
	if info&(fscc.OWNER_SECURITY_INFORMATION|fscc.BACKUP_SECURITY_INFORMATION) != 0 && !o.session.token.MayOwn(set.Owner) {
		return smb2.StatusInvalidOwner
	}
	old, err := descriptor(ctx, o.file)
	if err != nil {
		return err
	}
	sd, err := old.Merge(&set, info)
	if err != nil {
		return err
	}
	stored, err := sd.Marshal()
	if err != nil {
		return err
	}
	if err := o.file.SetSecurityDescriptor(ctx, stored); err != nil || o.dir {
		return err
	}
	now, err := o.file.Stat(ctx)
	if err != nil || now.Attributes&fscc.FILE_ATTRIBUTE_ARCHIVE != 0 {
		return err
	}
	return o.file.SetAttributes(ctx, now.Attributes|fscc.FILE_ATTRIBUTE_ARCHIVE) // MS-FSA 2.1.5.17
}
