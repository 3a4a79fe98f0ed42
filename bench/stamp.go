package bench

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
)

// A stamped block carries in every 512-byte sector where it belongs and which
// write put it there, so that a block that is torn, stale or misplaced is seen
// as such: magic, sequence, offset of the sector, seed, checksum of those.
const (
	sector     = 512
	stampMagic = 0x4c4e4c53 // "SLNL"
	stampSize  = 28
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func fill(p []byte, rng *rand.Rand) {
	for i := 0; i+8 <= len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], rng.Uint64())
	}
}

func stamp(p []byte, off int64, sequence uint32, seed uint64) {
	for i := 0; i < len(p); i += sector {
		s := p[i:]
		binary.LittleEndian.PutUint32(s, stampMagic)
		binary.LittleEndian.PutUint32(s[4:], sequence)
		binary.LittleEndian.PutUint64(s[8:], uint64(off)+uint64(i))
		binary.LittleEndian.PutUint64(s[16:], seed)
		binary.LittleEndian.PutUint32(s[24:], crc32.Checksum(s[:24], castagnoli))
	}
}

// MismatchError is a block that does not read back as it was written.
type MismatchError struct {
	Offset int64 // of the sector
	What   string
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("data mismatch at offset %d: %s", e.Offset, e.What)
}

func checkStamp(p []byte, off int64, sequence uint32, seed uint64) error {
	for i := 0; i < len(p); i += sector {
		s, at := p[i:i+stampSize], off+int64(i)
		switch {
		case binary.LittleEndian.Uint32(s) != stampMagic, binary.LittleEndian.Uint32(s[24:]) != crc32.Checksum(s[:24], castagnoli):
			return &MismatchError{at, "not a stamped sector"}
		case binary.LittleEndian.Uint64(s[8:]) != uint64(at):
			return &MismatchError{at, fmt.Sprintf("holds the sector of offset %d", binary.LittleEndian.Uint64(s[8:]))}
		case binary.LittleEndian.Uint64(s[16:]) != seed:
			return &MismatchError{at, "was written by another run"}
		case binary.LittleEndian.Uint32(s[4:]) != sequence:
			return &MismatchError{at, fmt.Sprintf("holds write %d, last written was %d", binary.LittleEndian.Uint32(s[4:]), sequence)}
		}
	}
	return nil
}
