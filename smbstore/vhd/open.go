package vhd

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"lunless/smbstore/block"
)

// OpenOptions say how to open a disk.
type OpenOptions struct {
	// ReadOnly leaves the file as it is, even if a footer is missing.
	ReadOnly bool
}

const (
	unused = 0xffffffff // table entry of a block without room
	// maxFile is where no block may end any more: entries count sectors in 32 bits.
	maxFile = unused * SectorSize
)

// image is what the structures of a file say.
type image struct {
	f        block.File
	fileSize int64
	raw      [footerSize]byte // the footer in use, as it is
	ft       footer
	tailErr  error // why the footer at the end is not valid
	headErr  error // why its copy at the start is not valid; nil for a fixed disk
	differ   bool  // both are valid, but not equal
	// Of a dynamic disk:
	blockSize int64
	mapSize   int64           // bytes of a block's sector bitmap, in front of its data
	tableOff  int64           // bytes
	table     []atomic.Uint32 // sector of each block's bitmap
}

// Open opens the disk in f and owns f once it succeeded. For writing, a footer
// that is missing at one end of a dynamic disk, as a loss of power may leave it,
// is written again from the other. Errors: ErrNotVHD, ErrCorrupt, ErrUnsupported
// and ErrDifferencing in a FormatError, and what f returned.
func Open(f block.File, o OpenOptions) (*Disk, error) {
	im, err := loadImage(f)
	if err != nil {
		return nil, err
	}
	d := newDisk(im, o.ReadOnly)
	if o.ReadOnly || d.fixed {
		return d, nil
	}
	if im.tableOff%SectorSize != 0 {
		return nil, unsupported(int64(im.ft.DataOffset), "dynamic header: writing with a table at %#x, inside a sector", im.tableOff)
	}
	end, err := im.place()
	if err != nil {
		return nil, err
	}
	if err := im.mend(end); err != nil {
		return nil, fmt.Errorf("restore a missing footer: %w", err)
	}
	d.space.start(im)
	return d, nil
}

// Inspect reads what the structures of f say and changes nothing. Errors as Open.
func Inspect(f block.File) (Info, error) {
	im, err := loadImage(f)
	if err != nil {
		return Info{}, err
	}
	return im.info(im.fileSize), nil
}

// loadImage reads the structures of f without changing it.
func loadImage(f block.File) (*image, error) {
	size, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("size of disk image: %w", err)
	}
	im := &image{f: f, fileSize: size}
	if err := im.loadFooter(); err != nil {
		return im, err
	}
	if im.ft.Type == typeFixed {
		if room := size - footerSize; int64(im.ft.CurrentSize) > room {
			return im, corrupt(room, "fixed disk of %d bytes in a file of %d", im.ft.CurrentSize, size)
		}
		return im, nil
	}
	return im, im.loadTable()
}

// loadFooter takes the footer at the file's end, or the copy at its start.
func (im *image) loadFooter() error {
	if im.fileSize < footerSize {
		return &FormatError{0, fmt.Sprintf("file of %d bytes", im.fileSize), ErrNotVHD}
	}
	var head [footerSize]byte
	tailOff := im.fileSize - footerSize
	if err := readFull(im.f, im.raw[:], tailOff); err != nil {
		return err
	}
	if err := readFull(im.f, head[:], 0); err != nil {
		return err
	}
	im.ft, im.tailErr = decodeFooter(im.raw[:], tailOff)
	if im.tailErr == nil && im.ft.Type == typeFixed && int64(im.ft.CurrentSize) == tailOff {
		return nil
	}
	var copied footer
	copied, im.headErr = decodeFooter(head[:], 0)
	if im.headErr == nil && im.tailErr == nil && copied.Type == typeDynamic && copied.ID != im.ft.ID {
		// A crash may leave the file ending in what the guest wrote.
		im.tailErr = corrupt(tailOff, "footer: of another disk")
	}
	if im.tailErr == nil && im.ft.Type == typeFixed {
		im.headErr = nil
		return nil
	}
	if errors.Is(im.tailErr, ErrUnsupported) { // valid, but not for us
		return im.tailErr
	}
	if im.headErr == nil && copied.Type == typeFixed {
		im.headErr = corrupt(0, "footer of a fixed disk at the start")
	}
	if im.tailErr == nil {
		im.differ = im.headErr == nil && im.raw != head
		return nil
	}
	if im.headErr == nil {
		im.ft, im.raw = copied, head
		return nil
	}
	if errors.Is(im.tailErr, ErrNotVHD) || errors.Is(im.headErr, ErrUnsupported) {
		return im.headErr
	}
	return im.tailErr
}

func (im *image) loadTable() error {
	off := int64(im.ft.DataOffset)
	b := make([]byte, headerSize)
	if err := readFull(im.f, b, off); err != nil {
		return err
	}
	h, err := decodeHeader(b, off, im.ft.CurrentSize, im.fileSize)
	if err != nil {
		return err
	}
	im.blockSize = int64(h.BlockSize)
	im.mapSize = roundUp((im.blockSize/SectorSize+7)/8, SectorSize)
	im.tableOff = int64(h.TableOffset)
	n := (int64(im.ft.CurrentSize) + im.blockSize - 1) / im.blockSize
	im.table = make([]atomic.Uint32, n)
	buf := make([]byte, min(n*4, 1<<20))
	for i := int64(0); i < n; {
		p := buf[:min(int64(len(buf)), (n-i)*4)]
		if err := readFull(im.f, p, im.tableOff+i*4); err != nil {
			return err
		}
		for k := 0; k < len(p); k += 4 {
			im.table[i].Store(be.Uint32(p[k:]))
			i++
		}
	}
	return nil
}

// span is room that something other than a block takes.
type span struct {
	off, end int64
	what     string
}

// spans are sorted; overlaps among them are no concern here.
func (im *image) spans() []span {
	all := []span{
		{0, footerSize, "copy of the footer"},
		{int64(im.ft.DataOffset), int64(im.ft.DataOffset) + headerSize, "dynamic header"},
		{im.tableOff, im.tableOff + int64(len(im.table))*4, "block allocation table"},
	}
	slices.SortFunc(all, func(a, b span) int { return int(max(-1, min(1, a.off-b.off))) })
	return all
}

// blocksEnd is where blocks have to end: at the footer, or if there is none at
// the file's end.
func (im *image) blocksEnd() int64 {
	if im.tailErr == nil {
		return im.fileSize - footerSize
	}
	return im.fileSize
}

// eachMisplaced calls visit for every block that cannot lie where the table
// says, and returns the end of all that is in use and how many blocks have room.
func (im *image) eachMisplaced(visit func(blk, at int64, why string) error) (end, count int64, err error) {
	spans, limit, stride := im.spans(), im.blocksEnd(), im.mapSize+im.blockSize
	for _, s := range spans {
		end = max(end, roundUp(s.end, SectorSize))
	}
	var inside []uint64 // sector<<32 | block
	for i := range im.table {
		e := im.table[i].Load()
		if e == unused {
			continue
		}
		count++
		at := int64(e) * SectorSize
		why := ""
		if at > limit-stride {
			why = "lies outside the file"
		}
		for _, s := range spans {
			if at < s.end && at+stride > s.off {
				why = "overlaps the " + s.what
			}
		}
		if why == "" {
			inside = append(inside, uint64(e)<<32|uint64(i))
			continue
		}
		if err := visit(int64(i), at, why); err != nil {
			return 0, 0, err
		}
	}
	slices.Sort(inside)
	for i, v := range inside {
		at := int64(v>>32) * SectorSize
		if i > 0 && int64(inside[i-1]>>32)*SectorSize > at-stride {
			if err := visit(int64(v&(1<<32-1)), at, fmt.Sprintf("shares room with block %d", inside[i-1]&(1<<32-1))); err != nil {
				return 0, 0, err
			}
		}
		end = max(end, at+stride)
	}
	return end, count, nil
}

// entryOffset is where a block's table entry lies in the file.
func (im *image) entryOffset(blk int64) int64 { return im.tableOff + blk*4 }

// place refuses to write to a disk with misplaced blocks, and returns where what
// is in use ends.
func (im *image) place() (end int64, err error) {
	end, _, err = im.eachMisplaced(func(blk, at int64, why string) error {
		return corrupt(im.entryOffset(blk), "table entry of block %d: its place %#x %s", blk, at, why)
	})
	return end, err
}

// mend makes both footers valid. With the one at the end missing, what follows
// end are blocks that never came into use: they go, so that the room reads as zeroes.
func (im *image) mend(end int64) error {
	if im.headErr != nil {
		if err := im.writeFooter(0); err != nil {
			return err
		}
	}
	if im.tailErr != nil {
		if err := im.f.Truncate(end); err != nil {
			return err
		}
		if err := im.writeFooter(end); err != nil {
			return err
		}
	}
	if im.headErr == nil && im.tailErr == nil {
		return nil
	}
	if err := im.f.Sync(); err != nil {
		return err
	}
	if im.tailErr != nil {
		im.fileSize = end + footerSize
	}
	im.headErr, im.tailErr = nil, nil
	return nil
}

func (im *image) writeFooter(off int64) error {
	if _, err := im.f.WriteAt(im.raw[:], off); err != nil {
		return fmt.Errorf("write footer at file offset %#x: %w", off, err)
	}
	return nil
}
