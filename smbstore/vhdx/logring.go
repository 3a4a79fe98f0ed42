package vhdx

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// ring reads the log in a file by sectors, round its end, in memory that does
// not grow with it.
type ring struct {
	f           io.ReaderAt
	off, length int64 // of the log, bytes
	guid        GUID
	buf         []byte // part of the log
	at          int64  // where buf begins, from off
}

func newRing(f io.ReaderAt, off, length int64, guid GUID) *ring {
	return &ring{f: f, off: off, length: length, guid: guid, at: -1, buf: make([]byte, min(length, mib))}
}

// sector returns the sector at from the log's start, counted round its end. It is
// valid until the next call.
func (r *ring) sector(at int64) ([]byte, error) {
	at %= r.length
	from := at - at%int64(len(r.buf))
	if from != r.at {
		r.at = -1
		if err := readFull(r.f, r.buf[:min(int64(len(r.buf)), r.length-from)], r.off+from); err != nil {
			return nil, err
		}
		r.at = from
	}
	return r.buf[at-from:][:logSector], nil
}

// logPlace is a valid entry of the log without its updates.
type logPlace struct {
	at, size int64 // from the log's start, bytes
	entry    logEntry
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, ErrCorrupt)...)
}

// entry decodes what begins at a place of the log and checks everything that
// MS-VHDX 2.3.1 says of an entry. visit, if not nil, gets its updates; they are
// not to be believed before entry has returned. An entry that is not valid is
// ErrCorrupt. A sector is looked at as what it says it is, and decoding ends at
// the first that is something else: crafted entries cannot overlap and be read
// many times over.
func (r *ring) entry(at int64, visit func(u update) error) (p logPlace, err error) {
	b, err := r.sector(at)
	if err != nil {
		return p, err
	}
	count, err := p.decode(b, at, r)
	if err != nil {
		return p, err
	}
	sum := le.Uint32(b[4:])
	var zero [4]byte
	crc := crc32.Update(crc32.Update(crc32.Update(0, castagnoli, b[:4]), castagnoli, zero[:]), castagnoli, b[8:])
	end, in := at+logSector, entryHeader // the next sector; the next descriptor in b
	next := func() error {
		if b, err = r.sector(end); err != nil {
			return err
		}
		crc, in, end = crc32.Update(crc, castagnoli, b), 0, end+logSector
		return nil
	}
	data, sectors := int64(0), at+descSectors(count)*logSector
	for range count {
		if in == logSector {
			if err := next(); err != nil {
				return p, err
			}
		}
		u, err := r.update(b[in:in+descSize], p.entry.Sequence, sectors+data*logSector)
		if err != nil {
			return p, err
		}
		if in += descSize; !u.zeroes() {
			data++
		}
		if visit != nil {
			if err := visit(u); err != nil {
				return p, err
			}
		}
	}
	if sectors+data*logSector != at+p.size {
		return p, invalid("log entry of %d bytes with %d data sectors", p.size, data)
	}
	for range data {
		if err := next(); err != nil {
			return p, err
		}
		if seq := p.entry.Sequence; string(b[:4]) != sigData || le.Uint32(b[4:]) != uint32(seq>>32) || le.Uint32(b[logSector-4:]) != uint32(seq) {
			return p, invalid("data sector is missing or torn")
		}
	}
	if sum != crc {
		return p, invalid("wrong checksum")
	}
	return p, nil
}

// decode takes what an entry's first sector says and returns how many
// descriptors it has.
func (p *logPlace) decode(b []byte, at int64, r *ring) (count int64, err error) {
	if string(b[:4]) != sigEntry {
		return 0, invalid("no signature")
	}
	p.at, p.size = at, int64(le.Uint32(b[8:]))
	p.entry = logEntry{
		Sequence: le.Uint64(b[16:]), Tail: le.Uint32(b[12:]), LogGUID: GUID(b[32:48]),
		FlushedFileOffset: le.Uint64(b[48:]), LastFileOffset: le.Uint64(b[56:]),
	}
	count = int64(le.Uint32(b[24:]))
	e := &p.entry
	switch {
	case e.LogGUID != r.guid:
		return 0, invalid("entry of another log")
	case p.size == 0 || p.size%logSector != 0 || p.size > r.length:
		return 0, invalid("length %d", p.size)
	case e.Sequence == 0:
		return 0, invalid("sequence number 0")
	case e.Tail%logSector != 0 || int64(e.Tail) >= r.length:
		return 0, invalid("tail %d", e.Tail)
	case e.FlushedFileOffset%mib != 0 || e.LastFileOffset%mib != 0 || e.LastFileOffset > maxFileSize || e.FlushedFileOffset > maxFileSize:
		return 0, invalid("file sizes %d and %d", e.FlushedFileOffset, e.LastFileOffset)
	case descSectors(count)*logSector > p.size:
		return 0, invalid("%d descriptors in %d bytes", count, p.size)
	}
	return count, nil
}

// update decodes one descriptor of an entry; at is where the next data sector
// of the entry lies, from the log's start.
func (r *ring) update(d []byte, seq uint64, at int64) (u update, err error) {
	off := le.Uint64(d[16:])
	if le.Uint64(d[24:]) != seq {
		return u, invalid("descriptor of another entry")
	}
	// The log changes no header and never the file's first 64 KiB (MS-VHDX 2.2.1, 2.3).
	if off%logSector != 0 || off < uint64(regionTableOffsets[0]) || off > maxFileSize {
		return u, invalid("file offset %#x", off)
	}
	u.Offset = int64(off)
	n := int64(logSector)
	switch string(d[:4]) {
	case sigZero:
		zeroes := le.Uint64(d[8:])
		if zeroes%logSector != 0 || zeroes > maxFileSize {
			return u, invalid("%d zeroes", zeroes)
		}
		u.Zeroes, n = int64(zeroes), int64(zeroes)
	case sigDesc:
		u.logged, u.sector = true, r.off+at%r.length
		copy(u.first[:], d[8:16])
		copy(u.last[:], d[4:8])
	default:
		return u, invalid("descriptor without signature")
	}
	if u.Offset < r.off+r.length && r.off < u.Offset+n {
		return u, invalid("file offset %#x is in the log", off)
	}
	return u, nil
}

// sequence finds the valid sequence with the highest sequence number
// (MS-VHDX 2.3.3), nil if there is none. Every entry is decoded once, and those
// of the sequence once more for their updates.
func (r *ring) sequence() (*sequence, error) {
	found := map[int64]*logPlace{}
	for at := int64(0); at < r.length; at += logSector {
		p, err := r.entry(at, nil)
		if err == nil {
			found[at] = &p
		} else if !errors.Is(err, ErrCorrupt) {
			return nil, err
		}
	}
	s := &sequence{}
	for _, p := range activeSequence(found, r.length) {
		e := p.entry
		_, err := r.entry(p.at, func(u update) error {
			e.Updates = append(e.Updates, u)
			return s.charge(&u, r.off+p.at)
		})
		if err != nil {
			return nil, err
		}
		s.entries = append(s.entries, &e)
	}
	if s.entries == nil {
		return nil, nil
	}
	return s, nil
}

// activeSequence picks the active sequence of the valid entries of a log, given
// by their places.
func activeSequence(at map[int64]*logPlace, length int64) (best []*logPlace) {
	for tail := int64(0); tail < length; {
		first := at[tail]
		if first == nil {
			tail += logSector
			continue
		}
		var s []*logPlace
		inside, head := map[int64]int{}, tail // index in s by place
		for p := first; p != nil; p = at[head] {
			if _, again := inside[head]; again || len(s) > 0 && p.entry.Sequence != s[len(s)-1].entry.Sequence+1 {
				break
			}
			inside[head] = len(s)
			s = append(s, p)
			head = (head + p.size) % length
		}
		last := &s[len(s)-1].entry
		// Entries before the tail have reached their places.
		if from, ok := inside[int64(last.Tail)]; ok && (best == nil || last.Sequence > best[len(best)-1].entry.Sequence) {
			best = s[from:]
		}
		if head <= tail { // wrapped: every place has been looked at
			break
		}
		// Any later start in this chain ends at the same entry and holds less.
		tail = head
	}
	return best
}
