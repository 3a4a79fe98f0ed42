package smbstore

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"lunless/smbstore/block"
)

// crammedFile refuses to write once so many bytes were written.
type crammedFile struct {
	File
	at   Location
	left atomic.Int64
}

func (f *crammedFile) WriteAt(p []byte, off int64) (int, error) {
	if f.left.Add(-int64(len(p))) < 0 {
		return 0, opError("write", f.at, ErrNoSpace)
	}
	return f.File.WriteAt(p, off)
}

func (f *crammedFile) Sync() error {
	if f.left.Load() < 0 {
		return opError("sync", f.at, block.ErrFailed)
	}
	return f.File.Sync()
}

// A conversion to a full file system says that first, whatever the format makes
// of it.
func TestConvertFull(t *testing.T) {
	for _, format := range []Format{Raw, VHDX} {
		t.Run(string(format), func(t *testing.T) {
			s, err := OpenPath(context.Background(), t.TempDir(), Options{})
			if err != nil {
				t.Fatal(err)
			}
			src := block.NewMem(32 << 20)
			p := make([]byte, 1<<20)
			for i := range p {
				p[i] = byte(i) | 1
			}
			for off := int64(0); off < src.Size(); off += int64(len(p)) {
				if err := src.WriteAt(t.Context(), p, off, 0); err != nil {
					t.Fatal(err)
				}
			}
			f, err := s.OpenFile("disk", ReadWrite|Create)
			if err != nil {
				t.Fatal(err)
			}
			full := &crammedFile{File: f, at: s.Location().Join("disk")}
			full.left.Store(12 << 20)
			dst, err := createImage(full, CreateDiskOptions{Format: format, Size: src.Size(), BlockSize: 1 << 20}, nil)
			if err != nil {
				t.Fatal(err)
			}
			err = Convert(t.Context(), src, dst, ConvertOptions{DestinationZero: true}, nil)
			_ = dst.Close()
			if !errors.Is(err, ErrNoSpace) {
				t.Errorf("errors.Is does not tell: %v", err)
			}
			if want := ErrNoSpace.Error() + " at " + full.at.String(); err == nil || err.Error() != want {
				t.Errorf("got %q, want %q", err, want)
			}
		})
	}
}

// An owned record carries no location, and one that says it is empty is read.
func TestRecordLocation(t *testing.T) {
	r := NewRecord("7d3e5dc2-8f0e-4bb7-b9e6-6a1b86f9ddc0", "h")
	b, err := encodeFile(r)
	if err != nil || strings.Contains(string(b), "location") {
		t.Errorf("%s %v", b, err)
	}
	old := strings.Replace(string(b), `"host"`, `"location": "", "host"`, 1)
	if got, err := parseRecord([]byte(old)); err != nil || got != r {
		t.Errorf("%+v %v, want %+v", got, err, r)
	}
	r, err = r.ResolveMoved("j", Location{Path: "/x"})
	if err != nil {
		t.Fatal(err)
	}
	b, err = encodeFile(r)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := parseRecord(b); err != nil || got != r {
		t.Errorf("%+v %v, want %+v", got, err, r)
	}
}
