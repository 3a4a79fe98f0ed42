package vhdx

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf16"
)

// metadata reports regions and metadata items that are optional and not known,
// and examines the parent locator.
func (r *Report) metadata(im *image) error {
	for _, g := range im.table.Regions {
		if g.GUID == guidBAT || g.GUID == guidMetadata {
			continue
		}
		r.add(Note, int64(g.Offset), "region %v of %d bytes is not known; it is optional, and kept", g.GUID, g.Length)
	}
	for _, it := range im.items.Items {
		at := int64(im.metadata.Offset) + int64(it.Offset)
		if _, known := knownItems[it.ID]; !known || it.Flags&flagIsUser != 0 {
			r.add(Note, at, "metadata item %v of %d bytes is not known; it is optional, and kept", it.ID, it.Length)
			continue
		}
		if it.ID != guidParentLocator {
			continue
		}
		if !im.params.HasParent {
			r.add(Note, at, "parent locator in a disk without parent")
			continue
		}
		raw := make([]byte, it.Length)
		if err := readFull(im.f, raw, at); err != nil {
			return err
		}
		r.locator(raw, at)
	}
	return nil
}

const (
	locatorHeader = 20
	locatorEntry  = 12
	maxPairs      = 256 // that are looked at; six are defined
)

var (
	guidVHDXLocator = guid(0xB04AEFB7, 0xD19E, 0x4A81, 0xB78925B8E9445913) // MS-VHDX 2.6.2.6.3

	guidSyntax = regexp.MustCompile(`^\{[0-9A-Fa-f]{8}-([0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}\}$`)
	driveStart = regexp.MustCompile(`^([A-Za-z]:|\\)`)
)

// locator examines a parent locator that lies at off (MS-VHDX 2.6.2.6).
func (r *Report) locator(b []byte, off int64) {
	if len(b) < locatorHeader {
		r.addKind(kindLocator, Damage, off, "parent locator: %d bytes are no locator", len(b))
		return
	}
	if g := GUID(b[:16]); g != guidVHDXLocator {
		r.addKind(kindLocator, Damage, off, "parent locator: type %v is not known", g)
		return
	}
	count := int64(le.Uint16(b[18:]))
	if locatorHeader+count*locatorEntry > int64(len(b)) || count > maxPairs {
		r.addKind(kindLocator, Damage, off+18, "parent locator: %d entries in %d bytes", count, len(b))
		return
	}
	pairs := map[string]string{}
	places := map[string]int64{}
	for i := range count {
		at := locatorHeader + i*locatorEntry
		e := b[at : at+locatorEntry]
		key, ok := locatorString(b, le.Uint32(e), le.Uint16(e[8:]))
		value, ok2 := locatorString(b, le.Uint32(e[4:]), le.Uint16(e[10:]))
		if !ok || !ok2 {
			r.addKind(kindLocator, Damage, off+at, "parent locator: entry %d lies outside the locator, is empty or holds a NUL", i)
			continue
		}
		if _, twice := pairs[key]; twice {
			r.addKind(kindLocator, Damage, off+at, "parent locator: %s twice", key)
			continue
		}
		pairs[key], places[key] = value, off+int64(le.Uint32(e[4:]))
	}
	r.locatorPairs(pairs, places, off)
}

// locatorString decodes UTF-16 at a place within a locator.
func locatorString(b []byte, at uint32, n uint16) (string, bool) {
	if at == 0 || n == 0 || n%2 != 0 || int64(at)+int64(n) > int64(len(b)) {
		return "", false
	}
	u := make([]uint16, n/2)
	for i := range u {
		if u[i] = le.Uint16(b[int(at)+2*i:]); u[i] == 0 {
			return "", false
		}
	}
	return string(utf16.Decode(u)), true
}

// locatorPairs holds the entries against MS-VHDX 2.6.2.6.3; places are those of
// the values.
func (r *Report) locatorPairs(pairs map[string]string, places map[string]int64, off int64) {
	if _, ok := pairs["parent_linkage"]; !ok {
		r.addKind(kindLocator, Damage, off, "parent locator: no parent_linkage")
	}
	paths := 0
	for _, key := range slices.Sorted(maps.Keys(pairs)) {
		v, at := pairs[key], places[key]
		switch key {
		case "parent_linkage", "parent_linkage2":
			if !guidSyntax.MatchString(v) {
				r.addKind(kindLocator, Damage, at, "parent locator: %s %q is no GUID in braces", key, v)
			}
			if key == "parent_linkage2" {
				r.add(Note, at, "parent locator: parent_linkage2 is present: a merge into the parent has begun and not ended")
			}
			continue
		case "relative_path":
			if driveStart.MatchString(v) || strings.Contains(v, "/") {
				r.add(Note, at, `parent locator: relative_path %q is not relative with \ between names`, v)
			}
		case "volume_path":
			if !strings.HasPrefix(v, `\\?\Volume{`) {
				r.add(Note, at, `parent locator: volume_path %q does not begin with \\?\Volume{`, v)
			}
		case "absolute_win32_path":
			if !strings.HasPrefix(v, `\\?\`) {
				r.add(Note, at, `parent locator: absolute_win32_path %q does not begin with \\?\`, v)
			}
		default:
			r.add(Note, at, "parent locator: entry %q is not known", key)
			continue
		}
		paths++
	}
	if paths == 0 {
		r.addKind(kindLocator, Damage, off, "parent locator: none of relative_path, volume_path and absolute_win32_path")
	}
}
