package services

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lunless/shares/accounts"
	"lunless/smbstore/fscc"
	"lunless/smbstore/rpc"
)

func parseSID(t *testing.T, text string) fscc.SID {
	t.Helper()
	s, err := fscc.ParseSID(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// lsaBackend has the user hv.
func lsaBackend(t *testing.T) *backend {
	t.Helper()
	store, err := accounts.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := store.AddUser("hv", "password"); err != nil {
		t.Fatal(err)
	}
	return &backend{accounts: store}
}

func openPolicy(t *testing.T, c *rpc.Client, access uint32) rpc.Handle {
	t.Helper()
	q := rpc.OpenPolicyRequest{Server: `\\NODE1`, Access: access}
	a := call(t, c, rpc.OpLsarOpenPolicy2, q.Encode, new(rpc.HandleReply))
	if a.Status != rpc.StatusOK || a.Handle == (rpc.Handle{}) {
		t.Fatalf("open policy: %v", a.Status)
	}
	return a.Handle
}

// Names and SIDs of what is the same everywhere, of the machine, and of nobody
// (MS-LSAT 3.1.4.5, 3.1.4.9).
func TestLookupSIDsAndNames(t *testing.T) {
	b := lsaBackend(t)
	machine, err := b.accounts.MachineSID()
	if err != nil {
		t.Fatal(err)
	}
	user, err := b.accounts.Lookup("hv")
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, "LSARPC", rpc.SyntaxLsarpc, Caller{User: "hv"}, b)
	h := openPolicy(t, c, 0x02000000)
	nobody, _ := machine.Child(99999)
	stranger := parseSID(t, "S-1-5-21-9-8-7-1000")
	for _, op := range []uint16{rpc.OpLsarLookupSids, rpc.OpLsarLookupSids2} {
		q := rpc.LookupSidsRequest{Op: op, Policy: h, SIDs: []fscc.SID{fscc.SIDAdministrators, user.SID, fscc.SIDEveryone, machine, nobody,
			stranger, fscc.SIDUsers, fscc.SIDLocalSystem}}
		q.Level = rpc.LookupWksta
		a := call(t, c, op, q.Encode, &rpc.LookupSidsReply{Op: op})
		want := &rpc.LookupSidsReply{Op: op, Mapped: 6, Status: rpc.StatusSomeNotMapped,
			Domains: []rpc.ReferencedDomain{{Name: "BUILTIN", SID: parseSID(t, "S-1-5-32")}, {Name: "NODE1", SID: machine},
				{Name: "", SID: parseSID(t, "S-1-1")}, {Name: "NT AUTHORITY", SID: parseSID(t, "S-1-5")}},
			Names: []rpc.TranslatedName{{Use: 4, Name: "Administrators"}, {Use: 1, Name: "hv", Domain: 1}, {Use: 5, Name: "Everyone", Domain: 2},
				{Use: 3, Name: "NODE1", Domain: 1}, {Use: 8, Name: "0001869f", Domain: 1}, {Use: 8, Name: stranger.String(), Domain: -1},
				{Use: 4, Name: "Users"}, {Use: 5, Name: "SYSTEM", Domain: 3}}}
		if diff := cmp.Diff(want, a); diff != "" {
			t.Errorf("operation %d: %s", op, diff)
		}
	}
	for _, op := range []uint16{rpc.OpLsarLookupNames, rpc.OpLsarLookupNames2, rpc.OpLsarLookupNames3} {
		for name, want := range map[string]fscc.SID{
			"HV": user.SID, `node1\hv`: user.SID, `.\hv`: user.SID, "hv@node1": user.SID, "everyone": fscc.SIDEveryone, "NODE1": machine, `NODE1\`: machine,
			`builtin\Users`: fscc.SIDUsers, "Users": fscc.SIDUsers, `NT Authority\system`: fscc.SIDLocalSystem, "BUILTIN": parseSID(t, "S-1-5-32"),
			"nobody": {}, `OTHER\hv`: {}, `BUILTIN\hv`: {}, `NODE1\SYSTEM`: {}, "": {}, "hv@other": {},
		} {
			q := rpc.LookupNamesRequest{Op: op, Policy: h, Names: []string{name}}
			q.Level = rpc.LookupWksta
			a := call(t, c, op, q.Encode, &rpc.LookupNamesReply{Op: op})
			if want.IsZero() {
				if a.Status != rpc.StatusNoneMapped || a.Mapped != 0 || len(a.SIDs) != 1 || a.SIDs[0].Use != 8 || a.SIDs[0].Domain != -1 {
					t.Errorf("%q by operation %d: %+v", name, op, a)
				}
				continue
			}
			if a.Status != rpc.StatusOK || a.Mapped != 1 || len(a.SIDs) != 1 || int(a.SIDs[0].Domain) >= len(a.Domains) {
				t.Errorf("%q by operation %d: %+v", name, op, a)
				continue
			}
			got := a.SIDs[0].SID
			if op != rpc.OpLsarLookupNames3 {
				if got = a.Domains[a.SIDs[0].Domain].SID; a.SIDs[0].Use != 3 {
					got, _ = got.Child(a.SIDs[0].RID)
				}
			}
			if got != want {
				t.Errorf("%q by operation %d: %v, want %v", name, op, got, want)
			}
		}
	}
}

// What is refused, and to whom (MS-LSAT 3.1.4.1, 3.1.4.5, 3.1.4.9).
func TestPolicyRefusals(t *testing.T) {
	b := lsaBackend(t)
	open := func(caller Caller, access uint32) rpc.Status {
		c := connect(t, "lsass", rpc.SyntaxLsarpc, caller, b)
		q := rpc.OpenPolicyRequest{Access: access}
		return call(t, c, rpc.OpLsarOpenPolicy2, q.Encode, new(rpc.HandleReply)).Status
	}
	for _, tt := range []struct {
		caller Caller
		access uint32
		want   rpc.Status
	}{
		{Caller{Anonymous: true}, 0x800, rpc.StatusLsaAccessDenied},
		{Caller{User: "hv"}, 0x801, 0},
		{Caller{User: "hv"}, 0x02000000, 0},
		{Caller{User: "hv"}, 0x10, rpc.StatusLsaAccessDenied}, // POLICY_CREATE_ACCOUNT
		{Caller{User: "hv", Admin: true}, 0xF0FFF, 0},
	} {
		if got := open(tt.caller, tt.access); got != tt.want {
			t.Errorf("%+v, access %#x: %#x, want %#x", tt.caller, tt.access, uint32(got), uint32(tt.want))
		}
	}

	c := connect(t, "lsarpc", rpc.SyntaxLsarpc, Caller{User: "hv"}, b)
	old := rpc.OpenPolicyRequest{Old: true, Access: 0x800, Rooted: true}
	if a := call(t, c, rpc.OpLsarOpenPolicy, old.Encode, new(rpc.HandleReply)); a.Status != rpc.StatusLsaInvalidParameter {
		t.Errorf("attributes with a root: %v", a.Status)
	}
	view := openPolicy(t, c, 0x1)
	sids := rpc.LookupSidsRequest{Op: rpc.OpLsarLookupSids, Policy: view, SIDs: []fscc.SID{fscc.SIDEveryone}}
	sids.Level = rpc.LookupWksta
	if a := call(t, c, sids.Op, sids.Encode, &rpc.LookupSidsReply{Op: sids.Op}); a.Status != rpc.StatusLsaAccessDenied || a.Names != nil {
		t.Errorf("a look-up by a handle for something else: %+v", a)
	}
	sids.Policy, sids.Level = openPolicy(t, c, 0x800), 9
	if a := call(t, c, sids.Op, sids.Encode, &rpc.LookupSidsReply{Op: sids.Op}); a.Status != rpc.StatusLsaInvalidParameter {
		t.Errorf("a level that is none: %v", a.Status)
	}
	query := rpc.QueryPolicyRequest{Policy: sids.Policy, Class: rpc.PolicyAccountDomain}
	if a := call(t, c, rpc.OpLsarQueryInformationPolicy, query.Encode, new(rpc.QueryPolicyReply)); a.Status != rpc.StatusLsaAccessDenied {
		t.Errorf("a query by a handle for look-ups: %v", a.Status)
	}
	sids.Op, sids.Level = rpc.OpLsarLookupSids3, rpc.LookupWksta
	if a := call(t, c, sids.Op, sids.Encode, &rpc.LookupSidsReply{Op: sids.Op}); a.Status != rpc.StatusInvalidServerState {
		t.Errorf("LsarLookupSids3: %v", a.Status)
	}
	shut := rpc.HandleRequest{Handle: view}
	if a := call(t, c, rpc.OpLsarClose, shut.Encode, new(rpc.HandleReply)); a.Status != 0 || a.Handle != (rpc.Handle{}) {
		t.Errorf("close: %+v", a)
	}
	if _, err := c.Call(t.Context(), rpc.OpLsarClose, shut.Encode); !errors.Is(err, rpc.FaultContextMismatch) {
		t.Errorf("closed twice: %v", err)
	}
	if _, err := c.Call(t.Context(), 19, func(*rpc.Encoder) {}); !errors.Is(err, rpc.FaultOperationRange) {
		t.Errorf("an operation there is not: %v", err)
	}
	for i := 1; i < maxPolicies; i++ { // one is open still
		openPolicy(t, c, 0x800)
	}
	q := rpc.OpenPolicyRequest{Access: 0x800}
	if a := call(t, c, rpc.OpLsarOpenPolicy2, q.Encode, new(rpc.HandleReply)); a.Status != rpc.StatusTooManyHandles {
		t.Errorf("one handle too many: %v", a.Status)
	}
}

// Policy information, privileges and who holds them (MS-LSAD 3.1.4.4, 3.1.4.5, 3.1.4.8).
func TestPolicyInformation(t *testing.T) {
	b := lsaBackend(t)
	machine, err := b.accounts.MachineSID()
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, "lsarpc", rpc.SyntaxLsarpc, Caller{User: "hv"}, b)
	h := openPolicy(t, c, 0x80000000)
	for class, want := range map[uint16]*rpc.PolicyInfo{
		rpc.PolicyAccountDomain: {Name: "NODE1", SID: machine}, rpc.PolicyPrimaryDomain: {Name: "WORKGROUP"},
		rpc.PolicyDNSDomain: {Name: "WORKGROUP"}, rpc.PolicyServerRole: {Role: 3}, 2: nil, 13: nil,
	} {
		q := rpc.QueryPolicyRequest{Policy: h, Class: class}
		a := call(t, c, rpc.OpLsarQueryInformationPolicy2, q.Encode, new(rpc.QueryPolicyReply))
		if !cmp.Equal(a.Info, want) || (a.Status == 0) != (want != nil) {
			t.Errorf("class %d: %+v, %v", class, a.Info, a.Status)
		}
	}
	for _, admin := range []Caller{{User: "hv"}, {Anonymous: true}} {
		who := connect(t, "lsarpc", rpc.SyntaxLsarpc, admin, b)
		q := rpc.UserNameRequest{WantDomain: true}
		a := call(t, who, rpc.OpLsarGetUserName, q.Encode, new(rpc.UserNameReply))
		want := "NODE1 hv"
		if admin.Anonymous {
			want = "NT AUTHORITY ANONYMOUS LOGON"
		}
		if got := a.Domain + " " + a.User; a.Status != 0 || got != want {
			t.Errorf("who am I: %q, %v; want %q", got, a.Status, want)
		}
	}
	enum := rpc.EnumRequest{Policy: h, PreferredMax: 1 << 16}
	p := call(t, c, rpc.OpLsarEnumeratePrivileges, enum.Encode, new(rpc.EnumPrivilegesReply))
	if p.Status != 0 || len(p.Privileges) != len(privileges) {
		t.Fatalf("privileges: %+v", p)
	}
	for _, want := range p.Privileges {
		v := rpc.NameRequest{Policy: h, Name: want.Name}
		n := rpc.PrivilegeNameRequest{Policy: h, LUID: want.LUID}
		gotV := call(t, c, rpc.OpLsarLookupPrivilegeValue, v.Encode, new(rpc.PrivilegeValueReply))
		gotN := call(t, c, rpc.OpLsarLookupPrivilegeName, n.Encode, new(rpc.PrivilegeNameReply))
		if gotV.LUID != want.LUID || gotN.Name != want.Name {
			t.Errorf("%+v: %+v, %+v", want, gotV, gotN)
		}
	}
	enum.Resume = p.Resume
	if p = call(t, c, rpc.OpLsarEnumeratePrivileges, enum.Encode, new(rpc.EnumPrivilegesReply)); p.Status != rpc.StatusNoMoreEntries {
		t.Errorf("privileges behind the last: %+v", p)
	}
	enum.Resume = 0
	holders := call(t, c, rpc.OpLsarEnumerateAccounts, enum.Encode, new(rpc.EnumAccountsReply))
	if holders.Status != 0 || len(holders.SIDs) != len(accounts.PrivilegeHolders) {
		t.Errorf("accounts: %+v", holders)
	}
	backup := rpc.NameRequest{Optional: true, Policy: h, Name: "SeBackupPrivilege"}
	may := call(t, c, rpc.OpLsarEnumerateAccountsWithUserRight, backup.Encode, &rpc.EnumAccountsReply{Right: true})
	if diff := cmp.Diff([]fscc.SID{fscc.SIDAdministrators, fscc.SIDBackupOperators}, may.SIDs); diff != "" {
		t.Errorf("who may back up: %v %s", may.Status, diff)
	}
	rights := rpc.AccountRightsRequest{Policy: h, SID: fscc.SIDEveryone}
	r := call(t, c, rpc.OpLsarEnumerateAccountRights, rights.Encode, new(rpc.AccountRightsReply))
	if diff := cmp.Diff([]string{"SeChangeNotifyPrivilege"}, r.Rights); diff != "" {
		t.Error(diff)
	}
	rights.SID = machine
	if r = call(t, c, rpc.OpLsarEnumerateAccountRights, rights.Encode, new(rpc.AccountRightsReply)); r.Status != rpc.StatusLsaNotFound {
		t.Errorf("rights of nobody: %+v", r)
	}
}
