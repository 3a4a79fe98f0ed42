package fscc

import (
	"fmt"
	"slices"
)

// Wildcards of a search pattern (MS-FSA 2.1.4.3).
const (
	anyString = '*'
	anyChar   = '?'
	dosStar   = '<' // any string, up to the last period of the name
	dosQM     = '>' // any character, or nothing at a period or the end
	dosDot    = '"' // a period, or nothing at the end
)

// HasWildcards reports whether s holds a wildcard (MS-FSA 2.1.4.3).
func HasWildcards(s string) bool {
	for i := 0; i < len(s); i++ {
		if isWildcard(uint16(s[i])) {
			return true
		}
	}
	return false
}

func isWildcard(u uint16) bool {
	switch u {
	case anyString, anyChar, dosStar, dosQM, dosDot:
		return true
	}
	return false
}

// maxPattern bounds a pattern in UTF-16 code units: four times the longest name.
const maxPattern = 1023

type patternKind uint8

const (
	matchNFA patternKind = iota
	matchEverything
	matchLiteral
	matchSuffix
)

// Pattern is a search pattern (MS-FSA 2.1.4.4), ready to be matched against many
// names, from several goroutines.
type Pattern struct {
	kind  patternKind
	units []uint16 // upcased; without the leading '*' for matchSuffix
}

// CompilePattern prepares a pattern. ErrInvalid for one that is empty, too long
// or holds a character neither a name nor a wildcard may have.
func CompilePattern(text string) (*Pattern, error) {
	units := appendUpcased(nil, text)
	if len(units) == 0 || len(units) > maxPattern {
		return nil, fmt.Errorf("fscc: search pattern of %d characters: %w", len(units), ErrInvalid)
	}
	for _, u := range units {
		if !isWildcard(u) && illegalInName(u) {
			return nil, fmt.Errorf("fscc: search pattern %q: character %#x: %w", text, u, ErrInvalid)
		}
	}
	p := &Pattern{units: units}
	switch {
	case text == "*" || text == "*.*":
		p.kind = matchEverything
	case !slices.ContainsFunc(units, isWildcard):
		p.kind = matchLiteral
	case units[0] == anyString && !slices.ContainsFunc(units[1:], isWildcard):
		p.kind = matchSuffix
		p.units = units[1:]
	}
	return p, nil
}

// MatchesAll reports whether every name matches.
func (p *Pattern) MatchesAll() bool { return p.kind == matchEverything }

// Literal returns true if the pattern has no wildcards: it names one object.
func (p *Pattern) Literal() bool { return p.kind == matchLiteral }

// Match reports whether name matches, whatever the case of either. Its time is
// bounded by the product of both lengths; names of up to 255 units allocate nothing.
func (p *Pattern) Match(name string) bool {
	if p.kind == matchEverything {
		return name != ""
	}
	var room [256]uint16
	n := appendUpcased(room[:0], name)
	switch p.kind {
	case matchLiteral:
		return slices.Equal(n, p.units)
	case matchSuffix:
		return len(n) >= len(p.units) && slices.Equal(n[len(n)-len(p.units):], p.units)
	}
	return len(n) > 0 && p.run(n)
}

// stateSet is a set of positions in a pattern: those that may come next.
type stateSet [(maxPattern + 64) / 64]uint64

func (s *stateSet) add(i int)      { s[i/64] |= 1 << (i % 64) }
func (s *stateSet) has(i int) bool { return s[i/64]&(1<<(i%64)) != 0 }

// run follows all ways through the pattern at once, one unit of the name after the other.
func (p *Pattern) run(name []uint16) bool {
	lastDot := -1
	for i, u := range name {
		if u == '.' {
			lastDot = i
		}
	}
	var now stateSet
	now.add(0)
	for i, u := range name {
		var next stateSet
		if !p.step(&now, &next, u, i == lastDot) {
			return false
		}
		now = next
	}
	return p.accepts(&now)
}

// step takes one unit of the name; it returns false if no way is left.
func (p *Pattern) step(now, next *stateSet, u uint16, lastDot bool) (alive bool) {
	for i, e := range p.units {
		if !now.has(i) {
			continue
		}
		to := -1
		switch e {
		case anyString:
			now.add(i + 1)
			to = i
		case dosStar:
			now.add(i + 1)
			if !lastDot {
				to = i
			}
		case dosQM:
			if u == '.' {
				now.add(i + 1)
			} else {
				to = i + 1
			}
		case dosDot:
			if u == '.' {
				to = i + 1
			}
		default:
			if e == anyChar || e == u {
				to = i + 1
			}
		}
		if to >= 0 {
			next.add(to)
			alive = true
		}
	}
	return alive
}

// accepts reports whether what is left of the pattern matches nothing.
func (p *Pattern) accepts(now *stateSet) bool {
	for i, e := range p.units {
		if now.has(i) && (e == anyString || e == dosStar || e == dosQM || e == dosDot) {
			now.add(i + 1)
		}
	}
	return now.has(len(p.units))
}
