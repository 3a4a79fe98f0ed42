package rpc

import (
	"encoding/binary"
	"unicode/utf16"

	"lunless/smbstore/fscc"
)

// SyntaxLsarpc is the Local Security Authority, translation methods and policy
// (MS-LSAT 1.9, MS-LSAD 1.9), on \PIPE\lsarpc and \PIPE\lsass.
var SyntaxLsarpc = Syntax{UUID: mustUUID("12345778-1234-abcd-ef00-0123456789ab")}

// Operations of lsarpc (MS-LSAT 3.1.4, MS-LSAD 3.1.4).
const (
	OpLsarClose                  = 0
	OpLsarEnumeratePrivileges    = 2
	OpLsarOpenPolicy             = 6
	OpLsarQueryInformationPolicy = 7
	OpLsarEnumerateAccounts      = 11
	OpLsarLookupNames            = 14
	OpLsarLookupSids             = 15
	OpLsarLookupPrivilegeValue   = 31
	OpLsarLookupPrivilegeName    = 32
	OpLsarEnumerateAccountRights = 36
	OpLsarOpenPolicy2            = 44
	OpLsarGetUserName            = 45

	OpLsarEnumerateAccountsWithUserRight = 35
	OpLsarQueryInformationPolicy2        = 46 // as OpLsarQueryInformationPolicy

	OpLsarLookupSids2  = 57
	OpLsarLookupNames2 = 58
	OpLsarLookupNames3 = 68
	OpLsarLookupSids3  = 76
	OpLsarLookupNames4 = 77
)

// Statuses of lsarpc are NTSTATUS (MS-ERREF 2.3).
const (
	StatusSomeNotMapped       Status = 0x00000107
	StatusNoMoreEntries       Status = 0x8000001A
	StatusLsaInvalidParameter Status = 0xC000000D
	StatusLsaAccessDenied     Status = 0xC0000022
	StatusLsaNotFound         Status = 0xC0000034
	StatusNoSuchPrivilege     Status = 0xC0000060
	StatusNoneMapped          Status = 0xC0000073
	StatusTooManyHandles      Status = 0xC000009A // STATUS_INSUFFICIENT_RESOURCES
	StatusInvalidServerState  Status = 0xC00000DC
)

// Handle is a context handle (MS-RPCE 2.2.2.2, ndr_context_handle). The zero
// Handle is none.
type Handle [20]byte

// Handle reads a context handle.
func (d *Decoder) Handle() (h Handle) {
	d.Align(4)
	copy(h[:], d.Bytes(len(h)))
	return h
}

// Handle writes a context handle.
func (e *Encoder) Handle(h Handle) {
	e.Align(4)
	e.Raw(h[:])
}

// SID reads an RPC_SID (MS-DTYP 2.4.2.3): its number of sub-authorities comes
// twice, which must agree.
func (d *Decoder) SID() (s fscc.SID) {
	n := d.Count(4)
	d.Check(n <= fscc.MaxSubAuthorities)
	if d.err != nil {
		return s
	}
	b := d.Bytes(8 + 4*n)
	if d.err == nil {
		d.Check(int(b[1]) == n && s.Decode(b) == nil && !s.IsZero())
	}
	return s
}

// SID writes an RPC_SID.
func (e *Encoder) SID(s fscc.SID) {
	e.U32(uint32(s.Size()-8) / 4)
	b := make([]byte, s.Size())
	s.Encode(b)
	e.Raw(b)
}

// unicodeHeader is an RPC_UNICODE_STRING (MS-DTYP 2.3.10) without its characters,
// which follow the structures it stands in.
type unicodeHeader struct {
	length, maximum uint16 // bytes
	present         bool
}

func (d *Decoder) unicodeHeader() (h unicodeHeader) {
	d.Align(4)
	h.length, h.maximum = d.U16(), d.U16()
	h.present = d.Pointer()
	d.Check(h.length%2 == 0 && h.length <= h.maximum && (h.present || h.length == 0))
	return h
}

// unicode reads the characters of h.
func (d *Decoder) unicode(h unicodeHeader) string {
	if !h.present {
		return ""
	}
	most, offset, n := d.U32(), d.U32(), d.U32()
	d.Check(offset == 0 && n <= most && n == uint32(h.length)/2 && most <= uint32(h.maximum+1)/2)
	p := d.Bytes(int(h.length))
	if d.err != nil {
		return ""
	}
	units := make([]uint16, n)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(p[2*i:])
	}
	return string(utf16.Decode(units))
}

// unicodeHeader writes what stands for s in a structure; unicode its characters.
func (e *Encoder) unicodeHeader(s string) {
	n := 2 * len(utf16.Encode([]rune(s)))
	if n > 0xFFFE && e.err == nil {
		e.err = ErrTooLong
	}
	e.Align(4)
	e.U16(uint16(n))
	e.U16(uint16(n))
	e.Pointer(true)
}

func (e *Encoder) unicode(s string) {
	units := utf16.Encode([]rune(s))
	e.U32(uint32(len(units)))
	e.U32(0)
	e.U32(uint32(len(units)))
	for _, u := range units {
		e.U16(u)
	}
}

// UnicodeString reads an RPC_UNICODE_STRING at top level.
func (d *Decoder) UnicodeString() string { return d.unicode(d.unicodeHeader()) }

// UnicodeString writes an RPC_UNICODE_STRING at top level.
func (e *Encoder) UnicodeString(s string) {
	e.unicodeHeader(s)
	e.unicode(s)
}

// OpenPolicyRequest are the parameters of LsarOpenPolicy2 and, with Old, of
// LsarOpenPolicy (MS-LSAT 3.1.4.1, 3.1.4.2). Of the object attributes nothing is
// looked at but that they hold no root.
type OpenPolicyRequest struct {
	Old    bool
	Server string // LsarOpenPolicy sends its first character, which is dropped
	Access uint32 // POLICY_LOOKUP_NAMES and so on (MS-LSAD 2.2.1.1.2)
	Rooted bool   // the object attributes name a root, which they must not
}

// Encode writes the parameters.
func (r *OpenPolicyRequest) Encode(e *Encoder) {
	if r.Old {
		e.Pointer(false)
	} else {
		e.UniqueWString(r.Server)
	}
	e.U32(24) // OBJECT_ATTRIBUTES, nothing in it
	e.Pointer(r.Rooted)
	e.Pointer(false)
	e.U32(0)
	e.Pointer(false)
	e.Pointer(false)
	if r.Rooted {
		e.U8(0)
	}
	e.U32(r.Access)
}

// Decode reads the parameters; Old says of which operation.
func (r *OpenPolicyRequest) Decode(d *Decoder) error {
	*r = OpenPolicyRequest{Old: r.Old}
	if !r.Old {
		r.Server = d.UniqueWString()
	} else if d.Pointer() {
		d.U16()
	}
	d.U32() // length
	root, name := d.Pointer(), d.Pointer()
	d.U32() // attributes
	descriptor, quality := d.Pointer(), d.Pointer()
	r.Rooted = root
	if root {
		d.U8()
	}
	if name { // STRING
		d.Align(4)
		length, most := d.U16(), d.U16()
		if d.Check(length <= most); d.Pointer() {
			room, offset := d.U32(), d.U32()
			n := d.Count(1)
			d.Check(offset == 0 && uint64(n) <= uint64(room) && n == int(length))
			d.Bytes(n)
		}
	}
	d.Check(!descriptor) // nobody sends one
	if quality {
		d.Align(4)
		d.Bytes(8) // length, impersonation level, two flags
	}
	r.Access = d.U32()
	return d.Done()
}

// HandleReply are the results of what opens and closes handles.
type HandleReply struct {
	Handle Handle // zero with an error, and of LsarClose
	Status Status
}

// Encode writes the results.
func (r *HandleReply) Encode(e *Encoder) {
	e.Handle(r.Handle)
	e.U32(uint32(r.Status))
}

// Decode reads the results.
func (r *HandleReply) Decode(d *Decoder) error {
	*r = HandleReply{Handle: d.Handle(), Status: Status(d.U32())}
	return d.Done()
}

// HandleRequest is the parameter of LsarClose (MS-LSAT 3.1.4.3).
type HandleRequest struct{ Handle Handle }

// Encode writes the parameter.
func (r *HandleRequest) Encode(e *Encoder) { e.Handle(r.Handle) }

// Decode reads the parameter.
func (r *HandleRequest) Decode(d *Decoder) error {
	*r = HandleRequest{Handle: d.Handle()}
	return d.Done()
}

// UserNameRequest are the parameters of LsarGetUserName (MS-LSAT 3.1.4.4). What
// names they hold is ignored.
type UserNameRequest struct {
	Server     string
	WantDomain bool
}

// Encode writes the parameters.
func (r *UserNameRequest) Encode(e *Encoder) {
	e.UniqueWString(r.Server)
	e.Pointer(false)
	e.Pointer(r.WantDomain)
	if r.WantDomain {
		e.Pointer(false)
	}
}

// Decode reads the parameters.
func (r *UserNameRequest) Decode(d *Decoder) error {
	*r = UserNameRequest{Server: d.UniqueWString()}
	if d.Pointer() {
		d.UnicodeString()
	}
	if r.WantDomain = d.Pointer(); r.WantDomain && d.Pointer() {
		d.UnicodeString()
	}
	return d.Done()
}

// UserNameReply are the results of LsarGetUserName.
type UserNameReply struct {
	User, Domain string
	WantDomain   bool
	Status       Status
}

// Encode writes the results.
func (r *UserNameReply) Encode(e *Encoder) {
	e.Pointer(r.User != "")
	if r.User != "" {
		e.UnicodeString(r.User)
	}
	e.Pointer(r.WantDomain)
	if r.WantDomain {
		e.Pointer(r.Domain != "")
		if r.Domain != "" {
			e.UnicodeString(r.Domain)
		}
	}
	e.U32(uint32(r.Status))
}

// Decode reads the results.
func (r *UserNameReply) Decode(d *Decoder) error {
	*r = UserNameReply{}
	if d.Pointer() {
		r.User = d.UnicodeString()
	}
	if r.WantDomain = d.Pointer(); r.WantDomain && d.Pointer() {
		r.Domain = d.UnicodeString()
	}
	r.Status = Status(d.U32())
	return d.Done()
}
