package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"lunless/shares/accounts"
	"lunless/smbstore"
)

// demoServer is a `lunless serve` of the demo's own, on a loopback port the
// kernel picked.
type demoServer struct {
	cmd  *exec.Cmd
	port int
	log  bytes.Buffer
}

// startDemoServer starts a server with one share and one account, below dir.
func startDemoServer(ctx context.Context, dir, password string) (*demoServer, error) {
	data, vms := filepath.Join(dir, "data"), filepath.Join(dir, "vms")
	if err := os.MkdirAll(vms, 0o700); err != nil {
		return nil, err
	}
	store, err := accounts.Open(data)
	if err != nil {
		return nil, err
	}
	if err := store.AddUser(demoUser, password); err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &demoServer{cmd: exec.Command(program, "serve", "--data", data, "--listen", "127.0.0.1:0", "--share", "vms="+vms)}
	s.cmd.Stderr = &s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true} // an interrupt is ours to handle
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if s.port, err = readPort(ctx, bufio.NewReader(out)); err != nil {
		s.stop()
		return nil, fmt.Errorf("%w\n%s", err, s.log.String())
	}
	return s, nil
}

// readPort waits for the line a server prints when it is ready.
func readPort(ctx context.Context, r *bufio.Reader) (int, error) {
	type answer struct {
		line string
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		line, err := r.ReadString('\n')
		got <- answer{line, err}
	}()
	select {
	case a := <-got:
		addr, ok := strings.CutPrefix(strings.TrimSpace(a.line), "serving ")
		if !ok {
			return 0, errors.Join(errors.New("the server did not start"), a.err)
		}
		_, port, err := net.SplitHostPort(addr)
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(port)
	case <-time.After(20 * time.Second):
		return 0, errors.New("the server does not say that it is ready")
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// share is the location of the server's share.
func (s *demoServer) share() smbstore.Location {
	return smbstore.Location{Host: "127.0.0.1", Port: s.port, User: demoUser, Share: "vms"}
}

// stop ends the server in order, or at once if that takes too long.
func (s *demoServer) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(10*time.Second, func() { _ = s.cmd.Process.Kill() })
	_ = s.cmd.Wait()
	kill.Stop()
}
