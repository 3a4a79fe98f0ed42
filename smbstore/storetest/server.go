// Package storetest holds what tests of several packages need to test stores:
// servers of one's own, Samba and ours, and a suite that every smbstore.Store
// passes.
package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lunless/smbstore"
)

// Password is the only user's of every server.
const Password = "Secret-1"

// Server is a file server on a loopback port, a process of its own that ends
// with the test. It has shares "vms" and "other", which are folders of Dir.
type Server struct {
	Port    int
	User    string
	Dir     string // configuration, state and shares
	command func() *exec.Cmd
	cmd     *exec.Cmd
}

func newServer(t testing.TB, user string) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "server")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Port: freePort(t), User: user, Dir: dir}
	t.Cleanup(func() {
		s.Kill()
		os.RemoveAll(dir)
	})
	for _, d := range []string{"vms", "other", "ca"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// StartProgram starts a server of a test's own: command makes its process, which is
// to listen on s.Port and have the shares, and the user, that Server tells of.
func StartProgram(t testing.TB, user string, command func(s *Server) *exec.Cmd) *Server {
	t.Helper()
	s := newServer(t, user)
	s.command = func() *exec.Cmd { return command(s) }
	s.Start(t)
	return s
}

// freePort is a TCP port of the loopback interface that nobody listens on.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Start runs the server, again after Kill, and waits until it listens.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	var out bytes.Buffer
	s.cmd = s.command()
	s.cmd.Stdout, s.cmd.Stderr = &out, &out
	// A group of its own, so that the server dies with its children.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.DialTimeout("tcp", "127.0.0.1:"+strconv.Itoa(s.Port), time.Second)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(until) {
			s.Kill()
			t.Fatalf("%v does not listen: %s", s.cmd, out.String())
		}
	}
}

// Kill ends the server and everything it started with kill -9.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	_ = s.cmd.Wait()
	s.cmd = nil
}

// Signal sends the server a signal and waits until it has ended.
func (s *Server) Signal(sig syscall.Signal) {
	_ = s.cmd.Process.Signal(sig)
	_ = s.cmd.Wait()
	s.cmd = nil
}

// Pause stops the server without ending it (SIGSTOP), Continue lets it go on.
func (s *Server) Pause() { _ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGSTOP) }

// Continue ends Pause.
func (s *Server) Continue() { _ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGCONT) }

// Location is a folder in the share vms.
func (s *Server) Location(path string) smbstore.Location {
	return smbstore.Location{Host: "127.0.0.1", Port: s.Port, User: s.User, Share: "vms", Path: path}
}

// Options open the server's shares.
func (s *Server) Options() smbstore.Options {
	return smbstore.Options{Credentials: &smbstore.Credentials{User: s.User, Password: Password}, ReconnectTimeout: 20 * time.Second}
}

// Servers are the servers that stores are tested against.
var Servers = map[string]func(testing.TB) *Server{
	"samba":   func(t testing.TB) *Server { return StartSamba(t) },
	"lunless": StartLunless,
}

// StartLunless builds and starts `lunless serve`. It has a third share, "ca", which
// is continuously available.
func StartLunless(t testing.TB) *Server {
	t.Helper()
	s := newServer(t, "hv")
	bin := filepath.Join(s.Dir, "lunless")
	program, err := build()
	if err == nil {
		err = os.WriteFile(bin, program, 0o755)
	}
	if err != nil {
		t.Fatalf("build the server: %v", err)
	}
	data := filepath.Join(s.Dir, "data")
	for try := 0; ; try++ {
		add := exec.Command(bin, "user", "add", s.User, "--data", data)
		add.Env = append(os.Environ(), smbstore.PasswordVariable+"="+Password)
		add.Stdin = strings.NewReader("")
		out, err := add.CombinedOutput()
		if err == nil {
			break
		}
		// A process forked beside us may hold the program open for writing a moment longer.
		if !errors.Is(err, syscall.ETXTBSY) || try > 100 {
			t.Fatalf("add a user: %v\n%s", err, out)
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.command = func() *exec.Cmd {
		return exec.Command(bin, "serve", "--data", data, "--listen", fmt.Sprintf("127.0.0.1:%d", s.Port),
			"--share", "vms="+filepath.Join(s.Dir, "vms"), "--share", "other="+filepath.Join(s.Dir, "other"),
			"--share", "ca="+filepath.Join(s.Dir, "ca")+",ca")
	}
	s.Start(t)
	return s
}

// build gives our own program, built once a test process.
var build = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "build")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "lunless")
	if out, err := exec.Command("go", "build", "-o", bin, "lunless/cmd/lunless").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	return os.ReadFile(bin)
})
