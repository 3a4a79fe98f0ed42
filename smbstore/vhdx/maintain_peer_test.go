//go:build !race

package vhdx_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"lunless/smbstore/block"
	"lunless/smbstore/vhdx"
)

// TestPeersReadResizedAndCompacted has qemu-img judge disks, of ours and of its
// own, after Resize and Compact: closed, and as a killed process leaves them.
func TestPeersReadResizedAndCompacted(t *testing.T) {
	for _, theirs := range []bool{false, true} {
		for _, s := range []shape{
			{100 * mib, mib, 512, false}, {100*mib + 4096, 32 * mib, 512, false}, {64 * mib, 2 * mib, 512, true},
		} {
			t.Run(fmt.Sprintf("%v, made by qemu-img %v", s, theirs), func(t *testing.T) {
				dir := t.TempDir()
				img, raw := filepath.Join(dir, "a.vhdx"), filepath.Join(dir, "a.raw")
				if theirs {
					kind := map[bool]string{true: "fixed", false: "dynamic"}[s.fixed]
					peer(t, "qemu-img", "create", "-q", "-f", "vhdx", "-o",
						fmt.Sprintf("subformat=%s,block_size=%d", kind, s.blockSize), img, fmt.Sprint(s.size))
				} else {
					d, err := vhdx.Create(openFile(t, img), vhdx.CreateOptions{Size: s.size, BlockSize: s.blockSize, Fixed: s.fixed})
					must(t, err)
					must(t, d.Close())
				}
				d, err := vhdx.Open(openFile(t, img), vhdx.OpenOptions{})
				must(t, err)
				for _, size := range []int64{s.size + 3*s.blockSize + 512, s.size*5 + 4096, s.size*2 + 512} {
					r := rawDevice(t, raw, max(size, d.Size()))
					reshape(t, d, r, s, size)
					must(t, r.Close())
					must(t, rawTruncate(t, raw, size))
					left := filepath.Join(dir, "left.vhdx")
					peer(t, "cp", "--sparse=always", img, left)
					peer(t, "qemu-img", "check", "-q", "-r", "all", "-f", "vhdx", left) // replays the log
					peer(t, "qemu-img", "compare", "-q", "-f", "vhdx", "-F", "raw", left, raw)
				}
				size := d.Size()
				must(t, d.Close())
				mustBeClean(t, openFile(t, img))
				peer(t, "qemu-img", "check", "-q", "-f", "vhdx", img)
				peer(t, "qemu-img", "compare", "-q", "-f", "vhdx", "-F", "raw", img, raw)
				if info := peer(t, "qemu-img", "info", "--output=json", "-f", "vhdx", img); !strings.Contains(info, fmt.Sprintf(`"virtual-size": %d,`, size)) {
					t.Errorf("qemu-img info says\n%s", info)
				}
				peer(t, "vhdiinfo", img)
			})
		}
	}
}

// reshape writes, resizes and compacts a disk, and has a raw one follow.
func reshape(t *testing.T, d *vhdx.Disk, r block.Device, s shape, size int64) {
	t.Helper()
	scatter(t, min(size, d.Size()), s.blockSize, d, r)
	if size < d.Size() {
		for _, dev := range []block.Device{d, r} {
			must(t, dev.WriteZeroes(ctx, size, d.Size()-size, 0))
		}
	}
	for _, dev := range []block.Device{d, r} { // zeroes that keep their room
		must(t, dev.WriteZeroes(ctx, s.blockSize, s.blockSize, block.NoUnmap))
	}
	must(t, d.Resize(ctx, size))
	if !s.fixed {
		_, err := d.Compact(ctx, vhdx.CompactOptions{}, nil)
		must(t, err)
	}
	must(t, d.Flush(ctx))
}

func rawTruncate(t *testing.T, path string, size int64) error {
	t.Helper()
	f := openFile(t, path)
	defer f.Close()
	return f.Truncate(size)
}
