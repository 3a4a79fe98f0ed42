package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"lunless/smbstore"
)

// systemd listens where systemd would, and returns what waits for what it is told next.
func systemd(t *testing.T) (said func() string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	t.Setenv("NOTIFY_SOCKET", socket)
	return func() string {
		b := make([]byte, 4096)
		l.SetReadDeadline(time.Now().Add(time.Minute))
		n, err := l.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
}

func TestServeTellsSystemd(t *testing.T) {
	said := systemd(t)
	t.Run("run", func(t *testing.T) {
		serve(t) // stopped with this subtest
		if got := said(); got != "READY=1" {
			t.Errorf("told %q when ready, want READY=1", got)
		}
	})
	if got := said(); got != "STOPPING=1" {
		t.Errorf("told %q when stopping, want STOPPING=1", got)
	}
}

// TestExportTellsSystemd: so does `disk export`, which stops at SIGTERM with a
// client connected.
func TestExportTellsSystemd(t *testing.T) {
	file, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	said := systemd(t)
	dir := t.TempDir()
	disk, socket := filepath.Join(dir, "d.img"), filepath.Join(dir, "s")
	if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), file, "disk", "export", disk, "--socket", socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if got := said(); got != "READY=1" {
		t.Errorf("told %q when ready, want READY=1", got)
	}
	nc, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := said(); got != "STOPPING=1" {
		t.Errorf("told %q when stopping, want STOPPING=1", got)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("stopped: %v", err)
	}
}

func TestServeMetrics(t *testing.T) {
	s := serve(t, "--metrics", "127.0.0.1:0")
	if out, err := s.smbclient(t, "vms", "mkdir a; ls"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := s.smbclient(t, "vms", "ls", "-U", testUser+"%wrong"); err == nil {
		t.Error("a wrong password was taken")
	}
	url := regexp.MustCompile(`http://\S+/metrics`).FindString(s.log.String())
	resp, err := http.Get(url)
	if err != nil {
		t.Fatalf("%q: %v", url, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"lunless_connections ", "lunless_sessions ", "lunless_opens ", `lunless_requests_total{class="ok",command="CREATE"} `,
		"lunless_read_bytes_total ", "lunless_written_bytes_total ", `lunless_auth_failures_total{reason="logon"} 1`,
		"lunless_request_seconds_bucket", "process_cpu_seconds_total ", "go_goroutines "} {
		if !strings.Contains(string(b), "\n"+want) {
			t.Errorf("no series %s in\n%s", want, tail(string(b)))
		}
	}
	if strings.Contains(string(b), "\nlunless_requests_total{class=\"ok\",command=\"CREATE\"} 0\n") {
		t.Error("creates are not counted")
	}
}

// TestServeLogs looks at what an administrator finds in the log.
func TestServeLogs(t *testing.T) {
	s := serve(t, "--share", "ro="+t.TempDir()+",ro", "--log-format", "json")
	const wrong = "Wrong-Secret3"
	_, _ = s.smbclient(t, "vms", "ls", "-U", testUser+"%"+wrong)
	_, _ = s.smbclient(t, "ro", "mkdir Reports")
	_, _ = s.smbclient(t, "vms", "get missing.vhdx")
	for _, want := range []map[string]string{
		{"msg": "authentication failed", "level": "WARN", "user": testUser, "status": "STATUS_LOGON_FAILURE"},
		{"msg": "request failed", "level": "DEBUG", "user": testUser, "share": "ro", "file": "Reports", "status": "STATUS_ACCESS_DENIED", "command": "CREATE"},
		{"msg": "request failed", "share": "vms", "file": "missing.vhdx", "status": "STATUS_OBJECT_NAME_NOT_FOUND"},
	} {
		// What the server has written arrives here in its own time.
		for until := time.Now().Add(time.Minute); !logged(t, s.log.String(), want); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(until) {
				t.Errorf("no line with a client and %v in\n%s", want, tail(s.log.String()))
				break
			}
		}
	}
	for _, secret := range []string{wrong, testPassword} {
		if strings.Contains(s.log.String(), secret) {
			t.Errorf("the log holds the password %s", secret)
		}
	}
}

// logged reports whether a log has a line of a client with all of want in it.
func logged(t *testing.T, log string, want map[string]string) bool {
	t.Helper()
	for text := range strings.Lines(log) {
		var l map[string]any
		if !strings.HasSuffix(text, "\n") {
			return false // still being written
		}
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		all := strings.HasPrefix(fmt.Sprint(l["client"]), "127.0.0.1:")
		for k, v := range want {
			all = all && strings.Contains(fmt.Sprint(l[k]), v)
		}
		if all {
			return true
		}
	}
	return false
}

// TestServeStopsUnderClients stops a server that clients have files open on.
func TestServeStopsUnderClients(t *testing.T) {
	s := serve(t)
	l, err := smbstore.ParseLocation(s.location(""))
	if err != nil {
		t.Fatal(err)
	}
	store, err := smbstore.Open(t.Context(), l, smbstore.Options{
		Credentials: &smbstore.Credentials{User: testUser, Password: testPassword}, ReconnectTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	f, err := store.OpenFile("open.bin", smbstore.ReadWrite|smbstore.Create)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("acknowledged"), 4096); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	s.stop(t)
	if took := time.Since(start); took > time.Minute {
		t.Errorf("stopping under a client took %v", took)
	}
	if b, err := os.ReadFile(filepath.Join(s.vms, "open.bin")); err != nil || string(b[min(4096, len(b)):]) != "acknowledged" {
		t.Errorf("%d bytes, %v: the write is not there", len(b), err)
	}
	for _, want := range []string{"session ended", "server is stopping", "msg=disconnected"} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("the log has no %q:\n%s", want, tail(s.log.String()))
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if c, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(s.host, s.port)); err == nil {
		c.Close()
		t.Error("something still listens")
	}
}
