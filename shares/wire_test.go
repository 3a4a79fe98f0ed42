package shares

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"lunless/smbstore/smb2"
)

func wantStatus(t *testing.T, r response, want smb2.Status) {
	t.Helper()
	if r.hdr.Status != want {
		t.Errorf("%v: %v, want %v", r.hdr.Command, r.hdr.Status, want)
	}
}

func echo() *smb2.EchoRequest { return &smb2.EchoRequest{} }

func readRequest(id smb2.FileID, n uint32) *smb2.ReadRequest {
	return &smb2.ReadRequest{Length: n, FileID: id}
}

// TestSignatures: MS-SMB2 3.3.5.2.4.
func TestSignatures(t *testing.T) {
	srv := startServer(t, nil)
	for _, d := range []smb2.Dialect{smb2.Dialect202, smb2.Dialect210, smb2.Dialect302, smb2.Dialect311} {
		t.Run(d.String(), func(t *testing.T) {
			c := loginRaw(t, srv.addr, d, "vms")
			id := c.create("f")
			t.Run("missing", func(t *testing.T) {
				c.sign = false
				wantStatus(t, c.call(smb2.CommandRead, readRequest(id, 1), nil), smb2.StatusAccessDenied)
				c.sign = true
			})
			t.Run("bad", func(t *testing.T) {
				msg := c.build(smb2.CommandRead, readRequest(id, 1), nil)
				c.signer.Sign(msg)
				msg[70]++
				c.sendFrame(msg)
				wantStatus(t, c.receive()[0], smb2.StatusAccessDenied)
			})
			t.Run("unknown session", func(t *testing.T) {
				msg := c.build(smb2.CommandRead, readRequest(id, 1), nil)
				binary.LittleEndian.PutUint64(msg[40:], c.session+1)
				c.send(msg)
				wantStatus(t, c.receive()[0], smb2.StatusUserSessionDeleted)
			})
			wantStatus(t, c.call(smb2.CommandFlush, &smb2.FlushRequest{FileID: id}, nil), smb2.StatusSuccess)
		})
	}
}

// TestSigningEnabled: a client that wants no signing may go without, and what it
// signs is answered signed.
func TestSigningEnabled(t *testing.T) {
	srv := startServer(t, func(c *Config) { c.Signing = SigningEnabled })
	c := loginRaw(t, srv.addr, smb2.Dialect302, "vms")
	for _, sign := range []bool{false, true} {
		c.sign = sign
		r := c.call(smb2.CommandEcho, echo(), nil)
		wantStatus(t, r, smb2.StatusSuccess)
		if got := r.hdr.Flags&smb2.FlagSigned != 0; got != sign {
			t.Errorf("request signed %v, response %v", sign, got)
		}
	}
}

// TestMessageIDs: MS-SMB2 3.3.5.2.3. What is not in the window ends the connection.
func TestMessageIDs(t *testing.T) {
	srv := startServer(t, nil)
	for _, tt := range []struct {
		name string
		id   func(c *rawClient) uint64
	}{
		{"replayed", func(c *rawClient) uint64 { return c.message - 1 }},
		{"too far", func(c *rawClient) uint64 { return c.message + 100000 }},
		{"all ones", func(c *rawClient) uint64 { return ^uint64(0) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
			c.message = tt.id(c)
			c.send(c.build(smb2.CommandEcho, echo(), nil))
			c.gone()
		})
	}
}

// TestCredits: a client that asks for many gets them, up to the limit, and its
// credit charge has to cover its payload (MS-SMB2 3.3.1.2, 3.3.5.2.5).
func TestCredits(t *testing.T) {
	srv := startServer(t, func(c *Config) { c.Limits.Credits = 512 })
	c := dialRaw(t, srv.addr)
	c.negotiate(smb2.Dialect311)
	if c.granted != 1 {
		t.Errorf("NEGOTIATE granted %d credits, want 1: nobody has authenticated", c.granted)
	}
	c.login(testUser, testPassword)
	c.treeConnect("vms")
	for range 20 {
		c.call(smb2.CommandEcho, echo(), nil)
	}
	if held := c.granted + 1 - int(c.message); held != 512 {
		t.Errorf("holds %d credits, want the limit of 512", held)
	}
	id := c.create("f")
	for _, tt := range []struct {
		charge uint16
		n      uint32
		want   smb2.Status
	}{
		{0, 65536, smb2.StatusEndOfFile},
		{0, 65537, smb2.StatusInvalidParameter},
		{1, 65537, smb2.StatusInvalidParameter},
		{2, 65537, smb2.StatusEndOfFile},
		{16, 1 << 20, smb2.StatusEndOfFile},
		{16, 1<<20 + 1, smb2.StatusInvalidParameter},
		{129, maxTransfer + 1, smb2.StatusInvalidParameter},
	} {
		msg := c.build(smb2.CommandRead, readRequest(id, tt.n), nil)
		binary.LittleEndian.PutUint16(msg[6:], tt.charge)
		binary.LittleEndian.PutUint16(msg[14:], 200)
		c.message += uint64(max(tt.charge, 1) - 1)
		c.send(msg)
		r := c.receive()[0]
		if r.hdr.Status != tt.want {
			t.Errorf("charge %d for %d bytes: %v, want %v", tt.charge, tt.n, r.hdr.Status, tt.want)
		}
		if r.hdr.CreditCharge != tt.charge {
			t.Errorf("response to charge %d says %d", tt.charge, r.hdr.CreditCharge)
		}
	}
}

// TestEncryptionDemanded: MS-SMB2 3.3.5.2.9, 3.3.5.2.11.
func TestEncryptionDemanded(t *testing.T) {
	t.Run("share", func(t *testing.T) {
		srv := startServer(t, func(c *Config) { c.Shares[0].Encrypt = true })
		c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
		if c.shareFlags&smb2.ShareFlagEncryptData == 0 {
			t.Error("tree connect does not say SHAREFLAG_ENCRYPT_DATA")
		}
		wantStatus(t, c.call(smb2.CommandCreate, createRequest("f"), nil), smb2.StatusAccessDenied)
		c.seal = true
		c.create("f")
	})
	t.Run("server", func(t *testing.T) {
		srv := startServer(t, func(c *Config) { c.Encrypt = true })
		c := dialRaw(t, srv.addr)
		c.negotiate(smb2.Dialect311)
		c.login(testUser, testPassword)
		if st := c.treeConnect("vms"); st != smb2.StatusAccessDenied {
			t.Errorf("unencrypted tree connect: %v", st)
		}
		c.seal = true
		if st := c.treeConnect("vms"); st != smb2.StatusSuccess {
			t.Errorf("encrypted tree connect: %v", st)
		}
	})
}

// TestBadlyEncrypted ends the connection: MS-SMB2 3.3.5.2.1.1.
func TestBadlyEncrypted(t *testing.T) {
	srv := startServer(t, nil)
	for _, tt := range []struct {
		name   string
		mangle func([]byte)
	}{
		{"tag", func(b []byte) { b[4]++ }},
		{"ciphertext", func(b []byte) { b[len(b)-1]++ }},
		{"session", func(b []byte) { b[44]++ }},
		{"size", func(b []byte) { b[36]++ }},
		{"flags", func(b []byte) { b[42] = 0 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
			msg := c.build(smb2.CommandEcho, echo(), nil)
			buf := append(make([]byte, smb2.TransformHeaderSize), msg...)
			if err := c.sealer.Seal(buf); err != nil {
				t.Fatal(err)
			}
			tt.mangle(buf)
			c.sendFrame(buf)
			c.gone()
		})
	}
	t.Run("for another session", func(t *testing.T) {
		c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
		c.seal, c.session = true, c.session+1
		c.send(c.build(smb2.CommandEcho, echo(), nil))
		c.gone()
	})
}

// TestFrames: what is no Direct TCP frame, or too long, ends the connection.
func TestFrames(t *testing.T) {
	srv := startServer(t, nil)
	unauth := func(t *testing.T) *rawClient { return dialRaw(t, srv.addr) }
	auth := func(t *testing.T) *rawClient { return loginRaw(t, srv.addr, smb2.Dialect311, "vms") }
	for _, tt := range []struct {
		name string
		dial func(*testing.T) *rawClient
		sent []byte
	}{
		{"too long before authentication", unauth, []byte{0, 0x10, 0, 0}},
		{"too long", auth, []byte{0, 0xff, 0xff, 0xff}},
		{"not a frame", unauth, []byte("GET / HTTP/1.0\r\n\r\n")},
		{"NetBIOS session request", unauth, []byte{0x81, 0, 0, 0x44}},
		{"half a header", unauth, []byte{0, 0, 0, 4, 0xfe, 'S', 'M', 'B'}},
		{"compressed", auth, []byte{0, 0, 0, 8, 0xfc, 'S', 'M', 'B', 0, 0, 0, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := tt.dial(t)
			c.nc.Write(tt.sent)
			c.gone()
		})
	}
	t.Run("in pieces", func(t *testing.T) {
		c := auth(t)
		msg := c.build(smb2.CommandEcho, echo(), nil)
		c.signer.Sign(msg)
		frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(msg))), msg...)
		for _, b := range frame {
			c.nc.Write([]byte{b})
		}
		wantStatus(t, c.receive()[0], smb2.StatusSuccess)
	})
}

// TestNegotiate: MS-SMB2 3.3.5.4, 3.3.5.2.2.
func TestNegotiate(t *testing.T) {
	srv := startServer(t, func(c *Config) { c.MinDialect = smb2.Dialect300 })
	t.Run("no common dialect", func(t *testing.T) {
		if st := dialRaw(t, srv.addr).negotiate(smb2.Dialect210); st != smb2.StatusNotSupported {
			t.Error(st)
		}
	})
	t.Run("no dialect", func(t *testing.T) {
		if st := dialRaw(t, srv.addr).negotiate(); st != smb2.StatusInvalidParameter {
			t.Error(st)
		}
	})
	t.Run("best", func(t *testing.T) {
		c := dialRaw(t, srv.addr)
		c.negotiate(smb2.Dialect202, smb2.Dialect300, smb2.Dialect311, smb2.Dialect302, 0x0999)
		if c.dialect != smb2.Dialect311 {
			t.Errorf("chose %v", c.dialect)
		}
		if m := c.negotiated; m.MaxReadSize != maxTransfer || m.Capabilities != smb2.CapLargeMTU ||
			m.SecurityMode != smb2.SigningEnabled|smb2.SigningRequired {
			t.Errorf("max read %d, capabilities %#x, security mode %#x", m.MaxReadSize, m.Capabilities, m.SecurityMode)
		}
	})
	t.Run("twice", func(t *testing.T) {
		c := dialRaw(t, srv.addr)
		c.negotiate(smb2.Dialect302)
		c.send(c.build(smb2.CommandNegotiate, &c.negotiation, nil))
		c.gone()
	})
	t.Run("not first", func(t *testing.T) {
		c := dialRaw(t, srv.addr)
		c.send(c.build(smb2.CommandEcho, echo(), nil))
		c.gone()
	})
	t.Run("3.1.1 without preauthentication", func(t *testing.T) {
		c := dialRaw(t, srv.addr)
		r := c.call(smb2.CommandNegotiate, &smb2.NegotiateRequest{Dialects: []smb2.Dialect{smb2.Dialect311}}, nil)
		wantStatus(t, r, smb2.StatusInvalidParameter)
	})
	t.Run("ciphers", func(t *testing.T) {
		c := dialRaw(t, srv.addr)
		p := smb2.PreauthIntegrityCapabilities{HashAlgorithms: []smb2.HashAlgorithm{smb2.HashSHA512}}
		e := smb2.EncryptionCapabilities{Ciphers: []smb2.Cipher{smb2.CipherAES256CCM, 99, smb2.CipherAES256GCM}}
		r := c.call(smb2.CommandNegotiate, &smb2.NegotiateRequest{Dialects: []smb2.Dialect{smb2.Dialect311},
			Contexts: []smb2.NegotiateContext{p.Context(), e.Context()}}, nil)
		var m smb2.NegotiateResponse
		if err := m.Decode(r.msg); err != nil {
			t.Fatal(err)
		}
		data, _ := smb2.FindNegotiateContext(m.Contexts, smb2.NegotiateEncryption)
		var got smb2.EncryptionCapabilities
		if err := got.Decode(data); err != nil || len(got.Ciphers) != 1 || got.Ciphers[0] != smb2.CipherAES256GCM {
			t.Errorf("ciphers %v %v, want AES-256-GCM", got.Ciphers, err)
		}
	})
}

// TestMultiProtocolNegotiate: MS-SMB2 3.3.5.3.
func TestMultiProtocolNegotiate(t *testing.T) {
	smb1 := func(dialects ...string) []byte {
		b := make([]byte, 35)
		copy(b, "\xffSMB\x72")
		for _, d := range dialects {
			b = append(append(append(b, 2), d...), 0)
		}
		binary.LittleEndian.PutUint16(b[33:], uint16(len(b)-35))
		return b
	}
	for _, tt := range []struct {
		name string
		min  smb2.Dialect
		sent []byte
		want smb2.Dialect // 0: disconnected
	}{
		{"wildcard", smb2.Dialect300, smb1("NT LM 0.12", "SMB 2.002", "SMB 2.???"), smb2.DialectWildcard},
		{"2.0.2", smb2.Dialect202, smb1("NT LM 0.12", "SMB 2.002"), smb2.Dialect202},
		{"2.0.2 below the minimum", smb2.Dialect300, smb1("NT LM 0.12", "SMB 2.002"), 0},
		{"SMB1 only", smb2.Dialect202, smb1("NT LM 0.12"), 0},
		{"malformed", smb2.Dialect202, smb1("SMB 2.???")[:40], 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := startServer(t, func(c *Config) { c.MinDialect = tt.min })
			c := dialRaw(t, srv.addr)
			c.sendFrame(tt.sent)
			if tt.want == 0 {
				c.gone()
				return
			}
			list := c.receive()
			if list == nil || c.negotiated.Decode(list[0].msg) != nil {
				t.Fatal("no NEGOTIATE response")
			}
			if c.negotiated.DialectRevision != tt.want {
				t.Fatalf("answered %v, want %v", c.negotiated.DialectRevision, tt.want)
			}
			c.message = 1
			if tt.want == smb2.DialectWildcard {
				c.negotiate(smb2.Dialect302)
			} else {
				c.dialect = tt.want
			}
			c.login(testUser, testPassword)
			if st := c.treeConnect("vms"); st != smb2.StatusSuccess {
				t.Error(st)
			}
		})
	}
}

// TestValidateNegotiate: MS-SMB2 3.3.5.15.12. A difference ends the connection.
func TestValidateNegotiate(t *testing.T) {
	srv := startServer(t, nil)
	for _, tt := range []struct {
		name   string
		mangle func(*smb2.ValidateNegotiateInfoRequest)
		ok     bool
	}{
		{"same", func(*smb2.ValidateNegotiateInfoRequest) {}, true},
		{"dialects", func(q *smb2.ValidateNegotiateInfoRequest) { q.Dialects = append(q.Dialects, smb2.Dialect311) }, false},
		{"capabilities", func(q *smb2.ValidateNegotiateInfoRequest) { q.Capabilities++ }, false},
		{"security mode", func(q *smb2.ValidateNegotiateInfoRequest) { q.SecurityMode ^= smb2.SigningRequired }, false},
		{"client", func(q *smb2.ValidateNegotiateInfoRequest) { q.GUID[15]++ }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := loginRaw(t, srv.addr, smb2.Dialect302, "vms")
			q := smb2.ValidateNegotiateInfoRequest{Capabilities: c.negotiation.Capabilities, GUID: c.negotiation.ClientGUID,
				SecurityMode: c.negotiation.SecurityMode, Dialects: c.negotiation.Dialects}
			tt.mangle(&q)
			in := make([]byte, q.Size())
			q.Encode(in)
			c.send(c.build(smb2.CommandIoctl, &smb2.IoctlRequest{CtlCode: smb2.FsctlValidateNegotiateInfo,
				FileID: smb2.RelatedFileID, Flags: smb2.IoctlIsFSCTL, MaxOutputResponse: 24, Input: in}, nil))
			if !tt.ok {
				c.gone()
				return
			}
			r := c.receive()[0]
			var m smb2.IoctlResponse
			var v smb2.ValidateNegotiateInfoResponse
			if err := m.Decode(r.msg); r.hdr.Status != smb2.StatusSuccess || err != nil {
				t.Fatal(r.hdr.Status, err)
			}
			if err := v.Decode(m.Output); err != nil {
				t.Fatal(err)
			}
			n := c.negotiated
			if v.Dialect != smb2.Dialect302 || v.Capabilities != n.Capabilities || v.GUID != n.ServerGUID || v.SecurityMode != n.SecurityMode {
				t.Errorf("validated %+v, negotiated %+v", v, n)
			}
		})
	}
}

// TestSessions: several on a connection, ended one by one (MS-SMB2 3.3.5.5, 3.3.5.6).
func TestSessions(t *testing.T) {
	srv := startServer(t, nil)
	c := loginRaw(t, srv.addr, smb2.Dialect302, "vms")
	first := *c
	id := c.create("f")

	c.session, c.tree, c.signer = 0, 0, nil
	c.sign = false
	c.login(testUser, testPassword)
	if c.session == first.session {
		t.Fatal("second session has the first one's id")
	}
	c.treeConnect("vms")
	wantStatus(t, c.call(smb2.CommandRead, readRequest(id, 1), nil), smb2.StatusFileClosed)
	wantStatus(t, c.call(smb2.CommandLogoff, &smb2.LogoffRequest{}, nil), smb2.StatusSuccess)
	wantStatus(t, c.call(smb2.CommandEcho, echo(), nil), smb2.StatusUserSessionDeleted)

	first.message = c.message
	wantStatus(t, first.call(smb2.CommandRead, readRequest(id, 1), nil), smb2.StatusEndOfFile)
	t.Run("reauthentication", func(t *testing.T) {
		c, session := &first, first.session
		if st := c.setup(testUser, testPassword, 0); st != smb2.StatusSuccess || c.session != session {
			t.Fatal(st)
		}
		wantStatus(t, c.call(smb2.CommandRead, readRequest(id, 1), nil), smb2.StatusEndOfFile)
	})
	t.Run("binding", func(t *testing.T) {
		r := first.call(smb2.CommandSessionSetup, &smb2.SessionSetupRequest{Flags: smb2.SessionFlagBinding}, nil)
		wantStatus(t, r, smb2.StatusRequestNotAccepted)
	})
}

// TestPreviousSession: a new session of the same user ends the one it names (MS-SMB2 3.3.5.5.3).
func TestPreviousSession(t *testing.T) {
	srv := startServer(t, nil)
	if err := srv.cfg.Accounts.AddUser("other", testPassword); err != nil {
		t.Fatal(err)
	}
	old := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	id := old.create("f")
	for _, tt := range []struct {
		user string
		want smb2.Status
	}{{"other", smb2.StatusEndOfFile}, {testUser, smb2.StatusUserSessionDeleted}} {
		c := dialRaw(t, srv.addr)
		c.negotiate(smb2.Dialect311)
		if st := c.setup(tt.user, testPassword, old.session); st != smb2.StatusSuccess {
			t.Fatal(st)
		}
		wantStatus(t, old.call(smb2.CommandRead, readRequest(id, 1), nil), tt.want)
	}
}

// TestLoginTimeout: who does not authenticate is disconnected.
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

// TestConnectionLimit: one too many is turned away, and room comes back.
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

// TestSlowReader: a client that sends READs and takes no responses may neither
// hold memory without bound nor stay for ever, and others go on.
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

// TestShutdownFinishes: requests in flight are answered, the rest is closed.
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

// TestRemoveShare: its tree connects end, those of others do not.
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

// TestMetrics: what was done shows on the metrics endpoint.
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
