package vhd

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
	Partial   int64     `json:"partial"`   // of them, those whose bitmap leaves sectors out
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
		// Damage is never dropped in favour of notes: one stays for sure.
		if r.More++; s == Note || r.Findings[maxFindings-1].Severity == Damage {
			return
		}
		r.Findings = r.Findings[:maxFindings-1]
	}
	r.Findings = append(r.Findings, Finding{s, off, fmt.Sprintf(format, args...)})
}

// Check examines the disk in f without changing it. A footer missing at one end
// of a dynamic disk is a note: the other serves, and opening for writing restores
// it. The error is of reading f; what is wrong with the disk is in the Report.
// Memory: 12 bytes for each block of the disk.
func Check(f block.File) (Report, error) {
	var r Report
	im, err := loadImage(f)
	var fe *FormatError
	switch {
	case errors.As(err, &fe):
		r.add(Damage, fe.Offset, "%s: %v", fe.What, fe.Err)
		return r, nil
	case err != nil:
		return r, err
	}
	r.Info = im.info(im.fileSize)
	if im.ft.Type == typeFixed {
		if r.Leaked = im.fileSize - footerSize - int64(im.ft.CurrentSize); r.Leaked > 0 {
			r.add(Note, int64(im.ft.CurrentSize), "%d bytes between the disk and its footer", r.Leaked)
		}
		return r, nil
	}
	r.footers(im)
	return r, r.blocks(im)
}

// footers reports what Open works around.
func (r *Report) footers(im *image) {
	if im.tailErr != nil {
		r.add(Note, im.fileSize-footerSize, "footer at the end is not valid (its copy is used): %v", im.tailErr)
	}
	if im.headErr != nil {
		r.add(Note, 0, "copy of the footer is not valid (the one at the end is used): %v", im.headErr)
	}
	if im.differ {
		r.add(Damage, 0, "the footer and its copy are both valid and differ (the one at the end is used)")
	}
}

// blocks examines table and bitmaps.
func (r *Report) blocks(im *image) error {
	bad, nbad := make([]uint64, (len(im.table)+63)/64), int64(0) // blocks whose bitmaps say nothing
	_, count, err := im.eachMisplaced(func(blk, at int64, why string) error {
		r.add(Damage, im.entryOffset(blk), "table entry of block %d: its place %#x %s", blk, at, why)
		if bad[blk/64]&(1<<(blk%64)) == 0 {
			bad[blk/64] |= 1 << (blk % 64)
			nbad++
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.Allocated = count
	for i := range im.table {
		blk, e := int64(i), im.table[i].Load()
		if e == unused || bad[blk/64]&(1<<(blk%64)) != 0 {
			continue
		}
		missing, err := im.missing(blk, int64(e)*SectorSize)
		if err != nil {
			return err
		}
		if missing > 0 {
			r.Partial++
		}
	}
	if r.Partial > 0 {
		r.add(Note, im.tableOff, "%d blocks have sectors that were never written", r.Partial)
	}
	used := (count-nbad)*(im.mapSize+im.blockSize) + im.fileSize - im.blocksEnd()
	for _, s := range im.spans() {
		used += roundUp(s.end-s.off, SectorSize)
	}
	r.Leaked = max(0, im.fileSize-used)
	if r.Leaked >= im.mapSize+im.blockSize {
		r.add(Note, 0, "%d bytes of the file are not in use", r.Leaked)
	}
	return nil
}
