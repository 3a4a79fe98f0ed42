package vhdx

import (
	"encoding/binary"
	"hash/crc32"
	"unicode/utf16"
)

// Layout of the header section (MS-VHDX 2.2), bytes.
const (
	mib             = 1 << 20
	fileIDOffset    = 0
	fileIDSize      = 64 << 10
	headerSize      = 4 << 10
	regionTableSize = 64 << 10
	sectionEnd      = 1 * mib // everything else lies after it
)

var (
	headerOffsets      = [2]int64{64 << 10, 128 << 10}
	regionTableOffsets = [2]int64{192 << 10, 256 << 10}
	castagnoli         = crc32.MakeTable(crc32.Castagnoli)
	le                 = binary.LittleEndian
)

const (
	sigFile   = "vhdxfile"
	sigHeader = "head"
)

// checksum is CRC-32C over b with the four bytes at 4 taken as zero (MS-VHDX 2).
func checksum(b []byte) uint32 {
	var zero [4]byte
	c := crc32.Update(0, castagnoli, b[:4])
	c = crc32.Update(c, castagnoli, zero[:])
	return crc32.Update(c, castagnoli, b[8:])
}

// header is MS-VHDX 2.2.2.
type header struct {
	Sequence      uint64
	FileWriteGUID GUID
	DataWriteGUID GUID
	LogGUID       GUID // zero: there is nothing to replay
	LogVersion    uint16
	Version       uint16
	LogLength     uint32
	LogOffset     uint64
}

// encode writes the header with its checksum into dst[:headerSize].
func (h *header) encode(dst []byte) {
	dst = dst[:headerSize]
	clear(dst)
	copy(dst, sigHeader)
	le.PutUint64(dst[8:], h.Sequence)
	copy(dst[16:], h.FileWriteGUID[:])
	copy(dst[32:], h.DataWriteGUID[:])
	copy(dst[48:], h.LogGUID[:])
	le.PutUint16(dst[64:], h.LogVersion)
	le.PutUint16(dst[66:], h.Version)
	le.PutUint32(dst[68:], h.LogLength)
	le.PutUint64(dst[72:], h.LogOffset)
	le.PutUint32(dst[4:], checksum(dst))
}

// decodeHeader checks signature and checksum alone: a header that fails them is
// not valid, one that fails check is of a file that cannot be used.
func decodeHeader(b []byte, off int64) (header, error) {
	var h header
	if len(b) < headerSize || string(b[:4]) != sigHeader {
		return h, corrupt(off, "header: no signature")
	}
	b = b[:headerSize]
	if le.Uint32(b[4:]) != checksum(b) {
		return h, corrupt(off, "header: wrong checksum")
	}
	h.Sequence = le.Uint64(b[8:])
	copy(h.FileWriteGUID[:], b[16:])
	copy(h.DataWriteGUID[:], b[32:])
	copy(h.LogGUID[:], b[48:])
	h.LogVersion = le.Uint16(b[64:])
	h.Version = le.Uint16(b[66:])
	h.LogLength = le.Uint32(b[68:])
	h.LogOffset = le.Uint64(b[72:])
	return h, nil
}

// check tells whether a file with this header, current and valid, can be used.
func (h *header) check(off int64) error {
	switch {
	case h.Version != 1:
		return unsupported(off, "header: format version %d", h.Version)
	case h.LogVersion != 0 && h.LogGUID != GUID{}:
		return unsupported(off, "header: log version %d", h.LogVersion)
	case h.LogLength == 0 || h.LogLength%mib != 0:
		return corrupt(off, "header: log length %d is not a multiple of 1 MiB", h.LogLength)
	case h.LogOffset < sectionEnd || h.LogOffset%mib != 0 || h.LogOffset > maxFileSize:
		return corrupt(off, "header: log offset %d", h.LogOffset)
	}
	return nil
}

// currentHeader picks the header in use of the two slots (MS-VHDX 2.2.2). errs
// holds why a slot is not valid.
func currentHeader(slots [2][]byte) (h header, slot int, errs [2]error, err error) {
	var hs [2]header
	for i := range slots {
		hs[i], errs[i] = decodeHeader(slots[i], headerOffsets[i])
	}
	switch {
	case errs[0] != nil && errs[1] != nil:
		return h, 0, errs, corrupt(headerOffsets[0], "both headers are invalid")
	case errs[1] != nil:
		slot = 0
	case errs[0] != nil:
		slot = 1
	case hs[0].Sequence == hs[1].Sequence && hs[0] != hs[1]:
		return h, 0, errs, corrupt(headerOffsets[1], "two different headers of sequence %d", hs[0].Sequence)
	case hs[1].Sequence > hs[0].Sequence:
		slot = 1
	}
	return hs[slot], slot, errs, hs[slot].check(headerOffsets[slot])
}

// encodeFileID writes the file type identifier (MS-VHDX 2.2.1).
func encodeFileID(dst []byte, creator string) {
	copy(dst, sigFile)
	for i, u := range utf16.Encode([]rune(creator)) {
		if i == 255 { // the field holds 256 code units, the last stays zero
			return
		}
		le.PutUint16(dst[8+2*i:], u)
	}
}

// decodeCreator returns the creator's name, up to the first NUL.
func decodeCreator(b []byte) string {
	var u []uint16
	for i := 8; i+2 <= min(len(b), 8+512); i += 2 {
		c := le.Uint16(b[i:])
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u))
}
