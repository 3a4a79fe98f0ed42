package fscc

import (
	"errors"
	"fmt"
)

// Control bits of a security descriptor (MS-DTYP 2.4.6).
const (
	SE_OWNER_DEFAULTED       = 0x0001
	SE_GROUP_DEFAULTED       = 0x0002
	SE_DACL_PRESENT          = 0x0004
	SE_DACL_DEFAULTED        = 0x0008
	SE_SACL_PRESENT          = 0x0010
	SE_SACL_DEFAULTED        = 0x0020
	SE_DACL_TRUSTED          = 0x0040
	SE_SERVER_SECURITY       = 0x0080
	SE_DACL_AUTO_INHERIT_REQ = 0x0100
	SE_SACL_AUTO_INHERIT_REQ = 0x0200
	SE_DACL_AUTO_INHERITED   = 0x0400
	SE_SACL_AUTO_INHERITED   = 0x0800
	SE_DACL_PROTECTED        = 0x1000
	SE_SACL_PROTECTED        = 0x2000
	SE_RM_CONTROL_VALID      = 0x4000
	SE_SELF_RELATIVE         = 0x8000
)

// SecurityInformation selects parts of a descriptor (MS-DTYP 2.4.7).
type SecurityInformation uint32

// Parts of a descriptor (MS-DTYP 2.4.7).
const (
	OWNER_SECURITY_INFORMATION            SecurityInformation = 0x00000001
	GROUP_SECURITY_INFORMATION            SecurityInformation = 0x00000002
	DACL_SECURITY_INFORMATION             SecurityInformation = 0x00000004
	SACL_SECURITY_INFORMATION             SecurityInformation = 0x00000008
	LABEL_SECURITY_INFORMATION            SecurityInformation = 0x00000010
	ATTRIBUTE_SECURITY_INFORMATION        SecurityInformation = 0x00000020
	SCOPE_SECURITY_INFORMATION            SecurityInformation = 0x00000040
	BACKUP_SECURITY_INFORMATION           SecurityInformation = 0x00010000
	UNPROTECTED_SACL_SECURITY_INFORMATION SecurityInformation = 0x10000000
	UNPROTECTED_DACL_SECURITY_INFORMATION SecurityInformation = 0x20000000
	PROTECTED_SACL_SECURITY_INFORMATION   SecurityInformation = 0x40000000
	PROTECTED_DACL_SECURITY_INFORMATION   SecurityInformation = 0x80000000
)

// SecurityDescriptor is a security descriptor in self-relative form (MS-DTYP 2.4.6).
// Lists it shares with another descriptor must not be changed in place.
type SecurityDescriptor struct {
	Control   uint16 // SE_SELF_RELATIVE is implied
	RMControl uint8  // meant with SE_RM_CONTROL_VALID
	Owner     SID    // zero: none
	Group     SID    // zero: none
	SACL      *ACL
	DACL      *ACL // nil with SE_DACL_PRESENT: everything is granted
}

const sdHeader = 20

func (d *SecurityDescriptor) Size() int {
	n := sdHeader
	if d.SACL != nil {
		n += align(d.SACL.Size(), 4)
	}
	if d.DACL != nil {
		n += align(d.DACL.Size(), 4)
	}
	if !d.Owner.IsZero() {
		n += d.Owner.Size()
	}
	if !d.Group.IsZero() {
		n += d.Group.Size()
	}
	return n
}

// Check reports ErrInvalid if a list is too long to be encoded.
func (d *SecurityDescriptor) Check() error {
	for _, l := range [...]*ACL{d.SACL, d.DACL} {
		if l != nil && l.Size() > MaxACLSize {
			return fmt.Errorf("fscc: ACL of %d bytes, at most %d fit: %w", l.Size(), MaxACLSize, ErrInvalid)
		}
	}
	return nil
}

// control is Control made to agree with the lists.
func (d *SecurityDescriptor) control() uint16 {
	c := d.Control | SE_SELF_RELATIVE
	if d.DACL != nil {
		c |= SE_DACL_PRESENT
	}
	if d.SACL != nil {
		c |= SE_SACL_PRESENT
	}
	return c
}

// Encode writes the descriptor, on which Check must succeed. The order is
// header, SACL, DACL, owner, group.
func (d *SecurityDescriptor) Encode(dst []byte) {
	w := writer{b: dst}
	w.u8(1)
	w.u8(d.RMControl)
	w.u16(d.control())
	w.zero(16)
	offset := func(field int) {
		(&writer{b: dst, off: field}).u32(uint32(w.off))
	}
	if d.SACL != nil {
		offset(12)
		d.SACL.put(&w)
	}
	if d.DACL != nil {
		offset(16)
		d.DACL.put(&w)
	}
	if !d.Owner.IsZero() {
		offset(4)
		d.Owner.put(&w)
	}
	if !d.Group.IsZero() {
		offset(8)
		d.Group.put(&w)
	}
}

// Marshal returns the descriptor's bytes, or the error of Check.
func (d *SecurityDescriptor) Marshal() ([]byte, error) {
	if err := d.Check(); err != nil {
		return nil, err
	}
	b := make([]byte, d.Size())
	d.Encode(b)
	return b, nil
}

// Decode refuses a revision other than 1, absolute form, offsets outside b or
// into the header, and parts that are not valid. Lists that the control bits
// call absent are dropped. Raw entries are views of b.
func (d *SecurityDescriptor) Decode(b []byte) error {
	r := reader{b: b}
	*d = SecurityDescriptor{}
	r.check(r.u8() == 1)
	d.RMControl = r.u8()
	d.Control = r.u16()
	r.check(d.Control&SE_SELF_RELATIVE != 0)
	owner, group, sacl, dacl := r.u32(), r.u32(), r.u32(), r.u32()
	if p := r.at(owner); p != nil {
		d.Owner.get(p)
		r.err = p.err
	}
	if p := r.at(group); p != nil {
		d.Group.get(p)
		r.err = p.err
	}
	if d.Control&SE_SACL_PRESENT != 0 {
		d.SACL = r.aclAt(sacl)
	}
	if d.Control&SE_DACL_PRESENT != 0 {
		d.DACL = r.aclAt(dacl)
	}
	return r.done("SECURITY_DESCRIPTOR")
}

// at returns a reader of what offset names, nil if it names nothing or r has failed.
func (r *reader) at(offset uint32) *reader {
	if r.err != nil || offset == 0 {
		return nil
	}
	r.check(offset >= sdHeader)
	if r.err == nil && uint64(offset) > uint64(len(r.b)) {
		r.err = ErrTruncated
	}
	if r.err != nil {
		return nil
	}
	return &reader{b: r.b, off: int(offset)}
}

func (r *reader) aclAt(offset uint32) *ACL {
	p := r.at(offset)
	if p == nil {
		return nil
	}
	l := new(ACL)
	l.get(p)
	r.err = p.err
	return l
}

// part is the bit that selects an entry of a SACL (MS-FSA 2.1.5.14).
func (a *ACE) part() SecurityInformation {
	switch a.Type {
	case SYSTEM_MANDATORY_LABEL_ACE_TYPE:
		return LABEL_SECURITY_INFORMATION
	case SYSTEM_RESOURCE_ATTRIBUTE_ACE_TYPE:
		return SACL_SECURITY_INFORMATION | ATTRIBUTE_SECURITY_INFORMATION
	case SYSTEM_SCOPED_POLICY_ID_ACE_TYPE:
		return SACL_SECURITY_INFORMATION | SCOPE_SECURITY_INFORMATION
	}
	return SACL_SECURITY_INFORMATION
}

// parts returns the entries of a SACL that info selects, or those it does not.
func (l *ACL) parts(info SecurityInformation, selected bool) (some []ACE) {
	if l == nil {
		return nil
	}
	for _, a := range l.ACEs {
		if (a.part()&info != 0) == selected {
			some = append(some, a)
		}
	}
	return some
}

const saclParts = SACL_SECURITY_INFORMATION | LABEL_SECURITY_INFORMATION |
	ATTRIBUTE_SECURITY_INFORMATION | SCOPE_SECURITY_INFORMATION

// whole is what BACKUP_SECURITY_INFORMATION stands for (MS-DTYP 2.4.7).
func (info SecurityInformation) whole() SecurityInformation {
	if info&BACKUP_SECURITY_INFORMATION != 0 {
		info |= OWNER_SECURITY_INFORMATION | GROUP_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION | saclParts
	}
	return info
}

// NeedsToQuery is the access an open must have for the parts in info (MS-FSA 2.1.5.14).
func (info SecurityInformation) NeedsToQuery() AccessMask {
	var need AccessMask
	info = info.whole()
	if info&(OWNER_SECURITY_INFORMATION|GROUP_SECURITY_INFORMATION|DACL_SECURITY_INFORMATION|
		LABEL_SECURITY_INFORMATION|ATTRIBUTE_SECURITY_INFORMATION|SCOPE_SECURITY_INFORMATION) != 0 {
		need |= READ_CONTROL
	}
	if info&SACL_SECURITY_INFORMATION != 0 {
		need |= ACCESS_SYSTEM_SECURITY
	}
	return need
}

// NeedsToSet is the access an open must have to set the parts in info (MS-FSA 2.1.5.17).
func (info SecurityInformation) NeedsToSet() AccessMask {
	var need AccessMask
	info = info.whole()
	if info&(OWNER_SECURITY_INFORMATION|GROUP_SECURITY_INFORMATION|LABEL_SECURITY_INFORMATION) != 0 {
		need |= WRITE_OWNER
	}
	if info&(DACL_SECURITY_INFORMATION|ATTRIBUTE_SECURITY_INFORMATION) != 0 {
		need |= WRITE_DAC
	}
	if info&(SACL_SECURITY_INFORMATION|SCOPE_SECURITY_INFORMATION) != 0 {
		need |= ACCESS_SYSTEM_SECURITY
	}
	return need
}

// Select returns the parts of d that info names; the lists are d's.
func (d *SecurityDescriptor) Select(info SecurityInformation) *SecurityDescriptor {
	info = info.whole()
	out := &SecurityDescriptor{Control: d.Control & SE_RM_CONTROL_VALID, RMControl: d.RMControl}
	if info&OWNER_SECURITY_INFORMATION != 0 {
		out.Owner = d.Owner
		out.Control |= d.Control & SE_OWNER_DEFAULTED
	}
	if info&GROUP_SECURITY_INFORMATION != 0 {
		out.Group = d.Group
		out.Control |= d.Control & SE_GROUP_DEFAULTED
	}
	if info&DACL_SECURITY_INFORMATION != 0 {
		out.DACL = d.DACL
		out.Control |= d.Control & daclBits
	}
	if info&saclParts != 0 && d.SACL != nil {
		out.SACL = &ACL{Revision: d.SACL.Revision, ACEs: d.SACL.parts(info, true)}
		if out.SACL.ACEs == nil && info&SACL_SECURITY_INFORMATION == 0 {
			out.SACL = nil
		} else {
			out.Control |= d.Control&saclBits | SE_SACL_PRESENT
		}
	}
	return out
}

const (
	daclBits = SE_DACL_PRESENT | SE_DACL_DEFAULTED | SE_DACL_AUTO_INHERITED | SE_DACL_PROTECTED
	saclBits = SE_SACL_PRESENT | SE_SACL_DEFAULTED | SE_SACL_AUTO_INHERITED | SE_SACL_PROTECTED
)

// ErrNoOwner is Merge's answer where the result would have no owner (STATUS_INVALID_OWNER).
var ErrNoOwner = errors.New("security descriptor without an owner")

// Merge returns d with the parts that info names taken from set, generic rights
// in entries that take effect mapped to those of files (MS-FSA 2.1.5.17). It
// leaves d and set as they are. ErrNoOwner; ErrInvalid if a group to be set is
// missing or a list too long.
func (d *SecurityDescriptor) Merge(set *SecurityDescriptor, info SecurityInformation) (*SecurityDescriptor, error) {
	info = info.whole()
	out := *d
	if info&OWNER_SECURITY_INFORMATION != 0 {
		out.Owner = set.Owner
		out.Control &^= SE_OWNER_DEFAULTED
	}
	if info&GROUP_SECURITY_INFORMATION != 0 {
		if set.Group.IsZero() {
			return nil, fmt.Errorf("fscc: set group: no group given: %w", ErrInvalid)
		}
		out.Group = set.Group
		out.Control &^= SE_GROUP_DEFAULTED
	}
	if info&DACL_SECURITY_INFORMATION != 0 {
		out.DACL = set.DACL.mapped()
		out.Control = out.Control&^daclBits | SE_DACL_PRESENT | storedBits(set.Control, SE_DACL_AUTO_INHERIT_REQ,
			SE_DACL_AUTO_INHERITED, SE_DACL_PROTECTED)
	}
	if info&saclParts != 0 {
		out.mergeSACL(set, info)
	}
	if out.Owner.IsZero() {
		return nil, ErrNoOwner
	}
	out.protect(info)
	return &out, out.Check()
}

// mergeSACL replaces the entries info names and keeps the others.
func (d *SecurityDescriptor) mergeSACL(set *SecurityDescriptor, info SecurityInformation) {
	aces := append(d.SACL.parts(info, false), set.SACL.parts(info, true)...)
	if info&SACL_SECURITY_INFORMATION != 0 {
		d.Control = d.Control&^saclBits | set.Control&SE_SACL_PRESENT | storedBits(set.Control,
			SE_SACL_AUTO_INHERIT_REQ, SE_SACL_AUTO_INHERITED, SE_SACL_PROTECTED)
	}
	if aces == nil && d.Control&SE_SACL_PRESENT == 0 {
		d.SACL = nil
		return
	}
	d.SACL = (&ACL{ACEs: aces}).mapped()
	d.Control |= SE_SACL_PRESENT
}

// storedBits keeps "auto-inherited" only where the caller asked for it by the
// request bit too, which itself is never stored (MS-DTYP 2.4.6, SC and DC).
func storedBits(control, req, inherited, protected uint16) uint16 {
	keep := control & protected
	if control&req != 0 {
		keep |= control & inherited
	}
	return keep
}

func (d *SecurityDescriptor) protect(info SecurityInformation) {
	for _, p := range [...]struct {
		info       SecurityInformation
		set, clear uint16
	}{
		{PROTECTED_DACL_SECURITY_INFORMATION, SE_DACL_PROTECTED, 0},
		{UNPROTECTED_DACL_SECURITY_INFORMATION, 0, SE_DACL_PROTECTED},
		{PROTECTED_SACL_SECURITY_INFORMATION, SE_SACL_PROTECTED, 0},
		{UNPROTECTED_SACL_SECURITY_INFORMATION, 0, SE_SACL_PROTECTED},
	} {
		if info&p.info != 0 {
			d.Control = d.Control&^p.clear | p.set
		}
	}
}

// mapped is l with the generic rights of its effective entries mapped.
func (l *ACL) mapped() *ACL {
	if l == nil {
		return nil
	}
	out := &ACL{Revision: l.Revision, ACEs: append([]ACE(nil), l.ACEs...)}
	for i := range out.ACEs {
		if a := &out.ACEs[i]; !a.raw() && a.Flags&INHERIT_ONLY_ACE == 0 {
			a.Mask = a.Mask.MapGeneric()
		}
	}
	return out
}
