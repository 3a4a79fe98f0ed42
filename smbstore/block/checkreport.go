package block

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

// Finding is one thing the check of a disk image has to say.
type Finding struct {
	Severity Severity `json:"severity"`
	Offset   int64    `json:"offset"` // in the file, bytes
	What     string   `json:"what"`
	Cause    uint8    `json:"-"` // the format's own: what its repair goes by
}

// maxFindings bounds a report.
const maxFindings = 1000

// CheckReport is what checks and repairs of all disk formats tell. The zero value
// is that of a clean image.
type CheckReport struct {
	Findings  []Finding `json:"findings"`
	More      int64     `json:"more"`             // findings left out
	Allocated int64     `json:"allocated"`        // blocks that have room
	Leaked    int64     `json:"leaked"`           // bytes of the file nothing refers to
	Mended    []Finding `json:"mended,omitempty"` // what a repair has put right
	Left      []Finding `json:"left,omitempty"`   // what a repair did not touch, why, and what to do
}

// Clean tells whether there is no damage.
func (r *CheckReport) Clean() bool {
	for _, f := range r.Findings {
		if f.Severity == Damage {
			return false
		}
	}
	return true
}

// Full tells that another damage would only be counted.
func (r *CheckReport) Full() bool {
	return len(r.Findings) >= maxFindings && r.Findings[maxFindings-1].Severity == Damage
}

// Add adds a finding. One that finds no room is counted, but damage is never
// dropped in favour of notes: one damage stays for sure.
func (r *CheckReport) Add(f Finding) {
	if len(r.Findings) >= maxFindings {
		if r.More++; f.Severity == Note || r.Full() {
			return
		}
		r.Findings = r.Findings[:maxFindings-1]
	}
	r.Findings = append(r.Findings, f)
}
