package shares

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"lunless/smbstore/auth"
	"lunless/smbstore/smb2"
)

// dialMulti connects and negotiates with SMB2_GLOBAL_CAP_MULTI_CHANNEL.
func dialMulti(t testing.TB, addr string, d smb2.Dialect) *rawClient {
	t.Helper()
	c := dialRaw(t, addr)
	c.caps = smb2.CapMultiChannel
	if st := c.negotiate(d); st != smb2.StatusSuccess {
		t.Fatalf("negotiate %v: %v", d, st)
	}
	return c
}

// loginMulti is loginRaw by way of dialMulti.
func loginMulti(t testing.TB, addr string, d smb2.Dialect) *rawClient {
	t.Helper()
	c := dialMulti(t, addr, d)
	c.login(testUser, testPassword)
	if st := c.treeConnect("vms"); st != smb2.StatusSuccess {
		t.Fatal(st)
	}
	return c
}

// bindOptions change what a binding sends.
type bindOptions struct {
	user, password string
	unsigned       bool
	spoil          bool // the signature of the first leg
	session        uint64
}

// bind makes c another channel of first's session (MS-SMB2 3.2.4.1.4, 3.2.5.3.3).
func (c *rawClient) bind(first *rawClient, o bindOptions) smb2.Status {
	c.t.Helper()
	if o.user == "" {
		o.user, o.password = testUser, testPassword
	}
	c.session = first.session
	if o.session != 0 {
		c.session = o.session
	}
	in := auth.NewSPNEGOInitiator(&auth.ClientConfig{User: o.user, NTHash: auth.NTHash(o.password)})
	preauth, token := c.preauth, c.negotiated.SecurityBuffer
	for leg := 0; ; leg++ {
		out, _, err := in.Init(token)
		if err != nil {
			c.t.Fatal(err)
		}
		req := c.build(smb2.CommandSessionSetup, &smb2.SessionSetupRequest{
			Flags: smb2.SessionFlagBinding, SecurityMode: smb2.SigningEnabled, SecurityBuffer: out}, nil)
		if !o.unsigned {
			first.signer.Sign(req)
		}
		if o.spoil {
			req[48] ^= 1
		}
		preauth.Update(req)
		c.sendFrame(req)
		c.signer = nil // checked below: which key it is depends on the status
		r := c.receive()[0]
		switch r.hdr.Status {
		default:
			c.session = 0
			return r.hdr.Status
		case smb2.StatusMoreProcessingRequired:
			if !first.signer.Verify(r.msg) {
				c.t.Fatal("a leg of binding is not signed with Session.SigningKey (3.3.5.5.3)")
			}
			preauth.Update(r.msg)
		case smb2.StatusSuccess:
			c.keys(in.SessionKey(), &preauth)
			if !c.signer.Verify(r.msg) {
				c.t.Fatal("the last response of binding is not signed with Channel.SigningKey (3.3.5.5.3)")
			}
			c.sealer, c.opener = first.sealer, first.opener // the session's
			c.tree, c.sign = first.tree, true
			return smb2.StatusSuccess
		}
		var m smb2.SessionSetupResponse
		if err := m.Decode(r.msg); err != nil {
			c.t.Fatal(err)
		}
		token = m.SecurityBuffer
	}
}

func (c *rawClient) mustWrite(id smb2.FileID, data string) {
	c.t.Helper()
	if st := c.write(id, 0, data); st != smb2.StatusSuccess {
		c.t.Fatalf("WRITE: %v", st)
	}
}

// TestChannels binds a second connection to a session, uses what the first has
// opened, loses the first, and logs off (MS-SMB2 3.3.5.5, 3.3.7.1).
func TestChannels(t *testing.T) {
	for _, d := range []smb2.Dialect{smb2.Dialect300, smb2.Dialect302, smb2.Dialect311} {
		t.Run(d.String(), func(t *testing.T) {
			srv := startServer(t, nil)
			first := loginMulti(t, srv.addr, d)
			second := dialMulti(t, srv.addr, d)
			if second.negotiated.Capabilities&smb2.CapMultiChannel == 0 {
				t.Fatal("no SMB2_GLOBAL_CAP_MULTI_CHANNEL (3.3.5.4)")
			}
			id := first.create("disk")
			first.mustWrite(id, "over the first")
			if st := second.bind(first, bindOptions{}); st != smb2.StatusSuccess {
				t.Fatal(st)
			}
			second.seal = true
			if got, st := second.read(id, 14); got != "over the first" {
				t.Fatalf("read %q, %v over the second channel", got, st)
			}
			second.seal = false
			first.nc.Close()
			second.mustWrite(id, "over the other")
			if got, st := second.read(id, 14); got != "over the other" {
				t.Fatalf("read %q, %v", got, st)
			}
			s := srv.onlySession(t)
			for len(s.channelList()) != 1 {
				sleepBriefly()
			}
			third := dialMulti(t, srv.addr, d)
			second.signer, first.signer = first.signer, second.signer // binding is signed with the session's key
			if st := third.bind(second, bindOptions{}); st != smb2.StatusSuccess {
				t.Fatal(st)
			}
			if r := third.call(smb2.CommandLogoff, &smb2.LogoffRequest{}, nil); r.hdr.Status != smb2.StatusSuccess {
				t.Fatal(r.hdr.Status)
			}
			second.signer = first.signer
			if r := second.call(smb2.CommandEcho, &smb2.EchoRequest{}, nil); r.hdr.Status != smb2.StatusUserSessionDeleted {
				t.Fatalf("after LOGOFF on another channel: %v", r.hdr.Status)
			}
			if n := srv.opens.Load(); n != 0 {
				t.Fatalf("%d opens are left", n)
			}
		})
	}
}

// TestBindingRefused makes each of the checks of MS-SMB2 3.3.5.5 fail, and demands
// that the session takes no harm.
func TestBindingRefused(t *testing.T) {
	srv := startServer(t, nil)
	if err := srv.cfg.Accounts.AddUser("other", "secret2"); err != nil {
		t.Fatal(err)
	}
	first := loginMulti(t, srv.addr, smb2.Dialect311)
	id := first.create("disk")
	for _, tt := range []struct {
		name    string
		dialect smb2.Dialect
		opt     bindOptions
		want    smb2.Status
	}{
		{"no such session", smb2.Dialect311, bindOptions{session: 77}, smb2.StatusUserSessionDeleted},
		{"another dialect", smb2.Dialect302, bindOptions{}, smb2.StatusRequestOutOfSequence}, // without GMAC, as Windows
		{"not signed", smb2.Dialect311, bindOptions{unsigned: true}, smb2.StatusInvalidParameter},
		{"badly signed", smb2.Dialect311, bindOptions{spoil: true}, smb2.StatusAccessDenied},
		{"wrong password", smb2.Dialect311, bindOptions{user: testUser, password: "wrong"}, smb2.StatusLogonFailure},
		{"another user", smb2.Dialect311, bindOptions{user: "other", password: "secret2"}, smb2.StatusNotSupported},
		{"anonymous", smb2.Dialect311, bindOptions{user: " ", password: ""}, smb2.StatusLogonFailure},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dialMulti(t, srv.addr, tt.dialect)
			if st := c.bind(first, tt.opt); st != tt.want {
				t.Fatalf("%v, want %v", st, tt.want)
			}
			c.session, c.tree, c.sign, c.signer = first.session, first.tree, true, first.signer
			if r := c.call(smb2.CommandEcho, &smb2.EchoRequest{}, nil); r.hdr.Status != smb2.StatusUserSessionDeleted {
				t.Errorf("a connection that is not bound uses the session: %v", r.hdr.Status)
			}
			first.mustWrite(id, "still there")
		})
	}
	t.Run("bound already", func(t *testing.T) {
		first := loginMulti(t, srv.addr, smb2.Dialect311)
		c := dialMulti(t, srv.addr, smb2.Dialect311)
		if st := c.bind(first, bindOptions{}); st != smb2.StatusSuccess {
			t.Fatal(st)
		}
		channel := c.signer
		if st := c.bind(first, bindOptions{}); st != smb2.StatusAccessDenied { // as on Windows
			t.Errorf("signed with the session's key: %v", st)
		}
		if st := c.bind(&rawClient{session: first.session, signer: channel}, bindOptions{}); st != smb2.StatusRequestNotAccepted {
			t.Errorf("signed with the channel's key: %v", st)
		}
	})
	t.Run("too many", func(t *testing.T) {
		first := loginMulti(t, srv.addr, smb2.Dialect311)
		for range maxChannels - 1 {
			if st := dialMulti(t, srv.addr, smb2.Dialect311).bind(first, bindOptions{}); st != smb2.StatusSuccess {
				t.Fatal(st)
			}
		}
		if st := dialMulti(t, srv.addr, smb2.Dialect311).bind(first, bindOptions{}); st != smb2.StatusInsufficientResources {
			t.Error(st)
		}
	})
	t.Run("2.1", func(t *testing.T) {
		first := loginRaw(t, srv.addr, smb2.Dialect210, "vms")
		c := dialRaw(t, srv.addr)
		c.negotiate(smb2.Dialect210)
		if st := c.bind(first, bindOptions{}); st != smb2.StatusRequestNotAccepted {
			t.Error(st)
		}
	})
}

// TestLogoffWaitsForOtherChannels ends a session on one channel while a write is
// under way on another: nobody else has the disk before that is over.
func TestLogoffWaitsForOtherChannels(t *testing.T) {
	gated := &gatedFS{gate: make(chan struct{}), entered: make(chan struct{}, 1)}
	srv := startServer(t, func(cfg *Config) {
		gated.FS = cfg.Shares[0].FS
		cfg.Shares[0].FS = gated
	})
	var once sync.Once
	open := func() { once.Do(func() { close(gated.gate) }) }
	t.Cleanup(open)
	first := loginMulti(t, srv.addr, smb2.Dialect311)
	second := dialMulti(t, srv.addr, smb2.Dialect311)
	first.existing("disk", 0, 0)
	id := first.create("disk")
	if st := second.bind(first, bindOptions{}); st != smb2.StatusSuccess {
		t.Fatal(st)
	}
	const size = 256 << 10 // large enough for a worker
	second.send(second.build(smb2.CommandWrite, &smb2.WriteRequest{FileID: id, Length: size}, []byte(strings.Repeat("x", size))))
	<-gated.entered
	first.send(first.build(smb2.CommandLogoff, &smb2.LogoffRequest{}, nil))
	for srv.opens.Load() != 0 { // taken from the session, not closed yet
		sleepBriefly()
	}
	other := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	for range 20 {
		other.wantOpen("disk", smb2.GenericWrite, 0, smb2.StatusSharingViolation)
		sleepBriefly()
	}
	open()
	if r := first.receive()[0]; r.hdr.Status != smb2.StatusSuccess {
		t.Fatal(r.hdr.Status)
	}
	other.wantOpen("disk", smb2.GenericWrite, 0, smb2.StatusSuccess)
}

// TestChannelSequenceOnTheWire has an older write turned away once the client has
// raised its channel sequence, and a replay while the older is still under way
// (MS-SMB2 3.3.5.2.10).
func TestChannelSequenceOnTheWire(t *testing.T) {
	gated := &gatedFS{gate: make(chan struct{}), entered: make(chan struct{}, 4)}
	srv := startServer(t, func(cfg *Config) {
		gated.FS = cfg.Shares[0].FS
		cfg.Shares[0].FS = gated
	})
	var once sync.Once
	open := func() { once.Do(func() { close(gated.gate) }) }
	t.Cleanup(open)
	for _, d := range []smb2.Dialect{smb2.Dialect300, smb2.Dialect311} {
		first := loginMulti(t, srv.addr, d)
		second := dialMulti(t, srv.addr, d)
		first.existing(d.String(), 0, 0)
		id := first.create(d.String())
		if st := second.bind(first, bindOptions{}); st != smb2.StatusSuccess {
			t.Fatal(st)
		}
		send := func(c *rawClient, seq uint16, replay bool, data string) {
			msg := c.build(smb2.CommandWrite, &smb2.WriteRequest{FileID: id, Length: uint32(len(data))}, []byte(data))
			binary.LittleEndian.PutUint16(msg[8:], seq)
			if replay {
				flags := binary.LittleEndian.Uint32(msg[16:])
				binary.LittleEndian.PutUint32(msg[16:], flags|uint32(smb2.FlagReplayOperation))
			}
			c.send(msg)
		}
		want := func(c *rawClient, st smb2.Status) {
			t.Helper()
			if r := c.receive()[0]; r.hdr.Status != st {
				t.Errorf("%v: %v, want %v", d, r.hdr.Status, st)
			}
		}
		if d == smb2.Dialect300 { // the gate is closed but for the first time
			send(first, 0, false, strings.Repeat("x", 256<<10))
			<-gated.entered
			send(second, 1, true, "new")
			want(second, smb2.StatusFileNotAvailable)
			open()
			want(first, smb2.StatusSuccess)
		}
		send(second, 1, true, "new")
		want(second, smb2.StatusSuccess)
		send(first, 0, false, "old")
		want(first, smb2.StatusFileNotAvailable)
		if got, st := first.read(id, 3); got != "new" { // with the older sequence: only changes fail
			t.Errorf("read %q, %v", got, st)
		}
	}
}

// TestIgnoredChannelSequenceIsSeen shows that the test above would notice.
func TestIgnoredChannelSequenceIsSeen(t *testing.T) {
	name := "channel-sequence-ignored"
	fault.Store(&name)
	defer fault.Store(nil)
	srv := startServer(t, nil)
	c := loginMulti(t, srv.addr, smb2.Dialect311)
	id := c.create("disk")
	for _, w := range []struct {
		seq  uint16
		data string
	}{{1, "new"}, {0, "old"}} {
		msg := c.build(smb2.CommandWrite, &smb2.WriteRequest{FileID: id, Length: 3}, []byte(w.data))
		binary.LittleEndian.PutUint16(msg[8:], w.seq)
		c.send(msg)
		wantStatus(t, c.receive()[0], smb2.StatusSuccess)
	}
	if got, st := c.read(id, 3); got != "old" {
		t.Errorf("read %q, %v: the fault does nothing", got, st)
	}
}

// TestSessionExpiry holds MS-SMB2 3.3.5.2.9: of a session that has expired only
// CLOSE, LOCK and LOGOFF are answered, until it has been authenticated again.
func TestSessionExpiry(t *testing.T) {
	srv := startServer(t, func(cfg *Config) { cfg.SessionLifetime = 1 << 50 })
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	closed, open := c.create("closed"), c.create("open")
	s := srv.onlySession(t)
	if s.expires.Load() == 0 {
		t.Fatal("the session has no end")
	}
	s.expires.Store(1)
	if r := c.call(smb2.CommandCreate, createRequest("more"), nil); r.hdr.Status != smb2.StatusNetworkSessionExpired {
		t.Errorf("CREATE: %v", r.hdr.Status)
	}
	if r := c.call(smb2.CommandRead, &smb2.ReadRequest{FileID: open, Length: 1}, nil); r.hdr.Status != smb2.StatusNetworkSessionExpired {
		t.Errorf("READ: %v", r.hdr.Status)
	}
	if r := c.call(smb2.CommandClose, &smb2.CloseRequest{FileID: closed}, nil); r.hdr.Status != smb2.StatusSuccess {
		t.Errorf("CLOSE: %v", r.hdr.Status)
	}
	if st := c.setup(testUser, testPassword, 0); st != smb2.StatusSuccess {
		t.Fatalf("reauthentication: %v", st)
	}
	c.mustWrite(open, "again")
	s.expires.Store(1)
	if r := c.call(smb2.CommandLogoff, &smb2.LogoffRequest{}, nil); r.hdr.Status != smb2.StatusSuccess {
		t.Errorf("LOGOFF: %v", r.hdr.Status)
	}
}

// TestQueryInterfaces asks by which addresses the server may be reached (MS-SMB2
// 3.3.5.15.11): it listens on one of the loopback interface.
func TestQueryInterfaces(t *testing.T) {
	ask := func(c *rawClient, room uint32) (smb2.NetworkInterfaceInfos, smb2.Status) {
		m, st := c.ioctl(smb2.FileID{Persistent: ^uint64(0), Volatile: ^uint64(0)}, smb2.FsctlQueryNetworkInterfaceInfo, nil, room)
		var list smb2.NetworkInterfaceInfos
		if st == smb2.StatusSuccess {
			if err := list.Decode(m.Output); err != nil {
				t.Fatal(err)
			}
		}
		return list, st
	}
	srv := startServer(t, nil)
	c := loginMulti(t, srv.addr, smb2.Dialect311)
	list, st := ask(c, 4096)
	if st != smb2.StatusSuccess || len(list) != 1 {
		t.Fatalf("%v, %v: want one address", list, st)
	}
	if i := list[0]; i.Addr != netip.MustParseAddr("127.0.0.1") || i.IfIndex == 0 || i.LinkSpeed == 0 {
		t.Errorf("%+v", i)
	}
	if _, st := ask(c, 100); st != smb2.StatusBufferTooSmall {
		t.Errorf("no room: %v", st)
	}
	byHand := netip.MustParseAddr("192.0.2.7")
	srv = startServer(t, func(cfg *Config) { cfg.Interfaces = []netip.Addr{byHand} })
	if list, st := ask(loginMulti(t, srv.addr, smb2.Dialect300), 4096); st != smb2.StatusSuccess || len(list) != 1 || list[0].Addr != byHand {
		t.Errorf("configured: %v, %v", list, st)
	}
}
