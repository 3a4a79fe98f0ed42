package shares

import (
	"context"

	"lunless/shares/state"
)

// parentLease is the lease of the folder that a file lies in, as the lease of the
// file names it (MS-SMB2 3.3.1.12 Lease.ParentLeaseKey). Who holds it knows of what
// it does to the file.
type parentLease struct {
	set bool
	key state.LeaseKey
}

// foldersCached says whether any client caches what is in a folder.
func (o *open) foldersCached() bool { return o.table.folders.Load() > 0 }

// folderChanged takes the caching of the folder that path lies in from all clients
// but the one whose lease the open's names: something in it has changed through the
// open (MS-FSA 2.1.4.12, PARENT_OBJECT).
func (o *open) folderChanged(ctx context.Context, path string) {
	if o.table == nil || !o.foldersCached() {
		return
	}
	ctx = context.WithoutCancel(ctx)
	folder, _ := splitPath(path, '/')
	f, err := o.share.FS.Open(ctx, folder, 0)
	if err != nil {
		return // it is gone, and its leases with it
	}
	defer f.Close()
	o.store.Update(ctx, f.ID(), state.BreakForDirChange(o.parent.set, o.parent.key))
}

// ownFolderChanged is folderChanged for the folder that the open's file lies in.
func (o *open) ownFolderChanged(ctx context.Context) {
	if o.table == nil || !o.foldersCached() {
		return
	}
	if path, err := o.file.Name(); err == nil {
		o.folderChanged(ctx, path)
	}
}
