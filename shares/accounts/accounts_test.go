package accounts

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"lunless/smbstore/auth"
	"lunless/smbstore/fscc"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestUserLife(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "data"))
	must(t, s.AddUser("Hv", "one"))
	u, err := s.Lookup("hV")
	must(t, err)
	machine, err := s.MachineSID()
	must(t, err)
	if u.Name != "Hv" || u.SID.Domain() != machine || u.SID.RID() != 1000 || u.NTHash != auth.NTHash("one") || u.PasswordSet.IsZero() {
		t.Errorf("%+v", u)
	}
	for name, want := range map[string]error{
		"hv": ErrExists, "HV": ErrExists, "users": ErrExists, "everyone": ErrExists, "System": ErrExists,
		"": ErrBadName, "a/b": ErrBadName, "a\x00": ErrBadName, "...": ErrBadName, " a": ErrBadName,
		"\xff": ErrBadName, strings.Repeat("x", 65): ErrBadName, "a@b": ErrBadName,
	} {
		if err := s.AddUser(name, "pw"); !errors.Is(err, want) {
			t.Errorf("AddUser(%q): %v, want %v", name, err, want)
		}
	}
	for _, bad := range []string{"", "\xff", strings.Repeat("x", 257)} {
		if err := s.AddUser("other", bad); !errors.Is(err, ErrBadPassword) {
			t.Errorf("password %q: %v", bad, err)
		}
		if err := s.SetPassword("hv", bad); !errors.Is(err, ErrBadPassword) {
			t.Errorf("password %q: %v", bad, err)
		}
	}
	must(t, s.SetPassword("hv", "two"))
	must(t, s.SetFullName("hv", "Hyper V"))
	if u, err = s.Lookup("hv"); err != nil || u.NTHash != auth.NTHash("two") || u.FullName != "Hyper V" {
		t.Errorf("%+v, %v", u, err)
	}
	must(t, s.AddUser("müller", "pw"))
	if _, err := s.Lookup("MÜLLER"); err != nil {
		t.Error(err)
	}
	must(t, s.RemoveUser("müller"))
	must(t, s.AddUser("müller", "pw"))
	if u, err := s.Lookup("müller"); err != nil || u.SID.RID() != 1002 {
		t.Errorf("a removed user's RID is given again: %+v, %v", u, err)
	}
	for what, err := range map[string]error{
		"RemoveUser": s.RemoveUser("nobody"), "SetPassword": s.SetPassword("nobody", "x"),
		"SetDisabled": s.SetDisabled("nobody", true), "AddMember": s.AddMember("Users", "nobody"),
	} {
		if !errors.Is(err, ErrNoUser) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := s.AddMember("nothing", "hv"); !errors.Is(err, ErrNoGroup) {
		t.Error(err)
	}
	list, err := s.List()
	if err != nil || len(list) != 2 || list[0].Name != "Hv" || list[1].Name != "müller" {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestCredential(t *testing.T) {
	s := open(t, t.TempDir())
	must(t, s.AddUser("hv", "pw"))
	c, err := s.Credential("ANY", "HV")
	if u, ok := c.Account.(User); err != nil || c.NTHash != auth.NTHash("pw") || c.Denied != nil || !ok || u.Name != "hv" {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := s.Credential("", "nobody"); !errors.Is(err, auth.ErrUnknownUser) {
		t.Error(err)
	}
	must(t, s.SetDisabled("hv", true))
	if c, err := s.Credential("", "hv"); err != nil || !errors.Is(c.Denied, ErrDisabled) {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestToken(t *testing.T) {
	s := open(t, t.TempDir())
	must(t, s.AddUser("hv", "pw"))
	tok, err := s.Token("HV")
	must(t, err)
	for _, sid := range []fscc.SID{fscc.SIDEveryone, fscc.SIDAuthenticatedUsers, fscc.SIDUsers, fscc.SIDNetwork} {
		if !tok.Has(sid) {
			t.Errorf("not in %v", sid)
		}
	}
	if tok.Has(fscc.SIDAdministrators) || tok.Privileges&fscc.SeBackupPrivilege != 0 {
		t.Error("an ordinary user is an administrator")
	}
	must(t, s.AddMember("administrators", "hv"))
	must(t, s.AddMember("administrators", "hv"))
	if tok, err = s.Token("hv"); err != nil || !tok.Has(fscc.SIDAdministrators) || tok.Privileges&fscc.SeTakeOwnershipPrivilege == 0 {
		t.Errorf("%+v, %v", tok, err)
	}
	must(t, s.RemoveMember("Administrators", "hv"))
	must(t, s.RemoveMember("Administrators", "hv"))
	if tok, err = s.Token("hv"); err != nil || tok.Has(fscc.SIDAdministrators) {
		t.Errorf("%+v, %v", tok, err)
	}
	must(t, s.SetDisabled("hv", true))
	if _, err := s.Token("hv"); !errors.Is(err, ErrDisabled) {
		t.Error(err)
	}
	must(t, s.RemoveUser("hv"))
	if _, err := s.Token("hv"); !errors.Is(err, ErrNoUser) {
		t.Error(err)
	}
	groups, err := s.Groups()
	must(t, err)
	for _, g := range groups {
		if len(g.Members) != 0 {
			t.Errorf("%s keeps a removed user", g.Name)
		}
	}
	if anon := AnonymousToken(); anon.Has(fscc.SIDEveryone) || anon.Has(fscc.SIDAuthenticatedUsers) || anon.Has(fscc.SIDUsers) {
		t.Errorf("anonymous is somebody: %+v", anon)
	}
}

func TestNames(t *testing.T) {
	s := open(t, t.TempDir())
	must(t, s.AddUser("hv", "pw"))
	u, err := s.Lookup("hv")
	must(t, err)
	machine, _ := s.MachineSID()
	for _, tc := range []struct {
		sid, domain, name string
		use               NameUse
	}{
		{"S-1-1-0", "", "Everyone", UseWellKnownGroup},
		{"S-1-3-0", "", "CREATOR OWNER", UseWellKnownGroup},
		{"S-1-3-4", "", "OWNER RIGHTS", UseWellKnownGroup},
		{"S-1-5-7", "NT AUTHORITY", "ANONYMOUS LOGON", UseWellKnownGroup},
		{"S-1-5-11", "NT AUTHORITY", "Authenticated Users", UseWellKnownGroup},
		{"S-1-5-18", "NT AUTHORITY", "SYSTEM", UseWellKnownGroup},
		{"S-1-5-20", "NT AUTHORITY", "NETWORK SERVICE", UseWellKnownGroup},
		{"S-1-5-32", "", "BUILTIN", UseDomain},
		{"S-1-5-32-544", "BUILTIN", "Administrators", UseAlias},
		{"S-1-5-32-545", "BUILTIN", "Users", UseAlias},
		{u.SID.String(), "", "hv", UseUser},
		{machine.String() + "-513", "", "None", UseGroup},
	} {
		sid, err := fscc.ParseSID(tc.sid)
		must(t, err)
		want := Name{sid, tc.domain, tc.name, tc.use}
		if got, err := s.LookupSID(sid); err != nil || got != want {
			t.Errorf("LookupSID(%s) = %+v, %v", tc.sid, got, err)
		}
		domains := []string{"", tc.domain, strings.ToLower(tc.domain)}
		if tc.use == UseUser {
			domains = append(domains, "FS1")
		}
		for _, d := range domains {
			if got, err := s.LookupName(d, strings.ToUpper(tc.name)); err != nil || got != want {
				t.Errorf("LookupName(%q, %q) = %+v, %v", d, tc.name, got, err)
			}
		}
	}
	for _, n := range [][2]string{{"", "nobody"}, {"BUILTIN", "hv"}, {"FS1", "SYSTEM"}, {"NT AUTHORITY", "Users"}, {"", ""}} {
		if got, err := s.LookupName(n[0], n[1]); !errors.Is(err, ErrNoName) {
			t.Errorf("LookupName%q = %+v, %v", n, got, err)
		}
	}
	other, _ := fscc.ParseSID("S-1-5-21-1-2-3-1000")
	if _, err := s.LookupSID(other); !errors.Is(err, ErrNoName) {
		t.Error(err)
	}
}

func TestStoresOfOneFolderAgree(t *testing.T) {
	dir := t.TempDir()
	a, b := open(t, dir), open(t, dir)
	for i := range 20 { // without a pause: the clock may not move between two of them
		name := fmt.Sprint("user", i)
		must(t, a.AddUser(name, "pw"))
		if _, err := b.Lookup(name); err != nil {
			t.Fatal(err)
		}
		must(t, b.SetPassword(name, "pw2"))
		if u, err := a.Lookup(name); err != nil || u.NTHash != auth.NTHash("pw2") {
			t.Fatal(u, err)
		}
	}
	x, err := a.MachineSID()
	must(t, err)
	if y, err := b.MachineSID(); err != nil || x != y {
		t.Errorf("machine SIDs %v and %v, %v", x, y, err)
	}
}

// helperVariable makes the test binary add users to a folder instead.
const helperVariable = "ACCOUNTS_TEST_ADD"

func TestMain(m *testing.M) {
	if arg := os.Getenv(helperVariable); arg != "" {
		dir, prefix, _ := strings.Cut(arg, "|")
		s, err := Open(dir)
		for i := 0; i < 10 && err == nil; i++ {
			err = s.AddUser(fmt.Sprint(prefix, i), "pw")
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestProcessesDoNotLoseChanges(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "fresh") // also raced for: only one machine SID wins
	var wg sync.WaitGroup
	for p := range 4 {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|p%d-", helperVariable, dir, p))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wg.Wait()
	s := open(t, dir)
	list, err := s.List()
	must(t, err)
	sids := map[fscc.SID]bool{}
	for _, u := range list {
		sids[u.SID] = true
	}
	if len(list) != 40 || len(sids) != 40 {
		t.Errorf("%d users, %d SIDs, want 40", len(list), len(sids))
	}
}

func TestFileOnDisk(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	must(t, s.AddUser("hv", "S3cret-Passw0rd"))
	path := filepath.Join(dir, fileName)
	fi, err := os.Stat(path)
	must(t, err)
	if fi.Mode() != 0o600 {
		t.Errorf("mode %v", fi.Mode())
	}
	content, err := os.ReadFile(path)
	must(t, err)
	if strings.Contains(string(content), "S3cret") {
		t.Error("the password is in the file")
	}

	// Fields of a later program survive a change by this one, at each level.
	var doc map[string]any
	must(t, json.Unmarshal(content, &doc))
	doc["later"] = map[string]any{"x": 1.0}
	doc["users"].([]any)[0].(map[string]any)["quota"] = "1 TiB"
	doc["groups"].([]any)[0].(map[string]any)["comment"] = "all"
	content, err = json.Marshal(doc)
	must(t, err)
	must(t, os.WriteFile(path, content, 0o600))
	must(t, s.SetPassword("hv", "other"))
	content, err = os.ReadFile(path)
	must(t, err)
	clear(doc)
	must(t, json.Unmarshal(content, &doc))
	if doc["users"].([]any)[0].(map[string]any)["quota"] != "1 TiB" || doc["groups"].([]any)[0].(map[string]any)["comment"] != "all" ||
		fmt.Sprint(doc["later"]) != "map[x:1]" {
		t.Errorf("unknown fields are lost: %s", content)
	}

	names, err := os.ReadDir(dir)
	must(t, err)
	if !slices.ContainsFunc(names, func(e os.DirEntry) bool { return e.Name() == fileName }) || len(names) != 2 {
		t.Errorf("left behind: %v", names)
	}
}

func TestBadFiles(t *testing.T) {
	good := `{"version":1,"machine_sid":"S-1-5-21-1-2-3","next_rid":1002,"users":[` +
		`{"rid":1000,"name":"a","nt_hash":"00112233445566778899aabbccddeeff","password_set":"2026-01-02T03:04:05Z"}],"groups":[]}`
	for name, tc := range map[string]struct {
		content string
		want    error
	}{
		"good":           {good, nil},
		"empty":          {"", ErrDamaged},
		"cut":            {good[:len(good)-5], ErrDamaged},
		"newer":          {strings.Replace(good, `"version":1`, `"version":2`, 1), ErrVersion},
		"no version":     {strings.Replace(good, `"version":1,`, ``, 1), ErrDamaged},
		"no machine SID": {strings.Replace(good, `"S-1-5-21-1-2-3"`, `""`, 1), ErrDamaged},
		"other SID":      {strings.Replace(good, `S-1-5-21-1-2-3`, `S-1-5-32-1`, 1), ErrDamaged},
		"RID in use":     {strings.Replace(good, `"next_rid":1002`, `"next_rid":1000`, 1), ErrDamaged},
		"bad hash":       {strings.Replace(good, `0011`, `00`, 1), ErrDamaged},
		"bad name":       {strings.Replace(good, `"a"`, `"a/b"`, 1), ErrDamaged},
		"twice":          {strings.Replace(good, `"users":[`, `"users":[{"rid":1001,"name":"A","nt_hash":"00112233445566778899aabbccddeeff"},`, 1), ErrDamaged},
	} {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, fileName), []byte(tc.content), 0o600))
		if _, err := Open(dir); !errors.Is(err, tc.want) || (tc.want == nil) != (err == nil) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}
