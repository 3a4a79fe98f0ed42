package vhdx

import (
	"io"
)

const (
	sigEntry      = "loge"
	sigData       = "data"
	sigDesc       = "desc"
	sigZero       = "zero"
	logSector     = 4096
	entryHeader   = 64
	descSize      = 32
	descsInFirst  = (logSector - entryHeader) / descSize // 126, MS-VHDX 2.3.1
	descsInSector = logSector / descSize
)

// update is one descriptor of a log entry: a 4 KiB sector to write, or zeroes.
type update struct {
	Offset int64  // in the file, a multiple of 4096
	Data   []byte // logSector bytes; nil for zeroes, and where logged is set
	Zeroes int64  // length of zeroes, a multiple of 4096

	// Of data that stays in the log until it is needed: the file offset of its
	// data sector, and what the descriptor holds of it.
	logged      bool
	sector      int64
	first, last [8]byte // of last, four bytes are used
}

// zeroes tells whether the update has no data.
func (u *update) zeroes() bool { return u.Data == nil && !u.logged }

// data returns the sector to write: Data, or buf[:logSector] with what the log
// in f has.
func (u *update) data(f io.ReaderAt, buf []byte) ([]byte, error) {
	if !u.logged {
		return u.Data, nil
	}
	buf = buf[:logSector]
	if err := readFull(f, buf, u.sector); err != nil {
		return nil, err
	}
	copy(buf, u.first[:])
	copy(buf[logSector-4:], u.last[:4])
	return buf, nil
}

// logEntry is MS-VHDX 2.3.1.
type logEntry struct {
	Sequence          uint64
	Tail              uint32 // from the log's start, bytes
	LogGUID           GUID
	FlushedFileOffset uint64
	LastFileOffset    uint64
	Updates           []update
}

// descSectors is how many sectors hold the header and n descriptors.
func descSectors(n int64) int64 {
	if n <= descsInFirst {
		return 1
	}
	return 1 + (n-descsInFirst+descsInSector-1)/descsInSector
}

// size is the encoded length in bytes.
func (e *logEntry) size() int64 {
	n := descSectors(int64(len(e.Updates)))
	for _, u := range e.Updates {
		if u.Data != nil {
			n++
		}
	}
	return n * logSector
}

// encode writes the entry with its checksum into dst, which is size() bytes long.
func (e *logEntry) encode(dst []byte) {
	clear(dst)
	copy(dst, sigEntry)
	le.PutUint32(dst[8:], uint32(len(dst)))
	le.PutUint32(dst[12:], e.Tail)
	le.PutUint64(dst[16:], e.Sequence)
	le.PutUint32(dst[24:], uint32(len(e.Updates)))
	copy(dst[32:], e.LogGUID[:])
	le.PutUint64(dst[48:], e.FlushedFileOffset)
	le.PutUint64(dst[56:], e.LastFileOffset)
	data := dst[descSectors(int64(len(e.Updates)))*logSector:]
	for i, u := range e.Updates {
		d := dst[entryHeader+i*descSize:]
		le.PutUint64(d[16:], uint64(u.Offset))
		le.PutUint64(d[24:], e.Sequence)
		if u.Data == nil {
			copy(d, sigZero)
			le.PutUint64(d[8:], uint64(u.Zeroes))
			continue
		}
		copy(d, sigDesc)
		copy(d[4:8], u.Data[logSector-4:])
		copy(d[8:16], u.Data[:8])
		copy(data[8:], u.Data[8:logSector-4])
		copy(data, sigData)
		le.PutUint32(data[4:], uint32(e.Sequence>>32))
		le.PutUint32(data[logSector-4:], uint32(e.Sequence))
		data = data[logSector:]
	}
	le.PutUint32(dst[4:], checksum(dst))
}
