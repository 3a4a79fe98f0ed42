package smbstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"lunless/smbstore/block"
)

// Firmwares of a VM: what Config.Firmware says.
const (
	UEFI = "uefi"
	BIOS = "bios"
)

// BootLook is what a disk's partition table says of the firmware that boots it.
type BootLook struct {
	Firmware string // UEFI, BIOS, or "" if nothing tells
	Reason   string // for people
}

// LookBoot looks at a disk's partition table, a GPT (UEFI 5.3) or an MBR's (UEFI 5.2),
// of which it reads at most some MiB. What is damaged, or makes no sense, tells nothing.
// Errors are those of reading.
func LookBoot(ctx context.Context, dev block.Device) (BootLook, error) {
	mbr := make([]byte, 512)
	if dev.Size() < int64(len(mbr)) {
		return BootLook{Reason: "it is too small for a partition table"}, nil
	}
	if err := dev.ReadAt(ctx, mbr, 0); err != nil {
		return BootLook{}, err
	}
	// A raw image does not say what sectors it was written with.
	for _, sector := range []int64{512, 4096} {
		last := dev.Size()/sector - 1
		for _, at := range []int64{1, last} { // the backup is where the first one is damaged
			table, err := readGPT(ctx, dev, at, sector)
			if err != nil {
				return BootLook{}, err
			}
			if table != nil {
				return table.look(mbr), nil
			}
		}
	}
	return lookMBR(mbr), nil
}

// Types of GPT partitions, as they lie on disk: the first three fields of a GUID are
// little-endian.
var (
	typeESP      = [16]byte{0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b} // C12A7328-F81F-11D2-BA4B-00A0C93EC93B
	typeBIOSBoot = [16]byte([]byte("Hah!IdontNeedEFI"))                                                                     // 21686148-6449-6E6F-744E-656564454649
)

// gptTable is what of a GPT matters to whoever boots.
type gptTable struct{ esp, biosBoot, legacy bool }

// Bounds of a GPT.
const (
	gptHeader    = 92      // bytes of a header at least
	gptEntry     = 128     // bytes of an entry at least, and a multiple
	maxGPTEntry  = 4096    // bytes
	maxGPT       = 1 << 20 // bytes of all entries
	legacyBootAt = 1 << 2  // attribute of a partition that a BIOS boots
)

// readGPT reads the GPT whose header is in a sector; nil without an error if there is
// no whole one.
func readGPT(ctx context.Context, dev block.Device, at, sector int64) (*gptTable, error) {
	end := dev.Size() / sector
	if at < 1 || at >= end {
		return nil, nil
	}
	h := make([]byte, sector)
	if err := dev.ReadAt(ctx, h, at*sector); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	size := int64(le.Uint32(h[12:]))
	if string(h[:8]) != "EFI PART" || size < gptHeader || size > sector || le.Uint64(h[24:]) != uint64(at) {
		return nil, nil
	}
	sum := le.Uint32(h[16:])
	clear(h[16:20])
	first, count, each := le.Uint64(h[72:]), int64(le.Uint32(h[80:])), int64(le.Uint32(h[84:]))
	if crc32.ChecksumIEEE(h[:size]) != sum || each < gptEntry || each > maxGPTEntry || each%gptEntry != 0 ||
		count < 1 || count > maxGPT/each || first < 2 || first >= uint64(end) || int64(first)*sector > dev.Size()-count*each {
		return nil, nil
	}
	entries := make([]byte, count*each)
	if err := dev.ReadAt(ctx, entries, int64(first)*sector); err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(entries) != le.Uint32(h[88:]) {
		return nil, nil
	}
	t := &gptTable{}
	for e := range slices.Chunk(entries, int(each)) {
		from, to := le.Uint64(e[32:]), le.Uint64(e[40:])
		if block.IsZero(e[:16]) || from > to || to >= uint64(end) {
			continue // unused, or outside the disk
		}
		t.esp = t.esp || bytes.Equal(e[:16], typeESP[:])
		t.biosBoot = t.biosBoot || bytes.Equal(e[:16], typeBIOSBoot[:])
		t.legacy = t.legacy || le.Uint64(e[48:])&legacyBootAt != 0
	}
	return t, nil
}

// look says what boots the disk. A BIOS starts the code in the first sector.
func (t *gptTable) look(mbr []byte) BootLook {
	code := hasBootCode(mbr)
	switch {
	case t.biosBoot && code:
		return BootLook{BIOS, "its GPT has a BIOS boot partition, and there is boot code in its first sector"}
	case t.esp:
		return BootLook{UEFI, "its GPT has an EFI system partition, and no BIOS boots it"}
	case t.biosBoot:
		return BootLook{BIOS, "its GPT has a BIOS boot partition and no EFI system partition"}
	case t.legacy && code:
		return BootLook{BIOS, "its GPT has a partition for a BIOS to boot and no EFI system partition"}
	}
	return BootLook{Reason: "its GPT has neither an EFI system partition nor one that a BIOS boots"}
}

// hasBootCode tells whether a first sector is one that a BIOS starts.
func hasBootCode(mbr []byte) bool {
	const code = 440 // bytes before the disk's signature
	return mbr[510] == 0x55 && mbr[511] == 0xaa && !block.IsZero(mbr[:code])
}

// lookMBR says what boots a disk without a GPT.
func lookMBR(mbr []byte) BootLook {
	if mbr[510] != 0x55 || mbr[511] != 0xaa {
		return BootLook{Reason: "it has no partition table"}
	}
	const table, active, protective, esp = 446, 0x80, 0xee, 0xef
	var used, hasActive, hasESP, gpt bool
	for e := range slices.Chunk(mbr[table:table+4*16], 16) {
		flag, kind := e[0], e[4]
		if flag&^active != 0 {
			return BootLook{Reason: "it has no partition table: its first sector is something else's"}
		}
		if kind == 0 || binary.LittleEndian.Uint32(e[12:]) == 0 {
			continue
		}
		used = true
		gpt = gpt || kind == protective
		hasESP = hasESP || kind == esp
		hasActive = hasActive || flag == active && kind != protective
	}
	switch code := hasBootCode(mbr); {
	case hasActive && code:
		return BootLook{BIOS, "its MBR has an active partition"}
	case gpt:
		return BootLook{Reason: "its GPT is damaged"}
	case hasESP:
		return BootLook{UEFI, "its MBR has an EFI system partition and none that is active"}
	case used && code:
		return BootLook{BIOS, "its MBR has boot code and no EFI system partition"}
	case hasActive:
		return BootLook{BIOS, "its MBR has an active partition, though no boot code"}
	}
	return BootLook{Reason: "its partition table has nothing that boots"}
}

// ChooseFirmware is the firmware for a VM that shall boot from a disk: what was asked
// for, if anything was, else what the disk says, else UEFI. why is for people.
func (l BootLook) ChooseFirmware(asked string) (firmware, why string) {
	switch {
	case asked != "" && l.Firmware != "" && asked != l.Firmware:
		return asked, fmt.Sprintf("as asked for; but the disk looks like %s: %s", l.Firmware, l.Reason)
	case asked != "":
		return asked, "as asked for"
	case l.Firmware != "":
		return l.Firmware, l.Reason
	}
	return UEFI, "the disk does not tell: " + l.Reason
}
