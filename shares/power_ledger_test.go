package shares

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"lunless/shares/fs"
	"lunless/smbstore/smb2"
)

const (
	powerSector  = 512 // what a disk writes whole
	powerSectors = 48  // of a file at most
)

// facts are what a client knows of a file.
type facts struct {
	name    string // "": it has none
	size    int64
	hidden  bool
	sectors [powerSectors]uint32 // versions; 0: zeroes
}

// handleState is what the server knows of a persistent open.
type handleState struct {
	open  bool
	locks uint64 // a bit a sector
}

// slot is the ledger of one file or folder: what a loss of power must leave of it,
// and what it may leave instead, because it was not acknowledged or not flushed.
type slot struct {
	share  string
	tag    uint64 // in each of its sectors
	id     fs.FileID
	dir    bool
	now    facts
	floor  facts
	names  map[string]bool
	sizes  map[int64]bool
	hidden map[bool]bool
	data   [powerSectors]map[uint32]bool

	guid      [16]byte // of the persistent open, zero if there never was one
	fid       smb2.FileID
	request   *smb2.CreateRequest
	handle    handleState
	handleMay []handleState
}

func (s *slot) clone() *slot {
	c := *s
	c.names, c.sizes, c.hidden = maps.Clone(s.names), maps.Clone(s.sizes), maps.Clone(s.hidden)
	for i := range c.data {
		c.data[i] = maps.Clone(s.data[i])
	}
	c.handleMay = slices.Clone(s.handleMay)
	return &c
}

// may notes that a change to next is under way: a cut may leave it, or parts of it.
func (s *slot) may(next *facts) {
	if s.names == nil {
		s.names, s.sizes, s.hidden = map[string]bool{}, map[int64]bool{}, map[bool]bool{}
	}
	s.names[next.name] = true
	s.sizes[next.size] = true
	s.hidden[next.hidden] = true
	for i := range next.sectors {
		if next.sectors[i] != s.now.sectors[i] {
			if s.data[i] == nil {
				s.data[i] = map[uint32]bool{}
			}
			s.data[i][next.sectors[i]] = true
		}
	}
}

// must notes that what the client knows is on stable storage.
func (s *slot) must() {
	s.floor = s.now
	s.names, s.sizes, s.hidden = nil, nil, nil
	s.data = [powerSectors]map[uint32]bool{}
}

func (s *slot) mayHandle(h handleState) { s.handleMay = append(s.handleMay, h) }

func (s *slot) mustHandle(h handleState) { s.handle, s.handleMay = h, nil }

// found is what a cut has left of a file.
type found struct {
	path    string
	dir     bool
	size    int64
	hidden  bool
	content []byte
}

// check says what of the slot a cut has lost; f is nil if nothing is there.
func (s *slot) check(f *found) error {
	if f == nil {
		if s.floor.name != "" && !s.names[""] {
			return fmt.Errorf("%s is lost", s.floor.name)
		}
		return nil
	}
	if f.path != s.floor.name && !s.names[f.path] {
		return fmt.Errorf("%q is there as %q, may be %v", s.floor.name, f.path, slices.Collect(maps.Keys(s.names)))
	}
	if s.floor.name == "" || s.dir {
		return nil // nothing is promised of a file whose name is not
	}
	if f.size != s.floor.size && !s.sizes[f.size] {
		return fmt.Errorf("%s has %d bytes, want %d or one of %v", f.path, f.size, s.floor.size, slices.Collect(maps.Keys(s.sizes)))
	}
	if f.hidden != s.floor.hidden && !s.hidden[f.hidden] {
		return fmt.Errorf("%s: hidden %v", f.path, f.hidden)
	}
	for i := 0; i < len(f.content)/powerSector; i++ {
		v, err := s.version(i, f.content[i*powerSector:][:powerSector])
		if err == nil && v != s.floor.sectors[i] && !s.data[i][v] {
			err = fmt.Errorf("holds version %d, want %d or one of %v", v, s.floor.sectors[i], slices.Collect(maps.Keys(s.data[i])))
		}
		if err != nil {
			return fmt.Errorf("%s, sector %d: %w", f.path, i, err)
		}
	}
	return nil
}

// pattern fills a sector.
func (s *slot) pattern(i int, version uint32, b []byte) {
	clear(b)
	if version == 0 {
		return
	}
	for at := 0; at < len(b); at += 16 {
		binary.LittleEndian.PutUint64(b[at:], s.tag)
		binary.LittleEndian.PutUint32(b[at+8:], uint32(i))
		binary.LittleEndian.PutUint32(b[at+12:], version)
	}
}

func (s *slot) version(i int, b []byte) (uint32, error) {
	v := binary.LittleEndian.Uint32(b[12:])
	want := make([]byte, len(b))
	s.pattern(i, v, want)
	if string(want) != string(b) {
		return 0, fmt.Errorf("holds what was never written there")
	}
	return v, nil
}

// checkHandle says what of the persistent open a cut has lost.
func (s *slot) checkHandle(h handleState) error {
	if h != s.handle && !slices.Contains(s.handleMay, h) {
		return fmt.Errorf("%s: state of the persistent handle is %+v, want %+v or one of %+v", s.floor.name, h, s.handle, s.handleMay)
	}
	return nil
}
