package smb2

import "slices"

// NegotiateRequest starts a connection (MS-SMB2 2.2.3).
type NegotiateRequest struct {
	SecurityMode    SecurityMode
	Capabilities    Capabilities
	ClientGUID      GUID
	ClientStartTime uint64             // reserved; only on the wire without Dialect311
	Dialects        []Dialect          // at least one; a server fails none with STATUS_INVALID_PARAMETER
	Contexts        []NegotiateContext // only on the wire with Dialect311
}

const negotiateRequestFixed = 36

// HasDialect reports whether the client offers d.
func (r *NegotiateRequest) HasDialect(d Dialect) bool { return slices.Contains(r.Dialects, d) }

// Size of header and body.
func (r *NegotiateRequest) Size() int {
	n := HeaderSize + negotiateRequestFixed + 2*len(r.Dialects)
	if r.HasDialect(Dialect311) && len(r.Contexts) > 0 {
		n = Align8(n) + negotiateContextsSize(r.Contexts)
	}
	return n
}

// Encode writes the body.
func (r *NegotiateRequest) Encode(msg []byte) {
	w := putBody(msg, 36)
	w.u16(uint16(len(r.Dialects)))
	w.u16(uint16(r.SecurityMode))
	w.u16(0)
	w.u32(uint32(r.Capabilities))
	w.guid(r.ClientGUID)
	if !r.HasDialect(Dialect311) {
		w.u64(r.ClientStartTime)
		for _, d := range r.Dialects {
			w.u16(uint16(d))
		}
		return
	}
	off := Align8(HeaderSize + negotiateRequestFixed + 2*len(r.Dialects))
	w.u32(uint32(offsetIf(len(r.Contexts), off)))
	w.u16(uint16(len(r.Contexts)))
	w.u16(0)
	for _, d := range r.Dialects {
		w.u16(uint16(d))
	}
	if len(r.Contexts) > 0 {
		w.padTo(off)
		w.negotiateContexts(r.Contexts)
	}
}

// Decode reads the body.
func (r *NegotiateRequest) Decode(msg []byte) error {
	d := body(msg, "NEGOTIATE request", 36, negotiateRequestFixed)
	count := int(d.u16())
	*r = NegotiateRequest{SecurityMode: SecurityMode(d.u16())}
	d.skip(2)
	r.Capabilities = Capabilities(d.u32())
	r.ClientGUID = d.guid()
	contexts := d
	r.ClientStartTime = d.u64()
	dialects := d.take(2 * count)
	if d.err != nil {
		return d.err
	}
	for ; len(dialects) > 0; dialects = dialects[2:] {
		r.Dialects = append(r.Dialects, Dialect(le.Uint16(dialects)))
	}
	if r.HasDialect(Dialect311) {
		r.ClientStartTime = 0
		off := contexts.u32()
		r.Contexts = d.negotiateContexts(off, contexts.u16())
	}
	return d.err
}

// NegotiateResponse settles dialect and limits (MS-SMB2 2.2.4).
type NegotiateResponse struct {
	SecurityMode    SecurityMode
	DialectRevision Dialect
	ServerGUID      GUID
	Capabilities    Capabilities
	MaxTransactSize uint32 // bytes, as the two below
	MaxReadSize     uint32
	MaxWriteSize    uint32
	SystemTime      Filetime
	ServerStartTime Filetime
	SecurityBuffer  []byte             // a SPNEGO token (RFC 4178 NegTokenInit), or empty
	Contexts        []NegotiateContext // only on the wire with Dialect311
}

const negotiateResponseFixed = 64

// Size of header and body.
func (r *NegotiateResponse) Size() int {
	n := HeaderSize + negotiateResponseFixed + len(r.SecurityBuffer)
	if r.DialectRevision == Dialect311 && len(r.Contexts) > 0 {
		n = Align8(n) + negotiateContextsSize(r.Contexts)
	}
	return n
}

// Encode writes the body.
func (r *NegotiateResponse) Encode(msg []byte) {
	var contexts []NegotiateContext
	if r.DialectRevision == Dialect311 {
		contexts = r.Contexts
	}
	const bufferOff = HeaderSize + negotiateResponseFixed
	off := Align8(bufferOff + len(r.SecurityBuffer))
	w := putBody(msg, 65)
	w.u16(uint16(r.SecurityMode))
	w.u16(uint16(r.DialectRevision))
	w.u16(uint16(len(contexts)))
	w.guid(r.ServerGUID)
	w.u32(uint32(r.Capabilities))
	w.u32(r.MaxTransactSize)
	w.u32(r.MaxReadSize)
	w.u32(r.MaxWriteSize)
	w.u64(uint64(r.SystemTime))
	w.u64(uint64(r.ServerStartTime))
	w.u16(bufferOff)
	w.u16(uint16(len(r.SecurityBuffer)))
	w.u32(uint32(offsetIf(len(contexts), off)))
	w.bytes(r.SecurityBuffer)
	if len(contexts) > 0 {
		w.padTo(off)
		w.negotiateContexts(contexts)
	}
}

// Decode reads the body.
func (r *NegotiateResponse) Decode(msg []byte) error {
	d := body(msg, "NEGOTIATE response", 65, negotiateResponseFixed)
	*r = NegotiateResponse{SecurityMode: SecurityMode(d.u16()), DialectRevision: Dialect(d.u16())}
	count := d.u16()
	r.ServerGUID = d.guid()
	r.Capabilities = Capabilities(d.u32())
	r.MaxTransactSize = d.u32()
	r.MaxReadSize = d.u32()
	r.MaxWriteSize = d.u32()
	r.SystemTime = Filetime(d.u64())
	r.ServerStartTime = Filetime(d.u64())
	bufOff := uint32(d.u16())
	r.SecurityBuffer = d.view("SecurityBuffer", bufOff, uint32(d.u16()))
	off := d.u32()
	if r.DialectRevision == Dialect311 {
		r.Contexts = d.negotiateContexts(off, count)
	}
	return d.err
}
