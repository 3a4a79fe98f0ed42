package vhd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// ParentLink is how a differencing disk finds and knows its parent ("Dynamic Disk
// Header Format"). An empty string is an entry that is absent.
type ParentLink struct {
	ID   ID     `json:"id"`   // the parent's unique ID
	Time uint32 `json:"time"` // when the parent's file was last modified: seconds since 2000
	Name string `json:"name"` // of the parent's file; made of a path if empty
	// Paths as Windows writes them. Read from the entries Wi2r and Wi2k where those
	// of today are absent.
	Relative string `json:"relative,omitempty"` // W2ru: to the folder of this file
	Absolute string `json:"absolute,omitempty"` // W2ku
	URL      string `json:"url,omitempty"`      // MacX: read only
}

// Parts of the dynamic header, in bytes.
const (
	parentIDAt   = 40
	parentTimeAt = 56
	parentNameAt = 64
	locatorsAt   = 576
	locatorSize  = 24
	locatorCount = 8
	nameUnits    = 256 // UTF-16, the last one zero when we write it
	// maxPath bounds a locator's data: the longest path of Windows in UTF-16.
	maxPath = 64 << 10
)

// Platform codes of parent locators.
const (
	codeRelative    = "W2ru" // UTF-16LE
	codeAbsolute    = "W2ku" // UTF-16LE
	codeOldRelative = "Wi2r"
	codeOldAbsolute = "Wi2k"
	codeURL         = "MacX" // UTF-8
)

// locator is a parent locator entry: where the file has data for a platform.
type locator struct {
	Code   string // four characters
	Space  uint32 // room for the data: sectors by the specification, bytes in what some write
	Length uint32 // of the data, bytes
	Offset uint64 // in the file, bytes
}

func (l *locator) encode(dst []byte) {
	copy(dst[:4], l.Code)
	be.PutUint32(dst[4:], l.Space)
	be.PutUint32(dst[8:], l.Length)
	be.PutUint32(dst[12:], 0)
	be.PutUint64(dst[16:], l.Offset)
}

func decodeLocator(b []byte) locator {
	return locator{string(b[:4]), be.Uint32(b[4:]), be.Uint32(b[8:]), be.Uint64(b[16:])}
}

// locators returns the entries of an encoded header that are in use.
func locators(header []byte) []locator {
	var all []locator
	for i := range locatorCount {
		l := decodeLocator(header[locatorsAt+i*locatorSize:])
		if l.Code != "\x00\x00\x00\x00" {
			all = append(all, l)
		}
	}
	return all
}

// setLocators puts entries into an encoded header; the checksum is not its concern.
func setLocators(header []byte, all []locator) {
	clear(header[locatorsAt : locatorsAt+locatorCount*locatorSize])
	for i := range all {
		all[i].encode(header[locatorsAt+i*locatorSize:])
	}
}

// setParent puts what a header itself says of a parent into an encoded one.
func setParent(header []byte, p *ParentLink) {
	copy(header[parentIDAt:], p.ID[:])
	be.PutUint32(header[parentTimeAt:], p.Time)
	clear(header[parentNameAt:locatorsAt])
	encodeUTF16(header[parentNameAt:locatorsAt], p.fileName(), be)
}

// decodeParent returns what a header, which lies at off, says of a parent. Paths
// that cannot be read are left out and told in bad: a disk can be opened without.
func decodeParent(header []byte, off int64, f io.ReaderAt, fileSize int64) (p *ParentLink, bad []error) {
	p = &ParentLink{ID: ID(header[parentIDAt : parentIDAt+16]), Time: be.Uint32(header[parentTimeAt:]),
		Name: decodeUTF16(header[parentNameAt:locatorsAt], be)}
	paths := map[string]string{}
	for i := range locatorCount {
		at := off + locatorsAt + int64(i)*locatorSize
		l := decodeLocator(header[locatorsAt+i*locatorSize:])
		switch l.Code {
		case codeRelative, codeAbsolute, codeOldRelative, codeOldAbsolute, codeURL:
		default: // of another platform, or none
			continue
		}
		data, err := l.read(at, f, fileSize)
		if err != nil {
			bad = append(bad, err)
			continue
		}
		if l.Code == codeRelative || l.Code == codeAbsolute {
			paths[l.Code] = decodeUTF16(data, binary.LittleEndian)
		} else {
			paths[l.Code] = decodeBytes(data)
		}
	}
	p.Relative, p.Absolute, p.URL = paths[codeRelative], paths[codeAbsolute], paths[codeURL]
	if p.Relative == "" {
		p.Relative = paths[codeOldRelative]
	}
	if p.Absolute == "" {
		p.Absolute = paths[codeOldAbsolute]
	}
	return p, bad
}

// read returns a locator's data; the entry lies at at.
func (l *locator) read(at int64, f io.ReaderAt, fileSize int64) ([]byte, error) {
	switch {
	case l.Length > maxPath:
		return nil, corrupt(at, "parent locator %s: %d bytes", l.Code, l.Length)
	case l.Offset > uint64(fileSize) || uint64(l.Length) > uint64(fileSize)-l.Offset:
		return nil, corrupt(at, "parent locator %s: %d bytes at %#x end past the file", l.Code, l.Length, l.Offset)
	}
	b := make([]byte, l.Length)
	if err := readFull(f, b, int64(l.Offset)); err != nil {
		return nil, fmt.Errorf("parent locator %s: %w", l.Code, err)
	}
	return b, nil
}

// check tells why a link cannot be written.
func (p *ParentLink) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("parent: "+format+": %w", append(args, ErrBadOptions)...)
	}
	for _, s := range []string{p.Name, p.Relative, p.Absolute} {
		if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
			return bad("%q is no path", s)
		}
		if 2*len(utf16.Encode([]rune(s))) > maxPath {
			return bad("a path of %d bytes is too long", len(s))
		}
	}
	switch name := p.fileName(); {
	case p.ID == ID{}:
		return bad("its ID is missing")
	case name == "":
		return bad("neither name nor path is given")
	case len(utf16.Encode([]rune(name))) >= nameUnits:
		return bad("name %q has more than %d characters", name, nameUnits-1)
	}
	return nil
}

// fileName is Name, or a path's last part.
func (p *ParentLink) fileName() string {
	for _, s := range []string{p.Name, p.Relative, p.Absolute} {
		if s != "" {
			if s == p.Name {
				return s
			}
			return s[strings.LastIndexAny(s, `\/`)+1:]
		}
	}
	return ""
}

// data are the locators to be written and what they point to, without places.
func (p *ParentLink) data() (all []locator, data [][]byte) {
	for _, e := range []struct{ code, path string }{{codeRelative, p.Relative}, {codeAbsolute, p.Absolute}} {
		if e.path == "" {
			continue
		}
		b := make([]byte, 2*len(utf16.Encode([]rune(e.path))))
		encodeUTF16(b, e.path, binary.LittleEndian)
		// Space counts sectors, as the specification has it: who takes it for bytes
		// sees less room than there is, never more.
		room := roundUp(max(int64(len(b)), minLocatorRoom), SectorSize)
		all = append(all, locator{Code: e.code, Space: uint32(room / SectorSize), Length: uint32(len(b))})
		data = append(data, b)
	}
	return all, data
}

// minLocatorRoom is the least room for a path, so that another one fits.
const minLocatorRoom = 1 << 10

func encodeUTF16(dst []byte, s string, order binary.ByteOrder) {
	for i, u := range utf16.Encode([]rune(s)) {
		order.PutUint16(dst[2*i:], u)
	}
}

// decodeUTF16 ends at the first zero; an odd byte is left out.
func decodeUTF16(b []byte, order binary.ByteOrder) string {
	var units []uint16
	for ; len(b) >= 2; b = b[2:] {
		u := order.Uint16(b)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}

// decodeBytes takes text of one byte a character, ending at the first zero, for
// UTF-8, or else for Latin-1: the entries of old do not say what they are in.
func decodeBytes(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	if utf8.Valid(b) {
		return string(b)
	}
	r := make([]rune, len(b))
	for i, c := range b {
		r[i] = rune(c)
	}
	return string(r)
}
