package vhdx

import (
	"context"
	"fmt"
	"math"

	"lunless/smbstore/block"
)

// Repair mends what is wrong with the disk in f where that takes no guessing, and
// closes nothing. The Report is that of Check afterwards, with what was put right
// in Mended, and in Left what was not touched, why, and what to do about it. A
// disk that needs nothing is not changed.
//
// All changes of metadata go through the log, and headers change one at a time: a
// power cut leaves an image no worse than it was, and Repair goes on with it. The
// error is of reading and writing f; the Report tells how far it came. No one else
// may use the file.
func Repair(f block.File) (Report, error) {
	unused, mended, err := retireUnusedLog(f)
	if err != nil {
		return Report{}, err
	}
	im, before, err := examine(f)
	if mended {
		before.Mended = append(before.Mended, unused)
	}
	if err != nil {
		return before, err
	}
	if im == nil {
		before.advise()
		return before, nil
	}
	m := mender{f: f, im: im, before: &before}
	m.done.Findings = before.Mended
	if err = m.mend(); err != nil {
		before.Mended = m.done.Findings
		return before, fmt.Errorf("repair: %w", err)
	}
	_, after, err := examine(f)
	if err == nil {
		after, err = m.resize(after)
	}
	after.Mended = m.done.Findings
	after.advise()
	return after, err
}

// mender is a Repair under way.
type mender struct {
	f      block.File
	im     *image
	d      *Disk // nil until something is to be changed
	before *Report
	done   Report // its findings are what has been mended
}

func (m *mender) mend() error {
	if err := m.copies(); err != nil {
		return err
	}
	if err := m.entries(); err != nil {
		return err
	}
	if m.d == nil {
		return nil
	}
	d := m.d
	d.flushMu.Lock()
	defer d.flushMu.Unlock()
	if err := d.flushLocked(); err != nil {
		return err
	}
	return d.retireLog()
}

// start is called before the first change. It mends the headers by the way, and
// replays the log.
func (m *mender) start() error {
	if m.d != nil {
		return nil
	}
	im := m.im
	switch {
	case im.hdr.Sequence > math.MaxUint64-1<<32:
		return corrupt(headerOffsets[im.slot], "header: sequence number %d is at its end", im.hdr.Sequence)
	case int64(im.hdr.LogOffset)+int64(im.hdr.LogLength) > im.fileSize:
		return &FormatError{int64(im.hdr.LogOffset), "log ends past the file", ErrTruncated}
	}
	for i, err := range im.slotErrs {
		if err != nil {
			m.done.add(Note, headerOffsets[i], "header %d written anew from header %d", i+1, 2-i)
		}
	}
	m.d = newDisk(im, m.f, OpenOptions{})
	if im.seq == nil {
		return m.d.hdr.update(func(*header) {})
	}
	n := len(im.seq.entries)
	if err := m.d.replay(); err != nil {
		return fmt.Errorf("replay the log: %w", err)
	}
	m.done.add(Note, int64(im.hdr.LogOffset), "log replayed: %d entries", n)
	return nil
}

// copies mends what exists twice, and has the log replayed.
func (m *mender) copies() error {
	if m.im.slotErrs != [2]error{} || m.im.seq != nil {
		if err := m.start(); err != nil {
			return err
		}
	}
	for i, err := range m.im.tableErrs {
		if err == nil {
			continue
		}
		if err := m.start(); err != nil {
			return err
		}
		if err := m.table(i); err != nil {
			return err
		}
		m.done.add(Damage, regionTableOffsets[i], "region table %d written anew from region table %d", i+1, 2-i)
	}
	return nil
}

// table copies the other region table over table i, through the log.
func (m *mender) table(i int) error {
	raw := make([]byte, regionTableSize)
	if err := readFull(m.d.f, raw, regionTableOffsets[1-i]); err != nil {
		return err
	}
	return m.d.edit(context.Background(), regionTableSize/metaPageSize, func(e metaEdit) error {
		for at := int64(0); at < regionTableSize; at += metaPageSize {
			e.put(regionTableOffsets[i]+at, raw[at:at+metaPageSize])
		}
		return nil
	})
}

// entries mends the BAT: entries past the disk's end, places named by blocks that
// hold nothing there, reserved bits.
func (m *mender) entries() error {
	im := m.im
	u := newUsage(im.fileSize)
	for _, s := range im.spans {
		u.mark(s.off, min(s.n, max(0, roundUp(im.fileSize, mib)-s.off)))
	}
	err := im.eachPlace(func(_ int64, e batEntry, _, n int64) {
		if e.relied() {
			u.mark(e.offset(), n)
		}
	})
	if err != nil {
		return err
	}
	return im.walkRegion(im.f, func(i int64, e batEntry, at int64) error {
		now, s, what := m.entry(u, i, e)
		if now == e {
			return nil
		}
		if err := m.start(); err != nil {
			return err
		}
		m.done.add(s, at, "%s", what)
		return m.d.setWord(context.Background(), at, now, room{})
	})
}

// entry returns what an entry should be, where that is certain.
func (m *mender) entry(u *usage, i int64, e batEntry) (now batEntry, s Severity, what string) {
	p, n := &m.im.params, int64(m.im.params.BlockSize)
	blocks, ratio := p.blocks(), p.chunkRatio()
	if pastEnd(i, ratio, blocks, (blocks+ratio-1)/ratio) {
		return 0, Note, fmt.Sprintf("BAT entry %d, past the disk's end, cleared", i)
	}
	bitmap := m.im.isBitmap(i)
	now, s = e, Note
	switch plain := e &^ reservedBits; {
	case bitmap && e.state() == stateNotPresent, e.state() == stateNotPresent, e.state() == stateZero && !bitmap:
		now = makeEntry(e.state(), 0)
	case bitmap:
		if p.HasParent && e.state() == statePresent && checkPlace(m.im.spans, e.offset(), mib, m.im.fileSize) == nil {
			now = plain
		}
	case e.relied():
		if checkPlace(m.im.spans, e.offset(), n, m.im.fileSize) == nil && (p.HasParent || e.state() == statePresent) {
			now = plain
		}
	case e.reserves():
		now = plain
		if checkPlace(m.im.spans, e.offset(), n, m.im.fileSize) != nil {
			now = makeEntry(e.state(), 0)
		} else if u.mark(e.offset(), n) >= 0 {
			now, s = makeEntry(e.state(), 0), Damage
		}
	case e.state() == stateUndefined || e.state() == stateUnmapped:
		now = plain
	}
	if e&reservedBits != 0 {
		s = Damage
	}
	if now.offset() != e.offset() {
		return now, s, fmt.Sprintf("%s: it holds no room that is its own; its entry names none any more (was %#x)", m.im.owner(i), uint64(e))
	}
	return now, s, fmt.Sprintf("%s: reserved bits of its entry cleared (was %#x)", m.im.owner(i), uint64(e))
}

// resize gives the file the size it should have; it is cut only if the disk is
// not damaged, as what is not in use may be what is missed. No log is in use.
func (m *mender) resize(r Report) (Report, error) {
	size := r.Info.FileSize
	switch {
	case r.extend > size:
		m.done.add(Damage, size, "file extended to %d bytes", r.extend)
		size = r.extend
	case r.Clean() && r.tail > 0 && r.tail < size:
		m.done.add(Note, r.tail, "%d bytes at the file's end, not in use, cut off", size-r.tail)
		size = r.tail
	default:
		return r, nil
	}
	if err := m.start(); err != nil { // the headers first (MS-VHDX 2.2.2.1)
		return r, err
	}
	if err := m.f.Truncate(size); err != nil {
		return r, fmt.Errorf("change the file's size to %d: %w", size, err)
	}
	if err := m.f.Sync(); err != nil {
		return r, err
	}
	_, r, err := examine(m.f)
	return r, err
}

// advices tell why a finding was left alone and what to do.
var advices = map[kind]string{
	kindOther:        "not touched: there is nothing to mend it from; restore the file from a backup",
	kindHeaders:      "not touched: no header is left to mend it from; restore the file from a backup",
	kindTables:       "not touched: no region table is left to mend it from; restore the file from a backup",
	kindTablesDiffer: "not touched: which of them is right cannot be told; convert what can be read to a new disk, or restore the file from a backup",
	kindOverlap:      "not touched: whose content lies there cannot be told; convert what can be read to a new disk, or restore the file from a backup",
	kindPlace:        "not touched: where its content lies cannot be told; convert what can be read to a new disk, or restore the file from a backup",
	kindEntry:        "not touched: what its content is cannot be told; convert what can be read to a new disk, or restore the file from a backup",
	kindLocator:      "not touched: which file is the parent cannot be told; link the disk to its parent anew",
	kindLeak:         "left: it is reused when the disk is next written to; compacting the disk gives it back",
	kindFixed:        "left: as on a dynamic disk, they get room when they are written",
}

// advise says of every finding that is left what to do: of damage, and of what
// Repair might be thought to have forgotten.
func (r *Report) advise() {
	for _, f := range r.Findings {
		if k := kind(f.Cause); f.Severity == Damage || k == kindLeak || k == kindFixed {
			f.What += ": " + advices[k]
			r.Left = append(r.Left, f)
		}
	}
}
