// Package storetest holds what tests of several packages need to test stores: a
// Samba server of one's own, and a suite that every smbstore.Store passes.
package storetest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lunless/smbstore"
)

// Samba is a Samba server on a loopback port, with shares "vms" and "other".
type Samba struct {
	Port  int
	User  string
	Dir   string // holds configuration and state; shares are vms and other in it
	conf  string
	cmd   *exec.Cmd
	extra string
}

// Password is the server's only user's.
const Password = "Secret-1"

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

// StartSamba starts a server that ends with the test. It needs smbd and
// smbpasswd, and root.
func StartSamba(t testing.TB, globals ...string) *Samba {
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
	dir, err := os.MkdirTemp("", "samba")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &Samba{Port: FreePort(t), User: u.Username, Dir: dir, conf: filepath.Join(dir, "smb.conf"), extra: strings.Join(globals, "\n")}
	for _, d := range []string{"private", "lock", "state", "cache", "pid", "ncalrpc", "vms", "other"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(s.conf, fmt.Appendf(nil, sambaConf, s.Port, dir, s.extra), 0o644); err != nil {
		t.Fatal(err)
	}
	smbpasswd, _ := lookTool("smbpasswd")
	add := exec.Command(smbpasswd, "-c", s.conf, "-s", "-a", s.User)
	add.Stdin = strings.NewReader(Password + "\n" + Password + "\n")
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("smbpasswd: %v\n%s", err, out)
	}
	s.Start(t)
	t.Cleanup(s.Kill)
	return s
}

func lookTool(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	return exec.LookPath("/usr/sbin/" + name)
}

// FreePort is a TCP port of the loopback interface that nobody listens on.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Start runs the server again after Kill.
func (s *Samba) Start(t testing.TB) {
	t.Helper()
	smbd, _ := lookTool("smbd")
	var out bytes.Buffer
	s.cmd = exec.Command(smbd, "-F", "--no-process-group", "-s", s.conf)
	s.cmd.Stdout, s.cmd.Stderr = &out, &out
	// A group of its own, so that the server dies with its children.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		c, err := net.DialTimeout("tcp", "127.0.0.1:"+strconv.Itoa(s.Port), time.Second)
		if err == nil {
			c.Close()
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("smbd does not listen: %s", out.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Kill ends the server and everything it started with kill -9.
func (s *Samba) Kill() {
	if s.cmd == nil {
		return
	}
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	_ = s.cmd.Wait()
	s.cmd = nil
}

// Location is a folder in the share vms.
func (s *Samba) Location(path string) smbstore.Location {
	return smbstore.Location{Host: "127.0.0.1", Port: s.Port, User: s.User, Share: "vms", Path: path}
}

// Options open the server's shares.
func (s *Samba) Options() smbstore.Options {
	return smbstore.Options{Credentials: &smbstore.Credentials{User: s.User, Password: Password}, ReconnectTimeout: 20 * time.Second}
}
