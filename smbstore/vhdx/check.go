package vhdx

import (
	"errors"
	"fmt"

	"lunless/smbstore/block"
)

// Severity ranks findings.
type Severity int

// Severities of findings.
const (
	Note   Severity = iota // worth knowing; nothing is lost
	Damage                 // contradicts the format
)

// String is "note" or "damage".
func (s Severity) String() string {
	if s == Damage {
		return "damage"
	}
	return "note"
}

// MarshalText implements encoding.TextMarshaler.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Finding is one thing Check has to say.
type Finding struct {
	Severity Severity `json:"severity"`
	Offset   int64    `json:"offset"` // in the file, bytes
	What     string   `json:"what"`
}

// Report is the outcome of Check.
type Report struct {
	Info      Info      `json:"info"` // zero if the structures cannot be read
	Findings  []Finding `json:"findings"`
	More      int64     `json:"more"`      // findings left out
	Allocated int64     `json:"allocated"` // blocks that have room
	Leaked    int64     `json:"leaked"`    // bytes of the file nothing refers to
}

// maxFindings bounds a report.
const maxFindings = 1000

// Clean tells whether there is no damage.
func (r *Report) Clean() bool {
	for _, f := range r.Findings {
		if f.Severity == Damage {
			return false
		}
	}
	return true
}

func (r *Report) add(s Severity, off int64, format string, args ...any) {
	if len(r.Findings) >= maxFindings {
		if s == Note {
			r.More++
			return
		}
		// Damage is never dropped in favour of notes: one stays for sure.
		if r.More++; r.Findings[maxFindings-1].Severity == Damage {
			return
		}
		r.Findings = r.Findings[:maxFindings-1]
	}
	r.Findings = append(r.Findings, Finding{s, off, fmt.Sprintf(format, args...)})
}

// Check examines the disk in f without changing it. A log in use is taken as
// replayed. The error is of reading f; what is wrong with the disk is in the
// Report. Memory: a bit for each megabyte of the file.
func Check(f block.File) (Report, error) {
	var r Report
	im, err := loadImage(f)
	if im != nil {
		r.slots(im)
	}
	if err != nil {
		var fe *FormatError
		if !errors.As(err, &fe) {
			return r, err
		}
		r.add(Damage, fe.Offset, "%s: %v", fe.What, fe.Err)
		return r, nil
	}
	r.Info = im.info(im.hdr, im.fileSize)
	return r, r.blocks(im)
}

// slots reports what Open works around.
func (r *Report) slots(im *image) {
	for i, err := range im.slotErrs {
		if err != nil {
			r.add(Note, headerOffsets[i], "header %d is not valid (the other is used): %v", i+1, err)
		}
	}
	for i, err := range im.tableErrs {
		if err != nil {
			r.add(Damage, regionTableOffsets[i], "region table %d is not valid: %v", i+1, err)
		}
	}
	if im.seq != nil {
		r.add(Note, int64(im.hdr.LogOffset), "log is in use: %d entries wait for replay", len(im.seq.entries))
	}
}

// blocks examines the BAT.
func (r *Report) blocks(im *image) error {
	u := newUsage(im.fileSize)
	for _, s := range im.spans {
		if s.off+s.n > roundUp(im.fileSize, mib) {
			r.add(Damage, s.off, "%s ends past the file", s.what)
			continue
		}
		u.mark(s.off, s.n)
	}
	n := int64(im.params.BlockSize)
	err := im.eachRaw(func(i int64, e batEntry, at int64, bitmap bool) {
		what := fmt.Sprintf("BAT entry %d", i)
		switch {
		case e&0xffff8 != 0:
			r.add(Damage, at, "%s: reserved bits are set: %#x", what, uint64(e))
		case bitmap && e.state() != stateNotPresent:
			r.add(Damage, at, "%s: sector bitmap in state %d in a disk without parent", what, e.state())
		case bitmap:
		case e.state() == statePartial || e.state() == 4 || e.state() == 5:
			r.add(Damage, at, "%s: block in state %d", what, e.state())
		case !e.reserves():
		case im.checkPlace(e.offset(), im.fileSize) != nil:
			r.badPlace(im, e, at, what)
		default:
			if e.state() == statePresent {
				r.Allocated++
			}
			if twice := u.mark(e.offset(), n); twice >= 0 {
				r.add(Damage, at, "%s: block at %#x shares %#x with another", what, e.offset(), twice)
			}
		}
	})
	if err != nil {
		return err
	}
	if r.Leaked = max(0, roundUp(im.fileSize, mib)-u.count*mib); r.Leaked > 0 {
		r.add(Note, 0, "%d bytes of the file are not in use", r.Leaked)
	}
	return nil
}

func (r *Report) badPlace(im *image, e batEntry, at int64, what string) {
	s := Damage
	if e.state() != statePresent {
		s = Note // its content is not relied upon
	}
	r.add(s, at, "%s: block at %#x %v", what, e.offset(), im.checkPlace(e.offset(), im.fileSize))
}

// eachRaw visits the entries that are not all zero, sector bitmaps' too.
func (im *image) eachRaw(visit func(i int64, e batEntry, at int64, bitmap bool)) error {
	ratio := im.params.chunkRatio()
	return im.walkBAT(im.f, func(i int64, e batEntry, at int64) error {
		visit(i, e, at, i%(ratio+1) == ratio)
		return nil
	})
}
