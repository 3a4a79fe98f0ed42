package rpc

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lunless/smbstore/fscc"
)

func mustSID(tb testing.TB, text string) fscc.SID {
	tb.Helper()
	s, err := fscc.ParseSID(text)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// lsaStubs are the parameters and results of lsarpc, each with an empty value of
// the same operation to decode into.
func lsaStubs(tb testing.TB) (list []struct{ full, empty stub }) {
	h := Handle{4: 1, 19: 2}
	admins, machine := mustSID(tb, "S-1-5-32-544"), mustSID(tb, "S-1-5-21-1-2-3")
	domains := []ReferencedDomain{{"BUILTIN", admins.Domain()}, {"NODE1", machine}, {"", fscc.SID{}}}
	add := func(full, empty stub) { list = append(list, struct{ full, empty stub }{full, empty}) }
	add(&OpenPolicyRequest{Server: `\\NODE1`, Access: 0x02000000}, &OpenPolicyRequest{})
	add(&OpenPolicyRequest{Old: true, Access: 0x801, Rooted: true}, &OpenPolicyRequest{Old: true})
	add(&HandleReply{Handle: h}, &HandleReply{})
	add(&HandleRequest{Handle: h}, &HandleRequest{})
	add(&UserNameRequest{Server: "x", WantDomain: true}, &UserNameRequest{})
	add(&UserNameReply{User: "hv", Domain: "NODE1", WantDomain: true}, &UserNameReply{})
	add(&UserNameReply{Status: StatusLsaAccessDenied}, &UserNameReply{})
	for _, op := range []uint16{OpLsarLookupSids, OpLsarLookupSids2, OpLsarLookupSids3} {
		q := &LookupSidsRequest{Op: op, SIDs: []fscc.SID{admins, machine}, lookupTail: lookupTail{Level: LookupWksta}}
		a := &LookupSidsReply{Op: op, Domains: domains, Mapped: 1, Status: StatusSomeNotMapped, Names: []TranslatedName{
			{Use: 4, Name: "Administrators"}, {Use: SIDUseUnknown, Name: "0000270f", Domain: 1}, {Use: SIDUseUnknown, Domain: NoDomain}}}
		if lookupFormOf(op).handle {
			q.Policy = h
		}
		if lookupFormOf(op).flags {
			q.Revision, a.Names[0].Flags = 2, 1
		}
		add(q, &LookupSidsRequest{Op: op})
		add(a, &LookupSidsReply{Op: op})
		add(&LookupSidsReply{Op: op, Status: StatusInvalidServerState}, &LookupSidsReply{Op: op})
	}
	for _, op := range []uint16{OpLsarLookupNames, OpLsarLookupNames2, OpLsarLookupNames3, OpLsarLookupNames4} {
		q := &LookupNamesRequest{Op: op, Names: []string{"hv", `BUILTIN\Übung 😀`, ""}, lookupTail: lookupTail{Level: LookupWksta}}
		a := &LookupNamesReply{Op: op, Domains: domains, Mapped: 1, Status: StatusSomeNotMapped,
			SIDs: []TranslatedSID{{Use: 4}, {Use: SIDUseUnknown, Domain: NoDomain}}}
		f := lookupFormOf(op)
		if f.handle {
			q.Policy = h
		}
		if f.flags {
			q.Options, a.SIDs[1].Flags = 7, 1
		}
		if f.fullSID {
			a.SIDs[0].SID = admins
		} else {
			a.SIDs[0].RID = 544
		}
		add(q, &LookupNamesRequest{Op: op})
		add(a, &LookupNamesReply{Op: op})
	}
	add(&QueryPolicyRequest{Policy: h, Class: 5}, &QueryPolicyRequest{})
	add(&QueryPolicyReply{Class: PolicyAccountDomain, Info: &PolicyInfo{Name: "NODE1", SID: machine}}, &QueryPolicyReply{})
	add(&QueryPolicyReply{Class: PolicyDNSDomain, Info: &PolicyInfo{Name: "A", DNSName: "b", DNSForest: "c", GUID: UUID{1}, SID: machine}}, &QueryPolicyReply{})
	add(&QueryPolicyReply{Class: PolicyServerRole, Info: &PolicyInfo{Role: PolicyRoleServer}}, &QueryPolicyReply{})
	add(&QueryPolicyReply{Status: StatusLsaInvalidParameter}, &QueryPolicyReply{})
	add(&EnumRequest{h, 1, 2}, &EnumRequest{})
	add(&EnumPrivilegesReply{Resume: 1, Privileges: []Privilege{{"SeBackupPrivilege", 17}, {"SeRestorePrivilege", 1<<32 | 18}}}, &EnumPrivilegesReply{})
	add(&EnumAccountsReply{Resume: 2, SIDs: []fscc.SID{admins, machine}, Status: StatusNoMoreEntries}, &EnumAccountsReply{})
	add(&EnumAccountsReply{Right: true, SIDs: []fscc.SID{admins}}, &EnumAccountsReply{Right: true})
	add(&AccountRightsRequest{h, admins}, &AccountRightsRequest{})
	add(&AccountRightsReply{Rights: []string{"SeBackupPrivilege", "x"}}, &AccountRightsReply{})
	add(&NameRequest{Policy: h, Name: "SeBackupPrivilege"}, &NameRequest{})
	add(&NameRequest{Optional: true, Policy: h}, &NameRequest{Optional: true})
	add(&PrivilegeValueReply{LUID: 17}, &PrivilegeValueReply{})
	add(&PrivilegeNameRequest{h, 17}, &PrivilegeNameRequest{})
	add(&PrivilegeNameReply{Name: "SeBackupPrivilege"}, &PrivilegeNameReply{})
	return list
}

func encodeStub(tb testing.TB, s stub) []byte {
	tb.Helper()
	e := NewEncoder(MaxStub)
	s.Encode(e)
	b, err := e.Bytes()
	if err != nil {
		tb.Fatalf("%+v: %v", s, err)
	}
	return b
}

// TestLsaStubs: each comes back from the wire as it was; cut anywhere, it is refused.
func TestLsaStubs(t *testing.T) {
	for _, s := range lsaStubs(t) {
		b := encodeStub(t, s.full)
		for n := range b {
			if err := s.empty.Decode(NewDecoder(b[:n])); err == nil {
				t.Errorf("%T cut to %d of %d bytes decodes", s.full, n, len(b))
			}
		}
		if err := s.empty.Decode(NewDecoder(b)); err != nil {
			t.Errorf("%T: %v", s.full, err)
		}
		if diff := cmp.Diff(s.full, s.empty, cmp.AllowUnexported(fscc.SID{}, LookupSidsRequest{}, LookupNamesRequest{})); diff != "" {
			t.Errorf("%T: %s", s.full, diff)
		}
	}
}

// TestLsaBounds: counts are checked against what is there before they size anything.
func TestLsaBounds(t *testing.T) {
	sids := encodeStub(t, &LookupSidsRequest{Op: OpLsarLookupSids, SIDs: []fscc.SID{fscc.SIDEveryone}})
	names := encodeStub(t, &LookupNamesRequest{Op: OpLsarLookupNames, Names: []string{"ab"}})
	put := func(b []byte, at int, v uint32) []byte {
		b = bytes.Clone(b)
		b[at], b[at+1], b[at+2], b[at+3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
		return b
	}
	for _, c := range []struct {
		name string
		into stub
		b    []byte
		want error
	}{
		{"more SIDs than there are", &LookupSidsRequest{Op: OpLsarLookupSids}, put(put(sids, 20, 1<<20), 28, 1<<20), ErrTruncated},
		{"numbers that differ", &LookupSidsRequest{Op: OpLsarLookupSids}, put(sids, 20, 2), ErrInvalid},
		{"a null SID", &LookupSidsRequest{Op: OpLsarLookupSids}, put(sids, 32, 0), ErrInvalid},
		{"16 sub-authorities", &LookupSidsRequest{Op: OpLsarLookupSids}, append(put(sids, 36, 16), make([]byte, 100)...), ErrInvalid},
		{"more names than 1000", &LookupNamesRequest{Op: OpLsarLookupNames}, put(names, 20, 1001), ErrInvalid},
		{"more names than there are", &LookupNamesRequest{Op: OpLsarLookupNames}, put(names, 24, 1<<30), ErrTruncated},
		{"half a character", &LookupNamesRequest{Op: OpLsarLookupNames}, put(names, 28, 0x00030003), ErrInvalid},
		{"longer than it may be", &LookupNamesRequest{Op: OpLsarLookupNames}, put(names, 28, 0x00020004), ErrInvalid},
	} {
		if err := c.into.Decode(NewDecoder(c.b)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

// FuzzLsaStub: what decodes, encodes to what decodes to the same.
func FuzzLsaStub(f *testing.F) {
	for i, s := range lsaStubs(f) {
		f.Add(uint8(i), encodeStub(f, s.full))
	}
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		list := lsaStubs(t)
		s := list[int(kind)%len(list)].empty
		if s.Decode(NewDecoder(b)) != nil {
			return
		}
		enc := encodeStub(t, s)
		again := list[int(kind)%len(list)].full // any value of its operation
		if err := again.Decode(NewDecoder(enc)); err != nil {
			t.Fatalf("%T %x does not decode again: %v", s, enc, err)
		}
		if enc2 := encodeStub(t, again); !bytes.Equal(enc, enc2) {
			t.Fatalf("%T %x encodes to %x", s, enc, enc2)
		}
	})
}
