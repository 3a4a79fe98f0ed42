//go:build !race

package vhd

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lunless/smbstore/block"
)

// vhdicat reads through libvhdi, differencing disks with their parents.
const vhdicat = "../../testdata/vhdicat"

// hashOf is the SHA-256 of a device's content.
func hashOf(t *testing.T, d block.Device) string {
	t.Helper()
	h, buf := sha256.New(), make([]byte, 1<<20)
	for off := int64(0); off < d.Size(); {
		p := buf[:min(int64(len(buf)), d.Size()-off)]
		must(t, d.ReadAt(ctx, p, off))
		h.Write(p)
		off += int64(len(p))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// openChain opens a leaf with its parents, given from the root on.
func openChain(t *testing.T, readOnly bool, paths ...string) *Disk {
	t.Helper()
	var d *Disk
	for i, p := range paths {
		o := OpenOptions{ReadOnly: readOnly || i < len(paths)-1}
		if d != nil {
			o.Parent = d
		}
		var err error
		d, err = Open(openFile(t, p), o)
		must(t, err)
	}
	return d
}

// TestLibvhdiReadsChains: libvhdi finds in a chain of ours what we find, by the
// IDs and names it needs, also after relinking.
func TestLibvhdiReadsChains(t *testing.T) {
	for _, c := range []struct {
		size, blockSize int64
		fixedRoot       bool
	}{{9<<20 + 512*3, 0, false}, {9<<20 + 512*3, 512 << 10, true}, {512, 0, true}, {50 << 20, 2 << 20, false}} {
		t.Run(fmt.Sprintf("%d by %d", c.size, c.blockSize), func(t *testing.T) {
			dir := t.TempDir()
			raw := rawDevice(t, filepath.Join(dir, "model.raw"), c.size)
			paths := []string{filepath.Join(dir, "root.vhd")}
			root, err := Create(openFile(t, paths[0]), CreateOptions{Size: c.size, BlockSize: c.blockSize, Fixed: c.fixedRoot})
			must(t, err)
			scatter(t, 1, c.size, root, raw)
			must(t, root.Close())
			for i := range 3 {
				parent := openChain(t, true, paths...)
				l := ParentLink{ID: parent.im.ft.ID, Time: 1, Name: filepath.Base(paths[i]), Relative: `.\` + filepath.Base(paths[i])}
				paths = append(paths, filepath.Join(dir, fmt.Sprintf("diff%d.avhd", i)))
				d, err := Create(openFile(t, paths[i+1]), CreateOptions{BlockSize: c.blockSize, Parent: &l, ParentDevice: parent})
				must(t, err)
				scatter(t, byte(40*i+40), c.size*int64(3-i)/4+1, d, raw)
				for _, dev := range []block.Device{d, raw} {
					must(t, dev.WriteZeroes(ctx, c.size/5, c.size/3, 0))
				}
				if i == 1 {
					l.Absolute, l.Time = `\\server\share\`+l.Name, 2
					must(t, d.Relink(ctx, l))
				}
				must(t, d.Close())
				mustBeClean(t, openFile(t, paths[i+1]))
				judgeChain(t, raw, l, paths)
			}
			must(t, raw.Close())
		})
	}
}

// judgeChain compares the content of a chain, root first, with a model, as libvhdi
// and as we read it.
func judgeChain(t *testing.T, model block.Device, link ParentLink, paths []string) {
	t.Helper()
	leaf := openChain(t, true, paths...)
	want := hashOf(t, model)
	if got := hashOf(t, leaf); got != want {
		t.Errorf("we read %s, want %s", got, want)
	}
	args := []string{"cat"}
	for i := len(paths) - 1; i >= 0; i-- {
		args = append(args, paths[i])
	}
	if got := sha256.Sum256([]byte(peer(t, vhdicat, args...))); hex.EncodeToString(got[:]) != want {
		t.Errorf("libvhdi reads %x, want %s", got, want)
	}
	var info struct {
		Type, ID, Name string
		Size           int64
		ParentID       string `json:"parent_id"`
		ParentName     string `json:"parent_name"`
	}
	out := peer(t, vhdicat, "info", paths[len(paths)-1])
	must(t, json.Unmarshal([]byte(out), &info))
	got := []any{info.Type, info.Size, strings.ToUpper(info.ID), strings.ToUpper(info.ParentID), info.ParentName}
	if diff := cmp.Diff([]any{"differencing", model.Size(), leaf.im.ft.ID.String(), link.ID.String(), link.Name}, got); diff != "" {
		t.Errorf("libvhdi (-want +got):\n%s\n%s", diff, out)
	}
	if out := peer(t, "vhdiinfo", paths[len(paths)-1]); !regexp.MustCompile(`Disk type\s*: Differential`).MatchString(out) {
		t.Errorf("vhdiinfo:\n%s", out)
	}
	must(t, leaf.Close())
}

// TestQEMUSizes: where an image has both a geometry and a size, we take the one
// that qemu-img takes, for every creator it knows.
func TestQEMUSizes(t *testing.T) {
	const current, byCHS = 136365211648, 136363130880 // 127 GiB
	for creator, want := range map[string]int64{
		"vpc ": byCHS, "vs  ": byCHS, "qemu": byCHS, "win ": current, "d2v ": current, "qem2": current, "wa\x00\x00": current,
	} {
		img := filepath.Join(t.TempDir(), "a.vhd")
		b := windows(t)
		for _, at := range []int{0, len(b) - footerSize} {
			ft := b[at : at+footerSize]
			copy(ft[28:], creator)
			be.PutUint32(ft[64:], sum(ft, 64))
		}
		must(t, os.WriteFile(img, b, 0o600))
		d, err := Open(openFile(t, img), OpenOptions{})
		must(t, err)
		if d.Size() != want || d.Info().CurrentSize != current {
			t.Errorf("%q: %d bytes, want %d", creator, d.Size(), want)
		}
		must(t, d.WriteAt(ctx, []byte{1}, d.Size()-1, 0))
		must(t, d.Close())
		out := peer(t, "qemu-img", "info", "-f", "vpc", "--output=json", img)
		if creator == "wa\x00\x00" { // qemu-img of now knows Azure's
			continue
		}
		if !strings.Contains(out, fmt.Sprintf(`"virtual-size": %d,`, want)) {
			t.Errorf("%q: qemu-img has another size than %d:\n%s", creator, want, out)
		}
	}
}
