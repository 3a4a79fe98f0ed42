package fscc

// STORAGE_OFFLOAD_TOKEN_TYPE_ZERO_DATA is the well-known token of zeroes (MS-FSCC 2.1.11).
const STORAGE_OFFLOAD_TOKEN_TYPE_ZERO_DATA = 0xFFFF0001

// OffloadToken is STORAGE_OFFLOAD_TOKEN (MS-FSCC 2.1.11) as it stands on the wire, big-endian type first.
type OffloadToken [512]byte

// Type returns the token's type.
func (t *OffloadToken) Type() uint32 {
	return uint32(t[0])<<24 | uint32(t[1])<<16 | uint32(t[2])<<8 | uint32(t[3])
}

// OffloadReadInput is FSCTL_OFFLOAD_READ_INPUT (MS-FSCC 2.3.41).
type OffloadReadInput struct {
	Flags           uint32
	TokenTimeToLive uint32 // ms, 0 the server's choice
	FileOffset      uint64
	CopyLength      uint64 // bytes
}

const offloadReadInputSize = 32

func (OffloadReadInput) Size() int { return offloadReadInputSize }

func (i *OffloadReadInput) Encode(dst []byte) {
	w := writer{b: dst}
	w.u32(offloadReadInputSize)
	w.u32(i.Flags)
	w.u32(i.TokenTimeToLive)
	w.u32(0)
	w.u64(i.FileOffset)
	w.u64(i.CopyLength)
}

// Decode refuses a Size field that is not the structure's.
func (i *OffloadReadInput) Decode(b []byte) error {
	r := reader{b: b}
	r.check(r.u32() == offloadReadInputSize)
	i.Flags, i.TokenTimeToLive = r.u32(), r.u32()
	r.skip(4)
	i.FileOffset, i.CopyLength = r.u64(), r.u64()
	return r.done("FSCTL_OFFLOAD_READ_INPUT")
}

// OFFLOAD_READ_FLAG_ALL_ZERO_BEYOND_CURRENT_RANGE says the rest of the file reads as zeroes (MS-FSCC 2.3.42).
const OFFLOAD_READ_FLAG_ALL_ZERO_BEYOND_CURRENT_RANGE = 0x00000001

// OffloadReadOutput is FSCTL_OFFLOAD_READ_OUTPUT (MS-FSCC 2.3.42).
type OffloadReadOutput struct {
	Flags          uint32
	TransferLength uint64 // bytes the token stands for
	Token          OffloadToken
}

const offloadReadOutputSize = 528

func (OffloadReadOutput) Size() int { return offloadReadOutputSize }

func (i *OffloadReadOutput) Encode(dst []byte) {
	w := writer{b: dst}
	w.u32(offloadReadOutputSize)
	w.u32(i.Flags)
	w.u64(i.TransferLength)
	w.bytes(i.Token[:])
}

// Decode refuses a Size field that is not the structure's.
func (i *OffloadReadOutput) Decode(b []byte) error {
	r := reader{b: b}
	r.check(r.u32() == offloadReadOutputSize)
	i.Flags, i.TransferLength = r.u32(), r.u64()
	copy(i.Token[:], r.take(len(i.Token)))
	return r.done("FSCTL_OFFLOAD_READ_OUTPUT")
}

// OffloadWriteInput is FSCTL_OFFLOAD_WRITE_INPUT (MS-FSCC 2.3.43).
type OffloadWriteInput struct {
	Flags          uint32
	FileOffset     uint64
	CopyLength     uint64 // bytes
	TransferOffset uint64 // from the start of what the token stands for
	Token          OffloadToken
}

const offloadWriteInputSize = 544

func (OffloadWriteInput) Size() int { return offloadWriteInputSize }

func (i *OffloadWriteInput) Encode(dst []byte) {
	w := writer{b: dst}
	w.u32(offloadWriteInputSize)
	w.u32(i.Flags)
	w.u64(i.FileOffset)
	w.u64(i.CopyLength)
	w.u64(i.TransferOffset)
	w.bytes(i.Token[:])
}

// Decode refuses a Size field that is not the structure's.
func (i *OffloadWriteInput) Decode(b []byte) error {
	r := reader{b: b}
	r.check(r.u32() == offloadWriteInputSize)
	i.Flags, i.FileOffset, i.CopyLength, i.TransferOffset = r.u32(), r.u64(), r.u64(), r.u64()
	copy(i.Token[:], r.take(len(i.Token)))
	return r.done("FSCTL_OFFLOAD_WRITE_INPUT")
}

// OffloadWriteOutput is FSCTL_OFFLOAD_WRITE_OUTPUT (MS-FSCC 2.3.44).
type OffloadWriteOutput struct {
	Flags         uint32
	LengthWritten uint64 // bytes
}

const offloadWriteOutputSize = 16

func (OffloadWriteOutput) Size() int { return offloadWriteOutputSize }

func (i *OffloadWriteOutput) Encode(dst []byte) {
	w := writer{b: dst}
	w.u32(offloadWriteOutputSize)
	w.u32(i.Flags)
	w.u64(i.LengthWritten)
}

// Decode refuses a Size field that is not the structure's.
func (i *OffloadWriteOutput) Decode(b []byte) error {
	r := reader{b: b}
	r.check(r.u32() == offloadWriteOutputSize)
	i.Flags, i.LengthWritten = r.u32(), r.u64()
	return r.done("FSCTL_OFFLOAD_WRITE_OUTPUT")
}
