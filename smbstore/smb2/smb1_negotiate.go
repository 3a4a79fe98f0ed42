package smb2

import (
	"bytes"
	"slices"
)

// Dialect strings of an SMB1 negotiate that lead to SMB2 (MS-SMB2 3.3.5.3).
const (
	SMB1Dialect2002     = "SMB 2.002"
	SMB1DialectWildcard = "SMB 2.???"
)

const (
	smb1HeaderSize       = 32
	smb1CommandNegotiate = 0x72
	smb1BufferDialect    = 0x02
)

// SMB1NegotiateRequest is the multi-protocol negotiate that a client sends which
// may speak SMB1 and SMB2 (MS-CIFS 2.2.4.52.1, MS-SMB2 3.3.5.3).
type SMB1NegotiateRequest struct {
	Dialects []string // in the client's order, without terminators
}

// Answer is the dialect with which an SMB2 server answers: the wildcard where the
// client offers it and the server has more than SMB 2.0.2, else SMB 2.0.2. False
// means that the client speaks SMB1 only, and is disconnected. The answer is an
// SMB2 NEGOTIATE response with MessageID 0 (MS-SMB2 3.3.5.3.1, 3.3.5.3.2).
func (r *SMB1NegotiateRequest) Answer() (Dialect, bool) {
	switch {
	case slices.Contains(r.Dialects, SMB1DialectWildcard):
		return DialectWildcard, true
	case slices.Contains(r.Dialects, SMB1Dialect2002):
		return Dialect202, true
	}
	return 0, false
}

// Size of the whole message, its SMB1 header included.
func (r *SMB1NegotiateRequest) Size() int {
	n := smb1HeaderSize + 3
	for _, d := range r.Dialects {
		n += len(d) + 2
	}
	return n
}

// Encode writes the whole message, header included.
func (r *SMB1NegotiateRequest) Encode(msg []byte) {
	w := writer{msg: msg}
	w.u32(ProtocolSMB1)
	w.u8(smb1CommandNegotiate)
	w.u32(0)
	w.u8(0x18)    // paths are canonical and case-insensitive (MS-CIFS 2.2.3.1)
	w.u16(0xC843) // long names, EAs, extended security, NTSTATUS, Unicode
	w.zero(12)
	w.u16(0xFFFF)
	w.zero(6)
	w.u8(0)
	w.u16(uint16(r.Size() - smb1HeaderSize - 3))
	for _, d := range r.Dialects {
		w.u8(smb1BufferDialect)
		w.off += copy(w.msg[w.off:], d)
		w.u8(0)
	}
}

// Decode reads the whole message. ErrProtocol means that it is not SMB1, or not
// a negotiate.
func (r *SMB1NegotiateRequest) Decode(msg []byte) error {
	d := structure(msg, "SMB1 negotiate", smb1HeaderSize+3)
	if d.u32() != ProtocolSMB1 || d.u8() != smb1CommandNegotiate {
		d.fail("", ErrProtocol)
	}
	d.skip(smb1HeaderSize - 5)
	if d.u8() != 0 {
		d.fail("WordCount", ErrValue)
	}
	list := d.take(int(d.u16()))
	if d.err != nil {
		return d.err
	}
	r.Dialects = nil
	for len(list) > 0 {
		end := bytes.IndexByte(list, 0)
		if list[0] != smb1BufferDialect || end < 0 {
			d.fail("Dialects", ErrValue)
			return d.err
		}
		r.Dialects = append(r.Dialects, string(list[1:end]))
		list = list[end+1:]
	}
	return nil
}
