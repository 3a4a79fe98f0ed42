package vhd

import (
	"fmt"

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

// Report is the outcome of Check, or of Repair.
type Report struct {
	Info Info `json:"info"` // zero if the structures cannot be read
	block.CheckReport

	partial int64 // blocks that lack sectors: a parent's, or never written
}

func (r *Report) add(s Severity, off int64, format string, args ...any) {
	r.Add(Finding{Severity: s, Offset: off, What: fmt.Sprintf(format, args...)})
}
