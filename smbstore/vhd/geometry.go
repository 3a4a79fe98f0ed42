package vhd

import "slices"

// maxGeometry is the largest geometry there is. Where it stands, every reader
// goes by the current size.
const maxGeometry = 65535<<16 | 16<<8 | 255

// byGeometry are the creators whose disks are as large as their geometry says,
// which may be less than "Current Size": Virtual PC, Virtual Server, and QEMU
// unless asked to keep the size. For all others the current size counts, as it
// does for Hyper-V ("win "), disk2vhd ("d2v "), Azure ("wa"), VirtualBox ("vbox")
// and QEMU that was asked to ("qem2").
var byGeometry = []string{"vpc ", "vs  ", "qemu"}

// size is the virtual size.
func (f *footer) size() int64 {
	g := f.Geometry
	size := int64(g>>16) * int64(g>>8&0xff) * int64(g&0xff) * SectorSize
	if g == maxGeometry || size == 0 || size > int64(f.CurrentSize) || !slices.Contains(byGeometry, string(f.Creator[:])) {
		return int64(f.CurrentSize)
	}
	return size
}

// geometry returns cylinders, heads and sectors per track by the rule of "CHS
// Calculation". It rounds down: readers of old that go by the geometry would
// lose the disk's end. So a size that it does not meet exactly gets the largest.
func geometry(size int64) uint32 {
	total := min(size/SectorSize, 65535*16*255)
	c, h, s := chs(total)
	if c*h*s*SectorSize != size {
		return maxGeometry
	}
	return uint32(c<<16 | h<<8 | s)
}

// chs is the calculation itself, on at most 65535*16*255 sectors.
func chs(total int64) (cylinders, heads, sectors int64) {
	tracks := int64(0)
	if total >= 65535*16*63 {
		sectors, heads, tracks = 255, 16, total/255
		return tracks / heads, heads, sectors
	}
	sectors, tracks = 17, total/17
	heads = max(4, (tracks+1023)/1024)
	if tracks >= heads*1024 || heads > 16 {
		sectors, heads, tracks = 31, 16, total/31
	}
	if tracks >= heads*1024 {
		sectors, heads, tracks = 63, 16, total/63
	}
	return tracks / heads, heads, sectors
}
