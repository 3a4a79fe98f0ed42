package vhdx

import (
	"errors"
	"fmt"
	"slices"

	"lunless/smbstore/block"
)

// What Check and Repair say, in the words of all formats.
type (
	Severity = block.Severity
	Finding  = block.Finding
)

// Severities of findings.
const (
	Note   = block.Note
	Damage = block.Damage
)

// kind is a Finding's Cause: why Repair leaves it alone.
type kind uint8

const (
	kindOther kind = iota
	kindHeaders
	kindTables
	kindTablesDiffer
	kindOverlap
	kindPlace
	kindEntry
	kindLocator
	kindLeak
	kindFixed
)

// Report is the outcome of Check, or of Repair.
type Report struct {
	Info Info `json:"info"` // zero if the structures cannot be read
	block.CheckReport

	tail   int64 // where the room at the file's end that nothing needs begins
	extend int64 // the size a fixed disk's file lacks, 0 if it is large enough
}

func (r *Report) add(s Severity, off int64, format string, args ...any) {
	r.addKind(kindOther, s, off, format, args...)
}

func (r *Report) addKind(k kind, s Severity, off int64, format string, args ...any) {
	r.Add(Finding{Severity: s, Offset: off, What: fmt.Sprintf(format, args...), Cause: uint8(k)})
}

// Check examines the disk in f without changing it. A log in use is taken as
// replayed. The error is of reading f; what is wrong with the disk is in the
// Report. Memory: a bit for each megabyte of the file.
func Check(f block.File) (Report, error) {
	_, r, err := examine(f)
	return r, err
}

// examine is Check; im is nil where the structures cannot be read.
func examine(f block.File) (im *image, r Report, err error) {
	im, err = loadImage(f)
	if im != nil {
		r.slots(im)
	}
	if err != nil {
		var fe *FormatError
		if !errors.As(err, &fe) {
			return nil, r, err
		}
		if im != nil && im.items != nil && im.params.HasParent {
			if err := r.metadata(im); err != nil {
				return nil, r, err
			}
		}
		if !r.has(kindLocator) { // which says it better
			r.addOnce(fe.Offset, fmt.Sprintf("%s: %v", fe.What, fe.Err))
		}
		return nil, r, nil
	}
	r.Info = im.info(im.hdr, im.fileSize)
	if err := r.metadata(im); err != nil {
		return nil, r, err
	}
	return im, r, r.blocks(im)
}

// has tells whether there is a finding of a kind.
func (r *Report) has(k kind) bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return kind(f.Cause) == k })
}

// addOnce adds damage, unless something has been said about its place already.
func (r *Report) addOnce(off int64, what string) {
	for _, f := range r.Findings {
		if f.Severity == Damage && f.Offset == off {
			return
		}
	}
	r.add(Damage, off, "%s", what)
}

// slots reports what Open works around: one of two copies lost.
func (r *Report) slots(im *image) {
	both := im.slotErrs[0] != nil && im.slotErrs[1] != nil
	for i, err := range im.slotErrs {
		switch {
		case err != nil && both:
			r.addKind(kindHeaders, Damage, headerOffsets[i], "header %d is not valid: %v", i+1, cause(err))
		case err != nil: // a power cut may leave one so
			r.add(Note, headerOffsets[i], "header %d is not valid (header %d is used): %v", i+1, 2-i, cause(err))
		}
	}
	for i, err := range im.tableErrs {
		if err != nil {
			r.addKind(kindTables, Damage, regionTableOffsets[i], "region table %d is not valid: %v", i+1, cause(err))
		}
	}
	if im.tableDiffer {
		r.addKind(kindTablesDiffer, Damage, regionTableOffsets[1], "region table 2 is valid, but differs from region table 1 (which is used)")
	}
	if im.seq != nil {
		r.add(Note, int64(im.hdr.LogOffset), "log is in use: %d entries wait for replay", len(im.seq.entries))
	}
}

// cause is what is wrong, without the place that a finding has beside it.
func cause(err error) string {
	var fe *FormatError
	if errors.As(err, &fe) {
		return fe.What
	}
	return err.Error()
}
