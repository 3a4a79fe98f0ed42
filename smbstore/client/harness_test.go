package client_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"lunless/shares"
	"lunless/shares/accounts"
	"lunless/shares/fs"
	"lunless/smbstore/client"
	"lunless/smbstore/smb2"
	"lunless/smbstore/storetest"
)

// peer is a server that the client is tested against. It has a share "vms".
type peer struct {
	name string
	addr string
	cred client.Credentials
	dir  string // what the share holds
	ours bool
}

func (p *peer) config() client.Config {
	return client.Config{Addr: p.addr, Credentials: p.cred, Logger: testLogger(), ReconnectTimeout: 20 * time.Second}
}

// testLogger writes to the test's log where CLIENT_LOG is set to a level.
func testLogger() *slog.Logger {
	var level slog.Level
	if level.UnmarshalText([]byte(os.Getenv("CLIENT_LOG"))) != nil {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// startOurs starts our own server in this process, with every dialect. change may
// alter its configuration.
func startOurs(t testing.TB, change func(*shares.Config)) *peer {
	t.Helper()
	users, err := accounts.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := users.AddUser("hv", storetest.Password); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	store, err := fs.NewPOSIX(root, fs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	cfg := shares.Config{
		Accounts: users, MinDialect: smb2.Dialect202,
		Shares: []shares.Share{{Name: "vms", Path: root, FS: store}},
	}
	if change != nil {
		change(&cfg)
	}
	srv, err := shares.New(cfg)
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
		if err := <-served; !errors.Is(err, shares.ErrServerClosed) {
			t.Errorf("Serve returned %v", err)
		}
	})
	return &peer{name: "lunless", addr: l.Addr().String(), dir: root, ours: true,
		cred: client.Credentials{User: "hv", Password: storetest.Password}}
}

// durableSamba are the settings without which Samba grants no durable handles. It
// refuses to give one back if a write still under way when the connection died has
// changed the file's time since; without asynchronous writes there is none.
var durableSamba = []string{"kernel oplocks = no", "kernel share modes = no", "posix locking = no", "aio write size = 0", "aio read size = 0"}

func startSamba(t testing.TB, globals ...string) *peer {
	t.Helper()
	s := storetest.StartSamba(t, globals...)
	return &peer{name: "samba", addr: fmt.Sprintf("127.0.0.1:%d", s.Port), dir: filepath.Join(s.Dir, "vms"),
		cred: client.Credentials{User: s.User, Password: storetest.Password}}
}

// eachPeer runs a test against both.
func eachPeer(t *testing.T, test func(t *testing.T, p *peer)) {
	t.Run("lunless", func(t *testing.T) { t.Parallel(); test(t, startOurs(t, nil)) })
	t.Run("samba", func(t *testing.T) { t.Parallel(); test(t, startSamba(t, durableSamba...)) })
}

func dial(t testing.TB, cfg client.Config) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func mount(t testing.TB, c *client.Client) *client.Tree {
	t.Helper()
	tree, err := c.TreeConnect(t.Context(), "vms")
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// readWrite opens or makes a file for everything, and lets others do so too.
func readWrite() client.CreateOptions {
	return client.CreateOptions{
		Access:      smb2.FileReadData | smb2.FileWriteData | smb2.FileReadAttributes | smb2.FileWriteAttributes | smb2.Delete | smb2.Synchronize,
		Share:       smb2.FileShareRead | smb2.FileShareWrite | smb2.FileShareDelete,
		Disposition: smb2.FileOpenIf, Options: smb2.FileNonDirectoryFile,
	}
}

func create(t testing.TB, tree *client.Tree, name string, o client.CreateOptions) *client.File {
	t.Helper()
	f, err := tree.Create(t.Context(), name, o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func must(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func wantStatus(t testing.TB, what string, err error, want smb2.Status) {
	t.Helper()
	if got, _ := client.StatusOf(err); got != want {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}
