package fscc

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	testUser   = makeSID(5, 21, 1, 2, 3, 1001)
	testOther  = makeSID(5, 21, 1, 2, 3, 1002)
	testStaff  = makeSID(5, 21, 1, 2, 3, 513)
	testToken  = Token{User: testUser, Groups: []SID{testStaff, SIDEveryone}, Group: testStaff}
	strangeSID = makeSID(5, 21, 9, 9, 9, 9)
)

func dacl(aces ...ACE) *ACL { return &ACL{ACEs: aces} }

// object is an ACE of an object type: flags, GUIDs as flags announce, SID.
func objectACE(typ uint8, mask AccessMask, flags uint32, sid SID) ACE {
	n := 8
	for _, f := range []uint32{1, 2} {
		if flags&f != 0 {
			n += 16
		}
	}
	raw := make([]byte, n+sid.Size())
	w := writer{b: raw}
	w.u32(uint32(mask))
	w.u32(flags)
	w.off = n
	sid.put(&w)
	return ACE{Type: typ, Raw: raw}
}

func callbackACE(typ uint8, mask AccessMask, sid SID) ACE {
	raw := make([]byte, 4+sid.Size()+8)
	w := writer{b: raw}
	w.u32(uint32(mask))
	sid.put(&w)
	w.bytes([]byte("artx\x00\x00\x00\x00"))
	return ACE{Type: typ, Raw: raw}
}

func TestAccessCheck(t *testing.T) {
	const rw = FILE_READ_DATA | FILE_WRITE_DATA
	admin := testToken
	admin.Privileges = SeSecurityPrivilege | SeTakeOwnershipPrivilege
	for _, c := range []struct {
		name    string
		owner   SID
		dacl    *ACL
		token   Token
		desired AccessMask
		granted AccessMask // 0: denied
	}{
		{"no list grants everything", testOther, nil, testToken, rw | WRITE_DAC, rw | WRITE_DAC},
		{"no list, maximum", testOther, nil, testToken, MAXIMUM_ALLOWED, FILE_ALL_ACCESS},
		{"no list does not give the SACL", testOther, nil, testToken, ACCESS_SYSTEM_SECURITY, 0},
		{"empty list grants nothing", testOther, dacl(), testToken, FILE_READ_DATA, 0},
		{"empty list, maximum", testOther, dacl(), testToken, MAXIMUM_ALLOWED, 0},
		{"owner always has READ_CONTROL and WRITE_DAC", testUser, dacl(), testToken, READ_CONTROL | WRITE_DAC, READ_CONTROL | WRITE_DAC},
		{"owner has no more than that", testUser, dacl(), testToken, READ_CONTROL | FILE_READ_DATA, 0},
		{"a group can be owner", testStaff, dacl(), testToken, MAXIMUM_ALLOWED, READ_CONTROL | WRITE_DAC},
		{"deny does not take the owner's rights", testUser, dacl(Deny(testUser, FILE_ALL_ACCESS, 0)), testToken,
			MAXIMUM_ALLOWED, READ_CONTROL | WRITE_DAC},
		{"OWNER RIGHTS replaces the owner's rights", testUser, dacl(Allow(SIDOwnerRights, FILE_READ_DATA, 0)), testToken,
			MAXIMUM_ALLOWED, FILE_READ_DATA},
		{"OWNER RIGHTS, WRITE_DAC refused", testUser, dacl(Allow(SIDOwnerRights, FILE_READ_DATA, 0)), testToken, WRITE_DAC, 0},
		{"OWNER RIGHTS is nothing to others", testOther, dacl(Allow(SIDOwnerRights, FILE_READ_DATA, 0)), testToken, FILE_READ_DATA, 0},
		{"inherit-only OWNER RIGHTS changes nothing", testUser, dacl(Allow(SIDOwnerRights, 1, INHERIT_ONLY_ACE|OBJECT_INHERIT_ACE)),
			testToken, WRITE_DAC, WRITE_DAC},
		{"user", testOther, dacl(Allow(testUser, rw, 0)), testToken, rw, rw},
		{"group", testOther, dacl(Allow(testStaff, rw, 0)), testToken, FILE_READ_DATA, FILE_READ_DATA},
		{"stranger", testOther, dacl(Allow(strangeSID, rw, 0)), testToken, FILE_READ_DATA, 0},
		{"rights add up", testOther, dacl(Allow(testUser, FILE_READ_DATA, 0), Allow(testStaff, FILE_WRITE_DATA, 0)), testToken, rw, rw},
		{"part is not enough", testOther, dacl(Allow(testUser, FILE_READ_DATA, 0)), testToken, rw, 0},
		{"deny first", testOther, dacl(Deny(testStaff, FILE_WRITE_DATA, 0), Allow(testUser, rw, 0)), testToken, rw, 0},
		{"deny of another right", testOther, dacl(Deny(testStaff, FILE_WRITE_DATA, 0), Allow(testUser, rw, 0)), testToken,
			FILE_READ_DATA, FILE_READ_DATA},
		{"deny behind allow is too late", testOther, dacl(Allow(testUser, rw, 0), Deny(testUser, FILE_WRITE_DATA, 0)), testToken, rw, rw},
		{"the same with maximum", testOther, dacl(Allow(testUser, rw, 0), Deny(testUser, FILE_WRITE_DATA, 0)), testToken,
			MAXIMUM_ALLOWED, rw},
		{"deny with maximum", testOther, dacl(Deny(testUser, FILE_WRITE_DATA, 0), Allow(SIDEveryone, rw, 0)), testToken,
			MAXIMUM_ALLOWED, FILE_READ_DATA},
		{"maximum with a right that is there", testOther, dacl(Allow(testUser, rw, 0)), testToken, MAXIMUM_ALLOWED | FILE_READ_DATA, rw},
		{"maximum with a right that is not", testOther, dacl(Allow(testUser, rw, 0)), testToken, MAXIMUM_ALLOWED | DELETE, 0},
		{"inherit-only does nothing here", testOther, dacl(Allow(testUser, rw, INHERIT_ONLY_ACE|CONTAINER_INHERIT_ACE)), testToken, FILE_READ_DATA, 0},
		{"inherited counts", testOther, dacl(Allow(testUser, rw, INHERITED_ACE)), testToken, rw, rw},
		{"generic in the list", testOther, dacl(Allow(testUser, GENERIC_READ, 0)), testToken, FILE_GENERIC_READ, FILE_GENERIC_READ},
		{"generic asked", testOther, dacl(Allow(testUser, FILE_GENERIC_READ, 0)), testToken, GENERIC_READ, FILE_GENERIC_READ},
		{"generic all", testOther, dacl(Allow(testUser, GENERIC_ALL, 0)), testToken, GENERIC_ALL, FILE_ALL_ACCESS},
		{"privilege for the SACL", testOther, dacl(Allow(testUser, rw, 0)), admin, ACCESS_SYSTEM_SECURITY | rw, ACCESS_SYSTEM_SECURITY | rw},
		{"a list cannot grant the SACL", testOther, dacl(Allow(testUser, ACCESS_SYSTEM_SECURITY, 0)), testToken, ACCESS_SYSTEM_SECURITY, 0},
		{"privilege to take ownership", testOther, dacl(), admin, WRITE_OWNER, WRITE_OWNER},
		{"ownership without the privilege", testOther, dacl(), testToken, WRITE_OWNER, 0},
		{"audit entries decide nothing", testOther, dacl(ACE{Type: SYSTEM_AUDIT_ACE_TYPE, SID: testUser, Mask: rw}), testToken, FILE_READ_DATA, 0},
		{"a condition not evaluated grants nothing", testOther, dacl(callbackACE(ACCESS_ALLOWED_CALLBACK_ACE_TYPE, rw, testUser)),
			testToken, FILE_READ_DATA, 0},
		{"and denies", testOther, dacl(callbackACE(ACCESS_DENIED_CALLBACK_ACE_TYPE, FILE_READ_DATA, testUser), Allow(testUser, rw, 0)),
			testToken, MAXIMUM_ALLOWED, FILE_WRITE_DATA},
		{"object entry without a type is like any", testOther, dacl(objectACE(ACCESS_ALLOWED_OBJECT_ACE_TYPE, rw, 0, testUser)),
			testToken, rw, rw},
		{"object entry about a type does not apply", testOther, dacl(objectACE(ACCESS_ALLOWED_OBJECT_ACE_TYPE, rw, 1, testUser)),
			testToken, FILE_READ_DATA, 0},
		{"a cut entry is passed over", testOther, dacl(ACE{Type: ACCESS_DENIED_OBJECT_ACE_TYPE, Raw: []byte{1, 0, 0, 0}}, Allow(testUser, rw, 0)),
			testToken, rw, rw},
		{"nobody", SID{}, dacl(), Token{}, READ_CONTROL, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := SecurityDescriptor{Owner: c.owner, DACL: c.dacl, Control: SE_DACL_PRESENT}
			got, err := d.AccessCheck(&c.token, c.desired)
			if (err != nil) != (c.granted == 0) || err != nil && !errors.Is(err, ErrAccessDenied) {
				t.Fatalf("AccessCheck(%#x) = %#x, %v; want %#x", c.desired, got, err, c.granted)
			}
			if got != c.granted {
				t.Errorf("granted %#x, want %#x", got, c.granted)
			}
		})
	}
}

func TestAccessCheckFile(t *testing.T) {
	file := SecurityDescriptor{Owner: testOther, Control: SE_DACL_PRESENT, DACL: dacl(Allow(testUser, FILE_READ_DATA, 0))}
	folder := func(m AccessMask) *SecurityDescriptor {
		return &SecurityDescriptor{Owner: testOther, Control: SE_DACL_PRESENT, DACL: dacl(Allow(testUser, m, 0))}
	}
	for _, c := range []struct {
		name    string
		parent  *SecurityDescriptor
		desired AccessMask
		granted AccessMask
	}{
		{"delete by the folder's right", folder(FILE_DELETE_CHILD), DELETE, DELETE},
		{"delete and read", folder(FILE_DELETE_CHILD), DELETE | FILE_READ_DATA, DELETE | FILE_READ_DATA},
		{"delete and what is not granted", folder(FILE_DELETE_CHILD), DELETE | FILE_WRITE_DATA, 0},
		{"delete without it", folder(FILE_LIST_DIRECTORY), DELETE, 0},
		{"attributes by the right to list", folder(FILE_LIST_DIRECTORY), FILE_READ_ATTRIBUTES, FILE_READ_ATTRIBUTES},
		{"attributes without it", folder(FILE_DELETE_CHILD), FILE_READ_ATTRIBUTES, 0},
		{"maximum has both", folder(FILE_DELETE_CHILD | FILE_LIST_DIRECTORY), MAXIMUM_ALLOWED, FILE_READ_DATA | DELETE | FILE_READ_ATTRIBUTES},
		{"the root has no folder", nil, DELETE, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := file.AccessCheckFile(c.parent, &testToken, c.desired)
			if got != c.granted || (err != nil) != (c.granted == 0) {
				t.Errorf("AccessCheckFile(%#x) = %#x, %v; want %#x", c.desired, got, err, c.granted)
			}
		})
	}
}

// TestMaximumIsEveryRight asks for each bit by itself: the sum is what
// MAXIMUM_ALLOWED grants, whatever the order of the entries.
func TestMaximumIsEveryRight(t *testing.T) {
	lists := []*ACL{
		dacl(Allow(testUser, 0x3, 0), Deny(testStaff, 0x6, 0), Allow(SIDEveryone, 0xC, 0)),
		dacl(Deny(testUser, 0x1, 0), Allow(testUser, GENERIC_READ, 0), Deny(SIDEveryone, READ_CONTROL, 0)),
		dacl(Allow(SIDOwnerRights, WRITE_DAC, 0), Deny(testUser, WRITE_DAC, 0)),
	}
	for i, l := range lists {
		d := SecurityDescriptor{Owner: testUser, DACL: l}
		want := AccessMask(0)
		for bit := AccessMask(1); bit <= SYNCHRONIZE; bit <<= 1 {
			if _, err := d.AccessCheck(&testToken, bit); err == nil {
				want |= bit
			}
		}
		if got, _ := d.AccessCheck(&testToken, MAXIMUM_ALLOWED); got != want {
			t.Errorf("list %d: maximum %#x, bit by bit %#x", i, got, want)
		}
	}
}

// TestInheritanceFlags is the table of MS-DTYP 2.5.3.4.4, for a plain SID.
func TestInheritanceFlags(t *testing.T) {
	const (
		oi, ci, np, io = OBJECT_INHERIT_ACE, CONTAINER_INHERIT_ACE, NO_PROPAGATE_INHERIT_ACE, INHERIT_ONLY_ACE
		none           = -1
	)
	for _, c := range []struct {
		parent       uint8
		folder, file int
	}{
		{0, none, none},
		{io, none, none},
		{oi, io | oi, 0},
		{oi | np, none, 0},
		{ci, ci, none},
		{ci | np, 0, none},
		{ci | oi, ci | oi, 0}, // effective and inheritable at once: one entry, as Windows keeps it
		{ci | oi | np, 0, 0},
		{oi | io, io | oi, 0},
		{ci | io, ci, none},
		{ci | oi | io, ci | oi, 0},
		{ci | oi | np | io, 0, 0},
	} {
		for _, auto := range []bool{false, true} {
			parent := &SecurityDescriptor{Owner: testOther, Control: SE_DACL_PRESENT, DACL: dacl(Allow(strangeSID, FILE_READ_DATA, c.parent))}
			var mark uint8
			if auto {
				parent.Control |= SE_DACL_AUTO_INHERITED
				mark = INHERITED_ACE
			}
			for _, folder := range []bool{false, true} {
				want := []ACE{Allow(testUser, FILE_ALL_ACCESS, 0), Allow(SIDLocalSystem, FILE_ALL_ACCESS, 0)}
				flags := c.file
				if folder {
					flags = c.folder
				}
				if flags != none {
					want = []ACE{Allow(strangeSID, FILE_READ_DATA, uint8(flags)|mark)}
				}
				d, err := NewDescriptor(parent, nil, &testToken, folder)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, d.DACL.ACEs, cmpSID); diff != "" {
					t.Errorf("parent flags %#x, folder %v, auto %v:\n%s", c.parent, folder, auto, diff)
				}
			}
		}
	}
}

var cmpSID = cmp.Comparer(func(a, b SID) bool { return a == b })

func TestNewDescriptor(t *testing.T) {
	const inherit = OBJECT_INHERIT_ACE | CONTAINER_INHERIT_ACE
	auto := func(aces ...ACE) *SecurityDescriptor {
		return &SecurityDescriptor{Owner: testOther, Group: testOther, Control: SE_DACL_PRESENT | SE_DACL_AUTO_INHERITED, DACL: dacl(aces...)}
	}
	own := func(control uint16, aces ...ACE) *SecurityDescriptor {
		return &SecurityDescriptor{Control: control | SE_DACL_PRESENT, DACL: dacl(aces...)}
	}
	for _, c := range []struct {
		name            string
		parent, creator *SecurityDescriptor
		folder          bool
		want            []ACE
		control         uint16
	}{
		{"nothing given", nil, nil, false,
			[]ACE{Allow(testUser, FILE_ALL_ACCESS, 0), Allow(SIDLocalSystem, FILE_ALL_ACCESS, 0)}, SE_DACL_PRESENT},
		{"CREATOR OWNER on a file", auto(Allow(SIDCreatorOwner, FILE_ALL_ACCESS, inherit|INHERIT_ONLY_ACE)), nil, false,
			[]ACE{Allow(testUser, FILE_ALL_ACCESS, INHERITED_ACE)}, SE_DACL_PRESENT | SE_DACL_AUTO_INHERITED},
		{"CREATOR OWNER and GROUP on a folder become two each",
			auto(Allow(SIDCreatorOwner, FILE_ALL_ACCESS, inherit|INHERIT_ONLY_ACE), Allow(SIDCreatorGroup, FILE_READ_DATA, CONTAINER_INHERIT_ACE)), nil, true,
			[]ACE{
				Allow(testUser, FILE_ALL_ACCESS, INHERITED_ACE),
				Allow(SIDCreatorOwner, FILE_ALL_ACCESS, inherit|INHERIT_ONLY_ACE|INHERITED_ACE),
				Allow(testStaff, FILE_READ_DATA, INHERITED_ACE),
				Allow(SIDCreatorGroup, FILE_READ_DATA, CONTAINER_INHERIT_ACE|INHERIT_ONLY_ACE|INHERITED_ACE),
			}, SE_DACL_PRESENT | SE_DACL_AUTO_INHERITED},
		{"generic rights too", auto(Allow(testStaff, GENERIC_READ, inherit)), nil, true,
			[]ACE{
				Allow(testStaff, FILE_GENERIC_READ, INHERITED_ACE),
				Allow(testStaff, GENERIC_READ, inherit|INHERIT_ONLY_ACE|INHERITED_ACE),
			}, SE_DACL_PRESENT | SE_DACL_AUTO_INHERITED},
		{"generic rights of a file", auto(Allow(testStaff, GENERIC_WRITE, inherit)), nil, false,
			[]ACE{Allow(testStaff, FILE_GENERIC_WRITE, INHERITED_ACE)}, SE_DACL_PRESENT | SE_DACL_AUTO_INHERITED},
		{"the creator's list comes first", auto(Allow(testStaff, FILE_READ_DATA, inherit)), own(0, Allow(testUser, GENERIC_ALL, 0)), false,
			[]ACE{Allow(testUser, FILE_ALL_ACCESS, 0), Allow(testStaff, FILE_READ_DATA, INHERITED_ACE)}, SE_DACL_PRESENT | SE_DACL_AUTO_INHERITED},
		{"a protected list inherits nothing", auto(Allow(testStaff, FILE_READ_DATA, inherit)),
			own(SE_DACL_PROTECTED, Allow(testUser, FILE_READ_DATA, INHERITED_ACE)), false,
			[]ACE{Allow(testUser, FILE_READ_DATA, 0)}, SE_DACL_PRESENT | SE_DACL_PROTECTED},
		{"what the creator's list inherited elsewhere is dropped", auto(), own(0, Allow(testUser, 1, 0), Allow(testStaff, 2, INHERITED_ACE)), false,
			[]ACE{Allow(testUser, 1, 0)}, SE_DACL_PRESENT | SE_DACL_AUTO_INHERITED},
		{"an entry of an object type is not inherited", auto(objectFlags(inherit), Allow(testStaff, 1, inherit)), nil, false,
			[]ACE{Allow(testStaff, 1, INHERITED_ACE)}, SE_DACL_PRESENT | SE_DACL_AUTO_INHERITED},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := NewDescriptor(c.parent, c.creator, &testToken, c.folder)
			if err != nil {
				t.Fatal(err)
			}
			if d.Owner != testUser || d.Group != testStaff {
				t.Errorf("owner %v, group %v", d.Owner, d.Group)
			}
			if d.Control != c.control {
				t.Errorf("control %#x, want %#x", d.Control, c.control)
			}
			if diff := cmp.Diff(c.want, d.DACL.ACEs, cmpSID); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func objectFlags(flags uint8) ACE {
	a := objectACE(ACCESS_ALLOWED_OBJECT_ACE_TYPE, 1, 1, testUser)
	a.Flags = flags
	return a
}

func TestNewDescriptorTooLong(t *testing.T) {
	l := &ACL{}
	for range 1500 {
		l.ACEs = append(l.ACEs, Allow(SIDCreatorOwner, GENERIC_ALL, OBJECT_INHERIT_ACE|CONTAINER_INHERIT_ACE))
	}
	_, err := NewDescriptor(&SecurityDescriptor{DACL: l}, nil, &testToken, true)
	if !errors.Is(err, ErrInvalid) {
		t.Errorf("a list that doubles past 64 KiB: %v, want ErrInvalid", err)
	}
}
