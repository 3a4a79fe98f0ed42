package vhdx

import (
	"errors"
	"fmt"
	"io"

	"lunless/smbstore/block"
)

// Bounds on what a replay costs. The log changes metadata alone, of which the
// largest disk has less than a gigabyte.
const (
	maxReplayLog    = 64 * mib
	maxReplayZeroes = 4096    // zero descriptors
	maxReplayZeroed = 8 << 30 // bytes they zero in all
)

// sequence is the active log sequence (MS-VHDX 2.3.2), oldest entry first.
type sequence struct {
	entries        []*logEntry
	count, zeroing int64 // zero descriptors, and what they zero
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
	s, err := newRing(f, off, int64(h.LogLength), h.LogGUID).sequence()
	if err != nil {
		return nil, err
	}
	if s == nil {
		return nil, &FormatError{off, "log: in use, but without a valid sequence", errNoSequence}
	}
	if int64(s.head().FlushedFileOffset) > fileSize {
		return nil, &FormatError{off, fmt.Sprintf("file has %d bytes, its log says %d", fileSize, s.head().FlushedFileOffset), ErrTruncated}
	}
	return s, nil
}

// charge refuses a sequence that no writer of metadata would leave; u belongs to
// the entry at a file offset.
func (s *sequence) charge(u *update, at int64) error {
	if u.zeroes() {
		s.count++
		s.zeroing += u.Zeroes // below 2^47 each, and few
	}
	if s.count > maxReplayZeroes || s.zeroing > maxReplayZeroed {
		return unsupported(at, "log zeroes more than metadata can take")
	}
	return nil
}

// apply writes the sequence to the file and extends it (MS-VHDX 2.3.3). The
// caller syncs.
func (s *sequence) apply(f block.File) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	buf := make([]byte, logSector)
	for _, e := range s.entries {
		for _, u := range e.Updates {
			if !u.zeroes() {
				data, err := u.data(f, buf)
				if err != nil {
					return err
				}
				if _, err := f.WriteAt(data, u.Offset); err != nil {
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
	pages  map[int64]update // by offset; data
	zeroes []update
}

// overlaid returns f with the sequence applied in memory.
func (s *sequence) overlaid(f block.File) (block.File, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	o := &overlay{File: f, size: max(size, int64(s.head().LastFileOffset)), pages: map[int64]update{}}
	for _, e := range s.entries {
		for _, u := range e.Updates {
			if !u.zeroes() {
				o.pages[u.Offset] = u
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
	var buf []byte
	for at := off - off%logSector; at < end; at += logSector {
		if u, ok := o.pages[at]; ok {
			if buf == nil {
				buf = make([]byte, logSector)
			}
			data, err := u.data(o.File, buf)
			if err != nil {
				return 0, err
			}
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
