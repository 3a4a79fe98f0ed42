package vhdx

import (
	"fmt"
	"sync"

	"lunless/smbstore/block"
)

// headerWriter changes the headers of one session.
type headerWriter struct {
	f       block.File
	mu      sync.Mutex
	cur     header
	slot    int  // of cur
	written bool // in this session
}

// update writes a changed header over the old one, makes it stable, then does
// the same to the other (MS-VHDX 2.2.2.1). The first in a session gets a new
// FileWriteGUID.
func (w *headerWriter) update(change func(h *header)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.cur
	if !w.written {
		h.FileWriteGUID = newGUID()
	}
	change(&h)
	buf := make([]byte, headerSize)
	for range 2 {
		h.Sequence++
		h.encode(buf)
		slot := 1 - w.slot
		if _, err := w.f.WriteAt(buf, headerOffsets[slot]); err != nil {
			return fmt.Errorf("write header at %#x: %w", headerOffsets[slot], err)
		}
		if err := w.f.Sync(); err != nil {
			return fmt.Errorf("flush header: %w", err)
		}
		w.cur, w.slot, w.written = h, slot, true
	}
	return nil
}

// changed tells whether the headers tell of this session.
func (w *headerWriter) changed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.written
}

// logWriter appends sequences to the ring. A sequence is all the entries of one
// flush; it begins where the last one ended and takes less than half of the
// ring, so that the last one stays whole until this one is.
type logWriter struct {
	f           block.File
	off, length int64
	guid        GUID // zero: not in use yet
	seq         uint64
	head        int64 // where the next entry goes, from off
	perEntry    int   // pages in one entry, below 126
	limit       int   // pages in one sequence
}

func newLogWriter(f block.File, off, length int64) logWriter {
	const perEntry = 60
	sectors := length/logSector/2 - 1
	return logWriter{f: f, off: off, length: length, perEntry: perEntry, limit: int(sectors / (perEntry + 1) * perEntry)}
}

// write writes one sequence and makes it stable; without updates, it is one entry
// that tells of the file's size. If the log was not in use, it
// now is as soon as the header says so: the caller's next step. flushed and last
// are FlushedFileOffset and LastFileOffset (MS-VHDX 2.3.1.1).
func (w *logWriter) write(updates []update, flushed, last int64) error {
	if w.guid == (GUID{}) {
		w.guid, w.seq = newGUID(), 0
	}
	tail := w.head
	for first := true; first || len(updates) > 0; first = false {
		n := min(len(updates), w.perEntry)
		w.seq++
		e := logEntry{
			Sequence: w.seq, Tail: uint32(tail), LogGUID: w.guid, Updates: updates[:n],
			FlushedFileOffset: uint64(flushed / mib * mib), LastFileOffset: uint64(last),
		}
		if err := w.append(&e); err != nil {
			return err
		}
		updates = updates[n:]
	}
	if err := w.f.Sync(); err != nil {
		return fmt.Errorf("flush log: %w", err)
	}
	return nil
}

// append writes an entry at the head, round the ring's end if need be.
func (w *logWriter) append(e *logEntry) error {
	buf := make([]byte, e.size())
	e.encode(buf)
	n := min(int64(len(buf)), w.length-w.head)
	if _, err := w.f.WriteAt(buf[:n], w.off+w.head); err != nil {
		return fmt.Errorf("write log at %#x: %w", w.off+w.head, err)
	}
	if rest := buf[n:]; len(rest) > 0 {
		if _, err := w.f.WriteAt(rest, w.off); err != nil {
			return fmt.Errorf("write log at %#x: %w", w.off, err)
		}
	}
	w.head = (w.head + int64(len(buf))) % w.length
	return nil
}
