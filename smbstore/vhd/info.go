package vhd

// Info describes a disk. Sizes are bytes.
type Info struct {
	Type        string      `json:"type"` // "fixed", "dynamic" or "differencing"
	VirtualSize int64       `json:"virtual_size"`
	CurrentSize int64       `json:"current_size"` // as the footer says: more than the virtual size if that is by geometry
	BlockSize   int64       `json:"block_size"`   // 0 for a fixed disk
	ID          ID          `json:"id"`
	FileSize    int64       `json:"file_size"`
	Creator     string      `json:"creator"` // four characters, as they are
	ParentLink  *ParentLink `json:"parent_link,omitempty"`
}

func (im *image) info(fileSize int64) Info {
	kind := map[uint32]string{typeFixed: "fixed", typeDynamic: "dynamic", typeDifferencing: "differencing"}[im.ft.Type]
	i := Info{
		Type: kind, VirtualSize: im.size, CurrentSize: int64(im.ft.CurrentSize), BlockSize: im.blockSize, ID: im.ft.ID,
		FileSize: fileSize, Creator: string(im.ft.Creator[:]),
	}
	if im.parent != nil {
		link := *im.parent
		i.ParentLink = &link
	}
	return i
}

// Info describes the disk as it is now.
func (d *Disk) Info() Info {
	i := d.im.info(d.space.fileSize.Load())
	i.ParentLink = d.ParentLink()
	return i
}
