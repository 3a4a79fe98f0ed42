package shares

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lunless/shares/accounts"
	"lunless/shares/fs"
	"lunless/smbstore/smb2"
)

const (
	testUser     = "hv"
	testPassword = "correct horse"
)

// testServer is a server on a loopback port, with the share "vms" and the user testUser.
type testServer struct {
	*Server
	addr string
	reg  *prometheus.Registry
	root string // what the share holds
}

// startServer starts a server and stops it with the test. change may alter the
// configuration, which has the share vms and every dialect.
func startServer(t testing.TB, change func(*Config)) *testServer {
	t.Helper()
	store, err := accounts.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := store.AddUser(testUser, testPassword); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	cfg := Config{
		Accounts: store, MinDialect: smb2.Dialect202,
		Shares: []Share{{Name: "vms", Path: root, FS: openFS(t, root), Comment: "virtual machines"}},
		Logger: testLogger(t),
		Limits: Limits{Guesses: -1, Strangers: 1 << 20},
	}
	reg := prometheus.NewRegistry()
	cfg.Registerer = reg
	if change != nil {
		change(&cfg)
	}
	srv, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-served; !errors.Is(err, ErrServerClosed) {
			t.Errorf("Serve returned %v", err)
		}
	})
	return &testServer{Server: srv, addr: l.Addr().String(), reg: reg, root: root}
}

func openFS(t testing.TB, root string) fs.FS {
	t.Helper()
	f, err := fs.NewPOSIX(root, fs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// scrape returns a sample of the metrics endpoint by its name and labels as they
// stand there, "" if there is none.
func (s *testServer) scrape(t *testing.T, sample string) string {
	t.Helper()
	w := httptest.NewRecorder()
	MetricsHandler(s.reg).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), sample+" "); ok {
			return value
		}
	}
	return ""
}

// testLogger writes to the test's log where SERVER_LOG is set to a level.
func testLogger(t testing.TB) *slog.Logger {
	var level slog.Level
	if level.UnmarshalText([]byte(os.Getenv("SERVER_LOG"))) != nil {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// smbclient runs the peer of that name against a share and returns what it
// printed. A command of "" only connects.
func (s *testServer) smbclient(t *testing.T, share, command string, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath("smbclient")
	if err != nil {
		t.Fatal("smbclient is missing: apt-get install smbclient")
	}
	_, port, _ := net.SplitHostPort(s.addr)
	all := []string{"//127.0.0.1/" + share, "-p", port, "-U", testUser + "%" + testPassword, "-t", "10"}
	all = append(all, args...)
	if command != "" {
		all = append(all, "-c", command)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, all...)
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

var timeZero time.Time

func sleepBriefly() { time.Sleep(time.Millisecond) }
