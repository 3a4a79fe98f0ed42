package vhdx

import (
	"fmt"
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
	Data   []byte // logSector bytes; nil for zeroes
	Zeroes int64  // length of zeroes, a multiple of 4096
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

// entryLength returns EntryLength of what begins b if it is a plausible entry
// header of the given log; the rest is for decodeLogEntry to check.
func entryLength(b []byte, logGUID GUID, logLength int64) (int64, error) {
	if string(b[:4]) != sigEntry {
		return 0, fmt.Errorf("no signature: %w", ErrCorrupt)
	}
	if GUID(b[32:48]) != logGUID {
		return 0, fmt.Errorf("of another log: %w", ErrCorrupt)
	}
	n := int64(le.Uint32(b[8:]))
	if n == 0 || n%logSector != 0 || n > logLength {
		return 0, fmt.Errorf("length %d: %w", n, ErrCorrupt)
	}
	return n, nil
}

// decodeLogEntry checks everything MS-VHDX 2.3.1 says of an entry; b is the
// whole of it. Structure comes before the checksum, so that entries of a crafted
// log cannot overlap and be summed many times over. Updates refer to memory of
// their own.
func decodeLogEntry(b []byte, logLength int64) (*logEntry, error) {
	bad := func(format string, args ...any) (*logEntry, error) {
		return nil, fmt.Errorf(format+": %w", append(args, ErrCorrupt)...)
	}
	if len(b) < logSector || len(b)%logSector != 0 || string(b[:4]) != sigEntry || int64(le.Uint32(b[8:])) != int64(len(b)) {
		return bad("no entry of %d bytes", len(b))
	}
	e := &logEntry{
		Sequence: le.Uint64(b[16:]), Tail: le.Uint32(b[12:]), LogGUID: GUID(b[32:48]),
		FlushedFileOffset: le.Uint64(b[48:]), LastFileOffset: le.Uint64(b[56:]),
	}
	count := int64(le.Uint32(b[24:]))
	switch {
	case e.Sequence == 0:
		return bad("sequence number 0")
	case e.Tail%logSector != 0 || int64(e.Tail) >= logLength:
		return bad("tail %d", e.Tail)
	case e.FlushedFileOffset%mib != 0 || e.LastFileOffset%mib != 0 || e.LastFileOffset > maxFileSize || e.FlushedFileOffset > maxFileSize:
		return bad("file sizes %d and %d", e.FlushedFileOffset, e.LastFileOffset)
	case count > int64(len(b)-entryHeader)/descSize || descSectors(count)*logSector > int64(len(b)):
		return bad("%d descriptors in %d bytes", count, len(b))
	}
	sectors := b[descSectors(count)*logSector:]
	for i := range count {
		u, rest, err := decodeUpdate(b[entryHeader+i*descSize:][:descSize], sectors, e.Sequence)
		if err != nil {
			return nil, fmt.Errorf("descriptor %d: %w", i, err)
		}
		sectors = rest
		e.Updates = append(e.Updates, u)
	}
	if len(sectors) != 0 {
		return bad("%d bytes too long", len(sectors))
	}
	if le.Uint32(b[4:]) != checksum(b) {
		return bad("wrong checksum")
	}
	return e, nil
}

// decodeUpdate reads one descriptor and, for data, takes its sector off sectors.
func decodeUpdate(d, sectors []byte, seq uint64) (u update, rest []byte, err error) {
	off := le.Uint64(d[16:])
	if le.Uint64(d[24:]) != seq {
		return u, nil, fmt.Errorf("sequence number of another entry: %w", ErrCorrupt)
	}
	// The log changes no header and never the file's first 64 KiB (MS-VHDX 2.2.1, 2.3).
	if off%logSector != 0 || off < uint64(regionTableOffsets[0]) || off > maxFileSize {
		return u, nil, fmt.Errorf("file offset %#x: %w", off, ErrCorrupt)
	}
	u.Offset = int64(off)
	switch string(d[:4]) {
	case sigZero:
		n := le.Uint64(d[8:])
		if n%logSector != 0 || n > maxFileSize {
			return u, nil, fmt.Errorf("%d zeroes: %w", n, ErrCorrupt)
		}
		u.Zeroes = int64(n)
		return u, sectors, nil
	case sigDesc:
		if len(sectors) < logSector || string(sectors[:4]) != sigData ||
			le.Uint32(sectors[4:]) != uint32(seq>>32) || le.Uint32(sectors[logSector-4:]) != uint32(seq) {
			return u, nil, fmt.Errorf("its data sector is missing or torn: %w", ErrCorrupt)
		}
		u.Data = make([]byte, logSector)
		copy(u.Data, sectors[:logSector])
		copy(u.Data, d[8:16])
		copy(u.Data[logSector-4:], d[4:8])
		return u, sectors[logSector:], nil
	}
	return u, nil, fmt.Errorf("no signature: %w", ErrCorrupt)
}
