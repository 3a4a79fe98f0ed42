package fscc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSID(t *testing.T) {
	for _, c := range []struct {
		sid  SID
		text string
		wire []byte
	}{
		{SIDEveryone, "S-1-1-0", []byte{1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0}},
		{SIDAdministrators, "S-1-5-32-544", []byte{1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 0x20, 2, 0, 0}},
		{SIDHyperVAdmins, "S-1-5-32-578", []byte{1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 0x42, 2, 0, 0}},
		{SIDOwnerRights, "S-1-3-4", []byte{1, 1, 0, 0, 0, 0, 0, 3, 4, 0, 0, 0}},
		{makeSID(1<<40, 4294967295), "S-1-0x010000000000-4294967295", []byte{1, 1, 1, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF}},
	} {
		if c.sid.String() != c.text {
			t.Errorf("%v, want %s", c.sid, c.text)
		}
		if got, err := ParseSID(c.text); err != nil || got != c.sid {
			t.Errorf("ParseSID(%s) = %v, %v", c.text, got, err)
		}
		b := make([]byte, c.sid.Size())
		c.sid.Encode(b)
		if !bytes.Equal(b, c.wire) {
			t.Errorf("%v is %x, want %x", c.sid, b, c.wire)
		}
		var s SID
		if err := s.Decode(append(c.wire, 1, 2, 3)); err != nil || s != c.sid {
			t.Errorf("%x decodes as %v, %v", c.wire, s, err)
		}
	}
	for _, bad := range []string{"", "S-1", "S-2-5-1", "X-1-5", "S-1-5-", "S-1-5-4294967296", "S-1--5", "S-1-0x1-1", "S-1-4294967296-1",
		"S-1-5" + strings.Repeat("-1", 16)} {
		if s, err := ParseSID(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("ParseSID(%q) = %v, %v", bad, s, err)
		}
	}
	for _, bad := range [][]byte{nil, {1, 0, 0, 0, 0, 0, 0}, {2, 0, 0, 0, 0, 0, 0, 5}, {1, 2, 0, 0, 0, 0, 0, 5, 1, 0, 0, 0},
		append([]byte{1, 16, 0, 0, 0, 0, 0, 5}, make([]byte, 64)...)} {
		if err := new(SID).Decode(bad); err == nil {
			t.Errorf("%x decodes as a SID", bad)
		}
	}
	child, err := testUser.Domain().Child(7)
	if err != nil || child.String() != "S-1-5-21-1-2-3-7" || child.RID() != 7 {
		t.Errorf("%v, %v", child, err)
	}
	full, err := MakeSID(5, make([]uint32, MaxSubAuthorities)...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := full.Child(1); !errors.Is(err, ErrInvalid) {
		t.Errorf("a sixteenth sub-authority: %v", err)
	}
	if (SID{}).String() != "" || !(SID{}).IsZero() {
		t.Error("zero SID")
	}
}

// descriptor is owner, group, SACL and DACL, encoded by hand in another order than ours.
func handmade() []byte {
	sid := []byte{1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0}
	ace := append([]byte{0, 3, 20, 0, 0xFF, 0x01, 0x1F, 0x00}, sid...)
	acl := append([]byte{2, 0, 28, 0, 1, 0, 0, 0}, ace...)
	b := make([]byte, sdHeader)
	b[0] = 1
	binary.LittleEndian.PutUint16(b[2:], SE_SELF_RELATIVE|SE_DACL_PRESENT)
	binary.LittleEndian.PutUint32(b[16:], sdHeader)
	binary.LittleEndian.PutUint32(b[4:], sdHeader+28)
	binary.LittleEndian.PutUint32(b[8:], sdHeader+28) // owner and group are the same bytes
	return append(append(b, acl...), sid...)
}

func TestDescriptorDecode(t *testing.T) {
	var d SecurityDescriptor
	if err := d.Decode(handmade()); err != nil {
		t.Fatal(err)
	}
	want := SecurityDescriptor{Control: SE_SELF_RELATIVE | SE_DACL_PRESENT, Owner: SIDEveryone, Group: SIDEveryone,
		DACL: &ACL{Revision: 2, ACEs: []ACE{Allow(SIDEveryone, FILE_ALL_ACCESS, 3)}}}
	if diff := cmp.Diff(want, d, cmpSID); diff != "" {
		t.Error(diff)
	}
	for _, c := range []struct {
		name  string
		at    int
		value byte
		want  error
	}{
		{"revision", 0, 2, ErrInvalid},
		{"absolute form", 3, 0, ErrInvalid},
		{"owner in the header", 4, 8, ErrInvalid},
		{"owner beyond the end", 4, 200, ErrTruncated},
		{"owner cut by the end", 4, 55, ErrTruncated},
		{"list far beyond the end", 19, 0x80, ErrTruncated},
		{"list's revision", 20, 1, ErrInvalid},
		{"list shorter than its header", 22, 4, ErrInvalid},
		{"list beyond the end", 22, 0xF0, ErrTruncated},
		{"more entries than fit", 24, 2, ErrInvalid},
		{"entry's size not a multiple of 4", 30, 21, ErrInvalid},
		{"entry too short for its SID", 30, 8, ErrInvalid},
		{"entry of no size", 30, 0, ErrInvalid},
		{"sub-authorities beyond the entry", 37, 15, ErrInvalid},
	} {
		b := handmade()
		b[c.at] = c.value
		if err := new(SecurityDescriptor).Decode(b); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	for n := range handmade() {
		if err := new(SecurityDescriptor).Decode(handmade()[:n]); err == nil {
			t.Errorf("the first %d bytes decode", n)
		}
	}
}

func label(level uint32) ACE {
	a := callbackACE(SYSTEM_MANDATORY_LABEL_ACE_TYPE, 1, makeSID(16, level))
	return a
}

func stored() *SecurityDescriptor {
	return &SecurityDescriptor{Control: SE_DACL_PRESENT | SE_SACL_PRESENT | SE_DACL_AUTO_INHERITED, Owner: testUser, Group: testStaff,
		DACL: dacl(Allow(testUser, FILE_ALL_ACCESS, 0)),
		SACL: dacl(ACE{Type: SYSTEM_AUDIT_ACE_TYPE, Flags: FAILED_ACCESS_ACE_FLAG, Mask: 1, SID: SIDEveryone}, label(8192))}
}

// TestSelect is MS-FSA 2.1.5.14.
func TestSelect(t *testing.T) {
	d := stored()
	audit, lab := d.SACL.ACEs[:1], d.SACL.ACEs[1:]
	for _, c := range []struct {
		info    SecurityInformation
		control uint16
		owner   bool
		group   bool
		dacl    bool
		sacl    []ACE
	}{
		{0, 0, false, false, false, nil},
		{OWNER_SECURITY_INFORMATION, 0, true, false, false, nil},
		{OWNER_SECURITY_INFORMATION | GROUP_SECURITY_INFORMATION, 0, true, true, false, nil},
		{DACL_SECURITY_INFORMATION, SE_DACL_PRESENT | SE_DACL_AUTO_INHERITED, false, false, true, nil},
		{SACL_SECURITY_INFORMATION, SE_SACL_PRESENT, false, false, false, audit},
		{LABEL_SECURITY_INFORMATION, SE_SACL_PRESENT, false, false, false, lab},
		{SACL_SECURITY_INFORMATION | LABEL_SECURITY_INFORMATION, SE_SACL_PRESENT, false, false, false, d.SACL.ACEs},
		{ATTRIBUTE_SECURITY_INFORMATION, 0, false, false, false, nil},
	} {
		s := d.Select(c.info)
		if s.Control != c.control || s.Owner.IsZero() == c.owner || s.Group.IsZero() == c.group || (s.DACL != nil) != c.dacl {
			t.Errorf("%#x: %+v", c.info, s)
		}
		var sacl []ACE
		if s.SACL != nil {
			sacl = s.SACL.ACEs
		}
		if diff := cmp.Diff(c.sacl, sacl, cmpSID); diff != "" {
			t.Errorf("%#x: %s", c.info, diff)
		}
	}
}

func TestMerge(t *testing.T) {
	set := &SecurityDescriptor{Owner: testOther, Group: testOther, Control: SE_DACL_PRESENT | SE_SACL_PRESENT,
		DACL: dacl(Allow(SIDEveryone, GENERIC_READ, 0), Allow(SIDEveryone, GENERIC_READ, INHERIT_ONLY_ACE|OBJECT_INHERIT_ACE)),
		SACL: dacl(ACE{Type: SYSTEM_AUDIT_ACE_TYPE, Mask: 2, SID: testUser}, label(4096))}
	mapped := dacl(Allow(SIDEveryone, FILE_GENERIC_READ, 0), Allow(SIDEveryone, GENERIC_READ, INHERIT_ONLY_ACE|OBJECT_INHERIT_ACE)).ACEs

	merge := func(info SecurityInformation, control uint16) *SecurityDescriptor {
		t.Helper()
		d, before := stored(), stored()
		s := *set
		s.Control |= control
		m, err := d.Merge(&s, info)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, d, cmpSID); diff != "" {
			t.Errorf("%#x changes what it merges into: %s", info, diff)
		}
		return m
	}
	if m := merge(OWNER_SECURITY_INFORMATION, 0); m.Owner != testOther || m.Group != testStaff || m.DACL.ACEs[0].SID != testUser {
		t.Errorf("owner: %+v", m)
	}
	if m := merge(GROUP_SECURITY_INFORMATION, 0); m.Owner != testUser || m.Group != testOther {
		t.Errorf("group: %+v", m)
	}
	if diff := cmp.Diff(mapped, merge(DACL_SECURITY_INFORMATION, 0).DACL.ACEs, cmpSID); diff != "" {
		t.Error(diff)
	}
	sacl := merge(SACL_SECURITY_INFORMATION, 0).SACL.ACEs
	if diff := cmp.Diff([]ACE{label(8192), set.SACL.ACEs[0]}, sacl, cmpSID); diff != "" {
		t.Errorf("SACL without label: %s", diff)
	}
	sacl = merge(LABEL_SECURITY_INFORMATION, 0).SACL.ACEs
	if diff := cmp.Diff([]ACE{stored().SACL.ACEs[0], label(4096)}, sacl, cmpSID); diff != "" {
		t.Errorf("label alone: %s", diff)
	}

	// control bits: MS-DTYP 2.4.6, SC and DC
	const di, dc, pd = SE_DACL_AUTO_INHERITED, SE_DACL_AUTO_INHERIT_REQ, SE_DACL_PROTECTED
	for _, c := range []struct {
		info      SecurityInformation
		set, want uint16
	}{
		{DACL_SECURITY_INFORMATION, 0, 0},
		{DACL_SECURITY_INFORMATION, di, 0},
		{DACL_SECURITY_INFORMATION, dc, 0},
		{DACL_SECURITY_INFORMATION, di | dc, di},
		{DACL_SECURITY_INFORMATION, pd, pd},
		{DACL_SECURITY_INFORMATION | PROTECTED_DACL_SECURITY_INFORMATION, 0, pd},
		{DACL_SECURITY_INFORMATION | UNPROTECTED_DACL_SECURITY_INFORMATION, pd, 0},
		{OWNER_SECURITY_INFORMATION, pd, di}, // as it was
	} {
		if m := merge(c.info, c.set); m.Control&(di|dc|pd) != c.want {
			t.Errorf("info %#x, control %#x: %#x, want %#x", c.info, c.set, m.Control&(di|dc|pd), c.want)
		}
	}

	if _, err := stored().Merge(&SecurityDescriptor{}, OWNER_SECURITY_INFORMATION); !errors.Is(err, ErrNoOwner) {
		t.Errorf("no owner: %v", err)
	}
	if _, err := stored().Merge(&SecurityDescriptor{}, GROUP_SECURITY_INFORMATION); !errors.Is(err, ErrInvalid) {
		t.Errorf("no group: %v", err)
	}
	m, err := stored().Merge(&SecurityDescriptor{}, DACL_SECURITY_INFORMATION)
	if err != nil || m.DACL != nil || m.Control&SE_DACL_PRESENT == 0 {
		t.Errorf("DACL taken away: %+v, %v", m, err)
	}
}

func TestNeeds(t *testing.T) {
	for _, c := range []struct {
		info       SecurityInformation
		query, set AccessMask
	}{
		{OWNER_SECURITY_INFORMATION, READ_CONTROL, WRITE_OWNER},
		{GROUP_SECURITY_INFORMATION, READ_CONTROL, WRITE_OWNER},
		{LABEL_SECURITY_INFORMATION, READ_CONTROL, WRITE_OWNER},
		{DACL_SECURITY_INFORMATION, READ_CONTROL, WRITE_DAC},
		{SACL_SECURITY_INFORMATION, ACCESS_SYSTEM_SECURITY, ACCESS_SYSTEM_SECURITY},
		{OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION, READ_CONTROL, WRITE_OWNER | WRITE_DAC},
		{BACKUP_SECURITY_INFORMATION, READ_CONTROL | ACCESS_SYSTEM_SECURITY, WRITE_OWNER | WRITE_DAC | ACCESS_SYSTEM_SECURITY},
	} {
		if c.info.NeedsToQuery() != c.query || c.info.NeedsToSet() != c.set {
			t.Errorf("%#x: query %#x, set %#x", c.info, c.info.NeedsToQuery(), c.info.NeedsToSet())
		}
	}
}

func TestCanonical(t *testing.T) {
	inherited := Deny(testOther, 1, INHERITED_ACE)
	allow, deny := Allow(testUser, 1, 0), Deny(testUser, 2, 0)
	object := objectACE(ACCESS_ALLOWED_OBJECT_ACE_TYPE, 1, 0, testUser)
	l := dacl(inherited, object, allow, deny)
	if l.Canonical() {
		t.Error("inherited before explicit is canonical")
	}
	l.Canonicalize()
	if diff := cmp.Diff([]ACE{deny, allow, object, inherited}, l.ACEs, cmpSID); diff != "" || !l.Canonical() {
		t.Error(diff)
	}
}

func TestMayOwn(t *testing.T) {
	restore := Token{User: testUser, Privileges: SeRestorePrivilege}
	admin := Token{User: testUser, Groups: []SID{SIDAdministrators}}
	for _, c := range []struct {
		token Token
		sid   SID
		want  bool
	}{{testToken, testUser, true}, {testToken, testStaff, false}, {testToken, testOther, false}, {testToken, SID{}, false},
		{admin, SIDAdministrators, true}, {testToken, SIDAdministrators, false}, {restore, testOther, true}, {restore, SID{}, false}} {
		if c.token.MayOwn(c.sid) != c.want {
			t.Errorf("MayOwn(%v) = %v", c.sid, !c.want)
		}
	}
}
