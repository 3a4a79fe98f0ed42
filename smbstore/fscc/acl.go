package fscc

import "slices"

// ACE types (MS-DTYP 2.4.4.1).
const (
	ACCESS_ALLOWED_ACE_TYPE                 = 0x00
	ACCESS_DENIED_ACE_TYPE                  = 0x01
	SYSTEM_AUDIT_ACE_TYPE                   = 0x02
	ACCESS_ALLOWED_OBJECT_ACE_TYPE          = 0x05
	ACCESS_DENIED_OBJECT_ACE_TYPE           = 0x06
	SYSTEM_AUDIT_OBJECT_ACE_TYPE            = 0x07
	SYSTEM_ALARM_OBJECT_ACE_TYPE            = 0x08
	ACCESS_ALLOWED_CALLBACK_ACE_TYPE        = 0x09
	ACCESS_DENIED_CALLBACK_ACE_TYPE         = 0x0A
	ACCESS_ALLOWED_CALLBACK_OBJECT_ACE_TYPE = 0x0B
	ACCESS_DENIED_CALLBACK_OBJECT_ACE_TYPE  = 0x0C
	SYSTEM_AUDIT_CALLBACK_ACE_TYPE          = 0x0D
	SYSTEM_AUDIT_CALLBACK_OBJECT_ACE_TYPE   = 0x0F
	SYSTEM_ALARM_CALLBACK_OBJECT_ACE_TYPE   = 0x10
	SYSTEM_MANDATORY_LABEL_ACE_TYPE         = 0x11
	SYSTEM_RESOURCE_ATTRIBUTE_ACE_TYPE      = 0x12
	SYSTEM_SCOPED_POLICY_ID_ACE_TYPE        = 0x13
)

// ACE flags (MS-DTYP 2.4.4.1).
const (
	OBJECT_INHERIT_ACE         = 0x01
	CONTAINER_INHERIT_ACE      = 0x02
	NO_PROPAGATE_INHERIT_ACE   = 0x04
	INHERIT_ONLY_ACE           = 0x08
	INHERITED_ACE              = 0x10
	SUCCESSFUL_ACCESS_ACE_FLAG = 0x40
	FAILED_ACCESS_ACE_FLAG     = 0x80

	inheritable = OBJECT_INHERIT_ACE | CONTAINER_INHERIT_ACE
	inheritance = inheritable | NO_PROPAGATE_INHERIT_ACE | INHERIT_ONLY_ACE | INHERITED_ACE
)

// ACE is an access control entry (MS-DTYP 2.4.4). Allow, deny and audit entries
// have Mask and SID; all other types keep what follows the header in Raw.
type ACE struct {
	Type  uint8
	Flags uint8
	Mask  AccessMask
	SID   SID
	Raw   []byte // a view, or nil; length a multiple of 4
}

// Allow returns an entry that grants mask to sid.
func Allow(sid SID, mask AccessMask, flags uint8) ACE {
	return ACE{Type: ACCESS_ALLOWED_ACE_TYPE, Flags: flags, Mask: mask, SID: sid}
}

// Deny returns an entry that refuses mask to sid.
func Deny(sid SID, mask AccessMask, flags uint8) ACE {
	return ACE{Type: ACCESS_DENIED_ACE_TYPE, Flags: flags, Mask: mask, SID: sid}
}

func (a *ACE) raw() bool { return a.Type > SYSTEM_AUDIT_ACE_TYPE }

const aceHeader = 4

func (a *ACE) size() int {
	if a.raw() {
		return aceHeader + align(len(a.Raw), 4)
	}
	return aceHeader + 4 + a.SID.Size()
}

func (a *ACE) put(w *writer) {
	w.u8(a.Type)
	w.u8(a.Flags)
	w.u16(uint16(a.size()))
	if a.raw() {
		w.bytes(a.Raw)
		w.zero(align(len(a.Raw), 4) - len(a.Raw))
		return
	}
	w.u32(uint32(a.Mask))
	a.SID.put(w)
}

func (a *ACE) get(r *reader) {
	*a = ACE{Type: r.u8(), Flags: r.u8()}
	n := int(r.u16())
	r.check(n >= aceHeader && n%4 == 0)
	if r.err != nil {
		return
	}
	body := r.take(n - aceHeader)
	if r.err != nil {
		return
	}
	if a.raw() {
		a.Raw = body
		return
	}
	in := reader{b: body}
	a.Mask = AccessMask(in.u32())
	a.SID.get(&in)
	r.check(in.err == nil)
}

// maskAndSID reads the mask and SID that open the body of callback entries
// (MS-DTYP 2.4.4.6) and, behind the GUIDs their flags announce, of object
// entries (2.4.4.3). hasObject tells that the entry is about one object type.
func (a *ACE) maskAndSID() (mask AccessMask, sid SID, hasObject, ok bool) {
	if !a.raw() {
		return a.Mask, a.SID, false, true
	}
	r := reader{b: a.Raw}
	mask = AccessMask(r.u32())
	if a.isObject() {
		flags := r.u32()
		if hasObject = flags&1 != 0; hasObject {
			r.skip(16)
		}
		if flags&2 != 0 {
			r.skip(16)
		}
	}
	sid.get(&r)
	return mask, sid, hasObject, r.err == nil
}

func (a *ACE) isObject() bool {
	switch a.Type {
	case ACCESS_ALLOWED_OBJECT_ACE_TYPE, ACCESS_DENIED_OBJECT_ACE_TYPE, SYSTEM_AUDIT_OBJECT_ACE_TYPE,
		SYSTEM_ALARM_OBJECT_ACE_TYPE, ACCESS_ALLOWED_CALLBACK_OBJECT_ACE_TYPE, ACCESS_DENIED_CALLBACK_OBJECT_ACE_TYPE,
		SYSTEM_AUDIT_CALLBACK_OBJECT_ACE_TYPE, SYSTEM_ALARM_CALLBACK_OBJECT_ACE_TYPE:
		return true
	}
	return false
}

func (a *ACE) denies() bool {
	switch a.Type {
	case ACCESS_DENIED_ACE_TYPE, ACCESS_DENIED_OBJECT_ACE_TYPE,
		ACCESS_DENIED_CALLBACK_ACE_TYPE, ACCESS_DENIED_CALLBACK_OBJECT_ACE_TYPE:
		return true
	}
	return false
}

// ACL revisions (MS-DTYP 2.4.5).
const (
	ACL_REVISION    = 2
	ACL_REVISION_DS = 4
)

// MaxACLSize is the most an ACL can take: its size is a 16-bit field.
const MaxACLSize = 0xFFFF

// ACL is an access control list (MS-DTYP 2.4.5). A nil *ACL in a descriptor
// whose control says the list is present grants everything; an ACL without
// entries grants nothing.
type ACL struct {
	Revision uint8 // 0 is encoded as ACL_REVISION, or ACL_REVISION_DS where an entry needs it
	ACEs     []ACE
}

const aclHeader = 8

func (l *ACL) Size() int {
	n := aclHeader
	for i := range l.ACEs {
		n += l.ACEs[i].size()
	}
	return n
}

func (l *ACL) revision() uint8 {
	if l.Revision != 0 {
		return l.Revision
	}
	if slices.ContainsFunc(l.ACEs, func(a ACE) bool { return a.isObject() }) {
		return ACL_REVISION_DS
	}
	return ACL_REVISION
}

// Encode writes the list, of which Size must not exceed MaxACLSize.
func (l *ACL) Encode(dst []byte) { l.put(&writer{b: dst}) }

func (l *ACL) put(w *writer) {
	w.u8(l.revision())
	w.u8(0)
	w.u16(uint16(l.Size()))
	w.u16(uint16(len(l.ACEs)))
	w.u16(0)
	for i := range l.ACEs {
		l.ACEs[i].put(w)
	}
}

// Decode reads a list at the start of b. Bytes between the last entry and the
// end the list states are free room and dropped.
func (l *ACL) Decode(b []byte) error {
	r := reader{b: b}
	l.get(&r)
	return r.done("ACL")
}

func (l *ACL) get(r *reader) {
	*l = ACL{Revision: r.u8()}
	r.skip(1)
	size, count := int(r.u16()), int(r.u16())
	r.skip(2)
	r.check(l.Revision >= ACL_REVISION && l.Revision <= ACL_REVISION_DS)
	r.check(size >= aclHeader && count*aceHeader <= size-aclHeader)
	if r.err != nil {
		return
	}
	in := reader{b: r.take(size - aclHeader)}
	if r.err != nil {
		return
	}
	l.ACEs = make([]ACE, count)
	for i := range l.ACEs {
		l.ACEs[i].get(&in)
	}
	r.check(in.err == nil)
}

// Canonical reports whether explicit entries come before inherited ones and,
// among the explicit, those that deny before those that grant (MS-DTYP 2.4.5).
func (l *ACL) Canonical() bool {
	return slices.IsSortedFunc(l.ACEs, canonicalOrder)
}

// Canonicalize sorts the entries so; what the order does not decide stays as it was.
func (l *ACL) Canonicalize() { slices.SortStableFunc(l.ACEs, canonicalOrder) }

func canonicalOrder(a, b ACE) int { return canonicalRank(&a) - canonicalRank(&b) }

func canonicalRank(a *ACE) int {
	switch {
	case a.Flags&INHERITED_ACE != 0:
		return 4
	case a.denies() && !a.isObject():
		return 0
	case a.denies():
		return 1
	case !a.isObject():
		return 2
	}
	return 3
}
