package host

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lunless/smbstore/storetest"
)

// TestSoakRestarts restarts the server under a guest that runs, with its disks on a
// plain share and on a continuously available one in turn, by kill -9 and in order:
// the guest sees a stall, and no error. RESTARTS sets how many (default 3), SEED the
// run of random numbers.
func TestSoakRestarts(t *testing.T) {
	t.Parallel()
	n, seed := 3, uint64(time.Now().UnixNano())
	if v, err := strconv.Atoi(os.Getenv("RESTARTS")); err == nil && v > 0 {
		n = v
	}
	if v, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		seed = v
	}
	t.Logf("SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	server := storetest.StartLunless(t)
	passed := 0
	for i, share := range []string{"ca", "vms"} {
		t.Run(share, func(t *testing.T) {
			passed += restarts(t, server, share, (n+1-i)/2, r)
		})
	}
	fmt.Printf("%d passed, %d failed\n", passed, n-passed)
}

// restarts restarts the server n times under a new guest, and gives how often the guest
// took it well.
func restarts(t *testing.T, server *storetest.Server, share string, n int, r *rand.Rand) (passed int) {
	h := newRig(t, "hv1", server)
	at := server.Location("")
	at.Share = share
	at = h.makeGuest("web1", at, "disks=2", "span=8", "mem=4")
	h.startAgent()
	_, err := h.Start(h.ctx, at.String(), StartRequest{})
	h.must(err)
	c := h.console("web1")
	defer c.Close()
	h.flushes(c, 2)
	for i := range n {
		h.must(c.Reset(h.ctx))
		time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond)
		how, down := "killed", time.Duration(r.IntN(1500))*time.Millisecond
		if i%2 == 1 {
			how = "stopped in order"
			server.Signal(syscall.SIGTERM)
		} else {
			server.Kill()
		}
		time.Sleep(down)
		server.Start(t)
		h.flushes(c, 2)
		s, err := c.Stats(h.ctx)
		h.must(err)
		fmt.Printf("%s, %s for %v: the guest's longest request took %v (%s)\n", share, how, down, s.Stall.Round(time.Millisecond), s.StallOp)
		if s.Errors != 0 || s.IOErrors != 0 || c.Err() != nil {
			t.Errorf("%s, %s: the guest saw %d errors, %d requests failed: %v", share, how, s.Errors, s.IOErrors, c.Err())
			continue
		}
		passed++
	}
	if found, err := c.Verify(h.ctx); err != nil || found.Blocks == 0 {
		t.Errorf("%+v, %v\n%s", found, err, c.Tail(20))
	}
	if v := h.await("web1", Running); strings.Contains(v.Reason, "failed") {
		t.Errorf("%+v", v)
	}
	h.must(c.Quit(h.ctx))
	h.await("web1", Stopped)
	if err := c.Err(); err != nil {
		t.Errorf("%v\n%s", err, c.Tail(20))
	}
	checkDisks(t, h, c, at)
	return passed
}
