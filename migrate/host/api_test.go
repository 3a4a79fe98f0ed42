package host

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The API's socket takes the place of a dead agent's and of nothing else, and is its
// user's alone.
func TestListenControl(t *testing.T) {
	dir, err := os.MkdirTemp("", "h")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "host.sock")
	l, err := listenControl(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", st.Mode(), err)
	}
	if _, err := listenControl(t.Context(), path); !errors.Is(err, ErrAgentRunning) {
		t.Errorf("a socket that is listened on: %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as kill -9 leaves it
	l.Close()
	if l, err = listenControl(t.Context(), path); err != nil {
		t.Fatalf("a dead agent's socket: %v", err)
	}
	l.Close()
	for _, make := range []func(string) error{
		func(p string) error { return os.WriteFile(p, []byte("precious"), 0o600) },
		func(p string) error { return os.Mkdir(p, 0o700) },
	} {
		other := filepath.Join(dir, "other")
		if err := make(other); err != nil {
			t.Fatal(err)
		}
		if _, err := listenControl(t.Context(), other); err == nil {
			t.Error("something else is listened on")
		}
		if err := os.Remove(other); err != nil {
			t.Errorf("it is gone: %v", err)
		}
	}
}

// A request with something that this agent does not know is refused, not done without
// it.
func TestUnknownRequest(t *testing.T) {
	for body, ok := range map[string]bool{`{"force":true}`: true, `{"force":true,"keepMemory":true}`: false, `{"force":`: false} {
		var q StopRequest
		r := httptest.NewRequest(http.MethodPost, "/vms/web1/stop", strings.NewReader(body))
		if err := decode(r, &q); (err == nil) != ok {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// A migration under way is never forgotten, however many there are.
func TestMovesUnderWayAreKept(t *testing.T) {
	over := func(is bool) *move {
		m := &move{over: make(chan struct{})}
		if is {
			close(m.over)
		}
		return m
	}
	var moves []*move
	for i := range 3 * maxMoves {
		moves = withMove(moves, over(i >= 10 && i < 2*maxMoves))
	}
	under := 0
	for _, m := range moves {
		if !m.isOver() {
			under++
		}
	}
	if under != maxMoves+10 || len(moves) != under {
		t.Errorf("%d of %d are under way", under, len(moves))
	}
}

// A VM whose disks are being closed, or that the agent has not found yet, is not claimed:
// in another epoch they could not be closed well.
func TestClaimWaitsForDisks(t *testing.T) {
	a := &Agent{cfg: Config{Data: t.TempDir()}, ctx: t.Context()}
	v := newVM(a, &kept{Version: 1, ID: "x", Running: true})
	if err := v.claim(t.Context()); !errors.Is(err, ErrRunning) {
		t.Errorf("claimed: %v", err)
	}
}
