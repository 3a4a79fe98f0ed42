//go:build !race

package smbstore_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lunless/smbstore"
	"lunless/smbstore/block"
	"lunless/smbstore/vhd"
	"lunless/smbstore/vhdx"
)

// shape is an image without parent. Sizes are bytes.
type shape struct {
	format      smbstore.Format
	size, block int64
	sector      int // VHDX
	fixed       bool
}

func (s shape) kind() string {
	if s.fixed {
		return "fixed"
	}
	return "dynamic"
}

func (s shape) String() string {
	return fmt.Sprintf("%s %s %d by %dK sector %d", s.format, s.kind(), s.size, s.block>>10, s.sector)
}

// byPeers tells which peer can read it: QEMU refuses sectors of 4096 bytes.
func (s shape) byPeers() (qemu, vhdi bool) { return s.sector != 4096, true }

// shapes: sizes from the smallest, whole blocks and not, block sizes, sectors.
func shapes() []shape {
	const x, v = smbstore.VHDX, smbstore.VHD
	all := []shape{
		{x, mib, mib, 512, true}, {x, 5*mib + 512, 2 * mib, 512, true}, {x, 300 * mib, 256 * mib, 512, true},
		{x, mib, mib, 4096, false}, {x, 41*mib + 4096, 32 * mib, 4096, false}, {x, 2 << 40, 32 * mib, 4096, false}, {x, 8 * mib, mib, 4096, true},
		{v, 512, 2 * mib, 512, false}, {v, 3*mib + 512, 2 * mib, 512, false}, {v, 40 * mib, 512 << 10, 512, false},
		{v, 504 * mib, 2 * mib, 512, false},     // a geometry meets it
		{v, 127*gib + 512, 2 * mib, 512, false}, // none does; and past the 127 GiB of Virtual PC
		{v, 127 * gib, 2 * mib, 512, false},     // Hyper-V's default size
		{v, 2040 * gib, 2 * mib, 512, false},    // the largest
		{v, 512, 0, 512, true}, {v, 40 * mib, 0, 512, true}, {v, 9*mib + 1536, 0, 512, true},
	}
	for _, size := range []int64{mib, 3*mib + 512, 40 * mib, gib + 4096, 2 << 40} {
		for _, bs := range []int64{1, 2, 32, 256} {
			all = append(all, shape{x, size, bs * mib, 512, false})
		}
	}
	return all
}

// create makes an image of ours.
func (s shape) create(t testing.TB, path string) block.Device {
	t.Helper()
	f := local(t, path, os.O_RDWR|os.O_CREATE)
	var d block.Device
	var err error
	if s.format == smbstore.VHD {
		d, err = vhd.Create(f, vhd.CreateOptions{Size: s.size, BlockSize: s.block, Fixed: s.fixed})
	} else {
		d, err = vhdx.Create(f, vhdx.CreateOptions{Size: s.size, BlockSize: s.block, Fixed: s.fixed, LogicalSectorSize: s.sector})
	}
	must(t, err)
	return d
}

// open opens an image for writing.
func open(t testing.TB, path string) block.Device {
	t.Helper()
	s, err := smbstore.OpenPath(t.Context(), filepath.Dir(path), smbstore.Options{})
	must(t, err)
	d, _, err := smbstore.OpenDisk(t.Context(), s, filepath.Base(path), smbstore.DiskOptions{})
	must(t, err)
	return d
}

// TestInteropOurs: what we write, qemu-img and libvhdi read; so they do after
// QEMU has written to it.
func TestInteropOurs(t *testing.T) {
	for _, s := range shapes() {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			img, raw := filepath.Join(dir, "a."+string(s.format)), filepath.Join(dir, "a.raw")
			d, m := s.create(t, img), model(t, raw, s.size)
			scatter(t, 1, d, m)
			for _, dev := range []block.Device{d, m} {
				must(t, dev.WriteZeroes(t.Context(), 0, min(s.size, 700), 0))
				must(t, dev.Close())
			}
			qemu, vhdi := s.byPeers()
			mustBeSound(t, img, s.format, qemu)
			sameContent(t, raw, s.format, s.size, qemu, vhdi, img)
			if in := askVHDI(t, img); in.Size != s.size || in.Sector != s.sector || in.Type != s.kind() || in.ParentName != "" {
				t.Errorf("libvhdi says %+v", in)
			}
			if !qemu || s.size < mib {
				return
			}
			must(t, run(t, nil, "qemu-io", "-f", qemuName(s.format), "-c", "write -P 77 1000k 24k",
				"-c", fmt.Sprintf("write -P 78 %d 512", s.size-512), img))
			must(t, run(t, nil, "qemu-io", "-f", "raw", "-c", "write -P 77 1000k 24k",
				"-c", fmt.Sprintf("write -P 78 %d 512", s.size-512), raw))
			mustBeSound(t, img, s.format, qemu)
			sameContent(t, raw, s.format, s.size, qemu, vhdi, img)
		})
	}
}

// peerImage is an image that qemu-img makes; options are its -o.
type peerImage struct {
	format  smbstore.Format
	size    int64
	options string
}

func peerImages() (all []peerImage) {
	for _, size := range []int64{3*mib + 512, 40 * mib} {
		for _, o := range []string{
			"block_size=1M", "block_size=2M,log_size=16M", "block_size=32M,block_state_zero=on", "block_size=256M",
			"subformat=fixed,block_size=1M", "subformat=fixed,block_size=256M,log_size=2M", ""} {
			all = append(all, peerImage{smbstore.VHDX, size, o})
		}
		for _, o := range []string{"force_size=on", "force_size=off", "force_size=on,subformat=fixed", "subformat=fixed", ""} {
			all = append(all, peerImage{smbstore.VHD, size, o})
		}
	}
	return append(all,
		peerImage{smbstore.VHDX, mib, ""}, peerImage{smbstore.VHD, mib, ""},
		peerImage{smbstore.VHDX, 600 * mib, "block_size=8M"}, peerImage{smbstore.VHDX, 2 << 40, "block_size=256M"}, peerImage{smbstore.VHDX, 8 << 40, ""},
		peerImage{smbstore.VHD, 127*gib + 512, "force_size=on"}, peerImage{smbstore.VHD, 127 * gib, ""}, peerImage{smbstore.VHD, 2040 * gib, "force_size=on"})
}

// TestInteropTheirs: what qemu-img makes and qemu-io writes, we read; what we
// then change, they and libvhdi read.
func TestInteropTheirs(t *testing.T) {
	for _, p := range peerImages() {
		t.Run(fmt.Sprintf("%s %d %s", p.format, p.size, p.options), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			img, raw := filepath.Join(dir, "a."+string(p.format)), filepath.Join(dir, "a.raw")
			args := []string{"create", "-q", "-f", qemuName(p.format)}
			if p.options != "" {
				args = append(args, "-o", p.options)
			}
			qemuImg(t, append(args, img, fmt.Sprint(p.size))...)
			d := open(t, img)
			size := d.Size() // the geometry rounds up without force_size
			must(t, d.Close())
			forced := p.format == smbstore.VHDX || strings.Contains(p.options, "force_size=on")
			if size < p.size || forced && size != p.size {
				t.Fatalf("opens as %d bytes", size)
			}
			m := model(t, raw, size)
			theirWrites(t, p.format, img, raw, size)
			sameContent(t, raw, p.format, size, true, true, img)
			d = open(t, img)
			scatter(t, 2, d, m)
			for _, dev := range []block.Device{d, m} {
				must(t, dev.WriteZeroes(t.Context(), size/3, min(4*mib, size/3), 0))
				must(t, dev.Close())
			}
			mustBeSound(t, img, p.format, true)
			sameContent(t, raw, p.format, size, true, true, img)
		})
	}
}

// theirWrites has qemu-io write the same to an image and to a raw file.
func theirWrites(t testing.TB, format smbstore.Format, img, raw string, size int64) {
	t.Helper()
	var args []string
	for i, at := range places(size) {
		at -= at % 512
		args = append(args, "-c", fmt.Sprintf("write -P %d %d %d", i+1, at, min(size-at, 512+1024*int64(i))))
	}
	args = append(args, "-c", fmt.Sprintf("write -z 512 %d", min(2*mib, size)-1024))
	for format, path := range map[string]string{qemuName(format): img, "raw": raw} {
		must(t, run(t, nil, "qemu-io", append([]string{"-f", format}, append(args, path)...)...))
	}
}

// TestInteropConvert: whole images through qemu-img convert.
func TestInteropConvert(t *testing.T) {
	for _, o := range []struct {
		format  smbstore.Format
		options string
	}{
		{smbstore.VHDX, "subformat=dynamic,block_size=1M"}, {smbstore.VHDX, "subformat=dynamic"}, {smbstore.VHDX, "subformat=fixed"},
		{smbstore.VHD, "subformat=dynamic,force_size=on"}, {smbstore.VHD, "subformat=fixed,force_size=on"},
	} {
		t.Run(fmt.Sprint(o.format, " ", o.options), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			img, raw := filepath.Join(dir, "a.img"), filepath.Join(dir, "a.raw")
			size := int64(60*mib + 512*7)
			m := model(t, raw, size)
			scatter(t, 3, m)
			must(t, m.Close())
			qemuImg(t, "convert", "-f", "raw", "-O", qemuName(o.format), "-o", o.options, raw, img)
			mustBeSound(t, img, o.format, true)
			sameContent(t, raw, o.format, size, true, true, img)
		})
	}
}

// TestInteropWindows: what Windows made, all read alike; and after we wrote to it.
func TestInteropWindows(t *testing.T) {
	for _, c := range []struct {
		name   string
		format smbstore.Format
		size   int64
		sum    string // of the whole disk; "" is zeroes
	}{
		{"iotest-dynamic-1G.vhdx", smbstore.VHDX, gib, "d3d112d8dab7fd360609f7d5a7b769904b7a2a7d7b6b8c535f65a23293c05478"},
		{"hyperv2012r2-dynamic.vhd", smbstore.VHD, 136365211648, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			img := sample(t, c.name)
			raw := filepath.Join(t.TempDir(), "a.raw")
			before := fileHash(t, img)
			if c.sum != "" {
				if got, err := ours(t, img, []window{{0, c.size}}); err != nil || got != c.sum {
					t.Errorf("we read sha256 %s, %v; want %s", got, err, c.sum)
				}
				qemuImg(t, "convert", "-f", qemuName(c.format), "-O", "raw", img, raw)
			}
			m := model(t, raw, c.size)
			sameContent(t, raw, c.format, c.size, true, true, img)
			if fileHash(t, img) != before {
				t.Error("reading has changed the file")
			}
			d := open(t, img)
			scatter(t, 4, d, m)
			must(t, d.Close())
			must(t, m.Close())
			mustBeSound(t, img, c.format, true)
			sameContent(t, raw, c.format, c.size, true, true, img)
		})
	}
}

// TestInteropChanged: what we resized, compacted and converted, the peers read.
func TestInteropChanged(t *testing.T) {
	const x, v = smbstore.VHDX, smbstore.VHD
	for _, s := range []shape{
		{x, 9*mib + 512, mib, 512, false}, {x, 9 * mib, mib, 512, true}, {x, 100 * gib, 2 * mib, 512, false},
		{x, 9*mib + 4096, mib, 4096, false}, {v, 9*mib + 512, 2 * mib, 512, false}, {v, 9 * mib, 0, 512, true},
	} {
		t.Run(s.String(), func(t *testing.T) { // not in parallel: as TestInteropChains
			dir := t.TempDir()
			name := "a." + string(s.format)
			img, raw := filepath.Join(dir, name), filepath.Join(dir, "a.raw")
			store, err := smbstore.OpenPath(t.Context(), dir, smbstore.Options{})
			must(t, err)
			d, m := s.create(t, img), model(t, raw, s.size)
			scatter(t, 1, d, m)
			must(t, d.Close())
			qemu, vhdi := s.byPeers()
			judge := func() {
				t.Helper()
				mustBeSound(t, img, s.format, qemu)
				sameContent(t, raw, s.format, m.Size(), qemu, vhdi, img)
			}
			resize := func(size int64) {
				t.Helper()
				if _, err := smbstore.ResizeDisk(t.Context(), store, name, smbstore.ResizeOptions{Size: size}); err != nil {
					t.Fatal(err)
				}
				must(t, m.Close())
				m = model(t, raw, size)
			}
			judge()
			resize(s.size + 33*mib) // more than a block of any of them
			judge()
			d = open(t, img)
			scatter(t, 2, d, m)
			must(t, d.Trim(t.Context(), s.size-2*mib, 35*mib))
			for _, dev := range []block.Device{d, m} { // so that the tail is free
				must(t, dev.WriteZeroes(t.Context(), s.size-2*mib, 35*mib, 0))
			}
			must(t, d.Close())
			judge()
			resize(s.size - mib - 4096)
			judge()
			d = open(t, img)
			for _, dev := range []block.Device{d, m} {
				must(t, dev.WriteZeroes(t.Context(), mib, min(4*mib, dev.Size()/2), 0))
			}
			if d, ok := d.(*vhdx.Disk); ok && !s.fixed {
				_, err := d.Compact(t.Context(), vhdx.CompactOptions{}, nil)
				must(t, err)
			}
			must(t, d.Close())
			judge()
			must(t, m.Close())
		})
	}
}
