package smb2

import "slices"

// NegotiateContextType says what a negotiate context holds (MS-SMB2 2.2.3.1).
type NegotiateContextType uint16

// Negotiate context types.
const (
	NegotiatePreauthIntegrity NegotiateContextType = 0x0001
	NegotiateEncryption       NegotiateContextType = 0x0002
	NegotiateCompression      NegotiateContextType = 0x0003
	NegotiateNetname          NegotiateContextType = 0x0005
	NegotiateTransport        NegotiateContextType = 0x0006
	NegotiateRDMATransform    NegotiateContextType = 0x0007
	NegotiateSigning          NegotiateContextType = 0x0008
)

// NegotiateContext is one context, its data not yet looked at (MS-SMB2 2.2.3.1).
type NegotiateContext struct {
	Type NegotiateContextType
	Data []byte // at most 65535 bytes
}

// FindNegotiateContext returns the data of the first context of a type.
func FindNegotiateContext(list []NegotiateContext, t NegotiateContextType) ([]byte, bool) {
	i := slices.IndexFunc(list, func(c NegotiateContext) bool { return c.Type == t })
	if i < 0 {
		return nil, false
	}
	return list[i].Data, true
}

func negotiateContextsSize(list []NegotiateContext) int {
	n := 0
	for _, c := range list {
		n = Align8(n) + 8 + len(c.Data)
	}
	return n
}

func (w *writer) negotiateContexts(list []NegotiateContext) {
	for _, c := range list {
		w.padTo(Align8(w.off))
		w.u16(uint16(c.Type))
		w.u16(uint16(len(c.Data)))
		w.u32(0)
		w.bytes(c.Data)
	}
}

// negotiateContexts reads count contexts at off of the message.
func (r *reader) negotiateContexts(off uint32, count uint16) []NegotiateContext {
	if r.err != nil || count == 0 {
		return nil
	}
	if off%8 != 0 {
		r.fail("NegotiateContextOffset", ErrAlignment)
		return nil
	}
	if uint64(off) < uint64(r.min) || uint64(off) > uint64(len(r.msg)) {
		r.fail("NegotiateContextOffset", ErrBounds)
		return nil
	}
	c := *r
	c.off = int(off)
	var list []NegotiateContext
	for range count {
		c.skip(Align8(c.off) - c.off)
		t := NegotiateContextType(c.u16())
		n := int(c.u16())
		c.skip(4)
		data := c.take(n)
		if c.err != nil {
			r.fail("NegotiateContextList", ErrBounds)
			return nil
		}
		list = append(list, NegotiateContext{Type: t, Data: data})
	}
	return list
}

// HashAlgorithm of preauthentication integrity (MS-SMB2 2.2.3.1.1).
type HashAlgorithm uint16

// HashSHA512 is the only one.
const HashSHA512 HashAlgorithm = 0x0001

// CompressionAlgorithm (MS-SMB2 2.2.3.1.3).
type CompressionAlgorithm uint16

// Compression algorithms.
const (
	CompressionNone        CompressionAlgorithm = 0x0000
	CompressionLZNT1       CompressionAlgorithm = 0x0001
	CompressionLZ77        CompressionAlgorithm = 0x0002
	CompressionLZ77Huffman CompressionAlgorithm = 0x0003
	CompressionPatternV1   CompressionAlgorithm = 0x0004
	CompressionLZ4         CompressionAlgorithm = 0x0005
)

// CompressionFlags of the compression capabilities (MS-SMB2 2.2.3.1.3).
type CompressionFlags uint32

// CompressionChained offers chained compression.
const CompressionChained CompressionFlags = 0x00000001

// TransportFlags of the transport capabilities (MS-SMB2 2.2.3.1.5).
type TransportFlags uint32

// AcceptTransportLevelSecurity offers to leave encryption to the transport.
const AcceptTransportLevelSecurity TransportFlags = 0x00000001

// RDMATransform (MS-SMB2 2.2.3.1.6).
type RDMATransform uint16

// RDMA transforms.
const (
	RDMATransformNone       RDMATransform = 0x0000
	RDMATransformEncryption RDMATransform = 0x0001
	RDMATransformSigning    RDMATransform = 0x0002
)

// PreauthIntegrityCapabilities (MS-SMB2 2.2.3.1.1).
type PreauthIntegrityCapabilities struct {
	HashAlgorithms []HashAlgorithm
	Salt           []byte
}

// EncryptionCapabilities, best first (MS-SMB2 2.2.3.1.2).
type EncryptionCapabilities struct{ Ciphers []Cipher }

// CompressionCapabilities, best first (MS-SMB2 2.2.3.1.3).
type CompressionCapabilities struct {
	Flags      CompressionFlags
	Algorithms []CompressionAlgorithm
}

// NetnameContext is the server name that a client was told to connect to (MS-SMB2 2.2.3.1.4).
type NetnameContext struct{ NetName string }

// TransportCapabilities (MS-SMB2 2.2.3.1.5).
type TransportCapabilities struct{ Flags TransportFlags }

// RDMATransformCapabilities (MS-SMB2 2.2.3.1.6).
type RDMATransformCapabilities struct{ Transforms []RDMATransform }

// SigningCapabilities, best first (MS-SMB2 2.2.3.1.7).
type SigningCapabilities struct{ Algorithms []SigningAlgorithm }

func ids[T ~uint16](r *reader, count uint16) []T {
	b := r.take(2 * int(count))
	if count == 0 || r.err != nil {
		return nil
	}
	list := make([]T, count)
	for i := range list {
		list[i] = T(le.Uint16(b[2*i:]))
	}
	return list
}

func appendIDs[T ~uint16](b []byte, list []T) []byte {
	for _, v := range list {
		b = le.AppendUint16(b, uint16(v))
	}
	return b
}

// Context encodes c.
func (c *PreauthIntegrityCapabilities) Context() NegotiateContext {
	b := le.AppendUint16(nil, uint16(len(c.HashAlgorithms)))
	b = le.AppendUint16(b, uint16(len(c.Salt)))
	b = appendIDs(b, c.HashAlgorithms)
	return NegotiateContext{NegotiatePreauthIntegrity, append(b, c.Salt...)}
}

// Decode reads a context's data; Salt is a view of it.
func (c *PreauthIntegrityCapabilities) Decode(data []byte) error {
	r := structure(data, "preauthentication integrity capabilities", 4)
	count, salt := r.u16(), r.u16()
	*c = PreauthIntegrityCapabilities{HashAlgorithms: ids[HashAlgorithm](&r, count)}
	c.Salt = r.take(int(salt))
	return r.err
}

// Context encodes c.
func (c *EncryptionCapabilities) Context() NegotiateContext {
	b := le.AppendUint16(nil, uint16(len(c.Ciphers)))
	return NegotiateContext{NegotiateEncryption, appendIDs(b, c.Ciphers)}
}

// Decode reads a context's data.
func (c *EncryptionCapabilities) Decode(data []byte) error {
	r := structure(data, "encryption capabilities", 2)
	c.Ciphers = ids[Cipher](&r, r.u16())
	return r.err
}

// Context encodes c.
func (c *CompressionCapabilities) Context() NegotiateContext {
	b := le.AppendUint16(nil, uint16(len(c.Algorithms)))
	b = le.AppendUint16(b, 0)
	b = le.AppendUint32(b, uint32(c.Flags))
	return NegotiateContext{NegotiateCompression, appendIDs(b, c.Algorithms)}
}

// Decode reads a context's data.
func (c *CompressionCapabilities) Decode(data []byte) error {
	r := structure(data, "compression capabilities", 8)
	count := r.u16()
	r.skip(2)
	c.Flags = CompressionFlags(r.u32())
	c.Algorithms = ids[CompressionAlgorithm](&r, count)
	return r.err
}

// Context encodes c.
func (c *NetnameContext) Context() NegotiateContext {
	return NegotiateContext{NegotiateNetname, AppendUTF16(nil, c.NetName)}
}

// Decode reads a context's data.
func (c *NetnameContext) Decode(data []byte) error {
	r := structure(data, "netname context", 0)
	c.NetName = r.text("NetName", 0, uint32(len(data)))
	return r.err
}

// Context encodes c.
func (c *TransportCapabilities) Context() NegotiateContext {
	return NegotiateContext{NegotiateTransport, le.AppendUint32(nil, uint32(c.Flags))}
}

// Decode reads a context's data.
func (c *TransportCapabilities) Decode(data []byte) error {
	r := structure(data, "transport capabilities", 4)
	c.Flags = TransportFlags(r.u32())
	return r.err
}

// Context encodes c.
func (c *RDMATransformCapabilities) Context() NegotiateContext {
	b := le.AppendUint16(nil, uint16(len(c.Transforms)))
	b = append(b, make([]byte, 6)...)
	return NegotiateContext{NegotiateRDMATransform, appendIDs(b, c.Transforms)}
}

// Decode reads a context's data.
func (c *RDMATransformCapabilities) Decode(data []byte) error {
	r := structure(data, "RDMA transform capabilities", 8)
	count := r.u16()
	r.skip(6)
	c.Transforms = ids[RDMATransform](&r, count)
	return r.err
}

// Context encodes c.
func (c *SigningCapabilities) Context() NegotiateContext {
	b := le.AppendUint16(nil, uint16(len(c.Algorithms)))
	return NegotiateContext{NegotiateSigning, appendIDs(b, c.Algorithms)}
}

// Decode reads a context's data.
func (c *SigningCapabilities) Decode(data []byte) error {
	r := structure(data, "signing capabilities", 2)
	c.Algorithms = ids[SigningAlgorithm](&r, r.u16())
	return r.err
}
