package vhd

import (
	"fmt"

	"lunless/smbstore/block"
)

// Repair mends what can be mended without guessing, makes it stable and examines
// the disk again. Mended are the footers: a missing one is written from the other,
// one at the end that lacks its last byte gets it, and a copy at the start that
// differs is written again. What is left alone is in Left, with the reason and what to
// do. The error is of reading or writing f.
func Repair(f block.File) (Report, error) {
	im, err := loadImage(f)
	if err != nil { // there is nothing to mend with: Check says what is wrong
		return checkAgain(f, nil)
	}
	var found Report
	found.footers(im)
	if len(found.Findings) == 0 {
		return checkAgain(f, nil)
	}
	end := im.tailOff
	if im.tailErr != nil {
		if end, err = im.place(); err != nil {
			r, err := checkAgain(f, nil)
			r.Left = append(r.Left, Finding{Severity: Note, Offset: im.fileSize - footerSize,
				What: "footer at the end: not touched: with blocks that overlap or lie outside, where the file has to end cannot be told"})
			return r, err
		}
	}
	if err := im.mend(end); err != nil {
		return Report{}, fmt.Errorf("restore a footer: %w", err)
	}
	return checkAgain(f, found.Findings)
}

// checkAgain is the report after a repair.
func checkAgain(f block.File, mended []Finding) (Report, error) {
	r, err := Check(f)
	r.Mended = mended
	for _, f := range r.Findings {
		if f.Severity == Damage {
			f.What += ": not touched: what is right cannot be told; convert what can be read to a new disk, or restore the file from a backup"
			r.Left = append(r.Left, f)
		}
	}
	return r, err
}
