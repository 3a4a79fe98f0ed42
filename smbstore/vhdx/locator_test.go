package vhdx

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

var exampleLink = ParentLink{
	Linkage:  GUID{0xc3, 0x0e, 0xed, 0x83, 0xc8, 0x24, 0xa6, 0x49, 0xa9, 0x59, 0x5e, 0x4b, 0xf1, 0x28, 0x8b, 0xfb},
	Relative: `..\..\path2\sub3\parent.vhdx`,
	Volume:   `\\?\Volume{26A21BDA-A627-11D7-9931-806E6F6E6963}\path2\sub3\parent.vhdx`,
	Absolute: `\\?\d:\path2\sub3\übergeordnet 😀.vhdx`,
}

// TestLocatorGUID is the example of MS-VHDX 2.6.2.6.3.
func TestLocatorGUID(t *testing.T) {
	const text = "{83ed0ec3-24c8-49a6-a959-5e4bf1288bfb}"
	if got := braced(exampleLink.Linkage); got != text {
		t.Errorf("written as %s", got)
	}
	for _, s := range []string{text, strings.ToUpper(text)} {
		if g, err := parseBraced(s); err != nil || g != exampleLink.Linkage {
			t.Errorf("%s is read as %v, %v", s, g, err)
		}
	}
}

func TestLocatorRefused(t *testing.T) {
	good, err := (&parentLocator{Link: exampleLink}).encode()
	must(t, err)
	for _, c := range []struct {
		name  string
		spoil func(b []byte) []byte
		want  error
	}{
		{"short", func(b []byte) []byte { return b[:19] }, ErrCorrupt},
		{"type", func(b []byte) []byte { b[0]++; return b }, ErrUnsupported},
		{"count", func(b []byte) []byte { b[18], b[19] = 0xff, 0xff; return b }, ErrCorrupt},
		{"key at 0", func(b []byte) []byte { le.PutUint32(b[20:], 0); return b }, ErrCorrupt},
		{"key without length", func(b []byte) []byte { le.PutUint16(b[28:], 0); return b }, ErrCorrupt},
		{"key of odd length", func(b []byte) []byte { b[28]++; return b }, ErrCorrupt},
		{"value past the end", func(b []byte) []byte { le.PutUint32(b[24:], uint32(len(b))-10); return b }, ErrCorrupt},
		{"value at 2^32", func(b []byte) []byte { le.PutUint32(b[24:], 1<<32-2); return b }, ErrCorrupt},
		{"cut", func(b []byte) []byte { return b[:len(b)-2] }, ErrCorrupt},
		{"NUL within", func(b []byte) []byte { clear(b[len(b)-8 : len(b)-6]); return b }, ErrCorrupt},
		{"key twice", func(b []byte) []byte { copy(b[32:40], b[20:28]); copy(b[40:44], b[28:32]); return b }, ErrCorrupt},
		{"no linkage", func(b []byte) []byte { b[le.Uint32(b[20:])] = 'P'; return b }, ErrCorrupt},
		{"linkage without brace", func(b []byte) []byte { b[le.Uint32(b[24:])] = '('; return b }, ErrCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			if l, err := decodeLocator(c.spoil(bytes.Clone(good)), 3*mib); !errors.Is(err, c.want) {
				t.Errorf("%+v, %v, want %v", l, err, c.want)
			}
		})
	}
	for _, link := range []ParentLink{{}, {Relative: "a\x00b"}, {Relative: strings.Repeat("x", 1<<15)}} {
		if _, err := (&parentLocator{Link: link}).encode(); !errors.Is(err, ErrBadOptions) {
			t.Errorf("%.20v is encoded: %v", link, err)
		}
	}
}

// FuzzLocator: what decodes, encodes to what decodes to the same.
func FuzzLocator(f *testing.F) {
	for _, l := range []parentLocator{
		{Link: exampleLink}, {Link: ParentLink{Linkage2: newGUID(), Relative: "p"}, Other: []pair{{"key", "value"}}},
	} {
		b, err := l.encode()
		must(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > maxItemLength {
			return
		}
		once, err := decodeLocator(b, 0)
		if err != nil {
			return
		}
		again, err := once.encode()
		if errors.Is(err, ErrBadOptions) { // it may be read without a path, not written
			return
		}
		must(t, err)
		twice, err := decodeLocator(again, 0)
		if err != nil || !reflect.DeepEqual(once, twice) {
			t.Fatalf("%+v\ncomes back as\n%+v (%v)", once, twice, err)
		}
	})
}
