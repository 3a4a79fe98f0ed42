package vhd

import "fmt"

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

// Report is the outcome of Check, or of Repair.
type Report struct {
	Info      Info      `json:"info"` // zero if the structures cannot be read
	Findings  []Finding `json:"findings"`
	More      int64     `json:"more"`      // findings left out
	Allocated int64     `json:"allocated"` // blocks that have room
	Partial   int64     `json:"partial"`   // of them, those that lack sectors: a parent's, or never written
	Leaked    int64     `json:"leaked"`    // bytes of the file nothing refers to
	// Mended is what Repair has put right; Findings are then what it left alone, and why.
	Mended []Finding `json:"mended,omitempty"`
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

// full tells that another damage would only be counted.
func (r *Report) full() bool {
	return len(r.Findings) >= maxFindings && r.Findings[maxFindings-1].Severity == Damage
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
