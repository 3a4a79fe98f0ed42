package fscc

import (
	"cmp"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

var modelSIDs = []SID{SIDEveryone, SIDAdministrators, SIDUsers, SIDOwnerRights, SIDCreatorOwner, SIDCreatorGroup,
	makeSID(5, 21, 1, 2, 3, 1000), makeSID(5, 21, 1, 2, 3, 1001), makeSID(5, 21, 1, 2, 3, 513)}

var modelRights = []AccessMask{FILE_READ_DATA, FILE_WRITE_DATA, FILE_APPEND_DATA, FILE_EXECUTE, FILE_DELETE_CHILD, FILE_READ_ATTRIBUTES,
	DELETE, READ_CONTROL, WRITE_DAC, WRITE_OWNER, SYNCHRONIZE}

func drawMask(t *rapid.T, label string) (m AccessMask) {
	for _, r := range rapid.SliceOfN(rapid.SampledFrom(modelRights), 1, 5).Draw(t, label) {
		m |= r
	}
	return m
}

func drawACL(t *rapid.T, label string, flags *rapid.Generator[uint8]) *ACL {
	l := new(ACL)
	for range rapid.IntRange(0, 6).Draw(t, label+" entries") {
		a := Allow(rapid.SampledFrom(modelSIDs).Draw(t, "sid"), drawMask(t, "mask"), flags.Draw(t, "flags"))
		if rapid.Bool().Draw(t, "deny") {
			a.Type = ACCESS_DENIED_ACE_TYPE
		}
		l.ACEs = append(l.ACEs, a)
	}
	return l
}

func drawToken(t *rapid.T) *Token {
	return &Token{
		User:       rapid.SampledFrom(modelSIDs[6:]).Draw(t, "user"),
		Groups:     rapid.SliceOfN(rapid.SampledFrom(modelSIDs[:3]), 0, 3).Draw(t, "groups"),
		Privileges: Privileges(rapid.IntRange(0, 3).Draw(t, "privileges")), // security and take-ownership
	}
}

// modelCheck is MS-DTYP 2.5.3.2 word for word, for a request without
// MAXIMUM_ALLOWED and a list of plain entries: rights still asked for are struck
// off one entry after the other.
func modelCheck(d *SecurityDescriptor, t *Token, remaining AccessMask) bool {
	if remaining&ACCESS_SYSTEM_SECURITY != 0 {
		if t.Privileges&SeSecurityPrivilege == 0 {
			return false
		}
		remaining &^= ACCESS_SYSTEM_SECURITY
	}
	if t.Privileges&SeTakeOwnershipPrivilege != 0 {
		remaining &^= WRITE_OWNER
	}
	isOwner := t.User == d.Owner || slices.Contains(t.Groups, d.Owner)
	ownerEntries := false
	for _, a := range d.DACL.ACEs {
		ownerEntries = ownerEntries || a.SID == SIDOwnerRights && a.Flags&INHERIT_ONLY_ACE == 0
	}
	if isOwner && !ownerEntries {
		remaining &^= READ_CONTROL | WRITE_DAC
	}
	for _, a := range d.DACL.ACEs {
		if a.Flags&INHERIT_ONLY_ACE != 0 {
			continue
		}
		matches := a.SID == t.User || slices.Contains(t.Groups, a.SID) || a.SID == SIDOwnerRights && isOwner
		if !matches {
			continue
		}
		if a.Type == ACCESS_ALLOWED_ACE_TYPE {
			remaining &^= a.Mask
		} else if remaining&a.Mask != 0 {
			return false
		}
	}
	return remaining == 0
}

func TestAccessCheckAgainstModel(t *testing.T) {
	flags := rapid.SampledFrom([]uint8{0, OBJECT_INHERIT_ACE, INHERIT_ONLY_ACE | OBJECT_INHERIT_ACE, INHERITED_ACE})
	rapid.Check(t, func(t *rapid.T) {
		d := &SecurityDescriptor{Control: SE_DACL_PRESENT, Owner: rapid.SampledFrom(modelSIDs).Draw(t, "owner"), DACL: drawACL(t, "list", flags)}
		token := drawToken(t)
		want := drawMask(t, "want")
		if rapid.Bool().Draw(t, "security") {
			want |= ACCESS_SYSTEM_SECURITY
		}
		granted, err := d.AccessCheck(token, want)
		if ok := modelCheck(d, token, want); ok != (err == nil) || ok && granted != want {
			t.Fatalf("%#x: granted %#x, %v; by the model %t", want, granted, err, ok)
		}
		// The maximum is every right that is granted by itself, without what only a privilege gives.
		most, err := d.AccessCheck(token, MAXIMUM_ALLOWED)
		bare := *token
		bare.Privileges = 0
		for _, r := range modelRights {
			if ok := modelCheck(d, &bare, r); ok != (most&r != 0) {
				t.Fatalf("maximum %#x, %v: right %#x is in it %t, by the model %t", most, err, r, most&r != 0, ok)
			}
		}
	})
}

// effective is what an entry does to an object, its place in the list left aside.
type effective struct {
	kind uint8
	sid  SID
	mask AccessMask
}

func effectiveOf(l *ACL) (out []effective) {
	for _, a := range l.ACEs {
		if a.Flags&INHERIT_ONLY_ACE == 0 {
			out = append(out, effective{a.Type, a.SID, a.Mask})
		}
	}
	return sorted(out)
}

func sorted(list []effective) []effective {
	slices.SortFunc(list, func(a, b effective) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.sid.String(), b.sid.String()), cmp.Compare(a.mask, b.mask))
	})
	return list
}

// modelInherited says by meaning alone what entries of a folder do to an object
// depth levels below it: OBJECT_INHERIT is for files, CONTAINER_INHERIT for
// folders, at any depth, but with NO_PROPAGATE_INHERIT at the first alone (MS-DTYP
// 2.4.4.1). Creator SIDs stand for the maker of the object, at each level anew.
func modelInherited(l *ACL, depth int, folder bool, owner, group SID) (out []effective) {
	for _, a := range l.ACEs {
		need := uint8(OBJECT_INHERIT_ACE)
		if folder {
			need = CONTAINER_INHERIT_ACE
		}
		if a.Flags&need == 0 || depth > 1 && a.Flags&NO_PROPAGATE_INHERIT_ACE != 0 {
			continue
		}
		e := effective{a.Type, a.SID, a.Mask}
		switch a.SID {
		case SIDCreatorOwner:
			e.sid = owner
		case SIDCreatorGroup:
			e.sid = group
		}
		out = append(out, e)
	}
	return sorted(out)
}

func TestInheritanceAgainstModel(t *testing.T) {
	flags := rapid.Map(rapid.IntRange(0, 15), func(n int) uint8 { return uint8(n) })
	rapid.Check(t, func(t *rapid.T) {
		top := &SecurityDescriptor{Control: SE_DACL_PRESENT, Owner: SIDAdministrators, DACL: drawACL(t, "top", flags)}
		if rapid.Bool().Draw(t, "auto-inherited") {
			top.Control |= SE_DACL_AUTO_INHERITED
		}
		// So that every object inherits something, and none gets the list of who inherits nothing.
		top.DACL.ACEs = append(top.DACL.ACEs, Allow(SIDLocalSystem, FILE_ALL_ACCESS, OBJECT_INHERIT_ACE|CONTAINER_INHERIT_ACE))
		above := top
		for depth := 1; depth <= 3; depth++ {
			maker := drawToken(t)
			maker.Group = rapid.SampledFrom(modelSIDs[6:]).Draw(t, "group")
			var folderBelow *SecurityDescriptor
			for _, folder := range []bool{false, true} {
				d, err := NewDescriptor(above, nil, maker, folder)
				if err != nil {
					t.Fatal(err)
				}
				if d.Owner != maker.User || d.Group != maker.Group {
					t.Fatalf("owner %v, group %v", d.Owner, d.Group)
				}
				got, want := effectiveOf(d.DACL), modelInherited(top.DACL, depth, folder, maker.User, maker.Group)
				if !slices.Equal(got, want) {
					t.Fatalf("depth %d, folder %t:\n got %v\nwant %v", depth, folder, got, want)
				}
				for _, a := range d.DACL.ACEs {
					if (a.Flags&INHERITED_ACE != 0) != (top.Control&SE_DACL_AUTO_INHERITED != 0) {
						t.Fatalf("depth %d: inherited entry with flags %#x", depth, a.Flags)
					}
					if !folder && a.Flags&inheritable != 0 {
						t.Fatalf("a file hands on: flags %#x", a.Flags)
					}
				}
				folderBelow = d
			}
			above = folderBelow
		}
		// A descriptor that is stored and read again says the same.
		b, err := above.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		var again SecurityDescriptor
		if err := again.Decode(b); err != nil || !slices.Equal(effectiveOf(again.DACL), effectiveOf(above.DACL)) {
			t.Fatalf("%v: %+v", err, again.DACL)
		}
	})
}
