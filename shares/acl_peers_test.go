package shares

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lunless/smbstore/fscc"
)

// listenSMB also serves on port 445 of a loopback address of its own, for peers
// that know no other port, and returns the address.
func (s *testServer) listenSMB(t *testing.T) string {
	t.Helper()
	for range 50 {
		host := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(250), rand.IntN(256), 1+rand.IntN(250))
		l, err := net.Listen("tcp", host+":445")
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			continue
		case errors.Is(err, os.ErrPermission):
			t.Fatal("this test serves port 445, which smbcacls and smbcquotas alone know: run it as root, or sysctl net.ipv4.ip_unprivileged_port_start=445")
		case err != nil:
			t.Fatal(err)
		}
		served := make(chan struct{})
		go func() {
			defer close(served)
			s.Serve(context.Background(), l)
		}()
		t.Cleanup(func() { // the server shuts down in a clean-up registered before, which runs after
			l.Close()
		})
		return host
	}
	t.Fatal("no loopback address with a free port 445")
	return ""
}

// peer runs one of Samba's programs as the user and returns what it printed.
func peer(t *testing.T, user, program string, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%s is missing: apt-get install smbclient", program)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, append([]string{"-U", user + "%" + testPassword}, args...)...)
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// contains wants every line of want in text.
func contains(t *testing.T, what, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains("\n"+text+"\n", "\n"+w+"\n") {
			t.Errorf("%s: no line %q in:\n%s", what, w, text)
		}
	}
}

// rpcclient looks names, SIDs, policies and shares up.
func TestRpcclient(t *testing.T) {
	srv := startServer(t, func(c *Config) {
		root := t.TempDir()
		c.Shares = append(c.Shares, Share{Name: "few", FS: openFS(t, root), AccessBased: true,
			Security: grants(t, fscc.Allow(fscc.SIDUsers, shareRead, 0))})
	})
	machine, err := srv.cfg.Accounts.MachineSID()
	if err != nil {
		t.Fatal(err)
	}
	user, err := srv.cfg.Accounts.Lookup(testUser)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(srv.addr)
	for command, want := range map[string][]string{
		"lookupnames hv Everyone BUILTIN\\\\Administrators LUNLESS\\\\hv": {"hv " + user.SID.String() + " (User: 1)", "Everyone S-1-1-0 (Well-known Group: 5)",
			"BUILTIN\\Administrators S-1-5-32-544 (Local Group: 4)", "LUNLESS\\hv " + user.SID.String() + " (User: 1)"},
		"lookupnames nosuch": {"result was NT_STATUS_NONE_MAPPED"},
		"lookupsids S-1-5-32-545 S-1-5-18 " + user.SID.String() + " S-1-5-21-1-2-3-4": {"S-1-5-32-545 BUILTIN\\Users (4)", "S-1-5-18 NT AUTHORITY\\SYSTEM (5)",
			user.SID.String() + " LUNLESS\\hv (1)", "S-1-5-21-1-2-3-4 *unknown*\\*unknown* (8)"},
		"lsaquery 5":                             {"Domain Name: LUNLESS", "Domain Sid: " + machine.String()},
		"lsaquery":                               {"Domain Name: WORKGROUP"},
		"lsaenumsid":                             {"S-1-5-32-544", "S-1-5-32-551", "S-1-1-0"},
		"getusername":                            {"Account Name: hv, Authority Name: LUNLESS"},
		"enumprivs":                              {"SeBackupPrivilege \t\t0:17 (0x0:0x11)"},
		"lsaenumacctrights S-1-5-32-551":         {"\tSeRestorePrivilege"},
		"lsalookupprivvalue SeSecurityPrivilege": {"0:8 (0x0:0x8)"},
		"lookupnames4 hv":                        {"result was NT_STATUS_INVALID_SERVER_STATE"},
		"netsharegetinfo few 502":                {"netname: few", "\t\tPermissions: 0x1200a9: SYNCHRONIZE_ACCESS READ_CONTROL_ACCESS ", "\t\tSID: S-1-5-32-545"},
		"netsharegetinfo vms 502":                {"\t\tSID: S-1-1-0"},
		"netsharegetinfo few 1005":               {"flags: 0x830"},
		"netsharesetinfo few 502":                {"result was WERR_ACCESS_DENIED"},
	} {
		out, _ := peer(t, testUser, "rpcclient", "127.0.0.1", "-p", port, "-c", command)
		contains(t, command, out, want...)
	}
	if out, _ := peer(t, testUser, "rpcclient", "127.0.0.1", "-p", port, "-U", "%", "-c", "lookupnames hv"); !strings.Contains(out, "NT_STATUS_ACCESS_DENIED") {
		t.Errorf("anonymous look-up: %s", out)
	}
}

// smbcacls shows names and changes lists; smbcquotas learns that there are no quotas.
func TestSmbcacls(t *testing.T) {
	srv := startServer(t, func(c *Config) {
		for _, name := range []string{"boss", "guest1"} {
			if err := c.Accounts.AddUser(name, testPassword); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Accounts.AddMember("Administrators", "boss"); err != nil {
			t.Fatal(err)
		}
	})
	share := "//" + srv.listenSMB(t) + "/vms"
	if err := os.Mkdir(filepath.Join(srv.root, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	acls := func(user, name string, args ...string) string {
		t.Helper()
		out, err := peer(t, user, "smbcacls", append([]string{share, name}, args...)...)
		if err != nil {
			t.Errorf("smbcacls %q as %s: %v: %s", args, user, err, out)
		}
		return out
	}
	contains(t, "fresh", acls(testUser, "folder"), "OWNER:BUILTIN\\Administrators", "ACL:NT AUTHORITY\\Authenticated Users:ALLOWED/OI|CI/FULL")
	acls("boss", "folder", "--set", "REVISION:1,OWNER:LUNLESS\\boss,GROUP:BUILTIN\\Users,ACL:LUNLESS\\boss:ALLOWED/OI|CI/FULL,"+
		"ACL:LUNLESS\\hv:ALLOWED/OI|CI/READ,ACL:CREATOR OWNER:ALLOWED/OI|CI|IO/FULL")
	contains(t, "set", acls(testUser, "folder"), "OWNER:LUNLESS\\boss", "GROUP:BUILTIN\\Users", "ACL:LUNLESS\\boss:ALLOWED/OI|CI/FULL",
		"ACL:LUNLESS\\hv:ALLOWED/OI|CI/READ", "ACL:CREATOR OWNER:ALLOWED/OI|CI|IO/FULL")
	for user, want := range map[string]string{testUser: "NT_STATUS_ACCESS_DENIED", "guest1": "NT_STATUS_ACCESS_DENIED", "boss": ""} {
		out, _ := srv.smbclient(t, "vms", "mkdir folder/"+user, "-U", user+"%"+testPassword)
		if (want == "") != (out == "") || !strings.Contains(out, want) {
			t.Errorf("mkdir as %s: %q, want %q", user, out, want)
		}
	}
	contains(t, "inherited", acls(testUser, "folder/boss"), "ACL:LUNLESS\\hv:ALLOWED/OI|CI/READ", "ACL:LUNLESS\\boss:ALLOWED/0x0/FULL", "ACL:CREATOR OWNER:ALLOWED/OI|CI|IO/FULL")
	acls("boss", "folder", "--add", "ACL:LUNLESS\\guest1:DENIED/0x0/W")
	acls("boss", "folder", "--modify", "ACL:LUNLESS\\hv:ALLOWED/OI|CI/CHANGE")
	acls("boss", "folder", "--delete", "ACL:CREATOR OWNER:ALLOWED/OI|CI|IO/FULL")
	out := acls(testUser, "folder")
	contains(t, "changed", out, "ACL:LUNLESS\\guest1:DENIED/0x0/W", "ACL:LUNLESS\\hv:ALLOWED/OI|CI/CHANGE")
	if strings.Contains(out, "CREATOR OWNER") {
		t.Errorf("deleted entry is still there:\n%s", out)
	}
	acls("boss", "folder", "--chown", "LUNLESS\\hv")
	acls("boss", "folder", "--inherit", "remove")
	contains(t, "owner", acls(testUser, "folder"), "OWNER:LUNLESS\\hv", "CONTROL:SR|PD|DP")
	if out, err := peer(t, testUser, "smbcacls", share, "folder", "--chown", "LUNLESS\\guest1"); err == nil {
		t.Errorf("given away by who may not: %s", out)
	}
	for _, args := range [][]string{{"-F"}, {"-L"}, {"-u", "LUNLESS\\hv"}, {"-S", "UQLIM:LUNLESS\\hv:1000/2000"}, {"-S", "FSQFLAGS:QUOTA_ENABLED"}} {
		if out, err := peer(t, "boss", "smbcquotas", append([]string{share}, args...)...); err != nil || out != "Quotas are not supported by the server." {
			t.Errorf("smbcquotas %q: %v: %s", args, err, out)
		}
	}
}
