package shares

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lunless/shares/fs"
	"lunless/smbstore/auth"
	"lunless/smbstore/smb2"
)

func TestLoginTimeout(t *testing.T) {
	srv := startServer(t, func(c *Config) { c.Limits.Login = 100 * time.Millisecond })
	c := dialRaw(t, srv.addr)
	c.negotiate(smb2.Dialect311)
	start := time.Now()
	c.gone()
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("after %v", d)
	}
	loginRaw(t, srv.addr, smb2.Dialect311, "vms").create("f")
}

func TestConnectionLimit(t *testing.T) {
	srv := startServer(t, func(c *Config) { c.Limits.Connections = 1 })
	first := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	dialRaw(t, srv.addr).gone()
	first.nc.Close()
	for range 100 {
		srv.mu.Lock()
		n := len(srv.conns)
		srv.mu.Unlock()
		if n == 0 {
			break
		}
		sleepBriefly()
	}
	loginRaw(t, srv.addr, smb2.Dialect311, "vms")
}

func TestSlowReader(t *testing.T) {
	srv := startServer(t, func(c *Config) { c.Limits.Write = 300 * time.Millisecond; c.Limits.Workers = 8 })
	if err := os.WriteFile(filepath.Join(srv.root, "f"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	c := loginRaw(t, srv.addr, smb2.Dialect302, "vms")
	id := c.create("f")
	for range 64 {
		c.call(smb2.CommandEcho, echo(), nil)
	}
	before := buffersOut.Load()
	go func() {
		for range 200 {
			msg := c.build(smb2.CommandRead, readRequest(id, 1<<20), nil)
			binary.LittleEndian.PutUint16(msg[6:], 16)
			c.message += 15
			c.signer.Sign(msg)
			if _, err := c.nc.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(msg))), msg...)); err != nil {
				return
			}
		}
	}()
	deadline := time.Now().Add(10 * time.Second)
	other := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	for {
		wantStatus(t, other.call(smb2.CommandEcho, echo(), nil), smb2.StatusSuccess)
		if n := buffersOut.Load() - before; n > 64 {
			t.Fatalf("%d buffers for one client with 8 workers", n)
		}
		srv.mu.Lock()
		n := len(srv.conns)
		srv.mu.Unlock()
		if n == 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("still connected")
		}
		sleepBriefly()
	}
}

func TestShutdownFinishes(t *testing.T) {
	srv := startServer(t, nil)
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	id := c.create("f")
	data := bytes.Repeat([]byte("x"), 100000)
	c.send(c.build(smb2.CommandWrite, &smb2.WriteRequest{Length: 100000, FileID: id}, data))
	sleepBriefly()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := srv.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if list := c.receive(); len(list) != 1 || list[0].hdr.Status != smb2.StatusSuccess {
		t.Fatal("the write in flight was not answered")
	}
	c.gone()
	if got, _ := os.ReadFile(filepath.Join(srv.root, "f")); !bytes.Equal(got, data) {
		t.Error("the write in flight is lost")
	}
}

func TestRemoveShare(t *testing.T) {
	srv := startServer(t, nil)
	root := t.TempDir()
	other := Share{Name: "Other", FS: openFS(t, root)}
	if err := srv.AddShare(other); err != nil {
		t.Fatal(err)
	}
	c := loginRaw(t, srv.addr, smb2.Dialect311, "oTHER")
	id := c.create("f")
	if err := srv.SetShares(context.Background(), srv.Shares()); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, c.call(smb2.CommandRead, readRequest(id, 1), nil), smb2.StatusEndOfFile)
	if err := srv.RemoveShare(context.Background(), "other"); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, c.call(smb2.CommandRead, readRequest(id, 1), nil), smb2.StatusNetworkNameDeleted)
	if st := c.treeConnect("other"); st != smb2.StatusBadNetworkName {
		t.Error(st)
	}
	if st := c.treeConnect("vms"); st != smb2.StatusSuccess {
		t.Error(st)
	}
}

func TestMetrics(t *testing.T) {
	srv := startServer(t, nil)
	bad := dialRaw(t, srv.addr)
	bad.negotiate(smb2.Dialect311)
	if st := bad.setup(testUser, "wrong", 0); st != smb2.StatusLogonFailure {
		t.Error(st)
	}
	bad.nc.Close()
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	id := c.create("f")
	c.call(smb2.CommandWrite, &smb2.WriteRequest{Length: 7, FileID: id}, make([]byte, 7))
	c.call(smb2.CommandRead, readRequest(id, 5), nil)
	c.call(smb2.CommandRead, &smb2.ReadRequest{FileID: id, Length: 1, Offset: 100}, nil)
	for sample, want := range map[string]string{
		"lunless_sessions":                                              "1",
		"lunless_tree_connects":                                         "1",
		"lunless_opens":                                                 "1",
		"lunless_read_bytes_total":                                      "5",
		"lunless_written_bytes_total":                                   "7",
		`lunless_auth_failures_total{reason="logon"}`:                   "1",
		`lunless_requests_total{class="ok",command="READ"}`:             "1",
		`lunless_requests_total{class="error",command="READ"}`:          "1",
		`lunless_requests_total{class="error",command="SESSION_SETUP"}`: "1",
		`lunless_request_seconds_count{command="WRITE"}`:                "1",
	} {
		if got := srv.scrape(t, sample); got != want {
			t.Errorf("%s %s, want %s", sample, got, want)
		}
	}
}

func TestLimits(t *testing.T) {
	srv := startServer(t, func(c *Config) { c.Limits.Opens, c.Limits.Trees, c.Limits.Sessions = 2, 2, 2 })
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	c.create("a")
	id := c.create("b")
	wantStatus(t, c.call(smb2.CommandCreate, createRequest("c"), nil), smb2.StatusInsufficientResources)
	wantStatus(t, c.call(smb2.CommandClose, &smb2.CloseRequest{FileID: id}, nil), smb2.StatusSuccess)
	c.create("c")
	if st := c.treeConnect("vms"); st != smb2.StatusSuccess {
		t.Error(st)
	}
	if st := c.treeConnect("vms"); st != smb2.StatusInsufficientResources {
		t.Error(st)
	}
	for _, want := range []smb2.Status{smb2.StatusSuccess, smb2.StatusInsufficientResources} {
		c.session, c.signer, c.sign = 0, nil, false
		if st := c.setup(testUser, testPassword, 0); st != want {
			t.Errorf("%v, want %v", st, want)
		}
	}
}

// The opens of all sessions have a limit too, and room comes back.
func TestLimitOfAllOpens(t *testing.T) {
	srv := startServer(t, func(c *Config) { c.Limits.AllOpens = 3 })
	one, two := loginRaw(t, srv.addr, smb2.Dialect311, "vms"), loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	one.create("a")
	one.create("b")
	id := two.create("c")
	for _, c := range []*rawClient{one, two} {
		wantStatus(t, c.call(smb2.CommandCreate, createRequest("d"), nil), smb2.StatusInsufficientResources)
	}
	two.closeFile(id)
	one.create("d")
	one.nc.Close()
	for range 1000 {
		if srv.opens.Load() == 0 {
			two.create("d")
			return
		}
		sleepBriefly()
	}
	t.Errorf("%d opens are left", srv.opens.Load())
}

// Who has told us no password holds little: few sessions, and few pipes of an
// anonymous one.
func TestUnauthenticatedLimits(t *testing.T) {
	srv := startServer(t, nil)
	c := dialRaw(t, srv.addr)
	c.negotiate(smb2.Dialect311)
	if st := c.setup("", "", 0); st != smb2.StatusSuccess {
		t.Fatal(st)
	}
	if st := c.treeConnect("IPC$"); st != smb2.StatusSuccess {
		t.Fatal(st)
	}
	pipe := createRequest("srvsvc")
	for i := range maxAnonymousOpens + 1 {
		want := smb2.StatusSuccess
		if i == maxAnonymousOpens {
			want = smb2.StatusInsufficientResources
		}
		wantStatus(t, c.call(smb2.CommandCreate, pipe, nil), want)
	}
	first := auth.NewSPNEGOInitiator(&auth.ClientConfig{User: testUser})
	token, _, err := first.Init(c.negotiated.SecurityBuffer)
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= maxUnauthSessions; i++ { // the anonymous one is there already
		want := smb2.StatusMoreProcessingRequired
		if i == maxUnauthSessions {
			want = smb2.StatusInsufficientResources
		}
		c.session = 0
		wantStatus(t, c.call(smb2.CommandSessionSetup, &smb2.SessionSetupRequest{SecurityBuffer: token}, nil), want)
	}
}

// What a READ takes counts, though its request was encrypted, and as large as one
// that is not a READ.
func TestBudgetCountsSealedReads(t *testing.T) {
	var fault *fs.Fault
	srv := startServer(t, func(cfg *Config) {
		fault = fs.NewFault(cfg.Shares[0].FS)
		cfg.Shares[0].FS = fault
		cfg.Limits.InFlight = 2*maxTransfer + 1<<20
	})
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	id := c.create("disk")
	const reads = 6
	for c.granted < reads*maxTransfer/creditUnit+50 {
		c.call(smb2.CommandEcho, echo(), nil)
	}
	var under, most atomic.Int32
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(open)
	fault.Set(func(op fs.Op, _ string) error {
		if op == fs.OpRead {
			most.Store(max(most.Load(), under.Add(1)))
			<-gate
			under.Add(-1)
		}
		return nil
	})
	c.seal = true
	for range reads {
		msg := c.build(smb2.CommandRead, readRequest(id, maxTransfer), make([]byte, 2*smallFrame))
		binary.LittleEndian.PutUint16(msg[6:], maxTransfer/creditUnit)
		c.message += maxTransfer/creditUnit - uint64((2*smallFrame-1)/creditUnit+1)
		c.send(msg)
	}
	time.Sleep(100 * time.Millisecond) // for as many to get that far as do
	open()
	for range reads {
		wantStatus(t, c.receive()[0], smb2.StatusEndOfFile)
	}
	if n := most.Load(); n < 1 || n > 2 {
		t.Errorf("%d READs of %d bytes at a time, in %d bytes", n, maxTransfer, srv.cfg.Limits.InFlight)
	}
}

func TestBudget(t *testing.T) {
	b := newBudget(&Server{cfg: Config{Limits: Limits{InFlight: 10, AllInFlight: 1 << 30}}})
	b.freed.L = &b.mu
	if !b.take(100, false) || b.take(1, false) {
		t.Fatal("only who holds nothing may take more than there is")
	}
	b.give(100)
	if !b.take(6, false) || b.take(5, false) || !b.take(4, false) {
		t.Fatal("takes and refuses wrongly")
	}
	taken := make(chan bool)
	go func() { taken <- b.take(8, true) }()
	b.give(6)
	b.give(4)
	if !<-taken {
		t.Fatal("did not wait for what was given back")
	}
	go func() { taken <- b.take(8, true) }()
	b.close()
	if <-taken {
		t.Fatal("took from a closed budget")
	}
}
