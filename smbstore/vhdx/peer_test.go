//go:build !race

package vhdx_test

import (
	"bytes"
	"compress/bzip2"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"lunless/smbstore/block"
	"lunless/smbstore/vhdx"
)

const mib = 1 << 20

// peer runs a program that reads disk images, which has to be there.
func peer(t *testing.T, name string, args ...string) string {
	t.Helper()
	pkg := map[string]string{"qemu-img": "qemu-utils", "vhdiinfo": "libvhdi-utils"}[name]
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
	sector          int
	fixed           bool
}

func (s shape) String() string {
	kind := "dynamic"
	if s.fixed {
		kind = "fixed"
	}
	return fmt.Sprintf("%s %d by %dM, sector %d", kind, s.size, s.blockSize>>20, s.sector)
}

func shapes() []shape {
	var all []shape
	for _, size := range []int64{1 * mib, 3*mib + 512, 100 * mib, 1<<30 + 4096, 2 << 40} {
		for _, bs := range []int64{1, 2, 32, 256} {
			all = append(all, shape{size, bs * mib, 512, false})
		}
	}
	return append(all,
		shape{1 * mib, 1 * mib, 512, true}, shape{5*mib + 512, 2 * mib, 512, true},
		shape{64 * mib, 32 * mib, 512, true}, shape{300 * mib, 256 * mib, 512, true},
		shape{1 * mib, 1 * mib, 4096, false}, shape{2 << 40, 32 * mib, 4096, false}, shape{8 * mib, 1 * mib, 4096, true})
}

// scatter writes data to places that matter: the ends, across blocks, across the
// entry of a sector bitmap block; the same to every device.
func scatter(t *testing.T, size, blockSize int64, devs ...block.Device) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(uint64(size), uint64(blockSize)))
	for _, at := range places(size, blockSize) {
		n := min(size-at, 1+rnd.Int64N(9000))
		if n <= 0 {
			continue
		}
		p := bytes.Repeat([]byte{byte(rnd.IntN(255) + 1)}, int(n))
		for _, d := range devs {
			must(t, d.WriteAt(ctx, p, at, 0))
		}
	}
}

func places(size, blockSize int64) []int64 {
	chunk := min(int64(4<<30), size)
	all := []int64{0, 700, blockSize - 1000, chunk - 2000, size / 2, size - 4096, size - 512}
	for i := range all {
		all[i] = max(0, all[i])
	}
	return all
}

func rawDevice(t *testing.T, path string, size int64) block.Device {
	t.Helper()
	f, err := block.OpenLocal(path, os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	must(t, f.Truncate(size))
	d, err := block.NewRaw(f, block.RawOptions{})
	must(t, err)
	return d
}

func openFile(t *testing.T, path string) block.File {
	t.Helper()
	f, err := block.OpenLocal(path, os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	return f
}

// TestPeersReadOurs has other implementations judge what we write.
func TestPeersReadOurs(t *testing.T) {
	for _, s := range shapes() {
		t.Run(s.String(), func(t *testing.T) {
			dir := t.TempDir()
			img, raw := filepath.Join(dir, "a.vhdx"), filepath.Join(dir, "a.raw")
			d, err := vhdx.Create(openFile(t, img), vhdx.CreateOptions{
				Size: s.size, BlockSize: s.blockSize, LogicalSectorSize: s.sector, Fixed: s.fixed})
			must(t, err)
			r := rawDevice(t, raw, s.size)
			scatter(t, s.size, s.blockSize, d, r)
			must(t, d.WriteZeroes(ctx, 0, min(s.blockSize, s.size), 0))
			must(t, r.WriteZeroes(ctx, 0, min(s.blockSize, s.size), 0))
			must(t, d.Flush(ctx))
			left := filepath.Join(dir, "left.vhdx") // as a killed process leaves it
			peer(t, "cp", "--sparse=always", img, left)
			must(t, d.Close())
			must(t, r.Close())
			peerCheck(t, s, img, raw)
			if s.sector == 512 && !s.fixed {
				peer(t, "qemu-img", "check", "-q", "-r", "all", "-f", "vhdx", left) // replays the log
				peerCompare(t, s, left, raw)
			}
		})
	}
}

// peerCheck has the peers check an image and compare it with a raw one.
func peerCheck(t *testing.T, s shape, img, raw string) {
	t.Helper()
	mustBeClean(t, openFile(t, img))
	info := peer(t, "vhdiinfo", img)
	for _, want := range []string{
		fmt.Sprintf(`Media size\s*:.*\(%d bytes\)|Media size\s*: %d bytes`, s.size, s.size),
		fmt.Sprintf(`Bytes per sector\s*: %d bytes`, s.sector),
		map[bool]string{true: `Disk type\s*: Fixed`, false: `Disk type\s*: Dynamic`}[s.fixed],
	} {
		if !regexp.MustCompile(want).MatchString(info) {
			t.Errorf("vhdiinfo does not say %q:\n%s", want, info)
		}
	}
	if s.sector == 512 { // qemu-img refuses 4096
		peer(t, "qemu-img", "check", "-q", "-f", "vhdx", img)
		peerCompare(t, s, img, raw)
	}
}

// peerCompare has qemu-img read an image: all of it, or of a large one, which it
// would read hole by hole, the places where data is.
func peerCompare(t *testing.T, s shape, img, raw string) {
	t.Helper()
	if s.size <= 4<<30 {
		peer(t, "qemu-img", "compare", "-q", "-f", "vhdx", "-F", "raw", img, raw)
		return
	}
	ref, err := os.Open(raw)
	must(t, err)
	defer ref.Close()
	out := filepath.Join(t.TempDir(), "part.raw")
	for _, at := range places(s.size, s.blockSize) {
		at, n := at/4096, min(4, s.size/4096-at/4096)
		peer(t, "qemu-img", "dd", "-f", "vhdx", "-O", "raw", "bs=4096", fmt.Sprintf("skip=%d", at),
			fmt.Sprintf("count=%d", at+n), "if="+img, "of="+out) // its count includes what is skipped
		got, err := os.ReadFile(out)
		must(t, err)
		want := make([]byte, n*4096)
		_, err = ref.ReadAt(want, at*4096)
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Fatalf("qemu-img reads %d bytes at %d that differ from the %d written", len(got), at*4096, len(want))
		}
	}
}

// TestWeReadPeers reads, changes and hands back what qemu-img made.
func TestWeReadPeers(t *testing.T) {
	for _, s := range shapes() {
		if s.sector != 512 {
			continue
		}
		t.Run(s.String(), func(t *testing.T) {
			dir := t.TempDir()
			img, raw := filepath.Join(dir, "a.vhdx"), filepath.Join(dir, "a.raw")
			r := rawDevice(t, raw, s.size)
			scatter(t, s.size, s.blockSize, r)
			must(t, r.Flush(ctx))
			kind := map[bool]string{true: "fixed", false: "dynamic"}[s.fixed]
			peer(t, "qemu-img", "convert", "-f", "raw", "-O", "vhdx", "-o",
				fmt.Sprintf("subformat=%s,block_size=%d", kind, s.blockSize), raw, img)
			mustBeClean(t, openFile(t, img))
			d, err := vhdx.Open(openFile(t, img), vhdx.OpenOptions{})
			must(t, err)
			if in := d.Info(); in.Type != kind || in.VirtualSize != s.size || in.BlockSize != s.blockSize {
				t.Errorf("info %+v", in)
			}
			sameData(t, d, r)
			p := bytes.Repeat([]byte{0x77}, 5000)
			for _, at := range []int64{s.size / 3, max(0, s.size-2*s.blockSize+100)} {
				must(t, d.WriteAt(ctx, p, at, 0))
				must(t, r.WriteAt(ctx, p, at, 0))
			}
			must(t, d.Close())
			must(t, r.Close())
			peerCheck(t, s, img, raw)
		})
	}
}

// sameData compares two devices where either has data.
func sameData(t *testing.T, a, b block.Device) {
	t.Helper()
	compare := func(e block.Extent) error {
		if e.State != block.Data {
			return nil
		}
		for e.Length > 0 {
			n := min(e.Length, mib)
			pa, pb := make([]byte, n), make([]byte, n)
			must(t, a.ReadAt(ctx, pa, e.Offset))
			must(t, b.ReadAt(ctx, pb, e.Offset))
			if !bytes.Equal(pa, pb) {
				t.Fatalf("different within %d bytes at %d", n, e.Offset)
			}
			e.Offset, e.Length = e.Offset+n, e.Length-n
		}
		return nil
	}
	for _, d := range []block.Device{a, b} {
		must(t, d.Extents(ctx, 0, d.Size(), compare))
	}
}

// TestImageFromWindows reads an image that Hyper-V made.
func TestImageFromWindows(t *testing.T) {
	packed, err := os.Open("../../testdata/disks/iotest-dynamic-1G.vhdx.bz2")
	must(t, err)
	defer packed.Close()
	content, err := io.ReadAll(bzip2.NewReader(packed))
	must(t, err)
	for _, readOnly := range []bool{true, false} {
		f := block.NewMemFile(0)
		_, err = f.WriteAt(content, 0)
		must(t, err)
		mustBeClean(t, f)
		d, err := vhdx.Open(f, vhdx.OpenOptions{ReadOnly: readOnly})
		must(t, err)
		in := d.Info()
		if in.Type != "dynamic" || in.VirtualSize != 1<<30 || in.BlockSize != 32<<20 ||
			in.DataWriteGUID.String() != "D247CBB2-15B6-404B-9133-790733D694C0" { // vhdiinfo's Identifier
			t.Errorf("info %+v", in)
		}
		h, buf := sha256.New(), make([]byte, mib)
		for off := int64(0); off < d.Size(); off += mib {
			must(t, d.ReadAt(ctx, buf, off))
			h.Write(buf)
		}
		if got := hex.EncodeToString(h.Sum(nil)); got != "d3d112d8dab7fd360609f7d5a7b769904b7a2a7d7b6b8c535f65a23293c05478" {
			t.Errorf("sha256 of the virtual disk is %s", got)
		}
		must(t, d.Close())
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
