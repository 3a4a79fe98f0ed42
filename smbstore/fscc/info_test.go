package fscc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"
)

func TestFiletime(t *testing.T) {
	for _, c := range []struct {
		time time.Time
		want Filetime
	}{
		{time.Date(1601, 1, 1, 0, 0, 0, 100, time.UTC), 1},
		{time.Unix(0, 0), 116444736000000000},
		{time.Date(2024, 2, 29, 12, 30, 15, 123456789, time.UTC), 133536834151234567},
		{time.Date(2024, 2, 29, 14, 30, 15, 123456799, time.FixedZone("", 7200)), 133536834151234567},
		{time.Time{}, 0},
		{time.Date(1600, 12, 31, 23, 59, 59, 0, time.UTC), 0},
		{time.Date(40000, 1, 1, 0, 0, 0, 0, time.UTC), 0},
	} {
		if got := FiletimeOf(c.time); got != c.want {
			t.Errorf("%v is %d, want %d", c.time, got, c.want)
		}
		if c.want > 0 && !c.want.Time().Equal(c.time.Truncate(100)) {
			t.Errorf("%d is %v, want %v", c.want, c.want.Time(), c.time)
		}
	}
	for f, isTime := range map[Filetime]bool{FiletimeUnchanged: false, FiletimeFreeze: false, FiletimeThaw: false, 1: true, math.MaxInt64: true} {
		if f.IsTime() != isTime || f.Time().IsZero() == isTime || !f.ValidToSet() {
			t.Errorf("%d: %v, %v, %v", f, f.IsTime(), f.Time(), f.ValidToSet())
		}
	}
	b := make([]byte, 40)
	binary.LittleEndian.PutUint64(b[16:], ^uint64(2)) // -3
	if err := new(BasicInfo).Decode(b); !errors.Is(err, ErrInvalid) {
		t.Errorf("a time of -3: %v, want ErrInvalid", err)
	}
}

// TestDirWriter fills buffers of every size with the same entries.
func TestDirWriter(t *testing.T) {
	fixed := map[InfoClass]int{
		FileDirectoryInformation: 64, FileFullDirectoryInformation: 68, FileBothDirectoryInformation: 94,
		FileIdBothDirectoryInformation: 104, FileIdFullDirectoryInformation: 80, FileIdExtdDirectoryInformation: 88,
		FileNamesInformation: 12,
	}
	for class, size := range fixed {
		if !IsDirectoryClass(class) {
			t.Errorf("class %d", class)
		}
		for room := range 400 {
			buf := bytes.Repeat([]byte{0xEE}, room)
			w, err := NewDirWriter(class, buf)
			if err != nil {
				t.Fatal(err)
			}
			want, end := 0, 0
			for i, name := range []string{"a", "bc", "ä😀x"} {
				start := (end + 7) &^ 7
				fits := start+size+UTF16Len(name) <= room
				before := bytes.Clone(buf)
				e := DirEntry{Name: name, FileID: uint64(i + 1), EndOfFile: int64(i), ShortName: "SHORT~1"}
				if w.Add(&e) != fits {
					t.Fatalf("class %d, %d bytes, entry %d: fits %v", class, room, i, !fits)
				}
				if !fits {
					if !bytes.Equal(before, buf) {
						t.Fatalf("class %d, %d bytes: an entry that does not fit changes the buffer", class, room)
					}
					break
				}
				want, end = want+1, start+size+UTF16Len(name)
			}
			if w.Count() != want || w.Len() != end {
				t.Fatalf("class %d, %d bytes: %d entries in %d bytes, want %d in %d", class, room, w.Count(), w.Len(), want, end)
			}
			n := 0
			err = ReadDirEntries(class, buf[:w.Len()], func(e *DirEntry) error {
				n++
				if class == FileIdBothDirectoryInformation && (e.FileID != uint64(n) || e.ShortName != "SHORT~1" || e.EndOfFile != int64(n-1)) {
					return fmt.Errorf("%+v", e)
				}
				return nil
			})
			if err != nil || n != want {
				t.Fatalf("class %d, %d bytes: %d entries read, %v", class, room, n, err)
			}
		}
	}
	if _, err := NewDirWriter(FileBasicInformation, nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("a class that lists nothing: %v", err)
	}
}

func TestDirWriterDoesNotAllocate(t *testing.T) {
	buf := make([]byte, 64<<10)
	e := DirEntry{Name: "web server disk0.vhdx"}
	n := testing.AllocsPerRun(100, func() {
		w, _ := NewDirWriter(FileIdBothDirectoryInformation, buf)
		for w.Add(&e) {
		}
	})
	if n != 0 {
		t.Errorf("%v allocations a listing", n)
	}
}

// TestChains breaks NextEntryOffset in every way.
func TestChains(t *testing.T) {
	entry := func(next uint32, total int) []byte {
		b := make([]byte, total)
		binary.LittleEndian.PutUint32(b, next)
		return b
	}
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"whole":               {append(entry(16, 16), entry(0, 12)...), nil},
		"cut":                 {entry(0, 11), ErrTruncated},
		"second cut":          {append(entry(16, 16), entry(0, 4)...), ErrTruncated},
		"beyond the end":      {entry(400, 16), ErrTruncated},
		"to the end":          {entry(16, 16), ErrTruncated},
		"into itself":         {entry(8, 16), ErrInvalid},
		"unaligned":           {append(entry(14, 14), entry(0, 12)...), ErrInvalid},
		"negative":            {entry(0xFFFFFFF0, 16), ErrTruncated},
		"name beyond the end": {[]byte{0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0}, ErrTruncated},
		"name of odd length":  {[]byte{0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 65}, ErrInvalid},
		"name of 4 GiB":       {[]byte{0, 0, 0, 0, 1, 0, 0, 0, 0xFE, 0xFF, 0xFF, 0xFF, 65, 0}, ErrTruncated},
	} {
		if _, err := DecodeNotify(c.b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestEas(t *testing.T) {
	buf := make([]byte, 40)
	w := NewEaWriter(buf)
	for i, c := range []struct {
		e    EaEntry
		fits bool
	}{
		{EaEntry{Name: []byte("ONE"), Value: []byte("1")}, true},                       // 13 bytes
		{EaEntry{Name: []byte("TWO"), Value: []byte("22"), Flags: FILE_NEED_EA}, true}, // from 16: 14 bytes
		{EaEntry{Name: []byte("THREE")}, false},
		{EaEntry{Name: bytes.Repeat([]byte("N"), 255)}, false},
		{EaEntry{Name: []byte("V"), Value: make([]byte, 65536)}, false},
	} {
		if w.Add(&c.e) != c.fits {
			t.Errorf("entry %d: fits %v", i, !c.fits)
		}
	}
	list, err := DecodeEas(buf[:w.Len()])
	if err != nil || len(list) != 2 || string(list[1].Name) != "TWO" || string(list[1].Value) != "22" || list[1].Flags != FILE_NEED_EA {
		t.Errorf("%+v, %v", list, err)
	}
	for _, bad := range []string{"", "a/b", "a:b", "a b\x01", "x=y"} {
		buf := make([]byte, 300)
		w := NewEaWriter(buf)
		w.Add(&EaEntry{Name: []byte(bad)})
		if _, err := DecodeEas(buf[:w.Len()]); !errors.Is(err, ErrInvalid) {
			t.Errorf("name %q: %v", bad, err)
		}
	}
	names, err := DecodeGetEas([]byte{12, 0, 0, 0, 3, 'O', 'N', 'E', 0, 0, 0, 0, 0, 0, 0, 0, 1, 'X', 0})
	if err != nil || len(names) != 2 || string(names[0]) != "ONE" || string(names[1]) != "X" {
		t.Errorf("%q, %v", names, err)
	}
}

// TestRanges has numbers no file has refused wherever a range is read.
func TestRanges(t *testing.T) {
	at := func(n int, words ...int64) []byte {
		b := make([]byte, n)
		for i, v := range words {
			binary.LittleEndian.PutUint64(b[8*i:], uint64(v))
		}
		return b
	}
	for name, c := range map[string]struct {
		codec codec
		b     []byte
		want  error
	}{
		"range":                   {new(ByteRange), at(16, 1, math.MaxInt64-1), nil},
		"range past the end":      {new(ByteRange), at(16, 2, math.MaxInt64-1), ErrInvalid},
		"negative range":          {new(ByteRange), at(16, -1, 1), ErrInvalid},
		"zero data":               {new(ZeroData), at(16, 5, 5), nil},
		"zero data backwards":     {new(ZeroData), at(16, 6, 5), ErrInvalid},
		"end of file":             {new(EndOfFileInfo), at(8, -1), ErrInvalid},
		"allocation":              {new(AllocationInfo), at(8, -1), ErrInvalid},
		"valid data length":       {new(ValidDataLengthInfo), at(8, math.MinInt64), ErrInvalid},
		"position":                {new(PositionInfo), at(8, -5), ErrInvalid},
		"duplicate past the end":  {new(DuplicateExtents), at(40, 0, 0, 1, math.MaxInt64, 1), ErrInvalid},
		"duplicate's size field":  {new(DuplicateExtentsEx), at(56, 0x38), ErrInvalid},
		"trim of 4 Gi ranges":     {new(Trim), at(8, -1<<32), ErrInvalid},
		"trim with ranges gone":   {new(Trim), at(24, 2<<32), ErrTruncated},
		"regions of 4 Gi entries": {new(FileRegions), at(16, 0, 0xFFFFFFFF), ErrTruncated},
		"offload read's size":     {new(OffloadReadInput), at(32, 31), ErrInvalid},
		"empty rename":            {new(RenameInfo), at(24), ErrInvalid},
	} {
		if err := c.codec.Decode(c.b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := DecodeRanges(make([]byte, 17)); !errors.Is(err, ErrInvalid) {
		t.Errorf("a range and a bit: %v", err)
	}
	var s SetSparse
	if err := s.Decode(nil); err != nil || !s.Sparse {
		t.Errorf("no buffer: %v, %v", s, err)
	}
}

// TestVolumeLabel: labels are cut to 32 characters (MS-FSCC 2.5.9).
func TestVolumeLabel(t *testing.T) {
	i := FsVolumeInfo{Label: "a label of thirty-two characters and then some"}
	b := make([]byte, i.Size())
	i.Encode(b)
	var again FsVolumeInfo
	if err := again.Decode(b); err != nil || len(b) != 18+64 || again.Label != i.Label[:32] {
		t.Errorf("%d bytes, %+v, %v", len(b), again, err)
	}
}
