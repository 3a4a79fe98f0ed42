package vhdx

import (
	"fmt"
	"math"

	"lunless/smbstore/block"
)

// OpenOptions say how to open a disk.
type OpenOptions struct {
	// ReadOnly leaves the file as it is; a log that waits for its replay is
	// replayed in memory.
	ReadOnly bool
	// CachePages is how many pages of metadata, 4 KiB each, are kept in memory; 0
	// is 4096, fewer than 64 are 64. Pages that wait for a flush come on top: 126
	// at most.
	CachePages int
	// Parent is what a differencing disk reads that it lacks. The Disk owns it once
	// Open succeeded. It may be smaller or larger: what lies past its end reads as
	// zeroes. That it is the right one, the caller has made sure of: its
	// DataWriteGUID is ParentLink's Linkage.
	Parent block.Device
	// Bare opens a differencing disk without its parent: reading what it lacks is
	// ErrNoParent, and content cannot be changed; Relink can.
	Bare bool
	// DataWriteGUID is what the disk's becomes with the first change of its
	// content; zero is a random one.
	DataWriteGUID GUID
}

// maxScan is the largest BAT that is read whole when a disk is opened for
// writing, to find the room between its blocks: 8 TiB in blocks of 1 MiB. In a
// larger one new blocks go to the file's end.
const maxScan = 64 * mib

// Open opens the disk in f and owns f once it succeeded. The errors are
// ErrNotVHDX, ErrCorrupt, ErrTruncated, ErrUnsupported, ErrNoParent and
// ErrWrongParent in a FormatError, ErrBadOptions, and what f returned. A log in use is replayed (MS-VHDX 2.3.3).
func Open(f block.File, opts OpenOptions) (*Disk, error) {
	im, err := loadImage(f)
	if err != nil {
		return nil, err
	}
	if err := im.checkParent(opts); err != nil {
		return nil, err
	}
	d := newDisk(im, f, opts)
	if opts.ReadOnly {
		return d, nil
	}
	if im.hdr.Sequence > math.MaxUint64-1<<32 {
		return nil, corrupt(headerOffsets[im.slot], "header: sequence number %d is at its end", im.hdr.Sequence)
	}
	if int64(im.hdr.LogOffset)+int64(im.hdr.LogLength) > im.fileSize {
		return nil, &FormatError{int64(im.hdr.LogOffset), "log ends past the file", ErrTruncated}
	}
	if err := d.scan(); err != nil {
		return nil, err
	}
	if im.seq == nil {
		return d, nil
	}
	if err := d.replay(); err != nil {
		return nil, fmt.Errorf("replay the log: %w", err)
	}
	return d, nil
}

// checkParent tells why a disk cannot be opened with what was given as its parent.
func (im *image) checkParent(opts OpenOptions) error {
	off := int64(im.metadata.Offset)
	switch {
	case !im.params.HasParent && opts.Parent != nil:
		return fmt.Errorf("a disk that has no parent was given one: %w", ErrBadOptions)
	case !im.params.HasParent:
		return nil
	case opts.Bare && opts.Parent != nil:
		return fmt.Errorf("a bare disk was given a parent: %w", ErrBadOptions)
	case opts.Bare:
		return nil
	case opts.Parent == nil:
		return &FormatError{off, "differencing disk", ErrNoParent}
	}
	if own, of := int(im.params.LogicalSectorSize), opts.Parent.Geometry().LogicalSectorSize; own != of {
		return &FormatError{off, fmt.Sprintf("logical sector size is %d, that of the parent %d", own, of), ErrWrongParent}
	}
	return nil
}

func newDisk(im *image, f block.File, opts OpenOptions) *Disk {
	d := &Disk{
		im: im, f: im.f, own: f, ro: opts.ReadOnly,
		blockSize: int64(im.params.BlockSize), ratio: im.params.chunkRatio(), sector: int64(im.params.LogicalSectorSize),
		parent: opts.Parent, dataWrite: opts.DataWriteGUID,
		log: newLogWriter(f, int64(im.hdr.LogOffset), int64(im.hdr.LogLength)),
		hdr: headerWriter{f: f, cur: im.hdr, slot: im.slot}, busy: make(chan struct{}, 1),
	}
	d.meta = newMetaCache(im.f, opts.CachePages, maxCommit)
	d.geo.Store(&geometry{size: int64(im.params.VirtualSize), bat: int64(im.bat.Offset), spans: im.spans})
	d.link.Store(im.locator)
	d.space.f = f
	d.space.fileSize.Store(im.fileSize)
	d.space.end = roundUp(im.fileSize, mib)
	d.space.fresh = d.space.end
	return d
}

// replay brings the log's updates to their places. Before anything else changes,
// a header does (MS-VHDX 2.2.2.1).
func (d *Disk) replay() error {
	if err := d.hdr.update(func(h *header) {}); err != nil {
		return err
	}
	if err := d.im.seq.apply(d.own); err != nil {
		return err
	}
	if err := d.own.Sync(); err != nil {
		return err
	}
	if err := d.hdr.update(func(h *header) { h.LogGUID = GUID{} }); err != nil {
		return err
	}
	size, err := d.own.Size()
	if err != nil {
		return err
	}
	d.space.fileSize.Store(size)
	d.f, d.meta.f, d.im.f, d.im.seq = d.own, d.own, d.own, nil
	return nil
}

// scan finds what of the file is in use, and refuses to write to a disk two of
// whose blocks share room.
func (d *Disk) scan() error {
	if d.im.params.batEntries()*8 > maxScan {
		return nil
	}
	u := newUsage(d.im.fileSize)
	for _, s := range d.im.spans {
		u.mark(s.off, min(s.n, max(0, roundUp(d.im.fileSize, mib)-s.off)))
	}
	err := d.im.walkBAT(d.f, func(i int64, e batEntry, at int64) error {
		n := d.blockSize
		if bitmap := i%(d.ratio+1) == d.ratio; bitmap {
			n = mib
			if !d.im.params.HasParent || e.state() != statePresent {
				return nil
			}
		}
		if !e.reserves() {
			return nil
		}
		relied := e.state() == statePresent || e.state() == statePartial
		if err := checkPlace(d.im.spans, e.offset(), n, d.im.fileSize); err != nil {
			if !relied {
				return nil
			}
			return corrupt(at, "BAT entry %d: block at %#x %v", i, e.offset(), err)
		}
		if twice := u.mark(e.offset(), n); twice >= 0 && relied {
			return corrupt(at, "BAT entry %d: block at %#x belongs to another as well", i, e.offset())
		}
		return nil
	})
	if err != nil || d.im.params.fixed() { // which has its room
		return err
	}
	d.space.adopt(u)
	return nil
}

// walkBAT calls visit for every entry of the disk that is not all zero, with its
// index and its place in the file. Holes in the file are passed over where f
// knows them.
func (im *image) walkBAT(f block.File, visit func(i int64, e batEntry, at int64) error) error {
	return walkEntries(f, int64(im.bat.Offset), im.params.batEntries(), visit)
}

// walkRegion is walkBAT for the whole of the BAT region, past the disk's end too.
func (im *image) walkRegion(f block.File, visit func(i int64, e batEntry, at int64) error) error {
	return walkEntries(f, int64(im.bat.Offset), int64(im.bat.Length)/8, visit)
}

// walkEntries is walkBAT for the first count entries of a BAT at off.
func walkEntries(f block.File, off, count int64, visit func(i int64, e batEntry, at int64) error) error {
	buf := make([]byte, min(count*8, mib))
	return dataRuns(f, off, count*8, func(at, n int64) error {
		for n > 0 {
			p := buf[:min(n, int64(len(buf)))]
			if err := readFull(f, p, at); err != nil {
				return err
			}
			for k := int64(0); k+8 <= int64(len(p)); k += 8 {
				e := batEntry(le.Uint64(p[k:]))
				if e == 0 {
					continue
				}
				if err := visit((at+k-off)/8, e, at+k); err != nil {
					return err
				}
			}
			at, n = at+int64(len(p)), n-int64(len(p))
		}
		return nil
	})
}

// dataRuns calls visit for the parts of [off, off+n) that may hold anything but
// zeroes, rounded out to 4 KiB from off.
func dataRuns(f block.File, off, n int64, visit func(at, n int64) error) error {
	x, ok := f.(block.Extenter)
	if !ok {
		return visit(off, n)
	}
	done := off // nothing before it is to be visited again
	err := x.FileExtents(off, n, func(e block.Extent) error {
		if e.State != block.Data {
			return nil
		}
		from := max(done, e.Offset-(e.Offset-off)%logSector)
		to := min(off+n, off+roundUp(e.Offset+e.Length-off, logSector))
		if from >= to {
			return nil
		}
		done = to
		return visit(from, to-from)
	})
	if done == off && isUnsupported(err) {
		return visit(off, n)
	}
	return err
}

func roundUp(v, unit int64) int64 { return (v + unit - 1) / unit * unit }
