package smbstore

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"lunless/smbstore/block"
)

// imageFile writes a raw image with holes, zeroes and data.
func imageFile(t *testing.T, size int64) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "disk.img")
	f, err := os.Create(p)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	buf := make([]byte, 128<<10)
	for off := int64(0); off+int64(len(buf)) < size; off += int64(rnd.IntN(4 << 20)) {
		for i := range buf {
			buf[i] = byte(rnd.Uint32())
		}
		if _, err := f.WriteAt(buf, off); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func qemu(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Fatal("qemu-img is missing: install it with apt-get install qemu-utils")
	}
	if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img %v: %v\n%s", args, err, out)
	}
}

func TestImportHome(t *testing.T) {
	img := imageFile(t, 40<<20+512)
	s := localStoreFor(t)
	at, _ := ParseLocation(img)
	var last ConvertProgress
	h, err := ImportHome(t.Context(), s, "web 1", ImportOptions{Image: at, Config: Config{CPUs: 2}, Progress: func(p ConvertProgress) { last = p }})
	if err != nil {
		t.Fatal(err)
	}
	if last.Done != last.Total || last.Total != 40<<20+512 || last.Copied == 0 || last.Copied > 39<<20 {
		t.Errorf("progress %+v: holes were not known", last)
	}
	c, err := h.Config()
	if err != nil || len(c.Disks) != 1 || c.Disks[0].Format != VHDX {
		t.Fatalf("%+v %v", c, err)
	}
	disk := filepath.Join(h.Location().Path, c.Disks[0].Path)
	qemu(t, "check", "-f", "vhdx", disk)
	qemu(t, "compare", "-f", "raw", "-F", "vhdx", img, disk)
	// Again, from the VHDX that came out.
	at, _ = ParseLocation(disk)
	h2, err := ImportHome(t.Context(), s, "web 2", ImportOptions{Image: at, Format: Raw})
	if err != nil {
		t.Fatal(err)
	}
	qemu(t, "compare", "-f", "raw", "-F", "raw", img, filepath.Join(h2.Location().Path, "Virtual Hard Disks/disk0.raw"))
}

func TestImportHomeLeavesNothing(t *testing.T) {
	s := localStoreFor(t)
	at, _ := ParseLocation(imageFile(t, 8<<20))
	ctx, cancel := context.WithCancel(t.Context())
	_, err := ImportHome(ctx, s, "vm", ImportOptions{Image: at, Progress: func(ConvertProgress) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if infos, err := s.ReadDir(""); err != nil || len(infos) != 0 {
		t.Errorf("left: %v %v", infos, err)
	}
	if _, err := ImportHome(t.Context(), s, "vm", ImportOptions{Image: at.Dir().Join("none")}); !errors.Is(err, ErrNotExist) {
		t.Errorf("a missing image: %v", err)
	}
}

func TestDetectFormat(t *testing.T) {
	dir := t.TempDir()
	raw := imageFile(t, 3<<20)
	for format, subformat := range map[Format]string{VHDX: "subformat=dynamic", VHD: "subformat=dynamic", "fixed": "subformat=fixed,force_size"} {
		driver := map[Format]string{VHDX: "vhdx", VHD: "vpc", "fixed": "vpc"}[format]
		qemu(t, "convert", "-f", "raw", "-O", driver, "-o", subformat, raw, filepath.Join(dir, string(format)))
	}
	s, _ := OpenPath(t.Context(), dir, Options{})
	for name, want := range map[string]Format{"vhdx": VHDX, "vhd": VHD, "fixed": VHD} {
		f, err := s.OpenFile(name, Read)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DetectFormat(f); got != want || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		f.Close()
		dev, format, err := OpenDisk(t.Context(), s, name, DiskOptions{ReadOnly: true})
		if err != nil || format != want {
			t.Errorf("%s: %q, %v", name, format, err)
			continue
		}
		want, err := os.ReadFile(raw)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if err := dev.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: content differs, %v", name, err)
		}
		dev.Close()
	}
}

// TestConvertSizes: there and back, the size is the same where a VHDX can have
// it, and qemu-img reads the same.
func TestConvertSizes(t *testing.T) {
	for _, c := range []struct{ size, want int64 }{
		{1 << 20, 1 << 20},
		{1<<20 + 512, 1<<20 + 512},
		{5<<20 + 7*512, 5<<20 + 7*512},
		{1<<20 + 100, 1<<20 + 512},
		{300 << 10, 1 << 20},
	} {
		raw := imageFile(t, c.size)
		dir := t.TempDir()
		there, back, peer := filepath.Join(dir, "d.vhdx"), filepath.Join(dir, "d.img"), filepath.Join(dir, "peer.img")
		for _, step := range [][2]string{{raw, there}, {there, back}} {
			err := ConvertDisk(t.Context(), ConvertDiskOptions{Source: Location{Path: step[0]}, Destination: Location{Path: step[1]}})
			if err != nil {
				t.Fatal(err)
			}
		}
		qemu(t, "convert", "-f", "vhdx", "-O", "raw", there, peer)
		want, err := os.ReadFile(raw)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, make([]byte, c.want-c.size)...)
		for _, name := range []string{back, peer} {
			if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes: %s has %d, want %d (%v)", c.size, filepath.Base(name), len(got), len(want), err)
			}
		}
	}
}

// TestConvertKeepsNewcomer: what appears under the name during the copy stays.
func TestConvertKeepsNewcomer(t *testing.T) {
	raw := imageFile(t, 4<<20)
	s := localStoreFor(t)
	to := s.Location().Join("d.vhdx")
	err := ConvertDisk(t.Context(), ConvertDiskOptions{Source: Location{Path: raw}, Destination: to, Progress: func(ConvertProgress) {
		if err := os.WriteFile(to.Path, []byte("mine"), 0o600); err != nil {
			t.Error(err)
		}
	}})
	if !errors.Is(err, ErrExist) {
		t.Errorf("ConvertDisk = %v", err)
	}
	if b, err := os.ReadFile(to.Path); err != nil || string(b) != "mine" {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if infos, _ := s.ReadDir(""); len(infos) != 1 {
		t.Errorf("left: %v", infos)
	}
}

func TestConvertRefusesSmaller(t *testing.T) {
	if err := Convert(t.Context(), block.NewMem(2<<20), block.NewMem(1<<20), ConvertOptions{}, nil); !errors.Is(err, block.ErrOutOfRange) {
		t.Errorf("got %v", err)
	}
}
