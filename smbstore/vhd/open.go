package vhd

import (
	"errors"
	"fmt"
	"sync/atomic"

	"lunless/smbstore/block"
)

// OpenOptions say how to open a disk.
type OpenOptions struct {
	// ReadOnly leaves the file as it is, even if a footer is missing.
	ReadOnly bool
	// Parent is what a differencing disk lies on, which needs it unless Bare. It is
	// owned once Open succeeded, only read, and may be smaller or larger: what lies
	// past its end reads as zeroes. Whether it is the right one, by ID and time, is
	// for who found it to tell.
	Parent block.Device
	// Bare opens a differencing disk without its parent: where that would have to
	// tell, ReadAt returns ErrNoParent. Content cannot be changed; Relink can.
	Bare bool
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
	size     int64 // virtual
	tailOff  int64 // where the footer at the end begins, if tailErr is nil
	short    bool  // its last byte is missing, as in images of old
	tailErr  error // why the footer at the end is not valid
	headErr  error // why its copy at the start is not valid; nil for a fixed disk
	differ   bool  // both are valid, but not equal
	// Of a dynamic or differencing disk:
	rawHeader [headerSize]byte
	blockSize int64
	mapSize   int64           // bytes of a block's sector bitmap, in front of its data
	tableOff  int64           // bytes
	table     []atomic.Uint32 // sector of each block's bitmap
	parent    *ParentLink     // nil unless differencing
	parentBad []error         // parent locators that cannot be read
}

func (im *image) differencing() bool { return im.ft.Type == typeDifferencing }

// Open opens the disk in f and owns f once it succeeded. For writing, a footer
// that is missing at one end of a dynamic or differencing disk, or differs, as a
// loss of power may leave it, is written again from the other. Errors: ErrNotVHD,
// ErrCorrupt, ErrUnsupported and ErrNoParent in a FormatError, ErrBadOptions for a
// parent that the disk does not have, and what f returned.
func Open(f block.File, o OpenOptions) (*Disk, error) {
	im, err := loadImage(f)
	if err != nil {
		return nil, err
	}
	switch {
	case im.differencing() && o.Parent == nil && !o.Bare:
		return nil, &FormatError{int64(im.ft.DataOffset), fmt.Sprintf("disk lies on %q", im.parent.fileName()), ErrNoParent}
	case o.Parent != nil && (o.Bare || !im.differencing()):
		return nil, fmt.Errorf("a parent for a disk that has none: %w", ErrBadOptions)
	}
	d := newDisk(im, o)
	if d.ro || d.fixed {
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
		return nil, fmt.Errorf("restore a footer: %w", err)
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
	im.size = im.ft.size()
	if im.ft.Type == typeFixed {
		if int64(im.ft.CurrentSize) > im.tailOff {
			return im, corrupt(im.tailOff, "fixed disk of %d bytes in a file of %d", im.ft.CurrentSize, size)
		}
		return im, nil
	}
	return im, im.loadTable()
}

// readTail decodes the footer at the file's end, which Virtual PC before 2004
// wrote without its last byte, a zero.
func (im *image) readTail() error {
	im.tailOff = im.fileSize - footerSize
	if err := readFull(im.f, im.raw[:], im.tailOff); err != nil {
		return err
	}
	im.ft, im.tailErr = decodeFooter(im.raw[:], im.tailOff)
	if errors.Is(im.tailErr, ErrNotVHD) {
		var b [footerSize]byte
		copy(b[:], im.raw[1:])
		if ft, err := decodeFooter(b[:], im.tailOff+1); err == nil {
			im.raw, im.ft, im.tailErr, im.short = b, ft, nil, true
			im.tailOff++
		}
	}
	return nil
}

// loadFooter takes the footer at the file's end, or the copy at its start.
func (im *image) loadFooter() error {
	if im.fileSize < footerSize {
		return &FormatError{0, fmt.Sprintf("file of %d bytes", im.fileSize), ErrNotVHD}
	}
	if err := im.readTail(); err != nil {
		return err
	}
	if im.tailErr == nil && im.ft.Type == typeFixed && int64(im.ft.CurrentSize) == im.tailOff {
		return nil
	}
	var head [footerSize]byte
	if err := readFull(im.f, head[:], 0); err != nil {
		return err
	}
	var copied footer
	copied, im.headErr = decodeFooter(head[:], 0)
	if im.headErr == nil && im.tailErr == nil && copied.Type != typeFixed && copied.ID != im.ft.ID {
		// A crash may leave the file ending in what the guest wrote.
		im.tailErr = corrupt(im.tailOff, "footer: of another disk")
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
	switch {
	case im.tailErr == nil:
		im.differ = im.headErr == nil && im.raw != head
		return nil
	case im.headErr == nil:
		im.ft, im.raw, im.short = copied, head, false
		return nil
	case errors.Is(im.tailErr, ErrNotVHD) || errors.Is(im.headErr, ErrUnsupported):
		return im.headErr
	}
	return im.tailErr
}

func (im *image) loadTable() error {
	off := int64(im.ft.DataOffset)
	b := im.rawHeader[:]
	if err := readFull(im.f, b, off); err != nil {
		return err
	}
	h, err := decodeHeader(b, off, im.size, im.fileSize)
	if err != nil {
		return err
	}
	im.blockSize = int64(h.BlockSize)
	im.mapSize = roundUp((im.blockSize/SectorSize+7)/8, SectorSize)
	im.tableOff = int64(h.TableOffset)
	if im.differencing() {
		im.parent, im.parentBad = decodeParent(b, off, im.f, im.fileSize)
	}
	n := (im.size + im.blockSize - 1) / im.blockSize
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
