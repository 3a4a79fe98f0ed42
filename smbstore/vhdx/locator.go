package vhdx

import (
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf16"
)

// ParentLink is what a differencing disk says of its parent (MS-VHDX 2.6.2.6.3).
// A zero GUID or an empty path is an entry that is not there. Paths have \
// between their names.
type ParentLink struct {
	// Linkage is the parent's DataWriteGUID. Linkage2 may be it as well: a merge
	// into the parent writes there what that is about to become.
	Linkage  GUID   `json:"linkage"`
	Linkage2 GUID   `json:"linkage2,omitzero"`
	Relative string `json:"relative,omitempty"` // to the folder of this disk
	Volume   string `json:"volume,omitempty"`   // \\?\Volume{GUID}\...
	Absolute string `json:"absolute,omitempty"` // \\?\d:\... or \\?\UNC\server\share\...
}

// Keys of a parent locator.
const (
	keyLinkage  = "parent_linkage"
	keyLinkage2 = "parent_linkage2"
	keyRelative = "relative_path"
	keyVolume   = "volume_path"
	keyAbsolute = "absolute_win32_path"
)

// pair is one entry of a parent locator.
type pair struct{ key, value string }

// parentLocator is MS-VHDX 2.6.2.6: the link, and entries that are not known.
type parentLocator struct {
	Link  ParentLink
	Other []pair
}

// decodeLocator checks everything but where the paths lead to; off is the
// item's place in the file.
func decodeLocator(b []byte, off int64) (*parentLocator, error) {
	if len(b) < locatorHeader {
		return nil, corrupt(off, "parent locator: %d bytes are no locator", len(b))
	}
	if g := GUID(b[:16]); g != guidVHDXLocator {
		return nil, unsupported(off, "parent locator: type %v is not known", g)
	}
	count := int64(le.Uint16(b[18:]))
	if count > maxPairs || locatorHeader+count*locatorEntry > int64(len(b)) {
		return nil, corrupt(off+18, "parent locator: %d entries in %d bytes", count, len(b))
	}
	l, seen := &parentLocator{}, map[string]bool{}
	for i := range count {
		at := locatorHeader + i*locatorEntry
		e := b[at : at+locatorEntry]
		key, ok := locatorString(b, le.Uint32(e), le.Uint16(e[8:]))
		value, ok2 := locatorString(b, le.Uint32(e[4:]), le.Uint16(e[10:]))
		switch {
		case !ok || !ok2:
			return nil, corrupt(off+at, "parent locator: entry %d lies outside the locator, is empty or holds a NUL", i)
		case seen[key]:
			return nil, corrupt(off+at, "parent locator: %s twice", key)
		}
		seen[key] = true
		if err := l.set(key, value); err != nil {
			return nil, corrupt(off+int64(le.Uint32(e[4:])), "parent locator: %s: %v", key, err)
		}
	}
	if !seen[keyLinkage] {
		return nil, corrupt(off, "parent locator: no parent_linkage")
	}
	return l, nil
}

func (l *parentLocator) set(key, value string) (err error) {
	switch key {
	case keyLinkage:
		l.Link.Linkage, err = parseBraced(value)
	case keyLinkage2:
		l.Link.Linkage2, err = parseBraced(value)
	case keyRelative:
		l.Link.Relative = value
	case keyVolume:
		l.Link.Volume = value
	case keyAbsolute:
		l.Link.Absolute = value
	default:
		l.Other = append(l.Other, pair{key, value})
	}
	return err
}

// encode returns the item. Errors are ErrBadOptions: of a link without any path,
// or with one that does not fit.
func (l *parentLocator) encode() ([]byte, error) {
	pairs := []pair{{keyLinkage, braced(l.Link.Linkage)}}
	if l.Link.Linkage2 != (GUID{}) {
		pairs = append(pairs, pair{keyLinkage2, braced(l.Link.Linkage2)})
	}
	paths := 0
	for _, p := range []pair{{keyRelative, l.Link.Relative}, {keyVolume, l.Link.Volume}, {keyAbsolute, l.Link.Absolute}} {
		if p.value != "" {
			pairs = append(pairs, p)
			paths++
		}
	}
	if paths == 0 {
		return nil, fmt.Errorf("link to a parent without a path: %w", ErrBadOptions)
	}
	return encodePairs(append(pairs, l.Other...))
}

func encodePairs(pairs []pair) ([]byte, error) {
	b := make([]byte, locatorHeader+len(pairs)*locatorEntry)
	copy(b, guidVHDXLocator[:])
	le.PutUint16(b[18:], uint16(len(pairs)))
	for i, p := range pairs {
		at := locatorHeader + i*locatorEntry
		for k, s := range []string{p.key, p.value} {
			u := utf16.Encode([]rune(s))
			if len(u) == 0 || 2*len(u) > 1<<16-1 || strings.ContainsRune(s, 0) {
				return nil, fmt.Errorf("%s of a parent: %d characters, or a NUL: %w", p.key, len(u), ErrBadOptions)
			}
			le.PutUint32(b[at+4*k:], uint32(len(b)))
			le.PutUint16(b[at+8+2*k:], uint16(2*len(u)))
			for _, c := range u {
				b = le.AppendUint16(b, c)
			}
		}
	}
	return b, nil
}

// braced is a GUID as a parent locator has it: lower case, in braces.
func braced(g GUID) string { return "{" + strings.ToLower(g.String()) + "}" }

func parseBraced(s string) (GUID, error) {
	var g GUID
	if !guidSyntax.MatchString(s) {
		return g, fmt.Errorf("%q is no GUID in braces", s)
	}
	b, err := hex.DecodeString(strings.ReplaceAll(s[1:37], "-", ""))
	if err != nil {
		return g, err
	}
	for i, from := range []int{3, 2, 1, 0, 5, 4, 7, 6} { // three little-endian fields
		g[i] = b[from]
	}
	copy(g[8:], b[8:])
	return g, nil
}
