package smbstore

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// parentPaths are a differencing disk's own words on where its parent lies
// (MS-VHDX 2.6.2.6.3; VHD 1.0, "Parent Locator Entry"). "" is an absent one.
type parentPaths struct {
	Relative string // Windows path from the child's folder
	Volume   string // \\?\Volume{GUID}\dir\file
	Absolute string // \\?\C:\dir\file, \\?\UNC\server\share\file; ours on a local disk: \\?\POSIX\dir\file
	Name     string // VHD: the parent's file name
}

// asStored is the path that is looked at first.
func (p parentPaths) asStored() string { return cmp.Or(p.Relative, p.Volume, p.Absolute, p.Name) }

// candidate is a place where a parent may lie.
type candidate struct {
	By    string // which of the paths it comes from
	Path  string // as the disk has it
	At    Location
	Other bool  // on a server that only the disk names
	Err   error // why there is no such place; At is then zero
}

// pathKind is a form of Windows path.
type pathKind int

const (
	pathRelative pathKind = iota
	pathUNC               // elems begin with server and share
	pathDrive             // C:\…, or \… on the current drive
	pathVolume            // \\?\Volume{…}\… and other devices
	pathPOSIX             // /…, or \\?\POSIX\…
)

// byName is a candidate.By: found by no path, but by its name beside the child.
const byName = "file name"

// splitWindows takes a path apart. "." and empty components are left out, ".."
// stays. Both kinds of slash separate components.
func splitWindows(p string) (kind pathKind, elems []string) {
	s := strings.ReplaceAll(p, "/", `\`)
	switch {
	case strings.HasPrefix(s, `\\?\`) || strings.HasPrefix(s, `\\.\`):
		kind, s = splitDevice(s[4:])
	case strings.HasPrefix(s, `\\`):
		kind = pathUNC
	case strings.HasPrefix(p, "/"):
		kind = pathPOSIX
	case isDrive(s):
		kind, s = pathDrive, s[2:]
	case strings.HasPrefix(s, `\`):
		kind = pathDrive
	}
	for e := range strings.SplitSeq(s, `\`) {
		if e != "" && e != "." {
			elems = append(elems, e)
		}
	}
	return kind, elems
}

// splitDevice tells the kind of what follows \\?\ and takes its head off.
func splitDevice(s string) (pathKind, string) {
	head, tail, _ := strings.Cut(s, `\`)
	switch {
	case isDrive(head):
		return pathDrive, tail
	case strings.EqualFold(head, "UNC"):
		return pathUNC, tail
	case head == "POSIX":
		return pathPOSIX, tail
	case strings.HasPrefix(strings.ToLower(head), "volume{"), strings.EqualFold(head, "GLOBALROOT"):
		return pathVolume, tail
	}
	return pathUNC, s // the form of the specification's example: \\?\server\share\file
}

func isDrive(s string) bool {
	return len(s) >= 2 && s[1] == ':' && (s[0]|0x20 >= 'a' && s[0]|0x20 <= 'z')
}

// Why a stored path leads nowhere here.
var (
	errDrive    = errors.New("a drive of the host that wrote it")
	errVolume   = errors.New("a volume of the host that wrote it")
	errAbove    = errors.New("leads above the root")
	errNoFile   = errors.New("names no file")
	errHostPath = errors.New("a path of the machine that wrote it")
)

// locate gives the location a stored path means for a child. other tells that
// it is on a server that the child's location does not name.
func locate(child Location, p string) (at Location, other bool, err error) {
	kind, elems := splitWindows(p)
	switch kind {
	case pathDrive:
		return Location{}, false, errDrive
	case pathVolume:
		return Location{}, false, errVolume
	case pathUNC:
		return locateUNC(child, elems)
	case pathPOSIX:
		if !child.IsLocal() {
			return Location{}, false, errHostPath
		}
		at, err = climb(Location{Path: "/"}, elems)
	default:
		at, err = climb(child.Dir(), elems)
	}
	return at, false, err
}

func locateUNC(child Location, elems []string) (at Location, other bool, err error) {
	if len(elems) < 3 {
		return Location{}, false, errNoFile
	}
	if err := at.setAuthority(elems[0]); err != nil {
		return Location{}, false, err
	}
	if other = !strings.EqualFold(at.Host, child.Host); !other {
		at.Port = child.Port // a UNC path has none
	}
	at.User = child.User
	if err := checkName(elems[1]); err != nil {
		return Location{}, false, err
	}
	at.Share = elems[1]
	at, err = climb(at, elems[2:])
	return at, other, err
}

// climb goes from a folder along components, ".." among them, to a file.
func climb(folder Location, elems []string) (Location, error) {
	at := folder
	for _, e := range elems {
		if e != ".." {
			if err := checkName(e); err != nil {
				return Location{}, err
			}
			at = at.Join(e)
			continue
		}
		if at.IsRoot() {
			return Location{}, errAbove
		}
		at = at.Dir()
	}
	if at.IsRoot() || len(elems) == 0 || elems[len(elems)-1] == ".." {
		return Location{}, errNoFile
	}
	return at, nil
}

// parentCandidates lists where the parent of a disk at child may lie, in the
// order in which to look: relative, volume and absolute path (MS-VHDX 2.6.2.6.3),
// the same file name beside the child, for chains that were moved file by file,
// and last what lies on servers that only the disk names.
func parentCandidates(child Location, p parentPaths) []candidate {
	var list, last []candidate
	add := func(c candidate) {
		same := func(o candidate) bool { return o.Err == nil && o.At.Equal(c.At) }
		switch {
		case c.Err == nil && (slices.ContainsFunc(list, same) || slices.ContainsFunc(last, same)):
		case c.Other:
			last = append(last, c)
		default:
			list = append(list, c)
		}
	}
	var names []candidate
	for _, s := range []struct{ by, path string }{{"relative path", p.Relative}, {"volume path", p.Volume}, {"absolute path", p.Absolute}} {
		if s.path == "" {
			continue
		}
		c := candidate{By: s.by, Path: s.path}
		c.At, c.Other, c.Err = locate(child, s.path)
		add(c)
		if _, elems := splitWindows(s.path); len(elems) > 0 {
			names = append(names, candidate{By: byName, Path: elems[len(elems)-1]})
		}
	}
	if p.Name != "" {
		if _, elems := splitWindows(p.Name); len(elems) > 0 {
			names = append(names, candidate{By: byName, Path: elems[len(elems)-1]})
		}
	}
	for _, c := range names {
		if c.At, c.Err = climb(child.Dir(), []string{c.Path}); c.Err == nil {
			add(c)
		}
	}
	return append(list, last...)
}

// pathsTo are the paths that a child's locator gets for its parent. The
// relative one is there if both lie on one share, or both on this machine. The
// absolute one is \\?\UNC\server\share\file for a share, which Windows takes
// too, and \\?\POSIX\dir\file for a local parent at /dir/file. That one has the
// form MS-VHDX 2.6.2.6.3 demands, and only Lunless on the same machine understands
// it: it is of use if the child alone is moved.
func pathsTo(child, parent Location) parentPaths {
	var p parentPaths
	if !parent.IsLocal() {
		p.Absolute = `\\?\UNC\` + parent.Host + `\` + parent.Share + `\` + strings.ReplaceAll(parent.Path, "/", `\`)
	} else if !strings.Contains(parent.Path, `\`) {
		p.Absolute = `\\?\POSIX` + strings.ReplaceAll(filepath.ToSlash(parent.Path), "/", `\`)
	}
	sameRoot := child.IsLocal() && parent.IsLocal() ||
		!child.IsLocal() && !parent.IsLocal() && strings.EqualFold(child.Addr(), parent.Addr()) && strings.EqualFold(child.Share, parent.Share)
	if !sameRoot {
		return p
	}
	rel := relativeTo("/"+strings.Trim(filepath.ToSlash(child.Dir().Path), "/"), "/"+strings.Trim(filepath.ToSlash(parent.Path), "/"), child.IsLocal())
	p.Relative = strings.ReplaceAll(rel, "/", `\`)
	p.Name = path.Base(parent.Path)
	return p
}

// relativeTo is the path from a folder to a file, both absolute: ./file,
// ../other/file. Names on shares differ whatever their case only if exact is set.
func relativeTo(folder, file string, exact bool) string {
	from := strings.FieldsFunc(folder, func(r rune) bool { return r == '/' })
	to := strings.FieldsFunc(file, func(r rune) bool { return r == '/' })
	same := 0
	for same < len(from) && same < len(to)-1 && (from[same] == to[same] || !exact && strings.EqualFold(from[same], to[same])) {
		same++
	}
	if same == len(from) {
		return "./" + strings.Join(to[same:], "/")
	}
	return strings.Repeat("../", len(from)-same) + strings.Join(to[same:], "/")
}

// String is how a candidate is told of: where, and which path led there.
func (c candidate) String() string {
	if c.Err != nil {
		return fmt.Sprintf("%s %s", c.By, c.Path)
	}
	return fmt.Sprintf("%s (%s %s)", c.At, c.By, c.Path)
}
