package vhd

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"lunless/smbstore/block"
)

const unused = 0xffffffff // table entry of a block without room

// Disk is an open virtual disk, a read-only block.Device. All methods may be
// called concurrently.
type Disk struct {
	f         block.File
	size      int64
	fixed     bool
	id        [16]byte
	blockSize int64
	mapSize   int64    // bytes of a block's sector bitmap, in front of its data
	table     []uint32 // sector of each block's bitmap
	fileSize  int64
	closed    atomic.Bool
	mu        sync.Mutex // guards the bitmap last read
	mapOf     int64
	bitmap    []byte
}

// Info describes a disk. Sizes are bytes.
type Info struct {
	Type        string `json:"type"` // "fixed" or "dynamic"
	VirtualSize int64  `json:"virtual_size"`
	BlockSize   int64  `json:"block_size"` // 0 for a fixed disk
	ID          string `json:"id"`
	FileSize    int64  `json:"file_size"`
}

// Open opens the disk in f for reading and owns f once it succeeded. Errors:
// ErrNotVHD, ErrCorrupt, ErrUnsupported and ErrDifferencing in a FormatError,
// and what f returned.
func Open(f block.File) (*Disk, error) {
	fileSize, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("size of disk image: %w", err)
	}
	ft, err := findFooter(f, fileSize)
	if err != nil {
		return nil, err
	}
	d := &Disk{f: f, size: int64(ft.CurrentSize), fixed: ft.Type == typeFixed, id: ft.ID, fileSize: fileSize, mapOf: -1}
	if d.fixed {
		if d.size > fileSize-footerSize {
			return nil, &FormatError{fileSize - footerSize, fmt.Sprintf("fixed disk of %d bytes in a file of %d", d.size, fileSize), ErrCorrupt}
		}
		return d, nil
	}
	if err := d.loadTable(int64(ft.DataOffset)); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *Disk) loadTable(off int64) error {
	b := make([]byte, headerSize)
	if err := readFull(d.f, b, off); err != nil {
		return err
	}
	h, err := decodeHeader(b, off, uint64(d.size), d.fileSize)
	if err != nil {
		return err
	}
	d.blockSize = int64(h.BlockSize)
	d.mapSize = (d.blockSize/sectorSize/8 + sectorSize - 1) / sectorSize * sectorSize
	d.mapSize = max(d.mapSize, sectorSize)
	d.bitmap = make([]byte, d.mapSize)
	n := (d.size + d.blockSize - 1) / d.blockSize
	d.table = make([]uint32, n)
	buf := make([]byte, min(n*4, 1<<20))
	for i := int64(0); i < n; {
		p := buf[:min(int64(len(buf)), (n-i)*4)]
		if err := readFull(d.f, p, int64(h.TableOffset)+i*4); err != nil {
			return err
		}
		for k := 0; k < len(p); k += 4 {
			d.table[i] = be.Uint32(p[k:])
			i++
		}
	}
	return nil
}

// Info describes the disk.
func (d *Disk) Info() Info {
	kind := "dynamic"
	if d.fixed {
		kind = "fixed"
	}
	id := fmt.Sprintf("%X-%X-%X-%X-%X", d.id[:4], d.id[4:6], d.id[6:8], d.id[8:10], d.id[10:])
	return Info{Type: kind, VirtualSize: d.size, BlockSize: d.blockSize, ID: id, FileSize: d.fileSize}
}

// Size implements block.Device.
func (d *Disk) Size() int64 { return d.size }

// Geometry implements block.Device.
func (d *Disk) Geometry() block.Geometry {
	return block.Geometry{LogicalSectorSize: sectorSize, PhysicalSectorSize: sectorSize, OptimalIO: int(d.blockSize)}
}

// ReadAt implements block.Device.
func (d *Disk) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := d.check(ctx, off, int64(len(p))); err != nil || len(p) == 0 {
		return err
	}
	if d.fixed {
		return readFull(d.f, p, off)
	}
	for len(p) > 0 {
		blk, in := off/d.blockSize, off%d.blockSize
		n := min(int64(len(p)), d.blockSize-in)
		if err := d.readBlock(p[:n], blk, in); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// readBlock reads part of a block; sectors its bitmap leaves out are zero.
func (d *Disk) readBlock(p []byte, blk, in int64) error {
	if d.table[blk] == unused {
		clear(p)
		return nil
	}
	at := int64(d.table[blk]) * sectorSize
	if err := readFull(d.f, p, at+d.mapSize+in); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mapOf != blk {
		d.mapOf = -1
		if err := readFull(d.f, d.bitmap, at); err != nil {
			return err
		}
		d.mapOf = blk
	}
	for done := int64(0); done < int64(len(p)); {
		s := (in + done) / sectorSize
		c := min(int64(len(p))-done, (s+1)*sectorSize-in-done)
		if d.bitmap[s/8]&(0x80>>(s%8)) == 0 {
			clear(p[done : done+c])
		}
		done += c
	}
	return nil
}

// Extents implements block.Device: blocks without room are Unallocated.
func (d *Disk) Extents(ctx context.Context, off, n int64, visit func(block.Extent) error) error {
	if err := d.check(ctx, off, n); err != nil || n == 0 {
		return err
	}
	if d.fixed {
		if x, ok := d.f.(block.Extenter); ok {
			if err := x.FileExtents(off, n, visit); err == nil || !isUnsupported(err) {
				return err
			}
		}
		return visit(block.Extent{Offset: off, Length: n, State: block.Data})
	}
	m := block.NewMerger(visit)
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		blk := off / d.blockSize
		c := min(n, d.blockSize-off%d.blockSize)
		state := block.Data
		if d.table[blk] == unused {
			state = block.Unallocated
		}
		if err := m.Add(block.Extent{Offset: off, Length: c, State: state}); err != nil {
			return err
		}
		off, n = off+c, n-c
	}
	return m.Flush()
}

// WriteAt implements block.Device: it refuses.
func (d *Disk) WriteAt(ctx context.Context, p []byte, off int64, _ block.WriteFlags) error {
	return d.refuse(ctx, off, int64(len(p)))
}

// WriteZeroes implements block.Device: it refuses.
func (d *Disk) WriteZeroes(ctx context.Context, off, n int64, _ block.WriteFlags) error {
	return d.refuse(ctx, off, n)
}

// Trim implements block.Device: it refuses.
func (d *Disk) Trim(ctx context.Context, off, n int64) error { return d.refuse(ctx, off, n) }

// Flush implements block.Device: there is nothing to do.
func (d *Disk) Flush(ctx context.Context) error { return d.check(ctx, 0, 0) }

// Close implements block.Device.
func (d *Disk) Close() error {
	if d.closed.Swap(true) {
		return block.ErrClosed
	}
	return d.f.Close()
}

func (d *Disk) refuse(ctx context.Context, off, n int64) error {
	if err := d.check(ctx, off, n); err != nil || n == 0 {
		return err
	}
	return block.ErrReadOnly
}

func (d *Disk) check(ctx context.Context, off, n int64) error {
	if d.closed.Load() {
		return block.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return block.CheckRange(d.size, off, n)
}
