package smb2

const (
	leaseV1Size = 32
	leaseV2Size = 52
)

// Lease is the data of "RqLs", request and response, version 1 (MS-SMB2
// 2.2.13.2.8, 2.2.14.2.10) and version 2 (2.2.13.2.10, 2.2.14.2.11). Decode tells
// the version by the length.
type Lease struct {
	Version        int // 1 or 2
	LeaseKey       GUID
	LeaseState     LeaseState
	Flags          LeaseFlags
	LeaseDuration  uint64 // reserved
	ParentLeaseKey GUID   // version 2, valid with LeaseFlagParentLeaseKeySet
	Epoch          uint16 // version 2
}

// Context encodes the request or response.
func (c *Lease) Context() CreateContext {
	size := leaseV1Size
	if c.Version == 2 {
		size = leaseV2Size
	}
	w := writer{msg: make([]byte, size)}
	w.guid(c.LeaseKey)
	w.u32(uint32(c.LeaseState))
	w.u32(uint32(c.Flags))
	w.u64(c.LeaseDuration)
	if c.Version == 2 {
		w.guid(c.ParentLeaseKey)
		w.u16(c.Epoch)
		w.u16(0)
	}
	return CreateContext{CreateContextLease, w.msg}
}

// Decode reads the data.
func (c *Lease) Decode(data []byte) error {
	size, version := leaseV1Size, 1
	if len(data) > leaseV1Size {
		size, version = leaseV2Size, 2
	}
	r := context(data, "lease", size)
	*c = Lease{
		Version:       version,
		LeaseKey:      r.guid(),
		LeaseState:    LeaseState(r.u32()),
		Flags:         LeaseFlags(r.u32()),
		LeaseDuration: r.u64(),
	}
	if version == 2 {
		c.ParentLeaseKey = r.guid()
		c.Epoch = r.u16()
	}
	return r.err
}
