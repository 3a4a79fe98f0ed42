package vhdx

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
)

// GUID is 16 bytes as they lie in the file: three little-endian fields, then
// eight bytes.
type GUID [16]byte

// String is the usual upper-case form without braces.
func (g GUID) String() string {
	return fmt.Sprintf("%08X-%04X-%04X-%X-%X",
		binary.LittleEndian.Uint32(g[0:]), binary.LittleEndian.Uint16(g[4:]),
		binary.LittleEndian.Uint16(g[6:]), g[8:10], g[10:16])
}

// MarshalText implements encoding.TextMarshaler.
func (g GUID) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// newGUID returns a random (version 4) GUID.
func newGUID() GUID {
	var g GUID
	_, _ = rand.Read(g[:]) // never fails: crypto/rand
	g[7] = g[7]&0x0f | 0x40
	g[8] = g[8]&0x3f | 0x80
	return g
}

func guid(a uint32, b, c uint16, rest uint64) GUID {
	var g GUID
	binary.LittleEndian.PutUint32(g[0:], a)
	binary.LittleEndian.PutUint16(g[4:], b)
	binary.LittleEndian.PutUint16(g[6:], c)
	binary.BigEndian.PutUint64(g[8:], rest)
	return g
}

// Regions (MS-VHDX 2.2.3.2) and metadata items (2.6.2).
var (
	guidBAT      = guid(0x2DC27766, 0xF623, 0x4200, 0x9D64115E9BFD4A08)
	guidMetadata = guid(0x8B7CA206, 0x4790, 0x4B9A, 0xB8FE575F050F886E)

	guidFileParameters     = guid(0xCAA16737, 0xFA36, 0x4D43, 0xB3B633F0AA44E76B)
	guidVirtualDiskSize    = guid(0x2FA54224, 0xCD1B, 0x4876, 0xB2115DBED83BF4B8)
	guidVirtualDiskID      = guid(0xBECA12AB, 0xB2E6, 0x4523, 0x93EFC309E000C746)
	guidLogicalSectorSize  = guid(0x8141BF1D, 0xA96F, 0x4709, 0xBA47F233A8FAAB5F)
	guidPhysicalSectorSize = guid(0xCDA348C7, 0x445D, 0x4471, 0x9CC9E9885251C556)
	guidParentLocator      = guid(0xA8D35F2D, 0xB30B, 0x454D, 0xABF7D3D84834AB0C)
)
