package vhdx

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"lunless/smbstore/block"
)

// Bounds on what a replay costs. The log changes metadata alone, of which the
// largest disk has less than a gigabyte.
const (
	maxReplayLog    = 64 * mib // memory
	maxReplayZeroes = 4096     // zero descriptors
	maxReplayZeroed = 8 << 30  // bytes they zero in all
)

// sequence is the active log sequence (MS-VHDX 2.3.2), oldest entry first.
type sequence struct {
	entries []*logEntry
}

func (s *sequence) head() *logEntry { return s.entries[len(s.entries)-1] }

// loadSequence reads the log that h points to and returns its active sequence,
// nil if there is none to replay.
func loadSequence(f block.File, h *header, fileSize int64) (*sequence, error) {
	if h.LogGUID == (GUID{}) {
		return nil, nil
	}
	off := int64(h.LogOffset)
	if h.LogLength > maxReplayLog {
		return nil, unsupported(off, "log of %d bytes", h.LogLength)
	}
	if off+int64(h.LogLength) > fileSize {
		return nil, &FormatError{off, fmt.Sprintf("log ends past the file's %d bytes", fileSize), ErrTruncated}
	}
	log := make([]byte, h.LogLength)
	if err := readFull(f, log, off); err != nil {
		return nil, err
	}
	s := findSequence(log, h.LogGUID)
	if s == nil {
		return nil, corrupt(off, "log: in use, but without a valid sequence")
	}
	if int64(s.head().FlushedFileOffset) > fileSize {
		return nil, &FormatError{off, fmt.Sprintf("file has %d bytes, its log says %d", fileSize, s.head().FlushedFileOffset), ErrTruncated}
	}
	return s, s.checkCost(off)
}

// checkCost refuses a sequence that no writer of metadata would leave.
func (s *sequence) checkCost(off int64) error {
	var count, total int64
	for _, e := range s.entries {
		for _, u := range e.Updates {
			if u.Data == nil {
				count++
				total += u.Zeroes // below 2^47 each, and few
			}
			if count > maxReplayZeroes || total > maxReplayZeroed {
				return unsupported(off, "log zeroes more than metadata can take")
			}
		}
	}
	return nil
}

// findSequence finds the valid sequence with the highest sequence number
// (MS-VHDX 2.3.3), nil if there is none. Every entry is decoded once.
func findSequence(log []byte, g GUID) *sequence {
	at := decodeEntries(log, g)
	length := int64(len(log))
	var best *sequence
	for tail := int64(0); tail < length; {
		first := at[tail]
		if first == nil {
			tail += logSector
			continue
		}
		s, inside, head := &sequence{}, map[int64]bool{}, tail
		for e := first; e != nil && !inside[head]; e = at[head] {
			if k := len(s.entries); k > 0 && e.Sequence != s.entries[k-1].Sequence+1 {
				break
			}
			s.entries = append(s.entries, e)
			inside[head] = true
			head = (head + e.size()) % length
		}
		last := s.head()
		if inside[int64(last.Tail)] && (best == nil || last.Sequence > best.head().Sequence) {
			best = s.from(last.Tail, at)
		}
		if head <= tail { // wrapped: every place has been looked at
			break
		}
		// Any later start in this chain ends at the same entry and holds less.
		tail = head
	}
	return best
}

// from drops the entries before the one at tail: they have reached their places.
func (s *sequence) from(tail uint32, at map[int64]*logEntry) *sequence {
	i := slices.Index(s.entries, at[int64(tail)])
	return &sequence{s.entries[i:]}
}

// decodeEntries decodes every valid entry of the ring, by offset.
func decodeEntries(log []byte, g GUID) map[int64]*logEntry {
	length := int64(len(log))
	ring := append(log[:length:length], log...) // an entry that wraps is whole in it
	found := map[int64]*logEntry{}
	for off := int64(0); off < length; off += logSector {
		n, err := entryLength(log[off:off+logSector], g, length)
		if err != nil {
			continue
		}
		if e, err := decodeLogEntry(ring[off:off+n], length); err == nil {
			found[off] = e
		}
	}
	return found
}

// apply writes the sequence to the file and extends it (MS-VHDX 2.3.3). The
// caller syncs.
func (s *sequence) apply(f block.File) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	for _, e := range s.entries {
		for _, u := range e.Updates {
			if u.Data != nil {
				if _, err := f.WriteAt(u.Data, u.Offset); err != nil {
					return fmt.Errorf("replay log at %#x: %w", u.Offset, err)
				}
				size = max(size, u.Offset+logSector)
				continue
			}
			if u.Offset < size {
				if err := block.ZeroFile(f, u.Offset, min(u.Zeroes, size-u.Offset), true); err != nil {
					return fmt.Errorf("replay zeroes at %#x: %w", u.Offset, err)
				}
			}
			size = max(size, u.Offset+u.Zeroes)
		}
	}
	size = max(size, int64(s.head().LastFileOffset))
	if have, err := f.Size(); err != nil || have >= size {
		return err
	}
	return f.Truncate(size)
}

// overlay is a File as it would be after a replay, with the file left alone. It
// cannot be written.
type overlay struct {
	block.File
	size   int64
	pages  map[int64][]byte // by offset; a sector of the log
	zeroes []update
}

// overlaid returns f with the sequence applied in memory.
func (s *sequence) overlaid(f block.File) (block.File, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	o := &overlay{File: f, size: max(size, int64(s.head().LastFileOffset)), pages: map[int64][]byte{}}
	for _, e := range s.entries {
		for _, u := range e.Updates {
			if u.Data != nil {
				o.pages[u.Offset] = u.Data
				o.size = max(o.size, u.Offset+logSector)
				continue
			}
			for off := range o.pages {
				if off >= u.Offset && off < u.Offset+u.Zeroes {
					delete(o.pages, off)
				}
			}
			o.zeroes = append(o.zeroes, u)
			o.size = max(o.size, u.Offset+u.Zeroes)
		}
	}
	return o, nil
}

// ReadAt implements io.ReaderAt.
func (o *overlay) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= o.size {
		return 0, io.EOF
	}
	want := len(p)
	p = p[:min(int64(want), o.size-off)]
	n, err := o.File.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	clear(p[n:])
	end := off + int64(len(p))
	for _, z := range o.zeroes {
		if from, to := max(off, z.Offset), min(end, z.Offset+z.Zeroes); from < to {
			clear(p[from-off : to-off])
		}
	}
	for at := off - off%logSector; at < end; at += logSector {
		if data := o.pages[at]; data != nil {
			from, to := max(off, at), min(end, at+logSector)
			copy(p[from-off:to-off], data[from-at:to-at])
		}
	}
	if len(p) < want {
		return len(p), io.EOF
	}
	return len(p), nil
}

// Size implements block.File.
func (o *overlay) Size() (int64, error) { return o.size, nil }

// WriteAt implements io.WriterAt: it refuses.
func (o *overlay) WriteAt([]byte, int64) (int, error) { return 0, block.ErrReadOnly }

// Truncate implements block.File: it refuses.
func (o *overlay) Truncate(int64) error { return block.ErrReadOnly }

// readFull fills p or fails.
func readFull(f io.ReaderAt, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return &FormatError{off, fmt.Sprintf("file ends within %d bytes to be read", len(p)), ErrTruncated}
	}
	return fmt.Errorf("read %d bytes at %#x: %w", len(p), off, err)
}
