package shares

import (
	"context"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
)

// attributes are a file's attributes as a client sees them: NORMAL stands for
// none (MS-FSCC 2.6).
func attributes(i *fs.Info) uint32 {
	if i.Attributes == 0 {
		return fscc.FILE_ATTRIBUTE_NORMAL
	}
	return uint32(i.Attributes)
}

// allocation is the room a file takes; folders take none (MS-FSCC 2.4.47).
func allocation(i *fs.Info) int64 {
	if i.Dir {
		return 0
	}
	return i.AllocationSize
}

// stat is what the open's file says of itself, with times pinned on the open back
// in place. The change time is the kernel's and cannot be put back in the file:
// one that is pinned shows on this open alone.
func (o *open) stat(ctx context.Context) (fs.Info, error) {
	o.times.restore(ctx, o.file)
	info, err := o.file.Stat(ctx)
	if err != nil {
		return info, err
	}
	if t := o.times.changed(); t != nil {
		info.Changed = *t
	}
	if o.times.written() == nil {
		o.table.written.show(&info)
	}
	return info, nil
}

func basicInfo(i *fs.Info) fscc.BasicInfo {
	return fscc.BasicInfo{
		CreationTime:   fscc.FiletimeOf(i.Created),
		LastAccessTime: fscc.FiletimeOf(i.Accessed),
		LastWriteTime:  fscc.FiletimeOf(i.Written),
		ChangeTime:     fscc.FiletimeOf(i.Changed),
		Attributes:     attributes(i),
	}
}

func networkOpenInfo(i *fs.Info) fscc.NetworkOpenInfo {
	b := basicInfo(i)
	return fscc.NetworkOpenInfo{
		CreationTime:   b.CreationTime,
		LastAccessTime: b.LastAccessTime,
		LastWriteTime:  b.LastWriteTime,
		ChangeTime:     b.ChangeTime,
		AllocationSize: allocation(i),
		EndOfFile:      i.Size,
		Attributes:     b.Attributes,
	}
}
