//go:build !race

package main

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lunless/bench"
	"lunless/smbstore"
	"lunless/smbstore/block"
)

// TestDemoNoticesDamage has the demo's own checks look at a home that lost a bit.
func TestDemoNoticesDamage(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	d := &demo{ctx: t.Context()}
	var err error
	if d.files, err = makeDemoImage(d.ctx, image, demoFS, demoDisk, "../.."); err != nil {
		t.Fatal(err)
	}
	if len(d.files) < demoBulkN+10 {
		t.Errorf("only %d files", len(d.files))
	}
	s, err := smbstore.Open(d.ctx, smbstore.Location{Path: dir}, smbstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	h, err := smbstore.ImportHome(d.ctx, s, demoVM, smbstore.ImportOptions{Image: smbstore.Location{Path: image},
		Config: smbstore.Config{CPUs: 1, Memory: 1 << 30, Firmware: "uefi"}})
	if err != nil {
		t.Fatal(err)
	}
	const disk = "Virtual Hard Disks/disk0.vhdx"
	writeDemo(t, d, h, disk)
	if err := d.verifyDisk(h, disk, d.writer); err != nil {
		t.Fatalf("an undamaged home: %v", err)
	}

	file := filepath.Join(dir, demoVM, disk)
	var start [32]byte
	if _, err := io.ReadFull(rand.NewChaCha8([32]byte{'d', 'e', 'm', 'o'}), start[:]); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(content, start[:]) // where the first file of random content begins
	if at < 0 {
		t.Fatal("the content of a file is nowhere in the image")
	}
	flip(t, file, int64(at)+12345)
	if err := d.verifyDisk(h, disk, d.writer); err == nil || !strings.Contains(err.Error(), "differs from what was put there") {
		t.Errorf("a bit of a file lost: %v", err)
	}
	flip(t, file, int64(at)+12345)
	flip(t, file, 0x30010) // the region table
	if err := d.verifyDisk(h, disk, d.writer); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a bit of the structure lost: %v", err)
	}
	flip(t, file, 0x30010)
	if err := d.verifyDisk(h, disk, d.writer); err != nil {
		t.Errorf("mended: %v", err)
	}
	zeroWriterArea(t, d, h, disk)
	if err := d.verifyDisk(h, disk, d.writer); err == nil || !strings.Contains(err.Error(), "acknowledged write") {
		t.Errorf("acknowledged writes lost: %v", err)
	}
}

func openDemoDisk(t *testing.T, d *demo, h *smbstore.Home, name string) block.Device {
	t.Helper()
	dev, _, err := smbstore.OpenDisk(d.ctx, h.Store(), name, smbstore.DiskOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	return dev
}

// writeDemo lets the demo's writer write a little.
func writeDemo(t *testing.T, d *demo, h *smbstore.Home, name string) {
	t.Helper()
	dev := openDemoDisk(t, d, h, name)
	ctx, stop := context.WithTimeout(d.ctx, time.Minute)
	defer stop()
	var writes int
	counted := block.NewIntercept(dev, func(_ context.Context, op block.Op) error {
		if op.Kind == block.OpWrite {
			if writes++; writes == 50 {
				stop()
			}
		}
		return nil
	})
	var err error
	if d.writer, err = bench.NewWriter(counted, demoFS, demoDisk-demoFS, 1); err != nil {
		t.Fatal(err)
	}
	if err := d.writer.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if d.writer.Writes() == 0 {
		t.Fatal("the writer did not write")
	}
	if err := dev.Flush(d.ctx); err != nil {
		t.Fatal(err)
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
}

func zeroWriterArea(t *testing.T, d *demo, h *smbstore.Home, name string) {
	t.Helper()
	dev := openDemoDisk(t, d, h, name)
	if err := dev.WriteZeroes(d.ctx, demoFS, demoDisk-demoFS, 0); err != nil {
		t.Fatal(err)
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
}

func flip(t *testing.T, name string, at int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 4
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// TestDemoImageOfAnyFolder has names and files in the folder that FAT, or the
// user, cannot take.
func TestDemoImageOfAnyFolder(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"plain.txt", "Plain.TXT", "Deep/er/one.txt", "deep/er/two.txt", "deep/ER", "a:b", "ends.", "what?.txt",
		"ünïcode.txt", "mixed", "MIXED/inside.txt", "b[1].txt", ".hidden/x", "bin/x", strings.Repeat("n", 200)} {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte("content of "+name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{
		os.WriteFile(filepath.Join(dir, "unreadable"), []byte("x"), 0),
		os.Mkdir(filepath.Join(dir, "closed"), 0),
		os.WriteFile(filepath.Join(dir, "empty"), nil, 0o644),
		syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644),
		os.Symlink("/etc/passwd", filepath.Join(dir, "link")),
		os.Truncate(filepath.Join(dir, "plain.txt"), 100<<10),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "huge"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "huge"), demoMaxBytes+1); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(dir, "image")
	want, err := makeDemoImage(t.Context(), image, demoFS, demoDisk, dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/Plain.TXT", "/Deep/er/one.txt", "/deep/er/two.txt"} {
		if _, ok := want[name]; !ok {
			t.Errorf("%s is not in the image", name)
		}
	}
	for name := range want {
		if strings.ContainsAny(name, ":?[ü") || strings.Contains(name, "hidden") || name == "/huge" || name == "/plain.txt" || name == "/image" {
			t.Errorf("%s is in the image", name)
		}
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	dev, err := block.NewRaw(block.NewLocal(f), block.RawOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if err := checkDemoFiles(t.Context(), dev, demoFS, want); err != nil {
		t.Error(err)
	}
}
