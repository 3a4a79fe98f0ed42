package smb2

// Names of create contexts, as the bytes on the wire (MS-SMB2 2.2.13.2).
const (
	CreateContextEABuffer           = "ExtA"
	CreateContextSDBuffer           = "SecD"
	CreateContextDurableRequest     = "DHnQ"
	CreateContextDurableReconnect   = "DHnC"
	CreateContextAllocationSize     = "AlSi"
	CreateContextMaximalAccess      = "MxAc"
	CreateContextTimewarp           = "TWrp"
	CreateContextOnDiskID           = "QFid"
	CreateContextLease              = "RqLs" // version 1 and 2; the length tells
	CreateContextDurableRequestV2   = "DH2Q"
	CreateContextDurableReconnectV2 = "DH2C"
	CreateContextAppInstanceID      = "\x45\xBC\xA6\x6A\xEF\xA7\xF7\x4A\x90\x08\xFA\x46\x2E\x14\x4D\x74"
	CreateContextAppInstanceVersion = "\xB9\x82\xD0\xB7\x3B\x56\x07\x4F\xA0\x7B\x52\x4A\x81\x16\xA0\x10"
	CreateContextSVHDXOpenDevice    = "\x9C\xCB\xCF\x9E\x04\xC1\xE6\x43\x98\x0E\x15\x8D\xA1\xF6\xEC\x83" // MS-RSVD 2.2.4.12
)

// CreateContext is one create context, its data not yet looked at (MS-SMB2 2.2.13.2).
type CreateContext struct {
	Name string // one of the names above, or any bytes, at most 255
	Data []byte
}

// FindCreateContext returns the data of the first context of that name.
func FindCreateContext(list []CreateContext, name string) ([]byte, bool) {
	for _, c := range list {
		if c.Name == name {
			return c.Data, true
		}
	}
	return nil, false
}

const (
	createContextFixed = 16
	// maxContextName keeps the data's 16-bit offset small; no name in use has more
	// than 16 bytes.
	maxContextName = 255
)

func (c *CreateContext) size() int {
	n := createContextFixed + len(c.Name)
	if len(c.Data) > 0 {
		n = Align8(n) + len(c.Data)
	}
	return n
}

func createContextsSize(list []CreateContext) int {
	n := 0
	for i := range list {
		n = Align8(n) + list[i].size()
	}
	return n
}

// createContexts writes a list at the next multiple of 8 from the header.
func (w *writer) createContexts(list []CreateContext) {
	for i := range list {
		c := &list[i]
		n := c.size()
		next := 0
		if i < len(list)-1 {
			next = Align8(n)
		}
		start := w.off
		dataOff := Align8(createContextFixed + len(c.Name))
		w.u32(uint32(next))
		w.u16(createContextFixed)
		w.u16(uint16(len(c.Name)))
		w.u16(0)
		w.u16(uint16(offsetIf(len(c.Data), dataOff)))
		w.u32(uint32(len(c.Data)))
		w.off += copy(w.msg[w.off:w.off+len(c.Name)], c.Name)
		if len(c.Data) > 0 {
			w.padTo(start + dataOff)
			w.bytes(c.Data)
		}
		if next > 0 {
			w.padTo(start + next)
		}
	}
}

// createContexts reads the list of n bytes at off of the message.
func (r *reader) createContexts(off, n uint32) []CreateContext {
	b := r.view("CreateContexts", off, n)
	if len(b) == 0 {
		return nil
	}
	if off%8 != 0 {
		r.fail("CreateContextsOffset", ErrAlignment)
		return nil
	}
	var list []CreateContext
	for {
		c := structure(b, r.what, createContextFixed)
		next := c.u32()
		nameOff, nameLen := uint32(c.u16()), uint32(c.u16())
		if nameLen > maxContextName {
			c.fail("create context: NameLength", ErrValue)
		}
		c.skip(2)
		dataOff, dataLen := uint32(c.u16()), c.u32()
		if c.err == nil && next != 0 {
			if next%8 != 0 {
				c.fail("create context: Next", ErrAlignment)
			} else if next < createContextFixed || uint64(next) > uint64(len(b)) {
				c.fail("create context: Next", ErrBounds)
			} else {
				c.msg = b[:next] // a context stays within its own bytes
			}
		}
		name := c.view("create context: Name", nameOff, nameLen)
		data := c.view("create context: Data", dataOff, dataLen)
		if c.err != nil {
			r.err = c.err
			return nil
		}
		list = append(list, CreateContext{Name: contextName(name), Data: data})
		if next == 0 {
			return list
		}
		b = b[next:]
	}
}

// contextName is string(b) that does not allocate for the usual ones.
func contextName(b []byte) string {
	switch string(b) {
	case CreateContextDurableRequest:
		return CreateContextDurableRequest
	case CreateContextMaximalAccess:
		return CreateContextMaximalAccess
	case CreateContextOnDiskID:
		return CreateContextOnDiskID
	case CreateContextLease:
		return CreateContextLease
	case CreateContextDurableRequestV2:
		return CreateContextDurableRequestV2
	case CreateContextAppInstanceID:
		return CreateContextAppInstanceID
	}
	return string(b)
}
