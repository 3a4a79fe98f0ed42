package vhd

import "fmt"

// Info describes a disk. Sizes are bytes.
type Info struct {
	Type        string `json:"type"` // "fixed" or "dynamic"
	VirtualSize int64  `json:"virtual_size"`
	BlockSize   int64  `json:"block_size"` // 0 for a fixed disk
	ID          string `json:"id"`
	FileSize    int64  `json:"file_size"`
	Creator     string `json:"creator"` // four characters, as they are
}

func (im *image) info(fileSize int64) Info {
	kind := "dynamic"
	if im.ft.Type == typeFixed {
		kind = "fixed"
	}
	u := im.ft.ID
	return Info{
		Type: kind, VirtualSize: int64(im.ft.CurrentSize), BlockSize: im.blockSize, FileSize: fileSize,
		ID: fmt.Sprintf("%X-%X-%X-%X-%X", u[:4], u[4:6], u[6:8], u[8:10], u[10:]), Creator: string(im.ft.Creator[:]),
	}
}

// Info describes the disk as it is now.
func (d *Disk) Info() Info { return d.im.info(d.space.fileSize.Load()) }
