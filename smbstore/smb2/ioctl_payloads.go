package smb2

// ValidateNegotiateInfoRequest is the input of FSCTL_VALIDATE_NEGOTIATE_INFO
// (MS-SMB2 2.2.31.4).
type ValidateNegotiateInfoRequest struct {
	Capabilities Capabilities
	GUID         GUID
	SecurityMode SecurityMode
	Dialects     []Dialect
}

const validateNegotiateFixed = 24

// Size in bytes.
func (r *ValidateNegotiateInfoRequest) Size() int {
	return validateNegotiateFixed + 2*len(r.Dialects)
}

// Encode writes the structure into b[:Size()].
func (r *ValidateNegotiateInfoRequest) Encode(b []byte) {
	w := writer{msg: b}
	w.u32(uint32(r.Capabilities))
	w.guid(r.GUID)
	w.u16(uint16(r.SecurityMode))
	w.u16(uint16(len(r.Dialects)))
	for _, d := range r.Dialects {
		w.u16(uint16(d))
	}
}

// Decode reads the structure.
func (r *ValidateNegotiateInfoRequest) Decode(b []byte) error {
	d := structure(b, "VALIDATE_NEGOTIATE_INFO request", validateNegotiateFixed)
	*r = ValidateNegotiateInfoRequest{
		Capabilities: Capabilities(d.u32()),
		GUID:         d.guid(),
		SecurityMode: SecurityMode(d.u16()),
	}
	r.Dialects = ids[Dialect](&d, d.u16())
	return d.err
}

// ValidateNegotiateInfoResponse is the output of FSCTL_VALIDATE_NEGOTIATE_INFO
// (MS-SMB2 2.2.32.6).
type ValidateNegotiateInfoResponse struct {
	Capabilities Capabilities
	GUID         GUID
	SecurityMode SecurityMode
	Dialect      Dialect
}

// Size in bytes.
func (*ValidateNegotiateInfoResponse) Size() int { return validateNegotiateFixed }

// Encode writes the structure into b[:Size()].
func (r *ValidateNegotiateInfoResponse) Encode(b []byte) {
	w := writer{msg: b}
	w.u32(uint32(r.Capabilities))
	w.guid(r.GUID)
	w.u16(uint16(r.SecurityMode))
	w.u16(uint16(r.Dialect))
}

// Decode reads the structure.
func (r *ValidateNegotiateInfoResponse) Decode(b []byte) error {
	d := structure(b, "VALIDATE_NEGOTIATE_INFO response", validateNegotiateFixed)
	*r = ValidateNegotiateInfoResponse{
		Capabilities: Capabilities(d.u32()),
		GUID:         d.guid(),
		SecurityMode: SecurityMode(d.u16()),
		Dialect:      Dialect(d.u16()),
	}
	return d.err
}

// NetworkResiliencyRequest is the input of FSCTL_LMR_REQUEST_RESILIENCY (MS-SMB2 2.2.31.3).
type NetworkResiliencyRequest struct {
	Timeout uint32 // ms
}

// Size in bytes.
func (*NetworkResiliencyRequest) Size() int { return 8 }

// Encode writes the structure into b[:Size()].
func (r *NetworkResiliencyRequest) Encode(b []byte) {
	w := writer{msg: b}
	w.u32(r.Timeout)
	w.u32(0)
}

// Decode reads the structure.
func (r *NetworkResiliencyRequest) Decode(b []byte) error {
	d := structure(b, "NETWORK_RESILIENCY_REQUEST", 8)
	r.Timeout = d.u32()
	return d.err
}

// Constants of FSCTL_SRV_READ_HASH (MS-SMB2 2.2.31.2).
const (
	HashTypePeerDist      uint32 = 0x00000001
	HashVersion1          uint32 = 0x00000001
	HashVersion2          uint32 = 0x00000002
	HashRetrieveHashBased uint32 = 0x00000001
	HashRetrieveFileBased uint32 = 0x00000002
)

// SnapshotArray is the output of FSCTL_SRV_ENUMERATE_SNAPSHOTS (MS-SMB2 2.2.32.2).
type SnapshotArray struct {
	NumberOfSnapshots uint32
	NumberReturned    uint32   // 0 where the caller's buffer is too small for all
	ArraySize         uint32   // bytes that all take in UTF-16
	Snapshots         []string // @GMT tokens
}

const snapshotArrayFixed = 12

// NewSnapshotArray is the answer that lists tokens in full.
func NewSnapshotArray(tokens []string) SnapshotArray {
	a := SnapshotArray{Snapshots: tokens}
	a.NumberOfSnapshots = uint32(len(tokens))
	a.NumberReturned = uint32(len(tokens))
	a.ArraySize = uint32(a.arraySize())
	return a
}

func (r *SnapshotArray) arraySize() int {
	n := 2
	for _, s := range r.Snapshots {
		n += SizeUTF16(s) + 2
	}
	return n
}

// Size in bytes.
func (r *SnapshotArray) Size() int {
	if len(r.Snapshots) == 0 {
		return snapshotArrayFixed
	}
	return snapshotArrayFixed + r.arraySize()
}

// Encode writes the structure into b[:Size()].
func (r *SnapshotArray) Encode(b []byte) {
	w := writer{msg: b}
	w.u32(r.NumberOfSnapshots)
	w.u32(r.NumberReturned)
	w.u32(r.ArraySize)
	for _, s := range r.Snapshots {
		w.text(s)
		w.u16(0)
	}
	if len(r.Snapshots) > 0 {
		w.u16(0)
	}
}

// Decode reads the structure. Bytes behind the tokens are left out.
func (r *SnapshotArray) Decode(b []byte) error {
	d := structure(b, "SRV_SNAPSHOT_ARRAY", snapshotArrayFixed)
	*r = SnapshotArray{NumberOfSnapshots: d.u32(), NumberReturned: d.u32(), ArraySize: d.u32()}
	rest := b[min(len(b), snapshotArrayFixed):]
	start := 0
	for i := 0; i+1 < len(rest) && d.err == nil && uint32(len(r.Snapshots)) < r.NumberReturned; i += 2 {
		if rest[i]|rest[i+1] == 0 {
			r.Snapshots = append(r.Snapshots, DecodeUTF16(rest[start:i]))
			start = i + 2
		}
	}
	if d.err == nil && uint32(len(r.Snapshots)) != r.NumberReturned {
		d.fail("NumberOfSnapShotsReturned", ErrBounds)
	}
	return d.err
}
