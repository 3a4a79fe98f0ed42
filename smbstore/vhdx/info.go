package vhdx

import "lunless/smbstore/block"

// Info describes a disk and its file. Sizes are bytes.
type Info struct {
	Type               string `json:"type"` // "fixed", "dynamic" or "differencing"
	VirtualSize        int64  `json:"virtual_size"`
	BlockSize          int64  `json:"block_size"`
	LogicalSectorSize  int    `json:"logical_sector_size"`
	PhysicalSectorSize int    `json:"physical_sector_size"`
	ID                 GUID   `json:"id"` // virtual disk ID
	FileSize           int64  `json:"file_size"`
	Creator            string `json:"creator"`
	FileWriteGUID      GUID   `json:"file_write_guid"`
	DataWriteGUID      GUID   `json:"data_write_guid"`
	// ParentLink is what a differencing disk says of its parent, whose
	// DataWriteGUID its Linkage equals.
	ParentLink *ParentLink `json:"parent_link,omitempty"`
	LogInUse   bool        `json:"log_in_use"` // was not closed in order, or is open
}

// Inspect reads what the structures of f say and changes nothing. Errors as Open.
func Inspect(f block.File) (Info, error) {
	im, err := loadImage(f)
	if err != nil {
		return Info{}, err
	}
	return im.info(im.hdr, im.fileSize), nil
}

// Info describes the disk as it is now.
func (d *Disk) Info() Info {
	d.hdr.mu.Lock()
	h := d.hdr.cur
	d.hdr.mu.Unlock()
	in := d.im.info(h, d.space.fileSize.Load())
	in.VirtualSize, in.ParentLink = d.Size(), d.ParentLink()
	return in
}

func (im *image) info(h header, fileSize int64) Info {
	p := &im.params
	kind := "dynamic"
	var link *ParentLink
	switch {
	case p.HasParent:
		kind, link = "differencing", im.locator.link()
	case p.LeaveAllocated:
		kind = "fixed"
	}
	return Info{ParentLink: link,
		Type: kind, VirtualSize: int64(p.VirtualSize), BlockSize: int64(p.BlockSize),
		LogicalSectorSize: int(p.LogicalSectorSize), PhysicalSectorSize: int(p.PhysicalSectorSize),
		ID: p.ID, FileSize: fileSize, Creator: im.creator,
		FileWriteGUID: h.FileWriteGUID, DataWriteGUID: h.DataWriteGUID, LogInUse: h.LogGUID != GUID{},
	}
}
