// Package stamp is what the test guest's writer puts on its disks and how that
// is verified, in the guest and outside of it.
//
// The writer's work on a disk is a schedule: operation k of a run (one boot) is
// a function of the run's random number and k alone (Layout.Op). So nobody has
// to keep a log of what was written: who knows the runs, and up to which
// operation each was flushed, knows for every block what may be there. Runs and
// layout lie in the disk's superblock; the guest tells on its console how far it
// has flushed, and every block carries that as well, for all disks of the guest.
package stamp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"lunless/smbstore/block"
)

// BlockSize is the unit of everything on a disk, in bytes.
const BlockSize = 4096

// MaxDisks is how many disks a guest may write to.
const MaxDisks = 8

const stampMagic = 0x504d4154534e554c // "LUNSTAMP"

// Stamp is what a block says of itself.
type Stamp struct {
	Set     uint64           // the guest's disks have one, random
	Run     uint64           // the boot that wrote it
	Disk    int              // number of the disk in the set
	Block   int64            // of the device, in BlockSize
	Seq     uint64           // operation of the run
	Flushed [MaxDisks]uint64 // what of each disk was known flushed when it was written
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrDamaged: a block is neither zeroes nor a whole stamp.
var ErrDamaged = errors.New("damaged or torn")

// Put fills the block b, BlockSize bytes.
func (s *Stamp) Put(b []byte) {
	le := binary.LittleEndian
	le.PutUint64(b, stampMagic)
	le.PutUint64(b[8:], s.Set)
	le.PutUint64(b[16:], s.Run)
	le.PutUint64(b[24:], uint64(s.Disk))
	le.PutUint64(b[32:], uint64(s.Block))
	le.PutUint64(b[40:], s.Seq)
	for i, f := range s.Flushed {
		le.PutUint64(b[48+8*i:], f)
	}
	key := mix(s.Run ^ mix(s.Seq) ^ mix(uint64(s.Block)))
	for off := 48 + 8*MaxDisks; off < BlockSize-8; off += 8 {
		le.PutUint64(b[off:], key)
		key += 0x9e3779b97f4a7c15
	}
	le.PutUint64(b[BlockSize-8:], uint64(crc32.Checksum(b[:BlockSize-8], castagnoli)))
}

// Read tells what a block holds: zeroes, a stamp, or ErrDamaged.
func Read(b []byte) (s Stamp, zero bool, err error) {
	le := binary.LittleEndian
	if le.Uint64(b) == 0 && block.IsZero(b[:BlockSize]) {
		return s, true, nil
	}
	if le.Uint64(b) != stampMagic {
		return s, false, fmt.Errorf("%w: no stamp (begins %x)", ErrDamaged, b[:8])
	}
	if le.Uint64(b[BlockSize-8:]) != uint64(crc32.Checksum(b[:BlockSize-8], castagnoli)) {
		return s, false, fmt.Errorf("%w: wrong checksum, stamped as block %d, operation %d", ErrDamaged, le.Uint64(b[32:]), le.Uint64(b[40:]))
	}
	s = Stamp{Set: le.Uint64(b[8:]), Run: le.Uint64(b[16:]), Disk: int(le.Uint64(b[24:])),
		Block: int64(le.Uint64(b[32:])), Seq: le.Uint64(b[40:])}
	for i := range s.Flushed {
		s.Flushed[i] = le.Uint64(b[48+8*i:])
	}
	return s, false, nil
}

// mix is splitmix64's output function: neighbours become unlike each other.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
