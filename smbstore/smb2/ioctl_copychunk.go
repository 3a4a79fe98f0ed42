package smb2

// ResumeKey names an open as the source of a server-side copy (MS-SMB2 2.2.32.3).
type ResumeKey [24]byte

// ResumeKeyResponse is the output of FSCTL_SRV_REQUEST_RESUME_KEY (MS-SMB2 2.2.32.3).
type ResumeKeyResponse struct {
	ResumeKey ResumeKey
	Context   []byte // unused
}

// ResumeKeyResponseSize is the output without context, bytes.
const ResumeKeyResponseSize = 28

// Size in bytes.
func (r *ResumeKeyResponse) Size() int { return ResumeKeyResponseSize + len(r.Context) }

// Encode writes the structure into b[:Size()].
func (r *ResumeKeyResponse) Encode(b []byte) {
	w := writer{msg: b}
	w.bytes(r.ResumeKey[:])
	w.u32(uint32(len(r.Context)))
	w.bytes(r.Context)
}

// Decode reads the structure. Servers send more than they count; that is left out.
func (r *ResumeKeyResponse) Decode(b []byte) error {
	d := structure(b, "resume key", ResumeKeyResponseSize)
	copy(r.ResumeKey[:], d.take(24))
	r.Context = d.view("Context", ResumeKeyResponseSize, d.u32())
	return d.err
}

// CopychunkChunk is one range of a server-side copy (MS-SMB2 2.2.31.1.1).
type CopychunkChunk struct {
	SourceOffset uint64 // bytes, as the two below
	TargetOffset uint64
	Length       uint32
}

// CopychunkCopy is the input of FSCTL_SRV_COPYCHUNK and _WRITE (MS-SMB2 2.2.31.1).
type CopychunkCopy struct {
	SourceKey ResumeKey
	Chunks    []CopychunkChunk
}

const (
	copychunkFixed = 32
	copychunkChunk = 24
)

// Size in bytes.
func (r *CopychunkCopy) Size() int { return copychunkFixed + copychunkChunk*len(r.Chunks) }

// Encode writes the structure into b[:Size()].
func (r *CopychunkCopy) Encode(b []byte) {
	w := writer{msg: b}
	w.bytes(r.SourceKey[:])
	w.u32(uint32(len(r.Chunks)))
	w.u32(0)
	for _, c := range r.Chunks {
		w.u64(c.SourceOffset)
		w.u64(c.TargetOffset)
		w.u32(c.Length)
		w.u32(0)
	}
}

// Decode reads the structure.
func (r *CopychunkCopy) Decode(b []byte) error {
	*r = CopychunkCopy{}
	d := structure(b, "SRV_COPYCHUNK_COPY", copychunkFixed)
	copy(r.SourceKey[:], d.take(24))
	count := uint64(d.u32())
	d.skip(4)
	if d.err == nil && count*copychunkChunk > uint64(len(b)-d.off) {
		d.fail("ChunkCount", ErrBounds)
	}
	if d.err != nil || count == 0 {
		return d.err
	}
	r.Chunks = make([]CopychunkChunk, count)
	for i := range r.Chunks {
		r.Chunks[i] = CopychunkChunk{SourceOffset: d.u64(), TargetOffset: d.u64(), Length: d.u32()}
		d.skip(4)
	}
	return d.err
}

// CopychunkResponse is the output of FSCTL_SRV_COPYCHUNK and _WRITE. With
// STATUS_INVALID_PARAMETER it says what the server would accept: chunks, bytes in
// one, bytes in all (MS-SMB2 2.2.32.1).
type CopychunkResponse struct {
	ChunksWritten     uint32
	ChunkBytesWritten uint32
	TotalBytesWritten uint32
}

// Size in bytes.
func (*CopychunkResponse) Size() int { return 12 }

// Encode writes the structure into b[:Size()].
func (r *CopychunkResponse) Encode(b []byte) {
	w := writer{msg: b}
	w.u32(r.ChunksWritten)
	w.u32(r.ChunkBytesWritten)
	w.u32(r.TotalBytesWritten)
}

// Decode reads the structure.
func (r *CopychunkResponse) Decode(b []byte) error {
	d := structure(b, "SRV_COPYCHUNK_RESPONSE", 12)
	*r = CopychunkResponse{ChunksWritten: d.u32(), ChunkBytesWritten: d.u32(), TotalBytesWritten: d.u32()}
	return d.err
}
