package shares

import (
	"context"
	"errors"

	"lunless/shares/fs"
	"lunless/shares/state"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// openExisting opens what the name leads to (MS-FSA 2.1.5.1.2): kind, pending
// delete, access, sharing, and only then the truncation that overwriting is. It
// closes f if it fails.
func (c *creation) openExisting(ctx context.Context, f fs.File) (o *open, err error) {
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	info, err := f.Stat(ctx)
	if err != nil {
		return nil, err
	}
	c.info = info
	if err := c.checkKind(&info); err != nil {
		return nil, err
	}
	if err := c.needsEAs(ctx, f, &info); err != nil {
		return nil, err
	}
	id := f.ID()
	if err := c.checkLease(&id); err != nil {
		return nil, err
	}
	if c.path, err = c.r.deleting(ctx, f); err != nil {
		return nil, c.takeOverGoing(ctx, f, err)
	}
	if err := c.recognize(ctx, f); err != nil {
		return nil, err
	}
	if err := c.checkDisposition(&info); err != nil {
		return nil, err
	}
	transient := c.transientRights()
	if err := c.checkAccess(ctx, f, &info, transient); err != nil {
		return nil, err
	}
	if c.req.CreateOptions&smb2.FileDeleteOnClose != 0 {
		if c.granted&fscc.DELETE == 0 {
			return nil, smb2.StatusInvalidParameter // asked for as part of MAXIMUM_ALLOWED, and not allowed
		}
		if info.Attributes&fscc.FILE_ATTRIBUTE_READONLY != 0 {
			return nil, smb2.StatusCannotDelete
		}
		if c.path == "" && c.name.stream == "" {
			return nil, smb2.StatusAccessDenied // the share itself
		}
	}
	o = c.newOpen(f)
	if err := c.race(ctx, o, transient); err != nil {
		return nil, err
	}
	if err := c.share(ctx, o, transient); err != nil {
		return nil, err
	}
	c.action = smb2.FileOpened
	if c.made {
		c.action = smb2.FileCreated
	}
	if c.overwrites() && !c.made {
		err := c.overwrite(ctx, f)
		o.settleWrites(ctx)
		if err == nil && o.ca {
			err = o.flush(ctx)
		}
		if err != nil {
			return nil, errors.Join(err, c.unshare(ctx, o))
		}
	}
	return o, nil
}

// unshare takes an open back that shall not have been: nothing is deleted for it.
func (c *creation) unshare(ctx context.Context, o *open) error {
	ctx = context.WithoutCancel(ctx)
	fx, err := o.store.Update(ctx, o.fileID, state.RemoveOpen(o.stateID(), true))
	if err == nil && fx.Delete {
		_, err = o.store.Update(ctx, o.fileID, state.Deleted(fx.Link))
	}
	c.r.conn.srv.table.remove(o)
	return errors.Join(err, o.unshareBase(ctx))
}

// checkKind compares what was asked for with what is there (MS-FSA 2.1.5.1 phase 7).
func (c *creation) checkKind(info *fs.Info) error {
	noDir := c.req.CreateOptions&smb2.FileNonDirectoryFile != 0 || c.name.data
	switch {
	case c.wantDir && !info.Dir:
		if c.req.CreateDisposition == smb2.FileCreate {
			return smb2.StatusObjectNameCollision
		}
		return smb2.StatusNotADirectory
	case noDir && info.Dir:
		return smb2.StatusFileIsADirectory
	case c.name.trailing && !info.Dir:
		return smb2.StatusObjectNameInvalid
	}
	return nil
}

// checkDisposition refuses to create what exists and to overwrite what cannot be.
func (c *creation) checkDisposition(info *fs.Info) error {
	d := c.req.CreateDisposition
	switch {
	case d == smb2.FileOpen || d == smb2.FileOpenIf, c.made:
		return nil
	case info.Dir && c.name.path == "":
		return smb2.StatusAccessDenied
	case info.Dir || d == smb2.FileCreate:
		return smb2.StatusObjectNameCollision
	}
	if c.name.stream != "" {
		return nil
	}
	const hidden = fscc.FILE_ATTRIBUTE_HIDDEN | fscc.FILE_ATTRIBUTE_SYSTEM
	if info.Attributes&hidden&^c.attrs != 0 {
		return smb2.StatusAccessDenied
	}
	return nil
}

// transientRights are what overwriting needs besides what was asked for.
func (c *creation) transientRights() fscc.AccessMask {
	switch c.req.CreateDisposition {
	case smb2.FileSupersede:
		if c.name.stream != "" {
			return fscc.DELETE
		}
		return fscc.DELETE | fscc.FILE_WRITE_EA | fscc.FILE_WRITE_ATTRIBUTES
	case smb2.FileOverwrite, smb2.FileOverwriteIf:
		if c.name.stream != "" {
			return fscc.FILE_WRITE_DATA
		}
		return fscc.FILE_WRITE_DATA | fscc.FILE_WRITE_EA | fscc.FILE_WRITE_ATTRIBUTES
	}
	return 0
}

// checkAccess sets what is granted (MS-FSA 2.1.5.1.2.1): STATUS_ACCESS_DENIED if
// anything asked for is missing.
func (c *creation) checkAccess(ctx context.Context, f fs.File, info *fs.Info, transient fscc.AccessMask) error {
	const writes = fscc.FILE_WRITE_DATA | fscc.FILE_APPEND_DATA
	readOnly := !info.Dir && info.Attributes&fscc.FILE_ATTRIBUTE_READONLY != 0
	if readOnly && !c.made && (c.desired&writes != 0 || c.overwrites()) {
		return smb2.StatusAccessDenied
	}
	want := c.desired | transient
	if want&^fscc.ACCESS_SYSTEM_SECURITY&^fscc.AccessMask(c.r.tree.access) != 0 {
		return c.r.tree.share.refusal(c.req.CreateDisposition)
	}
	m, err := c.r.maximalAccess(ctx, f, c.name.path, want, c.maximum)
	if err != nil {
		return err
	}
	m |= c.backupRights()
	if want&^m != 0 {
		return smb2.StatusAccessDenied
	}
	if c.ctxs.app != nil {
		c.takeOver = m&takeOverRights == takeOverRights
	}
	c.granted = c.desired
	if c.maximum {
		if readOnly {
			m &^= writes
		}
		c.granted |= m & fscc.AccessMask(c.r.tree.access) & fscc.FILE_ALL_ACCESS
	}
	if c.granted == 0 {
		return smb2.StatusAccessDenied
	}
	return nil
}

// overwrite empties the file and gives it the attributes asked for (MS-FSA 2.1.5.1.2).
func (c *creation) overwrite(ctx context.Context, f fs.File) error {
	if err := f.Truncate(ctx, 0); err != nil {
		return err
	}
	if c.name.stream == "" {
		attrs := c.attrs&^fscc.FILE_ATTRIBUTE_NOT_CONTENT_INDEXED | fscc.FILE_ATTRIBUTE_ARCHIVE
		if err := f.SetAttributes(ctx, attrs); err != nil {
			return err
		}
		if err := c.replaceEAs(ctx, f); err != nil {
			return err
		}
	}
	c.action = smb2.FileOverwritten
	if c.req.CreateDisposition == smb2.FileSupersede {
		c.action = smb2.FileSuperseded
	}
	if c.ctxs.allocation > 0 {
		return f.SetAllocation(ctx, c.ctxs.allocation)
	}
	return nil
}

// createNew makes the file or folder (MS-FSA 2.1.5.1.1). fs.ErrExist if another
// request was faster.
func (c *creation) createNew(ctx context.Context) (*open, error) {
	if err := c.checkNew(); err != nil {
		return nil, err
	}
	if err := c.checkLease(nil); err != nil {
		return nil, err
	}
	folder, _ := splitPath(c.name.path, '/')
	parent, err := c.openParent(ctx, folder)
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	sd, err := c.newSecurity(ctx, parent)
	if err != nil {
		return nil, err
	}
	info, err := parent.Stat(ctx)
	if err != nil {
		return nil, err
	}
	opts := fs.CreateOptions{
		Dir: c.wantDir, Access: fsAccess(c.granted), SecurityDescriptor: sd, AllocationSize: c.ctxs.allocation,
		Attributes: c.attrs&^fscc.FILE_ATTRIBUTE_NOT_CONTENT_INDEXED | info.Attributes&fscc.FILE_ATTRIBUTE_NOT_CONTENT_INDEXED,
	}
	if c.name.stream != "" {
		opts.Access, opts.AllocationSize = 0, 0 // the stream's
	}
	if c.wantDir {
		opts.AllocationSize = 0
	} else {
		opts.Attributes |= fscc.FILE_ATTRIBUTE_ARCHIVE
	}
	opts.Mark = c.mark()
	path := c.name.path
	if !c.wantDir {
		path = c.r.conn.srv.tunnel.long(c.r.tree.share, path)
	}
	f, err := c.r.tree.fs.Create(ctx, path, opts)
	if err != nil {
		return nil, err
	}
	if err := c.withEAs(ctx, f); err != nil {
		return nil, err
	}
	if f, err = c.withStream(ctx, f); err != nil {
		return nil, err
	}
	c.madeFile = true
	c.action = smb2.FileCreated
	if c.path, err = f.Name(); err != nil {
		f.Close()
		return nil, err
	}
	if err := c.settleNew(ctx, f); err != nil {
		f.Close()
		return nil, err
	}
	o := c.newOpen(f)
	if err := c.share(ctx, o, 0); err != nil {
		f.Close() // another open of the new file was faster
		c.made = waitOf(err) != nil
		return nil, err
	}
	return o, nil
}

// checkNew checks what can be said before the parent is looked at, and grants.
func (c *creation) checkNew() error {
	const security = fscc.ACCESS_SYSTEM_SECURITY
	tree := fscc.AccessMask(c.r.tree.access)
	switch {
	case c.name.trailing && !c.wantDir:
		return smb2.StatusObjectNameInvalid
	case c.wantDir && c.attrs&fscc.FILE_ATTRIBUTE_TEMPORARY != 0:
		return smb2.StatusInvalidParameter
	case c.attrs&fscc.FILE_ATTRIBUTE_READONLY != 0 && c.req.CreateOptions&smb2.FileDeleteOnClose != 0:
		return smb2.StatusCannotDelete
	case tree&fscc.FILE_WRITE_DATA == 0, c.desired&^security&^tree != 0:
		return smb2.StatusAccessDenied
	}
	c.granted = c.desired
	if c.maximum {
		c.granted |= fscc.FILE_ALL_ACCESS & tree
	}
	return nil
}

// openParent opens the folder to create in, which must be there, stay there and
// let the user create.
func (c *creation) openParent(ctx context.Context, folder string) (fs.File, error) {
	f, err := c.r.tree.openFolder(ctx, folder)
	if err != nil {
		return nil, err
	}
	need := fscc.FILE_ADD_FILE
	if c.wantDir {
		need = fscc.FILE_ADD_SUBDIRECTORY
	}
	if err := c.r.mayAdd(ctx, f, need&^c.backupRights()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// mayAdd says whether the user may put a file or (FILE_ADD_SUBDIRECTORY) a folder
// into the folder f, which must not be going away itself.
func (r *request) mayAdd(ctx context.Context, f fs.File, need fscc.AccessMask) error {
	if _, err := r.deleting(ctx, f); err != nil {
		return err
	}
	m, err := r.allowed(ctx, f)
	if err != nil {
		return err
	}
	if need&^(m&fscc.AccessMask(r.tree.access)) != 0 {
		return smb2.StatusAccessDenied
	}
	return nil
}

// openFolder opens a folder that names lie in: what is missing about it is
// missing of a path.
func (t *tree) openFolder(ctx context.Context, path string) (fs.File, error) {
	f, err := t.fs.Open(ctx, path, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fs.ErrPathNotExist
	}
	if err != nil {
		return nil, err
	}
	if !f.Dir() {
		f.Close()
		return nil, fs.ErrPathNotExist
	}
	return f, nil
}
