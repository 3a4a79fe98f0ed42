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
			return &syncError{"header", err}
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

// logWriter appends entries to the ring, one a commit. An entry is its own
// sequence: each beginning of a longer one would be a valid sequence as well, and
// a power cut might leave a part of the commit. It takes less than half of the
// ring, so that the last one stays whole until this one is.
type logWriter struct {
	f           block.File
	off, length int64
	guid        GUID // zero: not in use yet
	seq         uint64
	head        int64  // where the next entry goes, from off
	buf         []byte // the entry being written
}

// maxCommit is how many pages one commit takes: what one descriptor sector
// describes. The smallest log, of 1 MiB, holds two such entries.
const maxCommit = descsInFirst

func newLogWriter(f block.File, off, length int64) logWriter {
	return logWriter{f: f, off: off, length: length}
}

// write writes one entry and makes it stable. If the log was not in use, it now
// is as soon as the header says so: the caller's next step. flushed and last are
// FlushedFileOffset and LastFileOffset (MS-VHDX 2.3.1.1).
func (w *logWriter) write(updates []update, flushed, last int64) error {
	if w.guid == (GUID{}) {
		w.guid, w.seq = newGUID(), 0
	}
	w.seq++
	e := logEntry{
		Sequence: w.seq, Tail: uint32(w.head), LogGUID: w.guid, Updates: updates,
		FlushedFileOffset: uint64(flushed / mib * mib), LastFileOffset: uint64(last),
	}
	if 2*e.size() > w.length {
		return fmt.Errorf("log entry of %d bytes in a log of %d: %w", e.size(), w.length, ErrUnsupported)
	}
	if err := w.append(&e); err != nil {
		return err
	}
	if err := w.f.Sync(); err != nil {
		return &syncError{"log", err}
	}
	return nil
}

// append writes an entry at the head, round the ring's end if need be.
func (w *logWriter) append(e *logEntry) error {
	if n := e.size(); n > int64(cap(w.buf)) {
		w.buf = make([]byte, n)
	}
	buf := w.buf[:e.size()]
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
