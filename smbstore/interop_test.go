//go:build !race

package smbstore_test

import (
	"bytes"
	"compress/bzip2"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/block"
	"lunless/smbstore/vhd"
	"lunless/smbstore/vhdx"
)

// The interop tests compare content by hash: what was written to a disk, into a
// sparse raw file beside it, what we read, what qemu-img reads, what libvhdi reads.

const (
	mib = 1 << 20
	gib = 1 << 30

	// whole is up to where disks are compared whole. Larger ones are in windows:
	// qemu-img and libvhdi read holes bit by bit.
	whole = 64 * mib
)

// vhdicat reads images through libvhdi, differencing ones with their parents.
const vhdicat = "../testdata/vhdicat"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs a peer and returns what it printed, on its error output in err.
func run(t testing.TB, out io.Writer, name string, args ...string) error {
	t.Helper()
	pkg := map[string]string{"qemu-img": "qemu-utils", "qemu-io": "qemu-utils", vhdicat: "python3-libvhdi"}[name]
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%s is missing: install the package %s", name, pkg)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = out, &said
	if err := cmd.Run(); err != nil {
		if strings.Contains(said.String(), "No module named 'pyvhdi'") {
			t.Fatalf("libvhdi is missing: install the package %s", pkg)
		}
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, said.Bytes())
	}
	return nil
}

func qemuImg(t testing.TB, args ...string) {
	t.Helper()
	must(t, run(t, nil, "qemu-img", args...))
}

// qemuName is QEMU's name of a format.
func qemuName(f smbstore.Format) string {
	if f == smbstore.VHD {
		return "vpc"
	}
	return string(f)
}

// window is a part of a disk, bytes.
type window struct{ off, n int64 }

// windows are the parts of a disk that are compared: all of a small one, else
// its ends, where scatter writes, and what lies around.
func windows(size int64) []window {
	if size <= whole {
		return []window{{0, size}}
	}
	var all []window
	end := int64(0)
	for _, at := range places(size) {
		from := max(end, at-at%4096-4096)
		to := min(size, from+64<<10)
		if from < to {
			all, end = append(all, window{from, to - from}), to
		}
	}
	return all
}

// places are where a disk of any block size has something to get wrong, in
// ascending order: its ends, ends of blocks, the end of a VHDX's first chunk.
func places(size int64) []int64 {
	var all []int64
	for _, at := range []int64{0, mib - 1000, 2*mib - 1000, 32*mib - 1000, 256*mib - 1000, 4*gib - 2000, 4*gib + 100<<10, size / 2, size - 9*mib, size - 5000} {
		if len(all) == 0 || at > all[len(all)-1] && at < size {
			all = append(all, at)
		}
	}
	return all
}

// scatter writes random data at a disk's places, the same to every device. Salt
// makes it other data.
func scatter(t testing.TB, salt uint64, devs ...block.Device) {
	t.Helper()
	scatterBy(t, 1, salt, devs...)
}

// scatterBy is scatter in multiples of unit bytes, but for the disk's end.
func scatterBy(t testing.TB, unit int64, salt uint64, devs ...block.Device) {
	t.Helper()
	size := devs[0].Size()
	rnd := rand.New(rand.NewPCG(uint64(size), salt))
	for _, at := range places(size) {
		at = min(size-1, at+rnd.Int64N(700))
		at -= at % unit
		p := make([]byte, min(size-at, (1+rnd.Int64N(9000)+unit-1)/unit*unit))
		for i := range p {
			p[i] = byte(rnd.Uint32())
		}
		for _, d := range devs {
			must(t, d.WriteAt(t.Context(), p, at, 0))
		}
	}
}

// model makes a sparse raw file, which says what a disk must hold.
func model(t testing.TB, path string, size int64) block.Device {
	t.Helper()
	f := local(t, path, os.O_RDWR|os.O_CREATE)
	must(t, f.Truncate(size))
	d, err := block.NewRaw(f, block.RawOptions{})
	must(t, err)
	return d
}

func local(t testing.TB, path string, flags int) block.File {
	t.Helper()
	f, err := block.OpenLocal(path, flags, 0o600)
	must(t, err)
	return f
}

func sum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// ours hashes what we read of an image.
func ours(t testing.TB, path string, parts []window) (string, error) {
	t.Helper()
	s, err := smbstore.OpenPath(t.Context(), filepath.Dir(path), smbstore.Options{})
	must(t, err)
	defer s.Close()
	d, _, err := smbstore.OpenDisk(t.Context(), s, filepath.Base(path), smbstore.DiskOptions{ReadOnly: true})
	if err != nil {
		return "", err
	}
	defer d.Close()
	return deviceHash(t, d, parts)
}

func deviceHash(t testing.TB, d block.Device, parts []window) (string, error) {
	t.Helper()
	h, buf := sha256.New(), make([]byte, mib)
	for _, w := range parts {
		for w.n > 0 {
			p := buf[:min(w.n, mib)]
			if err := d.ReadAt(t.Context(), p, w.off); err != nil {
				return "", err
			}
			h.Write(p)
			w = window{w.off + int64(len(p)), w.n - int64(len(p))}
		}
	}
	return sum(h), nil
}

// byQEMU hashes what qemu-img reads of an image. A whole disk is converted, a
// large one's windows are cut out.
func byQEMU(t testing.TB, format, path string, parts []window) (string, error) {
	t.Helper()
	h, out := sha256.New(), filepath.Join(t.TempDir(), "out.raw")
	for i, w := range parts {
		var err error
		if len(parts) == 1 {
			err = run(t, nil, "qemu-img", "convert", "-f", format, "-O", "raw", path, out)
		} else { // dd's count includes what is skipped
			err = run(t, nil, "qemu-img", "dd", "-f", format, "-O", "raw", "bs=512", fmt.Sprintf("skip=%d", w.off/512),
				fmt.Sprintf("count=%d", (w.off+w.n)/512), "if="+path, "of="+out)
		}
		if err != nil {
			return "", err
		}
		f, err := os.Open(out)
		must(t, err)
		n, err := io.Copy(h, f)
		must(t, err)
		must(t, f.Close())
		if n != w.n {
			return "", fmt.Errorf("qemu-img reads %d bytes of part %d, %+v", n, i, w)
		}
	}
	return sum(h), nil
}

// byVHDI hashes what libvhdi reads of a disk; paths are its image and that
// one's parents, the nearest first.
func byVHDI(t testing.TB, parts []window, paths ...string) (string, error) {
	t.Helper()
	h := sha256.New()
	args := append([]string{"cat"}, paths...)
	for _, w := range parts {
		args = append(args, fmt.Sprintf("@%d:%d", w.off, w.n))
	}
	err := run(t, h, vhdicat, args...)
	return sum(h), err
}

// vhdiInfo is what libvhdi says of an image.
type vhdiInfo struct {
	Type       string `json:"type"`
	Size       int64  `json:"size"`
	Sector     int    `json:"sector"`
	ID         string `json:"id"`
	ParentID   string `json:"parent_id"`
	ParentName string `json:"parent_name"`
}

func askVHDI(t testing.TB, path string) (in vhdiInfo) {
	t.Helper()
	var out bytes.Buffer
	must(t, run(t, &out, vhdicat, "info", path))
	must(t, json.Unmarshal(out.Bytes(), &in))
	return in
}

// sameContent has us and the peers read an image, whose content raw has. qemu
// and vhdi tell whether that peer is asked.
func sameContent(t testing.TB, raw string, format smbstore.Format, size int64, qemu, vhdi bool, chain ...string) {
	t.Helper()
	parts := windows(size)
	d := model(t, raw, size)
	defer d.Close()
	want, err := deviceHash(t, d, parts)
	must(t, err)
	judge := func(who, got string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", who, err)
		} else if got != want {
			t.Errorf("%s reads sha256 %s of %s, written was %s (%d parts)", who, got, filepath.Base(chain[0]), want, len(parts))
		}
	}
	got, err := ours(t, chain[0], parts)
	judge("lunless", got, err)
	if qemu {
		got, err = byQEMU(t, qemuName(format), chain[0], parts)
		judge("qemu-img", got, err)
	}
	if vhdi {
		got, err = byVHDI(t, parts, chain...)
		judge("libvhdi", got, err)
	}
}

// mustBeSound has our check and QEMU's look at an image.
func mustBeSound(t testing.TB, path string, format smbstore.Format, qemu bool) {
	t.Helper()
	f := local(t, path, os.O_RDONLY)
	defer f.Close()
	if format == smbstore.VHD { // QEMU has no check of it
		if r, err := vhd.Check(f); err != nil || !r.Clean() {
			t.Errorf("check of %s: %v, %+v", filepath.Base(path), err, r)
		}
		return
	}
	if r, err := vhdx.Check(f); err != nil || !r.Clean() {
		t.Errorf("check of %s: %v, %+v", filepath.Base(path), err, r)
	}
	if qemu {
		qemuImg(t, "check", "-q", "-f", "vhdx", path)
	}
}

// sample unpacks an image of others into a new folder.
func sample(t testing.TB, name string) string {
	t.Helper()
	packed, err := os.Open("../testdata/disks/" + name + ".bz2")
	must(t, err)
	defer packed.Close()
	path := filepath.Join(t.TempDir(), name)
	content, err := io.ReadAll(bzip2.NewReader(packed))
	must(t, err)
	must(t, os.WriteFile(path, content, 0o600))
	return path
}

// fileHash is of a file as it is.
func fileHash(t testing.TB, path string) string {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	must(t, err)
	return sum(h)
}

// copyFile keeps holes.
func copyFile(t testing.TB, from, to string) {
	t.Helper()
	must(t, run(t, nil, "cp", "--sparse=always", from, to))
}
