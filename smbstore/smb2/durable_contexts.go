package smb2

// DurableFlags of version 2 durable handles (MS-SMB2 2.2.13.2.11).
type DurableFlags uint32

// DurableFlagPersistent asks for, or grants, a persistent handle.
const DurableFlagPersistent DurableFlags = 0x00000002

// DurableRequest is the data of "DHnQ" in a request (MS-SMB2 2.2.13.2.3).
type DurableRequest struct{}

// Context encodes the request.
func (DurableRequest) Context() CreateContext {
	return CreateContext{CreateContextDurableRequest, make([]byte, 16)}
}

// Decode checks the data.
func (*DurableRequest) Decode(data []byte) error {
	r := context(data, "durable handle request", 16)
	return r.err
}

// DurableResponse is the data of "DHnQ" in a response (MS-SMB2 2.2.14.2.3).
type DurableResponse struct{}

// Context encodes the response.
func (DurableResponse) Context() CreateContext {
	return CreateContext{CreateContextDurableRequest, make([]byte, 8)}
}

// Decode checks the data.
func (*DurableResponse) Decode(data []byte) error {
	r := context(data, "durable handle response", 8)
	return r.err
}

// DurableReconnect is the data of "DHnC" (MS-SMB2 2.2.13.2.4).
type DurableReconnect struct{ FileID FileID }

// Context encodes the request.
func (c *DurableReconnect) Context() CreateContext {
	w := writer{msg: make([]byte, 16)}
	w.fileID(c.FileID)
	return CreateContext{CreateContextDurableReconnect, w.msg}
}

// Decode reads the data.
func (c *DurableReconnect) Decode(data []byte) error {
	r := context(data, "durable handle reconnect", 16)
	c.FileID = r.fileID()
	return r.err
}

// DurableRequestV2 is the data of "DH2Q" in a request (MS-SMB2 2.2.13.2.11).
type DurableRequestV2 struct {
	Timeout    uint32 // ms; 0 leaves it to the server
	Flags      DurableFlags
	CreateGUID GUID
}

// Context encodes the request.
func (c *DurableRequestV2) Context() CreateContext {
	w := writer{msg: make([]byte, 32)}
	w.u32(c.Timeout)
	w.u32(uint32(c.Flags))
	w.u64(0)
	w.guid(c.CreateGUID)
	return CreateContext{CreateContextDurableRequestV2, w.msg}
}

// Decode reads the data.
func (c *DurableRequestV2) Decode(data []byte) error {
	r := context(data, "durable handle request version 2", 32)
	*c = DurableRequestV2{Timeout: r.u32(), Flags: DurableFlags(r.u32())}
	r.skip(8)
	c.CreateGUID = r.guid()
	return r.err
}

// DurableResponseV2 is the data of "DH2Q" in a response (MS-SMB2 2.2.14.2.12).
type DurableResponseV2 struct {
	Timeout uint32 // ms
	Flags   DurableFlags
}

// Context encodes the response.
func (c *DurableResponseV2) Context() CreateContext {
	w := writer{msg: make([]byte, 8)}
	w.u32(c.Timeout)
	w.u32(uint32(c.Flags))
	return CreateContext{CreateContextDurableRequestV2, w.msg}
}

// Decode reads the data.
func (c *DurableResponseV2) Decode(data []byte) error {
	r := context(data, "durable handle response version 2", 8)
	*c = DurableResponseV2{Timeout: r.u32(), Flags: DurableFlags(r.u32())}
	return r.err
}

// DurableReconnectV2 is the data of "DH2C" (MS-SMB2 2.2.13.2.12).
type DurableReconnectV2 struct {
	FileID     FileID
	CreateGUID GUID
	Flags      DurableFlags
}

// Context encodes the request.
func (c *DurableReconnectV2) Context() CreateContext {
	w := writer{msg: make([]byte, 36)}
	w.fileID(c.FileID)
	w.guid(c.CreateGUID)
	w.u32(uint32(c.Flags))
	return CreateContext{CreateContextDurableReconnectV2, w.msg}
}

// Decode reads the data.
func (c *DurableReconnectV2) Decode(data []byte) error {
	r := context(data, "durable handle reconnect version 2", 36)
	*c = DurableReconnectV2{FileID: r.fileID(), CreateGUID: r.guid(), Flags: DurableFlags(r.u32())}
	return r.err
}

// AppInstanceID is the application, the same on every host it may move to, whose
// new open takes the place of the old one (MS-SMB2 2.2.13.2.13).
type AppInstanceID struct{ ID GUID }

// Context encodes the request.
func (c *AppInstanceID) Context() CreateContext {
	w := writer{msg: make([]byte, 20)}
	w.u16(20)
	w.u16(0)
	w.guid(c.ID)
	return CreateContext{CreateContextAppInstanceID, w.msg}
}

// Decode reads the data.
func (c *AppInstanceID) Decode(data []byte) error {
	r := context(data, "application instance id", 20)
	if r.u16() != 20 {
		r.fail("", ErrStructureSize)
	}
	r.skip(2)
	c.ID = r.guid()
	return r.err
}

// AppInstanceVersion orders the opens of an application instance, SMB 3.1.1
// (MS-SMB2 2.2.13.2.15).
type AppInstanceVersion struct{ High, Low uint64 }

// Less reports whether c is older than o.
func (c AppInstanceVersion) Less(o AppInstanceVersion) bool {
	return c.High < o.High || c.High == o.High && c.Low < o.Low
}

// Context encodes the request.
func (c *AppInstanceVersion) Context() CreateContext {
	w := writer{msg: make([]byte, 24)}
	w.u16(24)
	w.zero(6)
	w.u64(c.High)
	w.u64(c.Low)
	return CreateContext{CreateContextAppInstanceVersion, w.msg}
}

// Decode reads the data.
func (c *AppInstanceVersion) Decode(data []byte) error {
	r := context(data, "application instance version", 24)
	if r.u16() != 24 {
		r.fail("", ErrStructureSize)
	}
	r.skip(6)
	*c = AppInstanceVersion{High: r.u64(), Low: r.u64()}
	return r.err
}
