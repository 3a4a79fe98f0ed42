package shares

import (
	"slices"
	"testing"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// grants is the descriptor of a share that lets each do what stands beside it.
func grants(t *testing.T, list ...fscc.ACE) *fscc.SecurityDescriptor {
	t.Helper()
	return &fscc.SecurityDescriptor{Control: fscc.SE_DACL_PRESENT, DACL: &fscc.ACL{ACEs: list}}
}

const (
	shareRead   = fscc.FILE_GENERIC_READ | fscc.FILE_GENERIC_EXECUTE
	shareChange = shareRead | fscc.FILE_GENERIC_WRITE | fscc.DELETE
)

// What a share grants bounds TREE_CONNECT's MaximalAccess (MS-SMB2 3.3.5.7) and
// every open (3.3.5.9), whatever the file grants and whoever asks.
func TestSharePermissions(t *testing.T) {
	root := t.TempDir()
	srv := startServer(t, func(c *Config) {
		if err := c.Accounts.AddUser("boss", testPassword); err != nil {
			t.Fatal(err)
		}
		if err := c.Accounts.AddMember("Administrators", "boss"); err != nil {
			t.Fatal(err)
		}
		user, err := c.Accounts.Lookup(testUser)
		if err != nil {
			t.Fatal(err)
		}
		store := openFS(t, root)
		for name, sd := range map[string]*fscc.SecurityDescriptor{
			"read":   grants(t, fscc.Allow(fscc.SIDUsers, shareRead, 0)),
			"change": grants(t, fscc.Allow(user.SID, shareChange, 0)),
			"denied": grants(t, fscc.Deny(user.SID, fscc.FILE_WRITE_DATA, 0), fscc.Allow(fscc.SIDEveryone, fscc.FILE_ALL_ACCESS, 0)),
			"others": grants(t, fscc.Allow(fscc.SIDGuests, fscc.FILE_ALL_ACCESS, 0)),
			"nobody": grants(t),
		} {
			c.Shares = append(c.Shares, Share{Name: name, FS: store, Security: sd})
		}
	})
	writeFile(t, srv.root, "file")
	connect := func(user, share string) (smb2.AccessMask, smb2.Status) {
		c := dialRaw(t, srv.addr)
		c.negotiate(smb2.Dialect311)
		c.login(user, testPassword)
		a := c.call(smb2.CommandTreeConnect, &smb2.TreeConnectRequest{Path: `\\server\` + share}, nil)
		var m smb2.TreeConnectResponse
		if a.hdr.Status == 0 {
			if err := m.Decode(a.msg); err != nil {
				t.Fatal(err)
			}
		}
		return m.MaximalAccess, a.hdr.Status
	}
	for _, tt := range []struct {
		user, share string
		want        fscc.AccessMask // 0: refused
	}{
		{testUser, "vms", fscc.FILE_ALL_ACCESS}, {testUser, "read", shareRead}, {testUser, "change", shareChange},
		{testUser, "denied", fscc.FILE_ALL_ACCESS &^ fscc.FILE_WRITE_DATA}, {testUser, "others", 0}, {testUser, "nobody", 0},
		{"boss", "change", 0}, {"boss", "nobody", 0}, {"boss", "read", shareRead}, // no privilege helps
	} {
		got, st := connect(tt.user, tt.share)
		if fscc.AccessMask(got) != tt.want || (tt.want == 0) != (st == smb2.StatusAccessDenied) {
			t.Errorf("%s on %s: %#x, %v; want %#x", tt.user, tt.share, got, st, tt.want)
		}
	}

	c := loginRaw(t, srv.addr, smb2.Dialect311, "read")
	writeFile(t, root, "file")
	c.wantOpen("file", smb2.GenericRead, shareAll, smb2.StatusSuccess)
	c.wantOpen("file", smb2.FileWriteData, shareAll, smb2.StatusAccessDenied)
	c.wantOpen("file", smb2.Delete, shareAll, smb2.StatusAccessDenied)
	for _, q := range []smb2.CreateRequest{
		{Name: "new", DesiredAccess: smb2.FileReadData, CreateDisposition: smb2.FileCreate},
		{Name: "file", DesiredAccess: smb2.FileReadData, CreateDisposition: smb2.FileOverwrite},
		{Name: "file", DesiredAccess: smb2.MaximumAllowed, CreateDisposition: smb2.FileOpen, CreateOptions: smb2.FileDeleteOnClose},
	} {
		if _, st := c.tryCreate(&q); st != smb2.StatusAccessDenied {
			t.Errorf("%q, disposition %d: %v", q.Name, q.CreateDisposition, st)
		}
	}
	if got := c.accessOf(c.open("file", smb2.MaximumAllowed, 0)); got != shareRead {
		t.Errorf("the maximum is %#x, want %#x", got, shareRead)
	}
	if m := c.mustCreate(&smb2.CreateRequest{Name: "file", DesiredAccess: smb2.FileReadAttributes, ShareAccess: shareAll, CreateDisposition: smb2.FileOpen,
		Contexts: []smb2.CreateContext{(&smb2.MaximalAccessRequest{}).Context()}}); !hasMaximal(m.Contexts, shareRead) {
		t.Errorf("maximal access context: %+v", m.Contexts)
	}
}

func writeFile(t *testing.T, root, name string) {
	t.Helper()
	f, err := openFS(t, root).Create(t.Context(), name, fs.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

// accessOf is FileAccessInformation of an open.
func (c *rawClient) accessOf(id smb2.FileID) fscc.AccessMask {
	c.t.Helper()
	b, st := c.queryInfo(&smb2.QueryInfoRequest{InfoType: smb2.InfoFile, FileInfoClass: uint8(fscc.FileAccessInformation), FileID: id, OutputBufferLength: 4})
	var a fscc.AccessInfo
	if err := a.Decode(b); st != 0 || err != nil {
		c.t.Fatalf("access information: %v, %v", st, err)
	}
	return a.Access
}

func hasMaximal(list []smb2.CreateContext, want fscc.AccessMask) bool {
	return slices.ContainsFunc(list, func(x smb2.CreateContext) bool {
		var m smb2.MaximalAccessResponse
		return x.Name == smb2.CreateContextMaximalAccess && m.Decode(x.Data) == nil && m.QueryStatus == 0 && fscc.AccessMask(m.MaximalAccess) == want
	})
}

// Access-based enumeration leaves out what the user may not read (MS-SMB2
// 3.3.5.18) and says so in TREE_CONNECT (3.3.5.7).
func TestAccessBasedEnumeration(t *testing.T) {
	root := t.TempDir()
	srv := startServer(t, func(c *Config) {
		store := openFS(t, root)
		c.Shares = append(c.Shares, Share{Name: "abe", FS: store, AccessBased: true},
			Share{Name: "abe-read", FS: store, AccessBased: true, Security: grants(t, fscc.Allow(fscc.SIDUsers, shareRead, 0))},
			Share{Name: "plain", FS: store})
	})
	store := openFS(t, root)
	for name, sd := range map[string]*fscc.SecurityDescriptor{
		"read": descriptorOf(fscc.FILE_GENERIC_READ, 0), "none": descriptorOf(0, 0), "attributes": descriptorOf(fscc.FILE_READ_ATTRIBUTES|fscc.READ_CONTROL, 0),
		"data alone": descriptorOf(fscc.FILE_READ_DATA, 0), "write": descriptorOf(fscc.FILE_GENERIC_WRITE, 0), "all": descriptorOf(fscc.FILE_ALL_ACCESS, 0),
	} {
		for _, dir := range []bool{false, true} {
			if dir {
				name += " folder"
			}
			f, err := store.Create(t.Context(), name, fs.CreateOptions{Dir: dir, SecurityDescriptor: marshal(t, sd)})
			if err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
	}
	list := func(share, pattern string) ([]string, smb2.Status) {
		c := loginRaw(t, srv.addr, smb2.Dialect311, share)
		names, st := c.list(c.open("", smb2.FileListDirectory, smb2.FileDirectoryFile),
			smb2.QueryDirectoryRequest{FileInformationClass: uint8(fscc.FileNamesInformation), FileName: pattern, OutputBufferLength: 1 << 16})
		slices.Sort(names)
		return names, st
	}
	want := []string{".", "..", "all", "all folder", "read", "read folder"}
	if names, _ := list("abe", "*"); !slices.Equal(names, want) {
		t.Errorf("with access-based enumeration: %q, want %q", names, want)
	}
	if names, _ := list("plain", "*"); len(names) != 14 {
		t.Errorf("without: %q", names)
	}
	if _, st := list("abe", "none*"); st != smb2.StatusNoSuchFile {
		t.Errorf("a pattern that matches only what is not shown: %v", st)
	}
	c := loginRaw(t, srv.addr, smb2.Dialect311, "abe-read")
	c.wantOpen("all", smb2.GenericWrite, shareAll, smb2.StatusObjectNameNotFound) // 3.3.5.9, of ConnectSecurity
	c.wantOpen("none", smb2.GenericRead, shareAll, smb2.StatusAccessDenied)       // of the file
	for share, want := range map[string]bool{"abe": true, "plain": false} {
		c := dialRaw(t, srv.addr)
		c.negotiate(smb2.Dialect311)
		c.login(testUser, testPassword)
		a := c.call(smb2.CommandTreeConnect, &smb2.TreeConnectRequest{Path: `\\server\` + share}, nil)
		var m smb2.TreeConnectResponse
		if err := m.Decode(a.msg); err != nil || (m.ShareFlags&smb2.ShareFlagAccessBasedDirectoryEnum != 0) != want {
			t.Errorf("%s: flags %#x, %v", share, m.ShareFlags, err)
		}
	}
}

// Privileges to back up and restore count for opens that say they are for that,
// and for no others (MS-FSA 2.1.5.1 phase 4); nothing gets past the share.
func TestBackupIntent(t *testing.T) {
	root := t.TempDir()
	srv := startServer(t, func(c *Config) {
		if err := c.Accounts.AddUser("backup", testPassword); err != nil {
			t.Fatal(err)
		}
		if err := c.Accounts.AddMember("Backup Operators", "backup"); err != nil {
			t.Fatal(err)
		}
		store := openFS(t, root)
		c.Shares = append(c.Shares, Share{Name: "closed", FS: store},
			Share{Name: "closed-read", FS: store, Security: grants(t, fscc.Allow(fscc.SIDEveryone, shareRead, 0))})
	})
	store := openFS(t, root)
	sd := marshal(t, &fscc.SecurityDescriptor{Control: fscc.SE_DACL_PRESENT, Owner: fscc.SIDAdministrators, DACL: &fscc.ACL{}})
	for _, o := range []struct {
		name string
		dir  bool
	}{{"folder", true}, {"folder/file", false}} {
		f, err := store.Create(t.Context(), o.name, fs.CreateOptions{Dir: o.dir, SecurityDescriptor: sd})
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	as := func(user, share string) *rawClient {
		c := dialRaw(t, srv.addr)
		c.negotiate(smb2.Dialect311)
		c.login(user, testPassword)
		if st := c.treeConnect(share); st != 0 {
			t.Fatal(st)
		}
		return c
	}
	const intent = smb2.FileOpenForBackupIntent
	type q = smb2.CreateRequest
	for _, tt := range []struct {
		what, user, share string
		q                 q
		want              smb2.Status
	}{
		{"no intent", "backup", "closed", q{Name: `folder\file`, DesiredAccess: smb2.GenericRead, CreateDisposition: 1}, smb2.StatusAccessDenied},
		{"no privilege", testUser, "closed", q{Name: `folder\file`, DesiredAccess: smb2.GenericRead, CreateDisposition: 1, CreateOptions: intent}, smb2.StatusAccessDenied},
		{"backup", "backup", "closed", q{Name: `folder\file`, DesiredAccess: smb2.GenericRead | smb2.AccessSystemSecurity, CreateDisposition: 1, CreateOptions: intent}, 0},
		{"restore", "backup", "closed", q{Name: `folder\file`, DesiredAccess: smb2.GenericWrite | smb2.WriteDAC | smb2.WriteOwner | smb2.Delete, CreateDisposition: 1, CreateOptions: intent}, 0},
		{"overwrite", "backup", "closed", q{Name: `folder\file`, DesiredAccess: smb2.GenericWrite, CreateDisposition: smb2.FileOverwriteIf, CreateOptions: intent}, 0},
		{"delete child is no part of it", "backup", "closed", q{Name: `folder`, DesiredAccess: smb2.FileDeleteChild, CreateDisposition: 1, CreateOptions: intent}, smb2.StatusAccessDenied},
		{"list", "backup", "closed", q{Name: `folder`, DesiredAccess: smb2.FileListDirectory, CreateDisposition: 1, CreateOptions: intent}, 0},
		{"create without intent", "backup", "closed", q{Name: `folder\new`, DesiredAccess: smb2.GenericWrite, CreateDisposition: 2}, smb2.StatusAccessDenied},
		{"create", "backup", "closed", q{Name: `folder\new`, DesiredAccess: smb2.GenericWrite, CreateDisposition: 2, CreateOptions: intent}, 0},
		{"create a folder", "backup", "closed", q{Name: `folder\sub`, DesiredAccess: smb2.GenericWrite, CreateDisposition: 2, CreateOptions: intent | smb2.FileDirectoryFile}, 0},
		{"read where the share lets", "backup", "closed-read", q{Name: `folder\file`, DesiredAccess: smb2.GenericRead, CreateDisposition: 1, CreateOptions: intent}, 0},
		{"write where it does not", "backup", "closed-read", q{Name: `folder\file`, DesiredAccess: smb2.GenericWrite, CreateDisposition: 1, CreateOptions: intent}, smb2.StatusAccessDenied},
	} {
		c := as(tt.user, tt.share)
		tt.q.ShareAccess = shareAll
		m, st := c.tryCreate(&tt.q)
		if st != tt.want {
			t.Errorf("%s: %v, want %v", tt.what, st, tt.want)
		}
		if st == 0 {
			c.closeFile(m.FileID)
		}
	}
	c := as("backup", "closed")
	want := fscc.FILE_GENERIC_READ | fscc.FILE_GENERIC_WRITE | fscc.FILE_TRAVERSE | fscc.WRITE_DAC | fscc.WRITE_OWNER | fscc.DELETE
	if got := c.accessOf(c.open(`folder\file`, smb2.MaximumAllowed, intent)); got != want {
		t.Errorf("the maximum with intent is %#x, want %#x", got, want)
	}
	// Whoever may restore may give files to anybody.
	id := c.open(`folder\file`, smb2.WriteOwner, intent)
	if st := c.setSecurity(id, fscc.OWNER_SECURITY_INFORMATION, marshal(t, &fscc.SecurityDescriptor{Owner: fscc.SIDGuests})); st != 0 {
		t.Errorf("owner set by who may restore: %v", st)
	}
}
