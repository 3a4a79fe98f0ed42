package shares

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lunless/shares/accounts"
	"lunless/shares/fs"
)

// The test binary runs itself as the process that serves, so that it can be
// killed with kill -9.
const (
	envNode     = "SHARES_NODE"      // its folder
	envNodeAddr = "SHARES_NODE_ADDR" // where it listens
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(envNode); dir != "" {
		if err := serveProcess(dir, os.Getenv(envNodeAddr)); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1) // it is killed, never done
	}
	os.Exit(m.Run())
}

// serveProcess serves the share "ca" from below dir, with SABOTAGE's fault.
func serveProcess(dir, addr string) error {
	if name := os.Getenv("SABOTAGE"); name != "" {
		fault.Store(&name)
	}
	users, err := accounts.Open(filepath.Join(dir, "accounts"))
	if err != nil {
		return err
	}
	root := filepath.Join(dir, "ca")
	store, err := fs.NewPOSIX(root, fs.Options{})
	if err != nil {
		return err
	}
	level := slog.LevelWarn
	if text := os.Getenv("SERVER_LOG"); text != "" {
		if err := level.UnmarshalText([]byte(text)); err != nil {
			return err
		}
	}
	srv, err := New(Config{
		Accounts: users, StateDir: filepath.Join(dir, "state"),
		Shares: []Share{{Name: "ca", Path: root, FS: store, ContinuouslyAvailable: true}},
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
	})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println("serving", l.Addr())
	return srv.Serve(context.Background(), l)
}

// process is a server in a process of its own.
type process struct {
	dir      string
	addr     string
	sabotage string
	cmd      *exec.Cmd
}

// startProcess starts a server that is killed with the test.
func startProcess(t *testing.T, sabotage string) *process {
	t.Helper()
	n := &process{dir: t.TempDir(), addr: "127.0.0.1:0", sabotage: sabotage}
	for _, d := range []string{"accounts", "ca", "state"} {
		if err := os.Mkdir(filepath.Join(n.dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	users, err := accounts.Open(filepath.Join(n.dir, "accounts"))
	if err != nil {
		t.Fatal(err)
	}
	if err := users.AddUser(testUser, testPassword); err != nil {
		t.Fatal(err)
	}
	if err := n.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.kill)
	return n
}

func (n *process) start() error {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envNode+"="+n.dir, envNodeAddr+"="+n.addr, "SABOTAGE="+n.sabotage)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "serving ")
	if !ok {
		cmd.Process.Kill()
		cmd.Wait()
		return fmt.Errorf("the server printed %q: %w", line, err)
	}
	n.addr, n.cmd = addr, cmd
	return nil
}

func (n *process) kill() {
	if n.cmd != nil {
		n.cmd.Process.Kill()
		n.cmd.Wait() // its status is that of the kill
		n.cmd = nil
	}
}
