package stamp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"lunless/smbstore/block"
)

const (
	superSize  = 32 << 10
	superMagic = 0x545345554e554c4c
	superHead  = 64
	runSize    = 24
	// MaxRuns is how many boots a disk remembers.
	MaxRuns = (superSize - superHead - 8) / runSize
)

// Run is one boot of the guest, as a disk's superblock has it.
type Run struct {
	ID uint64
	// Every operation up to Flushed is on the disk, none behind Last was ever
	// started; Last may be too high. A guest notes both, when it begins, of the runs
	// before its own. 0: not known.
	Flushed, Last uint64
}

// Super is a disk's superblock. It lies twice at the device's start, and each
// boot writes the other one: the newer whole one counts.
type Super struct {
	Set  uint64
	Disk int
	Layout
	Runs []Run // oldest first; the newest may still be writing
}

// ErrBlank: a device has no superblock, only zeroes in its place.
var ErrBlank = errors.New("no superblock: the disk is blank")

// Encode returns the superblock and its offset on the device.
func (s *Super) Encode() (b []byte, off int64, err error) {
	if len(s.Runs) > MaxRuns {
		return nil, 0, fmt.Errorf("the guest has booted %d times, the superblock has room for %d: begin with blank disks", len(s.Runs), MaxRuns)
	}
	le := binary.LittleEndian
	b = make([]byte, superSize)
	le.PutUint64(b, superMagic)
	le.PutUint64(b[8:], s.Set)
	le.PutUint32(b[16:], uint32(s.Disk))
	if s.NoTrim {
		b[20] = 1
	}
	le.PutUint64(b[24:], uint64(s.Blocks))
	le.PutUint64(b[32:], uint64(s.Stride))
	le.PutUint64(b[40:], uint64(len(s.Runs)))
	for i, r := range s.Runs {
		at := b[superHead+i*runSize:]
		le.PutUint64(at, r.ID)
		le.PutUint64(at[8:], r.Flushed)
		le.PutUint64(at[16:], r.Last)
	}
	le.PutUint64(b[superSize-8:], uint64(crc32.Checksum(b[:superSize-8], castagnoli)))
	return b, int64(len(s.Runs)%2) * superSize, nil
}

func decodeSuper(b []byte, size int64) (*Super, error) {
	le := binary.LittleEndian
	if block.IsZero(b) {
		return nil, ErrBlank
	}
	if le.Uint64(b) != superMagic || le.Uint64(b[superSize-8:]) != uint64(crc32.Checksum(b[:superSize-8], castagnoli)) {
		return nil, fmt.Errorf("superblock: %w", ErrDamaged)
	}
	s := &Super{Set: le.Uint64(b[8:]), Disk: int(le.Uint32(b[16:])),
		Layout: Layout{NoTrim: b[20] != 0, Blocks: int64(le.Uint64(b[24:])), Stride: int64(le.Uint64(b[32:]))}}
	n := le.Uint64(b[40:])
	if n > MaxRuns || s.Disk < 0 || s.Disk >= MaxDisks || !s.valid(size) {
		return nil, fmt.Errorf("superblock contradicts itself or the device's size %d: %w", size, ErrDamaged)
	}
	for i := range int(n) {
		at := b[superHead+i*runSize:]
		s.Runs = append(s.Runs, Run{ID: le.Uint64(at), Flushed: le.Uint64(at[8:]), Last: le.Uint64(at[16:])})
	}
	return s, nil
}

// ReadSuper reads the superblock of a device of size bytes. One damaged copy is
// what a lost boot leaves. The error is ErrBlank or ErrDamaged, wrapped, or what
// the reading gave.
func ReadSuper(r io.ReaderAt, size int64) (*Super, error) {
	if size < Reserved*BlockSize {
		return nil, ErrSmall
	}
	b := make([]byte, 2*superSize)
	if _, err := r.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("superblock: %w", err)
	}
	return DecodeSuper(b, size)
}

// DecodeSuper is ReadSuper of the device's first Reserved blocks.
func DecodeSuper(b []byte, size int64) (*Super, error) {
	one, errOne := decodeSuper(b[:superSize], size)
	two, errTwo := decodeSuper(b[superSize:2*superSize], size)
	switch {
	case errOne == nil && errTwo == nil && len(two.Runs) > len(one.Runs):
		return two, nil
	case errOne == nil:
		return one, nil
	case errTwo == nil:
		return two, nil
	case errors.Is(errOne, ErrBlank) && errors.Is(errTwo, ErrBlank):
		return nil, ErrBlank
	case errors.Is(errOne, ErrBlank):
		return nil, errTwo
	}
	return nil, errOne
}

// Locate finds what the writer uses of a device: all of it, or the partition of
// type 0xDA ("no file system") of a boot disk.
func Locate(r io.ReaderAt, size int64) (off, n int64, err error) {
	var b [512]byte
	if _, err := r.ReadAt(b[:], 0); err != nil {
		return 0, 0, err
	}
	le := binary.LittleEndian
	if b[510] != 0x55 || b[511] != 0xaa {
		return 0, size, nil
	}
	for i := range 4 {
		e := b[446+16*i:]
		if e[4] != PartitionType {
			continue
		}
		off, n = int64(le.Uint32(e[8:]))*512, int64(le.Uint32(e[12:]))*512
		if off <= 0 || n <= 0 || n > size-off {
			return 0, 0, fmt.Errorf("partition %d lies outside the device: %w", i+1, ErrDamaged)
		}
		return off, n, nil
	}
	return 0, 0, errors.New("the device has a partition table, and no partition is the writer's")
}

// PartitionType is what a partition has in the partition table that the writer
// may use.
const PartitionType = 0xda
