package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	testUser     = "hv"
	testPassword = "Correct-Horse9"
)

// binaryDir is the folder of what binary built, "" if no test asked for it.
var binaryDir string

// binary builds the program once; tests drive it as people do.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "lunless-bin-")
	if err != nil {
		return "", err
	}
	binaryDir = dir
	file := filepath.Join(dir, "lunless")
	if out, err := exec.Command("go", "build", "-o", file, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return file, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if binaryDir != "" {
		os.RemoveAll(binaryDir)
	}
	os.Exit(code)
}

// lunless runs the program to its end and returns what it printed.
func lunless(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	file, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), file, args...)
	cmd.Env = append(os.Environ(), "LUNLESS_PASSWORD="+testPassword)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// must is lunless for what has to work.
func must(t *testing.T, args ...string) string {
	t.Helper()
	out, errs, code := lunless(t, args...)
	if code != 0 {
		t.Fatalf("lunless %s: exit status %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// server is a running `lunless serve` with an account for testUser.
type server struct {
	host, port string
	data, vms  string // data folder; the folder of share vms
	flags      []string
	cmd        *exec.Cmd
	log        *syncBuffer
	stopped    bool
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// serve starts a server with share vms and more flags; it is stopped, and must
// stop in order, when the test ends.
func serve(t *testing.T, flags ...string) *server {
	t.Helper()
	file, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := &server{data: filepath.Join(dir, "data"), vms: filepath.Join(dir, "vms"), log: &syncBuffer{}}
	if err := os.Mkdir(s.vms, 0o755); err != nil {
		t.Fatal(err)
	}
	must(t, "user", "add", testUser, "--data", s.data)
	s.flags = append([]string{"--share", "vms=" + s.vms, "--log-level", "debug"}, flags...)
	s.host, s.port = "127.0.0.1", "0"
	t.Cleanup(func() { s.stop(t) })
	s.start(t, file)
	return s
}

// start starts the server on its port, which 0 leaves to the kernel.
func (s *server) start(t *testing.T, file string) {
	t.Helper()
	args := append([]string{"serve", "--data", s.data, "--listen", net.JoinHostPort(s.host, s.port)}, s.flags...)
	s.cmd = exec.Command(file, args...)
	s.cmd.Stderr = s.log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "serving ")
	if err != nil || !ok {
		t.Fatalf("lunless serve printed %q, %v\n%s", line, err, tail(s.log.String()))
	}
	if s.host, s.port, err = net.SplitHostPort(addr); err != nil {
		t.Fatal(err)
	}
}

// kill ends the server as SIGKILL does; start begins it again on its port.
func (s *server) kill(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	s.cmd.Wait() // its status is that of the kill
}

// stop ends the server, which must take it in order. It may be called again.
func (s *server) stop(t *testing.T) {
	if s.stopped || s.cmd == nil || s.cmd.Process == nil {
		return
	}
	s.stopped = true
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("lunless serve did not stop in order: %v\n%s", err, tail(s.log.String()))
		}
	case <-time.After(time.Minute):
		s.cmd.Process.Kill()
		t.Errorf("lunless serve does not stop\n%s", tail(s.log.String()))
	}
	if strings.Contains(s.log.String(), "WARNING: DATA RACE") || strings.Contains(s.log.String(), "panic") {
		t.Errorf("the server's log:\n%s", tail(s.log.String()))
	}
}

func tail(s string) string { return s[max(0, len(s)-4000):] }

// location is where something on share vms lies, as commands take it.
func (s *server) location(name string) string {
	return fmt.Sprintf("smb://%s@%s/vms/%s", testUser, net.JoinHostPort(s.host, s.port), name)
}

// smbclient runs commands on share vms with more flags.
func (s *server) smbclient(t *testing.T, share, commands string, flags ...string) (string, error) {
	t.Helper()
	args := append([]string{"//" + s.host + "/" + share, "-p", s.port, "-c", commands}, flags...)
	return s.run(t, "smbclient", args...)
}

// run runs a Samba client with the test account in the environment.
func (s *server) run(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "USER="+testUser, "PASSWD="+testPassword)
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatalf("%v: install the package that holds it (testdata/peers.sh)", err)
	}
	return string(out), err
}
