package smbstore

import (
	"bytes"
	"compress/bzip2"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// windowsImage unpacks one of the disk images that Windows made.
func windowsImage(t *testing.T, name string) Location {
	t.Helper()
	in, err := os.Open(filepath.Join("../testdata/disks", name+".bz2"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, bzip2.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	return Location{Path: out.Name()}
}

func openStore(t *testing.T, l Location) Store {
	t.Helper()
	s, err := Open(t.Context(), l, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestVHD: a VHD is read, written, checked and converted from and to.
func TestVHD(t *testing.T) {
	l := windowsImage(t, "hyperv2012r2-dynamic.vhd")
	d, _, err := OpenDisk(t.Context(), openStore(t, l.Dir()), l.Base(), DiskOptions{})
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte{7}, 5000)
	if err := errors.Join(d.WriteAt(t.Context(), data, 1<<32-100, 0), d.Close()); err != nil {
		t.Fatal(err)
	}
	if f, r, err := CheckDisk(t.Context(), openStore(t, l.Dir()), l.Base()); err != nil || f != VHD || !r.Clean() || r.Allocated != 2 {
		t.Errorf("check: %s %+v, %v", f, r, err)
	}
	to := Location{Path: filepath.Join(t.TempDir(), "new.vhdx")}
	if err := ConvertDisk(t.Context(), ConvertDiskOptions{Source: l, Destination: to}); err != nil {
		t.Fatal(err)
	}
	if i, err := InspectDisk(t.Context(), openStore(t, to.Dir()), to.Base()); err != nil || i.Format != VHDX || i.VirtualSize != 136365211648 {
		t.Errorf("converted: %+v, %v", i, err)
	}
	if err := ConvertDisk(t.Context(), ConvertDiskOptions{Source: l, Destination: to}); !errors.Is(err, ErrExist) {
		t.Errorf("over an existing file: %v, want ErrExist", err)
	}
	back := Location{Path: filepath.Join(t.TempDir(), "x.vhd")}
	if err := ConvertDisk(t.Context(), ConvertDiskOptions{Source: to, Destination: back}); err != nil {
		t.Fatal(err)
	}
	if i, err := InspectDisk(t.Context(), openStore(t, back.Dir()), back.Base()); err != nil || i.Format != VHD || i.VirtualSize != 136365211648 {
		t.Errorf("converted back: %+v, %v", i, err)
	}
	b, _, err := OpenDisk(t.Context(), openStore(t, back.Dir()), back.Base(), DiskOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(data))
	if err := errors.Join(b.ReadAt(t.Context(), got, 1<<32-100), b.Close()); err != nil || !bytes.Equal(got, data) {
		t.Errorf("content is lost on the way: %v", err)
	}
}
