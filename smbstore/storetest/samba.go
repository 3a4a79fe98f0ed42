package storetest

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
)

const sambaConf = `[global]
workgroup = LUNLESS
server role = standalone server
interfaces = 127.0.0.1
bind interfaces only = yes
smb ports = %[1]d
private dir = %[2]s/private
lock directory = %[2]s/lock
state directory = %[2]s/state
cache directory = %[2]s/cache
pid directory = %[2]s/pid
ncalrpc dir = %[2]s/ncalrpc
log file = %[2]s/log
passdb backend = tdbsam:%[2]s/private/passdb.tdb
map to guest = never
disable spoolss = yes
load printers = no
disable netbios = yes
server multi channel support = no
strict sync = yes
%[3]s
[vms]
path = %[2]s/vms
read only = no
[other]
path = %[2]s/other
read only = no
`

// StartSamba starts Samba. It needs smbd and smbpasswd, and root.
func StartSamba(t testing.TB, globals ...string) *Server {
	t.Helper()
	for _, tool := range []string{"smbd", "smbpasswd"} {
		if _, err := lookTool(tool); err != nil {
			t.Fatalf("%v: install it with apt-get install samba", err)
		}
	}
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, u.Username)
	conf := filepath.Join(s.Dir, "smb.conf")
	extra := strings.Join(globals, "\n")
	for _, d := range []string{"private", "lock", "state", "cache", "pid", "ncalrpc"} {
		if err := os.Mkdir(filepath.Join(s.Dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(conf, fmt.Appendf(nil, sambaConf, s.Port, s.Dir, extra), 0o644); err != nil {
		t.Fatal(err)
	}
	smbpasswd, _ := lookTool("smbpasswd")
	add := exec.Command(smbpasswd, "-c", conf, "-s", "-a", s.User)
	add.Stdin = strings.NewReader(Password + "\n" + Password + "\n")
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("smbpasswd: %v\n%s", err, out)
	}
	smbd, _ := lookTool("smbd")
	s.command = func() *exec.Cmd { return exec.Command(smbd, "-F", "--no-process-group", "-s", conf) }
	s.Start(t)
	return s
}

func lookTool(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	return exec.LookPath("/usr/sbin/" + name)
}
