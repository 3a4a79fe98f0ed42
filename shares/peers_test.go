package shares

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"lunless/smbstore/smb2"
)

// dialFrom connects from another address of the loopback interface, as another
// client would.
func dialFrom(t testing.TB, from, to string) *rawClient {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	nc, err := d.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	return &rawClient{t: t, nc: nc}
}

// TestGuesses lets an address guess, by a clock of the test's own: the first
// failures cost nothing, then each attempt costs twice what the one before did,
// whether they come one after another or all at once.
func TestGuesses(t *testing.T) {
	const free, most = 3, 30 * time.Second
	var g guesses
	now := time.Hour
	for i := range free {
		if d, ok := g.turn(now, most, free); d != 0 || !ok {
			t.Fatalf("attempt %d waits for %v", i, d)
		}
		g.fail(now)
	}
	g.turn(now, most, free) // at once, but the next will wait
	g.fail(now)
	var waits []time.Duration
	for range 6 {
		d, ok := g.turn(now, most, free)
		if !ok {
			t.Fatalf("turned away after %v", waits)
		}
		now += d
		g.fail(now)
		waits = append(waits, d)
	}
	for i, d := range waits {
		if want := min(guessDelay<<i, guessMaxDelay); d != want {
			t.Errorf("waits %v: the %dth should be %v", waits, i, want)
			break
		}
	}
	t.Run("all at once", func(t *testing.T) {
		g, last := guesses{failed: g.failed, at: g.at, next: g.next}, time.Duration(0)
		admitted := 0
		for range 1000 {
			d, ok := g.turn(now, most, free)
			if !ok {
				continue
			}
			if admitted++; d <= last {
				t.Fatalf("two have their turn within %v", last-d)
			}
			last = d
		}
		if admitted > int(most/guessMaxDelay)+1 {
			t.Errorf("%d of 1000 were tried within %v", admitted, most)
		}
	})
	if g.forgotten(now) {
		t.Error("forgotten at once")
	}
	now += 20 * guessForgotten
	if d, ok := g.turn(now, most, free); d != 0 || !ok || !g.forgotten(now) {
		t.Errorf("still waits for %v long after", d)
	}
}

// TestThrottledLogon turns away an address that has guessed too often, even with
// the right password, and no other address: the account is not locked.
func TestThrottledLogon(t *testing.T) {
	srv := startServer(t, func(cfg *Config) { cfg.Limits.Guesses = 1 })
	guess := func(password string) smb2.Status {
		c := dialRaw(t, srv.addr)
		c.negotiate(smb2.Dialect311)
		return c.setup(testUser, password, 0)
	}
	if st := guess("wrong"); st != smb2.StatusLogonFailure {
		t.Fatal(st)
	}
	if st := guess(testPassword); st != smb2.StatusSuccess {
		t.Fatalf("after one failure: %v", st)
	}
	srv.mu.Lock()
	g := &srv.peers[netip.MustParseAddr("127.0.0.1")].logons
	srv.mu.Unlock()
	g.mu.Lock()
	if g.failed < 0.9 || g.failed > 1 {
		t.Errorf("%v failures are remembered", g.failed)
	}
	g.failed, g.next = 20, clock()+time.Hour
	g.mu.Unlock()
	if st := guess(testPassword); st != smb2.StatusLogonFailure {
		t.Errorf("the right password of who has guessed too often: %v", st)
	}
	if got := srv.scrape(t, `lunless_auth_failures_total{reason="throttled"}`); got != "1" {
		t.Errorf("%q throttled log-ons are counted", got)
	}
	other := dialFrom(t, "127.0.0.2", srv.addr)
	other.negotiate(smb2.Dialect311)
	if st := other.setup(testUser, testPassword, 0); st != smb2.StatusSuccess {
		t.Errorf("the same account from another address: %v", st)
	}
}

// TestClientLimits takes up what one address may have; another is not affected.
func TestClientLimits(t *testing.T) {
	gone := func(c *rawClient) bool {
		_, err := c.nc.Read(make([]byte, 1))
		return err != nil
	}
	t.Run("strangers", func(t *testing.T) {
		srv := startServer(t, func(cfg *Config) { cfg.Limits.Strangers = 2 })
		first := loginRaw(t, srv.addr, smb2.Dialect311, "vms") // counts no more
		for range 2 {
			dialRaw(t, srv.addr).negotiate(smb2.Dialect311)
		}
		if !gone(dialRaw(t, srv.addr)) {
			t.Error("a third connection without a log-on")
		}
		dialFrom(t, "127.0.0.2", srv.addr).negotiate(smb2.Dialect311)
		first.create("f")
	})
	t.Run("connections", func(t *testing.T) {
		srv := startServer(t, func(cfg *Config) { cfg.Limits.ClientConnections = 2 })
		a := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
		loginRaw(t, srv.addr, smb2.Dialect311, "vms")
		if !gone(dialRaw(t, srv.addr)) {
			t.Error("a third connection")
		}
		dialFrom(t, "127.0.0.2", srv.addr).negotiate(smb2.Dialect311)
		a.nc.Close()
		for srv.connCount.Load() != 2 {
			sleepBriefly()
		}
		loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	})
	t.Run("opens", func(t *testing.T) {
		srv := startServer(t, func(cfg *Config) { cfg.Limits.ClientOpens = 3 })
		a, b := loginRaw(t, srv.addr, smb2.Dialect311, "vms"), loginRaw(t, srv.addr, smb2.Dialect311, "vms")
		id := a.create("1")
		a.create("2")
		b.create("3")
		if r := b.call(smb2.CommandCreate, createRequest("4"), nil); r.hdr.Status != smb2.StatusInsufficientResources {
			t.Errorf("a fourth open: %v", r.hdr.Status)
		}
		a.closeFile(id)
		b.create("4")
	})
}

// TestWorkersOfOthers uses up all workers there are with writes to a disk that
// hangs: every other connection still has its own.
func TestWorkersOfOthers(t *testing.T) {
	gated := &gatedFS{gate: make(chan struct{}), entered: make(chan struct{}, 64)}
	srv := startServer(t, func(cfg *Config) {
		gated.FS = cfg.Shares[0].FS
		cfg.Shares = append(cfg.Shares, Share{Name: "stuck", FS: gated})
		cfg.Limits.AllWorkers = 4
	})
	var once sync.Once
	free := func() { once.Do(func() { close(gated.gate) }) }
	t.Cleanup(free)
	stuck := loginRaw(t, srv.addr, smb2.Dialect311, "stuck")
	stuck.existing("hung", 0, 0)
	id := stuck.create("hung")
	const size = 128 << 10
	data := strings.Repeat("x", size)
	for range 8 {
		stuck.send(stuck.build(smb2.CommandWrite, &smb2.WriteRequest{FileID: id, Length: size}, []byte(data)))
	}
	for range 4 {
		<-gated.entered
	}
	for i := range 3 {
		c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
		c.mustWrite(c.create(fmt.Sprint("free", i)), data)
	}
	if n := srv.workers.Load(); n != 4+3 {
		t.Errorf("%d workers, want 4 of the one that hangs and one of each other", n)
	}
	free()
	for range 8 {
		wantStatus(t, stuck.receive()[0], smb2.StatusSuccess)
	}
	srv.mu.Lock()
	var conns []*conn
	for c := range srv.conns {
		conns = append(conns, c)
	}
	srv.mu.Unlock()
	for srv.workers.Load() > 0 { // what Server.watch does now and then
		for _, c := range conns {
			c.retireIdle()
		}
		sleepBriefly()
	}
	stuck.mustWrite(id, data)
}
