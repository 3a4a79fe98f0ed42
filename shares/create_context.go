package shares

import (
	"context"
	"fmt"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// createContexts is what the create contexts of a request come to. What is not
// known is ignored (MS-SMB2 2.2.13.2), and so is what the dialect does not have.
type createContexts struct {
	sd                 *fscc.SecurityDescriptor // for a new file; nil: none
	allocation         int64                    // bytes to reserve
	extendedAttributes []byte                   // a list of FILE_FULL_EA_INFORMATION
	onDiskID           bool
	maximal            bool
	maximalSince       smb2.MaximalAccessRequest
	durableContexts
}

func (c *createContexts) parse(list []smb2.CreateContext, d smb2.Dialect) error {
	*c = createContexts{durableContexts: durableContexts{dialect: d}}
	for i := range list {
		if len(list[i].Name) < 4 {
			return smb2.StatusInvalidParameter
		}
		if err := c.one(list[i].Name, list[i].Data); err != nil {
			return fmt.Errorf("create context %q: %w", list[i].Name, err)
		}
	}
	return c.checkDurable()
}

func (c *createContexts) one(name string, data []byte) error {
	switch name {
	case smb2.CreateContextTimewarp:
		return smb2.StatusObjectNameNotFound // no snapshot has been kept
	case smb2.CreateContextEABuffer:
		c.extendedAttributes = data
	case smb2.CreateContextSDBuffer:
		c.sd = new(fscc.SecurityDescriptor)
		if err := c.sd.Decode(data); err != nil {
			return fmt.Errorf("%w: %w", smb2.StatusInvalidSecurityDescr, err)
		}
	case smb2.CreateContextAllocationSize:
		var a smb2.AllocationSize
		if err := a.Decode(data); err != nil {
			return err
		}
		if a.AllocationSize > 1<<63-1 {
			return smb2.StatusInvalidParameter
		}
		c.allocation = int64(a.AllocationSize)
	case smb2.CreateContextMaximalAccess:
		c.maximal = true
		return c.maximalSince.Decode(data)
	case smb2.CreateContextOnDiskID:
		c.onDiskID = true
	default:
		return c.durableContexts.one(name, data)
	}
	return nil
}

// responseContexts answers those contexts that ask something.
func (c *creation) responseContexts(ctx context.Context, o *open, info *fs.Info) ([]smb2.CreateContext, error) {
	var list []smb2.CreateContext
	if c.ctxs.maximal {
		m, err := c.maximalResponse(ctx, o, info)
		if err != nil {
			return nil, err
		}
		list = append(list, m.Context())
	}
	if c.ctxs.onDiskID {
		id := smb2.OnDiskID{DiskFileID: info.ID.Inode, VolumeID: info.ID.Volume}
		list = append(list, id.Context())
	}
	return append(list, c.caching.contexts()...), nil
}

// maximalResponse tells what the user may do with the file (MS-SMB2 3.3.5.9.5).
func (c *creation) maximalResponse(ctx context.Context, o *open, info *fs.Info) (m smb2.MaximalAccessResponse, err error) {
	if since := c.ctxs.maximalSince; since.HasTimestamp && since.Timestamp != 0 &&
		since.Timestamp == smb2.Filetime(fscc.FiletimeOf(info.Changed)) {
		m.QueryStatus = smb2.StatusNoneMapped
		return m, nil
	}
	all, err := c.r.maximalAccess(ctx, o.file, c.name.path, 0, true)
	if err != nil {
		return m, err
	}
	m.MaximalAccess = smb2.AccessMask(all) & c.r.tree.access
	return m, nil
}
