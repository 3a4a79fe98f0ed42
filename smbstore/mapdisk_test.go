package smbstore

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"lunless/smbstore/block"
)

// mapped gives a disk's extents, checked against what MapDisk promises.
func mapped(t *testing.T, l Location, o MapDiskOptions, n int64) []block.Extent {
	t.Helper()
	var all []block.Extent
	at := o.Offset
	err := MapDisk(t.Context(), openStore(t, l.Dir()), l.Base(), o, func(e block.Extent) error {
		if e.Offset != at || e.Length <= 0 || len(all) > 0 && all[len(all)-1].State == e.State {
			t.Errorf("%s: %+v at %d after %+v", l, e, at, all)
		}
		at += e.Length
		all = append(all, e)
		return nil
	})
	if err != nil || at != o.Offset+n {
		t.Fatalf("%s: %v, mapped to %d, want %d", l, err, at, o.Offset+n)
	}
	return all
}

// TestMapDiskAsQEMUDoes: a raw file's data and holes are those that qemu-img map shows.
func TestMapDiskAsQEMUDoes(t *testing.T) {
	const size = 40<<20 + 512
	l := Location{Path: imageFile(t, size)}
	qemu(t, "info", l.Path)
	out, err := exec.Command("qemu-img", "map", "-f", "raw", "--output=json", l.Path).Output()
	if err != nil {
		t.Fatal(err)
	}
	var theirs []struct {
		Start, Length int64
		Data          bool
	}
	if err := json.Unmarshal(out, &theirs); err != nil {
		t.Fatal(err)
	}
	var want []block.Extent
	for _, e := range theirs {
		state := block.Zero
		if e.Data {
			state = block.Data
		}
		want = append(want, block.Extent{Offset: e.Start, Length: e.Length, State: state})
	}
	if got := mapped(t, l, MapDiskOptions{}, size); len(got) < 10 || !slices.Equal(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

// TestMapDiskStates: what was written is data in every format; the rest of a
// dynamic disk is unallocated.
func TestMapDiskStates(t *testing.T) {
	const mib = 1 << 20
	dir := t.TempDir()
	raw := filepath.Join(dir, "disk.img")
	if err := os.WriteFile(raw, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(raw, 32*mib); err != nil {
		t.Fatal(err)
	}
	qemu(t, "convert", "-f", "raw", "-O", "vpc", "-o", "force_size", raw, filepath.Join(dir, "disk.vhd"))
	s, err := OpenPath(t.Context(), dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, fixed := range []bool{false, true} {
		name := "dynamic.vhdx"
		if fixed {
			name = "fixed.vhdx"
		}
		dev, err := CreateDisk(t.Context(), s, name, CreateDiskOptions{Format: VHDX, Size: 32 * mib, BlockSize: mib, Fixed: fixed})
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, mib)
		rnd := rand.New(rand.NewPCG(1, 2))
		for i := range data {
			data[i] = byte(rnd.Uint32() | 1)
		}
		if err := errors.Join(dev.WriteAt(t.Context(), data, 4*mib, 0), dev.WriteAt(t.Context(), data, 5*mib, 0), dev.Close()); err != nil {
			t.Fatal(err)
		}
	}
	data := block.Extent{Offset: 4 * mib, Length: 2 * mib, State: block.Data}
	dynamic := []block.Extent{{Offset: 0, Length: 4 * mib, State: block.Unallocated}, data, {Offset: 6 * mib, Length: 26 * mib, State: block.Unallocated}}
	for name, want := range map[string][]block.Extent{
		"dynamic.vhdx": dynamic,
		"fixed.vhdx":   {{Offset: 0, Length: 4 * mib, State: block.Zero}, data, {Offset: 6 * mib, Length: 26 * mib, State: block.Zero}},
		"disk.vhd":     {{Offset: 0, Length: 32 * mib, State: block.Unallocated}},
		"disk.img":     {{Offset: 0, Length: 32 * mib, State: block.Zero}},
	} {
		if got := mapped(t, Location{Path: filepath.Join(dir, name)}, MapDiskOptions{}, 32*mib); !slices.Equal(got, want) {
			t.Errorf("%s: %+v\nwant %+v", name, got, want)
		}
	}
	l := Location{Path: filepath.Join(dir, "dynamic.vhdx")}
	if got := mapped(t, l, MapDiskOptions{Offset: 5*mib + 100, Length: 2 * mib}, 2*mib); len(got) != 2 || got[0].Length != mib-100 || got[0].State != block.Data {
		t.Errorf("a part: %+v", got)
	}
	mapped(t, l, MapDiskOptions{Offset: 31 * mib, Length: 1 << 60}, mib)
	mapped(t, l, MapDiskOptions{Offset: 32 * mib}, 0)
	for _, o := range []MapDiskOptions{{Offset: 32*mib + 1}, {Offset: -1}, {Length: -1}} {
		if err := MapDisk(t.Context(), s, "dynamic.vhdx", o, func(block.Extent) error { return nil }); !errors.Is(err, block.ErrOutOfRange) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// TestMapDiskHuge: an empty disk is one extent however large it is, and is
// compared without a read.
func TestMapDiskHuge(t *testing.T) {
	s := localStoreFor(t)
	dev, err := CreateDisk(t.Context(), s, "huge.vhdx", CreateDiskOptions{Format: VHDX, Size: 64 << 40, BlockSize: 256 << 20})
	if err == nil {
		err = dev.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	l := s.Location().Join("huge.vhdx")
	if got := mapped(t, l, MapDiskOptions{}, 64<<40); len(got) != 1 || got[0].State != block.Unallocated {
		t.Errorf("an empty disk: %+v", got)
	}
	if got, err := CompareDisks(t.Context(), CompareDisksOptions{A: l, B: l}); err != nil || !got.Identical || got.Skipped != 64<<40 || got.Compared != 0 {
		t.Errorf("with itself: %+v, %v", got, err)
	}
}

func TestMapDiskStops(t *testing.T) {
	l := Location{Path: imageFile(t, 40<<20)}
	s := openStore(t, l.Dir())
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err := MapDisk(ctx, s, l.Base(), MapDiskOptions{}, func(block.Extent) error { n++; cancel(); return nil })
	if !errors.Is(err, context.Canceled) || n != 1 {
		t.Errorf("cancelled: %v after %d extents", err, n)
	}
	enough := errors.New("enough")
	if err := MapDisk(t.Context(), s, l.Base(), MapDiskOptions{}, func(block.Extent) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("stopped: %v", err)
	}
}
