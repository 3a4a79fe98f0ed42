package fscc

import (
	"errors"
	"slices"
)

// ErrAccessDenied is the answer of an access check (STATUS_ACCESS_DENIED).
var ErrAccessDenied = errors.New("access denied by the security descriptor")

// AccessCheck decides what t may do with the object d describes (MS-DTYP
// 2.5.3.2). desired may hold generic rights and MAXIMUM_ALLOWED; granted holds
// neither. Without MAXIMUM_ALLOWED granted is all of desired; with it, all that
// may be granted, among it everything else in desired. It fails with
// ErrAccessDenied, never partly. The owner has READ_CONTROL and WRITE_DAC unless
// the list speaks of OWNER RIGHTS.
//
// A bit belongs to the first entry that speaks of it, with MAXIMUM_ALLOWED too,
// so that the maximum is what asking bit by bit would give.
func (d *SecurityDescriptor) AccessCheck(t *Token, desired AccessMask) (granted AccessMask, err error) {
	want := desired.MapGeneric()
	maximum := want&MAXIMUM_ALLOWED != 0
	want &^= MAXIMUM_ALLOWED

	if want&ACCESS_SYSTEM_SECURITY != 0 {
		if t.Privileges&SeSecurityPrivilege == 0 {
			return 0, ErrAccessDenied
		}
		granted |= ACCESS_SYSTEM_SECURITY
	}
	if t.Privileges&SeTakeOwnershipPrivilege != 0 {
		granted |= want & WRITE_OWNER // where it is asked for by name; it is no part of a maximum
	}
	allowed := d.allowed(t)
	if maximum {
		granted |= allowed
	} else {
		granted |= allowed & want
	}
	if want&^granted != 0 || maximum && granted == 0 {
		return 0, ErrAccessDenied
	}
	return granted, nil
}

// allowed is every right the list and ownership give t.
func (d *SecurityDescriptor) allowed(t *Token) AccessMask {
	if d.DACL == nil {
		return FILE_ALL_ACCESS
	}
	var granted, denied AccessMask
	owner := t.Has(d.Owner)
	if owner && !d.DACL.speaksOf(SIDOwnerRights) {
		granted = READ_CONTROL | WRITE_DAC
	}
	for i := range d.DACL.ACEs {
		a := &d.DACL.ACEs[i]
		if a.Flags&INHERIT_ONLY_ACE != 0 {
			continue
		}
		mask, deny, ok := a.effect(t, owner)
		if !ok {
			continue
		}
		if mask = mask.MapGeneric(); deny {
			denied |= mask &^ granted
		} else {
			granted |= mask &^ denied
		}
	}
	return granted & FILE_ALL_ACCESS
}

// effect says what the entry does for t; ok is false if it does nothing.
// Conditions of callback entries are not evaluated: their result is unknown,
// which grants nothing and denies (MS-DTYP 2.5.3.2). Files have no object
// types, so that an entry about one never applies.
func (a *ACE) effect(t *Token, owner bool) (mask AccessMask, deny, ok bool) {
	switch a.Type {
	case ACCESS_ALLOWED_ACE_TYPE, ACCESS_ALLOWED_OBJECT_ACE_TYPE:
	case ACCESS_DENIED_ACE_TYPE, ACCESS_DENIED_OBJECT_ACE_TYPE,
		ACCESS_DENIED_CALLBACK_ACE_TYPE, ACCESS_DENIED_CALLBACK_OBJECT_ACE_TYPE:
		deny = true
	default:
		return 0, false, false
	}
	mask, sid, hasObject, ok := a.maskAndSID()
	if !ok || hasObject {
		return 0, false, false
	}
	return mask, deny, t.Has(sid) || owner && sid == SIDOwnerRights
}

// speaksOf reports whether an effective entry is about sid.
func (l *ACL) speaksOf(sid SID) bool {
	return slices.ContainsFunc(l.ACEs, func(a ACE) bool {
		return !a.raw() && a.Flags&INHERIT_ONLY_ACE == 0 && a.SID == sid
	})
}

// AccessCheckFile is AccessCheck for an object in a folder: DELETE is granted
// also by FILE_DELETE_CHILD on the folder, FILE_READ_ATTRIBUTES also by
// FILE_LIST_DIRECTORY (MS-FSA 2.1.5.1.2.1). parent is nil for the root.
func (d *SecurityDescriptor) AccessCheckFile(parent *SecurityDescriptor, t *Token, desired AccessMask) (AccessMask, error) {
	if parent == nil {
		return d.AccessCheck(t, desired)
	}
	want := desired.MapGeneric()
	var fromParent AccessMask
	if want&(DELETE|FILE_READ_ATTRIBUTES|MAXIMUM_ALLOWED) != 0 {
		allowed := parent.allowed(t)
		if allowed&FILE_DELETE_CHILD != 0 {
			fromParent |= DELETE
		}
		if allowed&FILE_LIST_DIRECTORY != 0 {
			fromParent |= FILE_READ_ATTRIBUTES
		}
	}
	if want&MAXIMUM_ALLOWED == 0 {
		fromParent &= want
		if want&^fromParent == 0 {
			return want, nil
		}
	}
	granted, err := d.AccessCheck(t, want&^fromParent)
	if err != nil {
		if fromParent != 0 && want&^(fromParent|MAXIMUM_ALLOWED) == 0 {
			return fromParent, nil
		}
		return 0, err
	}
	return granted | fromParent, nil
}

// MayOwn reports whether t may make sid the owner of an object: itself, the
// administrators if it is one, or anybody with SeRestorePrivilege.
func (t *Token) MayOwn(sid SID) bool {
	switch {
	case sid.IsZero():
		return false
	case t.Privileges&SeRestorePrivilege != 0:
		return true
	}
	return t.User == sid || sid == SIDAdministrators && t.Has(sid)
}
