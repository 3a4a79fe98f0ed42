package smbstore

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/diskfs/go-diskfs/partition/mbr"

	"lunless/smbstore/block"
)

// memory is a disk in memory that counts what is read from it.
type memory struct {
	block.Device // nil: nothing but reading is used
	content      []byte
	read         int64
}

func (m *memory) Size() int64 { return int64(len(m.content)) }

func (m *memory) ReadAt(_ context.Context, p []byte, off int64) error {
	if err := block.CheckRange(m.Size(), off, int64(len(p))); err != nil {
		return err
	}
	m.read += int64(len(p))
	copy(p, m.content[off:])
	return nil
}

const lookSize = 4 << 20

// gptImage is a disk whose GPT another implementation has written.
func gptImage(t testing.TB, sector int, code bool, parts ...*gpt.Partition) []byte {
	t.Helper()
	for i, p := range parts {
		p.Index, p.Start, p.End = i+1, uint64(64+64*i), uint64(64+64*i+63)
	}
	table := gpt.Table{LogicalSectorSize: sector, PhysicalSectorSize: sector, ProtectiveMBR: true, Partitions: parts}
	b := written(t, func(f *os.File) error { return table.Write(f, lookSize) })
	if code {
		copy(b, "\xeb\x63\x90 code")
	}
	return b
}

func mbrImage(t testing.TB, code bool, parts ...*mbr.Partition) []byte {
	t.Helper()
	for i, p := range parts {
		p.Start, p.Size = uint32(64+64*i), 64
	}
	table := mbr.Table{LogicalSectorSize: 512, PhysicalSectorSize: 512, Partitions: parts}
	b := written(t, func(f *os.File) error { return table.Write(f, lookSize) })
	if code {
		copy(b, "\xeb\x63\x90 code")
	}
	return b
}

func written(t testing.TB, write func(f *os.File) error) []byte {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err == nil {
		err = f.Truncate(lookSize)
	}
	if err == nil {
		err = write(f)
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(f.Name())
	if err != nil || len(b) != lookSize || f.Close() != nil {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	return b
}

func TestLookBoot(t *testing.T) {
	esp := func() *gpt.Partition { return &gpt.Partition{Type: gpt.EFISystemPartition, Name: "ESP"} }
	reserved := func() *gpt.Partition { return &gpt.Partition{Type: gpt.MicrosoftReserved} }
	data := func() *gpt.Partition { return &gpt.Partition{Type: gpt.MicrosoftBasicData} }
	grub := func() *gpt.Partition { return &gpt.Partition{Type: gpt.BIOSBoot} }
	linux := func() *gpt.Partition { return &gpt.Partition{Type: gpt.LinuxFilesystem} }
	legacy := &gpt.Partition{Type: gpt.LinuxFilesystem, Attributes: legacyBootAt}
	damaged := func(b []byte, at ...int) []byte {
		for _, i := range at {
			b[i] ^= 1
		}
		return b
	}
	const backup = lookSize - 512
	for _, c := range []struct {
		name   string
		disk   []byte
		want   string
		reason string
	}{
		{"Hyper-V's generation 2", gptImage(t, 512, false, reserved(), esp(), data()), UEFI, "EFI system partition"},
		{"the same with Windows's boot code", gptImage(t, 512, true, esp(), reserved(), data()), UEFI, "EFI system partition"},
		{"sectors of 4096 bytes", gptImage(t, 4096, false, esp(), data()), UEFI, "EFI system partition"},
		{"a cloud's, for both", gptImage(t, 512, true, linux(), grub(), esp()), BIOS, "BIOS boot partition"},
		{"for both, without boot code", gptImage(t, 512, false, linux(), grub(), esp()), UEFI, "EFI system partition"},
		{"GRUB on GPT", gptImage(t, 512, true, grub(), linux()), BIOS, "BIOS boot partition"},
		{"SYSLINUX on GPT", gptImage(t, 512, true, legacy), BIOS, "for a BIOS to boot"},
		{"data on GPT", gptImage(t, 512, false, data()), "", "neither"},
		{"the first header damaged", damaged(gptImage(t, 512, false, esp()), 512+8), UEFI, "EFI system partition"},
		{"the first entries damaged", damaged(gptImage(t, 512, false, esp()), 1024), UEFI, "EFI system partition"},
		{"both damaged", damaged(gptImage(t, 512, false, esp()), 512+40, backup+40), "", "damaged"},
		{"Hyper-V's generation 1", mbrImage(t, true, &mbr.Partition{Type: mbr.NTFS, Bootable: true}, &mbr.Partition{Type: mbr.NTFS}), BIOS, "active"},
		{"GRUB on MBR, nothing active", mbrImage(t, true, &mbr.Partition{Type: mbr.Linux}), BIOS, "boot code"},
		{"active, no code", mbrImage(t, false, &mbr.Partition{Type: mbr.Linux, Bootable: true}), BIOS, "no boot code"},
		{"UEFI on MBR", mbrImage(t, false, &mbr.Partition{Type: 0xef}), UEFI, "EFI system partition"},
		{"data on MBR", mbrImage(t, false, &mbr.Partition{Type: mbr.NTFS}), "", "nothing that boots"},
		{"a file system", append(append([]byte("\xeb\x3c\x90mkfs.fat"), make([]byte, 499)...), 0x55, 0xaa), "", "nothing that boots"},
		{"a file system's code", append(slicesRepeat("\xeb\x3c\x90mkfs.fat text", 510), 0x55, 0xaa), "", "something else"},
		{"blank", make([]byte, lookSize), "", "no partition table"},
		{"tiny", make([]byte, 511), "", "too small"},
		{"nothing", nil, "", "too small"},
	} {
		dev := &memory{content: c.disk}
		got, err := LookBoot(t.Context(), dev)
		if err != nil || got.Firmware != c.want || !strings.Contains(got.Reason, c.reason) {
			t.Errorf("%s: %+v, %v; want %q, because of %q", c.name, got, err, c.want, c.reason)
		}
	}
}

func slicesRepeat(s string, n int) []byte { return []byte(strings.Repeat(s, n/len(s)+1)[:n]) }

func TestChooseFirmware(t *testing.T) {
	for _, c := range []struct{ look, asked, want, why string }{
		{UEFI, "", UEFI, "because"},
		{BIOS, "", BIOS, "because"},
		{"", "", UEFI, "does not tell: because"},
		{BIOS, UEFI, UEFI, "asked for; but the disk looks like bios: because"},
		{UEFI, UEFI, UEFI, "as asked for"},
		{"", BIOS, BIOS, "as asked for"},
	} {
		got, why := BootLook{c.look, "because"}.ChooseFirmware(c.asked)
		if got != c.want || !strings.Contains(why, c.why) {
			t.Errorf("%+v: %s, %s", c, got, why)
		}
	}
}

// An imported disk is looked at for the VM's firmware, unless one is asked for.
func TestImportChoosesFirmware(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "image.raw")
	if err := os.WriteFile(image, gptImage(t, 512, false, &gpt.Partition{Type: gpt.EFISystemPartition}), 0o600); err != nil {
		t.Fatal(err)
	}
	s := localStoreAt(t, dir)
	for i, asked := range []string{"", UEFI, BIOS} {
		var chosen, why string
		h, err := ImportHome(t.Context(), s, "vm"+asked, ImportOptions{Image: Location{Path: image},
			Config: Config{CPUs: 1, Memory: 1 << 20, Firmware: asked}, Chosen: func(f, w string) { chosen, why = f, w }})
		if err != nil {
			t.Fatal(err)
		}
		c, err := h.Config()
		want := []string{UEFI, UEFI, BIOS}[i]
		if err != nil || c.Firmware != want || chosen != want || why == "" {
			t.Errorf("asked for %q: %q, %q (%s), %v; want %q", asked, c.Firmware, chosen, why, err, want)
		}
	}
}

// mostLooked is what a look may read: two headers and tables for each size of sectors.
const mostLooked = 512 + 4*(4096+maxGPT)

func FuzzLookBoot(f *testing.F) {
	short := gptImage(f, 512, true, &gpt.Partition{Type: gpt.EFISystemPartition}, &gpt.Partition{Type: gpt.BIOSBoot})
	binary.LittleEndian.PutUint32(short[512+80:], 2) // partitions in its table
	active := mbrImage(f, true, &mbr.Partition{Type: mbr.Linux, Bootable: true})
	for _, sums := range []bool{false, true} {
		f.Add(short[436:512], short[512:512+gptHeader], short[1024:1024+2*gptEntry], sums)
		f.Add(active[436:512], []byte{}, []byte{}, sums)
	}
	f.Fuzz(func(t *testing.T, table, header, entries []byte, sums bool) {
		disk := make([]byte, 128<<10)
		copy(disk[436:512], table)
		copy(disk[512:], header)
		copy(disk[1024:], entries)
		if sums { // else hardly anything gets past them
			for _, sector := range []int{512, 4096} {
				fixSums(disk, sector)
			}
		}
		dev := &memory{content: disk}
		got, err := LookBoot(t.Context(), dev)
		if err != nil || dev.read > mostLooked {
			t.Fatalf("%v after %d bytes", err, dev.read)
		}
		if got.Reason == "" || got.Firmware != "" && got.Firmware != UEFI && got.Firmware != BIOS {
			t.Fatalf("%+v", got)
		}
	})
}

// fixSums makes a GPT's checksums right, where there is room for what it says.
func fixSums(disk []byte, sector int) {
	if len(disk) < 2*sector {
		return
	}
	h, le := disk[sector:2*sector], binary.LittleEndian
	first, count, each := le.Uint64(h[72:]), uint64(le.Uint32(h[80:])), uint64(le.Uint32(h[84:]))
	if first < 1<<20 && count < 1<<20 && each < 1<<20 && first*uint64(sector)+count*each <= uint64(len(disk)) {
		at := first * uint64(sector)
		le.PutUint32(h[88:], crc32.ChecksumIEEE(disk[at:at+count*each]))
	}
	if n := le.Uint32(h[12:]); n >= gptHeader && n <= uint32(sector) {
		clear(h[16:20])
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:n]))
	}
}
