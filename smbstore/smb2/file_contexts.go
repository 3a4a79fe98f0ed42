package smb2

// EABufferContext carries extended attributes for a new file, a list of
// FILE_FULL_EA_INFORMATION (MS-SMB2 2.2.13.2.1, MS-FSCC 2.4.15).
func EABufferContext(eas []byte) CreateContext {
	return CreateContext{CreateContextEABuffer, eas}
}

// SDBufferContext carries the security descriptor of a new file, self-relative
// (MS-SMB2 2.2.13.2.2, MS-DTYP 2.4.6).
func SDBufferContext(sd []byte) CreateContext {
	return CreateContext{CreateContextSDBuffer, sd}
}

// context starts at the data of a create context, which must be size bytes.
func context(data []byte, what string, size int) reader {
	r := structure(data, what, size)
	if len(data) > size {
		r.fail("DataLength", ErrValue)
	}
	return r
}

// AllocationSize is the data of "AlSi" (MS-SMB2 2.2.13.2.6).
type AllocationSize struct{ AllocationSize uint64 } // bytes

// Context encodes the request.
func (c *AllocationSize) Context() CreateContext {
	return CreateContext{CreateContextAllocationSize, le.AppendUint64(nil, c.AllocationSize)}
}

// Decode reads the data.
func (c *AllocationSize) Decode(data []byte) error {
	r := context(data, "allocation size", 8)
	c.AllocationSize = r.u64()
	return r.err
}

// MaximalAccessRequest is the data of "MxAc" in a request, which may be empty
// (MS-SMB2 2.2.13.2.5).
type MaximalAccessRequest struct {
	HasTimestamp bool
	Timestamp    Filetime
}

// Context encodes the request.
func (c *MaximalAccessRequest) Context() CreateContext {
	if !c.HasTimestamp {
		return CreateContext{CreateContextMaximalAccess, nil}
	}
	return CreateContext{CreateContextMaximalAccess, le.AppendUint64(nil, uint64(c.Timestamp))}
}

// Decode reads the data.
func (c *MaximalAccessRequest) Decode(data []byte) error {
	*c = MaximalAccessRequest{}
	if len(data) == 0 {
		return nil
	}
	r := context(data, "maximal access request", 8)
	*c = MaximalAccessRequest{HasTimestamp: true, Timestamp: Filetime(r.u64())}
	return r.err
}

// MaximalAccessResponse is the data of "MxAc" in a response (MS-SMB2 2.2.14.2.5).
type MaximalAccessResponse struct {
	QueryStatus   Status
	MaximalAccess AccessMask // valid with StatusSuccess
}

// Context encodes the response.
func (c *MaximalAccessResponse) Context() CreateContext {
	b := le.AppendUint32(nil, uint32(c.QueryStatus))
	return CreateContext{CreateContextMaximalAccess, le.AppendUint32(b, uint32(c.MaximalAccess))}
}

// Decode reads the data.
func (c *MaximalAccessResponse) Decode(data []byte) error {
	r := context(data, "maximal access response", 8)
	*c = MaximalAccessResponse{QueryStatus: Status(r.u32()), MaximalAccess: AccessMask(r.u32())}
	return r.err
}

// Timewarp is the data of "TWrp": which earlier version to open (MS-SMB2 2.2.13.2.7).
type Timewarp struct{ Timestamp Filetime }

// Context encodes the request.
func (c *Timewarp) Context() CreateContext {
	return CreateContext{CreateContextTimewarp, le.AppendUint64(nil, uint64(c.Timestamp))}
}

// Decode reads the data.
func (c *Timewarp) Decode(data []byte) error {
	r := context(data, "timewarp token", 8)
	c.Timestamp = Filetime(r.u64())
	return r.err
}

// OnDiskIDRequest is "QFid" in a request: it has no data (MS-SMB2 2.2.13.2.9).
func OnDiskIDRequest() CreateContext { return CreateContext{CreateContextOnDiskID, nil} }

// OnDiskID is the data of "QFid" in a response (MS-SMB2 2.2.14.2.9).
type OnDiskID struct {
	DiskFileID uint64
	VolumeID   uint64
}

// Context encodes the response.
func (c *OnDiskID) Context() CreateContext {
	b := le.AppendUint64(make([]byte, 0, 32), c.DiskFileID)
	b = le.AppendUint64(b, c.VolumeID)
	return CreateContext{CreateContextOnDiskID, b[:32]}
}

// Decode reads the data.
func (c *OnDiskID) Decode(data []byte) error {
	r := context(data, "on-disk id", 32)
	*c = OnDiskID{DiskFileID: r.u64(), VolumeID: r.u64()}
	return r.err
}
