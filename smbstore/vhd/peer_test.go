//go:build !race

package vhd

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"lunless/smbstore/block"
)

// peer runs a program that reads disk images, which has to be there.
func peer(t *testing.T, name string, args ...string) string {
	t.Helper()
	pkg := map[string]string{"qemu-img": "qemu-utils", "vhdiinfo": "libvhdi-utils", vhdicat: "python3-libvhdi"}[name]
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%s is missing: install the package %s", name, pkg)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// shape is a disk to be tried with a peer.
type shape struct {
	size, blockSize int64
	fixed           bool
}

func (s shape) kind() string { return map[bool]string{true: "fixed", false: "dynamic"}[s.fixed] }

func shapes() []shape {
	return []shape{
		{1 << 20, 2 << 20, false}, {9<<20 + 512*3, 2 << 20, false}, {504 << 20, 2 << 20, false}, // a geometry meets 504 MiB
		{3<<30 + 512, 2 << 20, false}, {9<<20 + 512*3, 512 << 10, false}, {100 << 20, 32 << 20, false},
		{512, 2 << 20, false}, {512, 0, true}, {9<<20 + 512*3, 0, true}, {40 << 20, 0, true},
	}
}

func openFile(t *testing.T, path string) block.File {
	t.Helper()
	f, err := block.OpenLocal(path, os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	return f
}

func rawDevice(t *testing.T, path string, size int64) block.Device {
	t.Helper()
	f := openFile(t, path)
	must(t, f.Truncate(size))
	d, err := block.NewRaw(f, block.RawOptions{})
	must(t, err)
	return d
}

// scatter writes data to places that matter, the same to every device.
func scatter(t *testing.T, salt byte, size int64, devs ...block.Device) {
	t.Helper()
	for i, at := range []int64{0, 700, 512<<10 - 300, 2<<20 - 1000, 5<<20 + 512, size / 3, size - 4096, size - 512} {
		at = max(0, min(at, size-1))
		p := bytes.Repeat([]byte{salt + byte(i)}, int(min(size-at, 1300+900*int64(i))))
		for _, d := range devs {
			must(t, d.WriteAt(ctx, p, at, 0))
		}
	}
}

// peerCheck has the peers judge an image that has the content of a raw one.
func peerCheck(t *testing.T, s shape, img, raw string) {
	t.Helper()
	mustBeClean(t, openFile(t, img))
	if out := peer(t, "qemu-img", "info", "-f", "vpc", "--output=json", img); !strings.Contains(out, fmt.Sprintf(`"virtual-size": %d,`, s.size)) {
		t.Errorf("qemu-img does not see %d bytes:\n%s", s.size, out)
	}
	peer(t, "qemu-img", "compare", "-q", "-f", "vpc", "-F", "raw", img, raw)
	info := peer(t, "vhdiinfo", img)
	for _, want := range []string{
		fmt.Sprintf(`Media size\s*:.*\(%d bytes\)|Media size\s*: %d bytes`, s.size, s.size),
		map[bool]string{true: `Disk type\s*: Fixed`, false: `Disk type\s*: Dynamic`}[s.fixed],
	} {
		if !regexp.MustCompile(want).MatchString(info) {
			t.Errorf("vhdiinfo does not say %q:\n%s", want, info)
		}
	}
}

// TestPeersReadOurs has other implementations judge what we write, also as a
// killed process leaves it, and has one of them write to it.
func TestPeersReadOurs(t *testing.T) {
	for _, s := range shapes() {
		t.Run(fmt.Sprintf("%s %d by %d", s.kind(), s.size, s.blockSize), func(t *testing.T) {
			dir := t.TempDir()
			img, raw, left := filepath.Join(dir, "a.vhd"), filepath.Join(dir, "a.raw"), filepath.Join(dir, "left.vhd")
			d, err := Create(openFile(t, img), CreateOptions{Size: s.size, BlockSize: s.blockSize, Fixed: s.fixed})
			must(t, err)
			r := rawDevice(t, raw, s.size)
			scatter(t, 1, s.size, d, r)
			for _, dev := range []block.Device{d, r} {
				must(t, dev.WriteZeroes(ctx, 0, min(s.size, 300000), 0))
				must(t, dev.Flush(ctx))
			}
			peer(t, "cp", "--sparse=always", img, left)
			peerCheck(t, s, left, raw)
			must(t, d.Close())
			must(t, r.Close())
			peerCheck(t, s, img, raw)
			if s.size > 200<<20 { // qemu-img would write zeroes to all of it
				return
			}
			r = rawDevice(t, raw, s.size) // other content, which qemu-img writes into the image
			scatter(t, 50, s.size, r)
			must(t, r.Close())
			peer(t, "qemu-img", "convert", "-n", "-f", "raw", "--target-image-opts", raw, "driver=vpc,file.filename="+img)
			peerCheck(t, s, img, raw)
		})
	}
}

// TestWeReadPeers reads, changes and hands back what qemu-img made.
func TestWeReadPeers(t *testing.T) {
	for _, s := range shapes() {
		if s.blockSize != 0 && s.blockSize != 2<<20 { // qemu-img has no other
			continue
		}
		t.Run(fmt.Sprintf("%s %d", s.kind(), s.size), func(t *testing.T) {
			dir := t.TempDir()
			img, raw := filepath.Join(dir, "a.vhd"), filepath.Join(dir, "a.raw")
			r := rawDevice(t, raw, s.size)
			scatter(t, 1, s.size, r)
			must(t, r.Flush(ctx))
			peer(t, "qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", "force_size=on,subformat="+s.kind(), raw, img)
			mustBeClean(t, openFile(t, img))
			d := reopened(t, openFile(t, img))
			if in := d.Info(); in.Type != s.kind() || in.VirtualSize != s.size || in.BlockSize != s.blockSize {
				t.Errorf("info %+v", in)
			}
			got, want := make([]byte, min(s.size, 10<<20)), make([]byte, min(s.size, 10<<20))
			must(t, d.ReadAt(ctx, got, 0))
			must(t, r.ReadAt(ctx, want, 0))
			if !bytes.Equal(got, want) {
				t.Error("content differs")
			}
			scatter(t, 100, s.size/2+1, d, r)
			must(t, d.WriteZeroes(ctx, s.size/2, s.size/2, 0))
			must(t, r.WriteZeroes(ctx, s.size/2, s.size/2, 0))
			must(t, d.Close())
			must(t, r.Close())
			peerCheck(t, s, img, raw)
		})
	}
}

// TestGeometry compares with what qemu-img writes where a geometry meets the size.
func TestGeometry(t *testing.T) {
	for _, size := range []string{"1M", "3M", "34M", "40M", "131M", "504M", "508M", "1G", "31G", "32G", "100G", "126G", "127G", "128G", "130G", "1000G"} {
		img := filepath.Join(t.TempDir(), "a.vhd")
		peer(t, "qemu-img", "create", "-q", "-f", "vpc", img, size)
		b, err := os.ReadFile(img)
		must(t, err)
		ft, err := decodeFooter(b, 0)
		must(t, err)
		if got := geometry(int64(ft.CurrentSize)); got != ft.Geometry {
			t.Errorf("%s: %d bytes: geometry %#x, qemu-img has %#x", size, ft.CurrentSize, got, ft.Geometry)
		}
	}
	if g := geometry(504<<20 + 512); g != maxGeometry {
		t.Errorf("a size that no geometry meets has %#x", g)
	}
}

// TestQEMUByGeometry: without force_size qemu-img rounds a size up to a geometry;
// its images are as large to us as they are to it.
func TestQEMUByGeometry(t *testing.T) {
	for _, kind := range []string{"fixed", "dynamic"} {
		for _, size := range []int64{1 << 20, 9<<20 + 512*3, 140 << 20} {
			dir := t.TempDir()
			img, raw := filepath.Join(dir, "a.vhd"), filepath.Join(dir, "a.raw")
			r := rawDevice(t, raw, size)
			scatter(t, 1, size, r)
			must(t, r.Close())
			peer(t, "qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", "subformat="+kind, raw, img)
			mustBeClean(t, openFile(t, img))
			d := reopened(t, openFile(t, img))
			if out := peer(t, "qemu-img", "info", "-f", "vpc", "--output=json", img); !strings.Contains(out, fmt.Sprintf(`"virtual-size": %d,`, d.Size())) {
				t.Errorf("%s %d: we see %d bytes, qemu-img:\n%s", kind, size, d.Size(), out)
			}
			r = rawDevice(t, raw, d.Size())
			scatter(t, 90, d.Size(), d, r)
			must(t, d.Close())
			must(t, r.Close())
			peer(t, "qemu-img", "compare", "-q", "-f", "vpc", "-F", "raw", img, raw)
		}
	}
}
