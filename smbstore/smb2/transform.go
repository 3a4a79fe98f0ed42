package smb2

// TransformFlags of a TRANSFORM_HEADER; SMB 3.0 and 3.0.2 call the field
// EncryptionAlgorithm, with the same one value (MS-SMB2 2.2.41).
type TransformFlags uint16

// TransformEncrypted says that the message is encrypted.
const TransformEncrypted TransformFlags = transformEncrypted

// TransformHeader precedes an encrypted message (MS-SMB2 2.2.41). Sealer and
// Opener write and read it in place; this is for who wants to look at one.
type TransformHeader struct {
	Signature           [16]byte
	Nonce               [16]byte // 11 bytes for CCM, 12 for GCM, the rest zero
	OriginalMessageSize uint32   // bytes
	Flags               TransformFlags
	SessionID           uint64
}

// Size in bytes.
func (*TransformHeader) Size() int { return TransformHeaderSize }

// Encode writes the header into b[:TransformHeaderSize]. It does not allocate.
func (h *TransformHeader) Encode(b []byte) {
	w := writer{msg: b}
	w.u32(ProtocolTransform)
	w.bytes(h.Signature[:])
	w.bytes(h.Nonce[:])
	w.u32(h.OriginalMessageSize)
	w.u16(0)
	w.u16(uint16(h.Flags))
	w.u64(h.SessionID)
}

// Decode reads the header at the start of b. It checks the protocol identifier
// and nothing else: TransformSession has the checks of a whole message.
func (h *TransformHeader) Decode(b []byte) error {
	r := structure(b, "transform header", TransformHeaderSize)
	if r.u32() != ProtocolTransform {
		r.fail("", ErrProtocol)
	}
	copy(h.Signature[:], r.take(16))
	copy(h.Nonce[:], r.take(16))
	h.OriginalMessageSize = r.u32()
	r.skip(2)
	h.Flags = TransformFlags(r.u16())
	h.SessionID = r.u64()
	return r.err
}
