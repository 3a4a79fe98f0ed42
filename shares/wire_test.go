package shares

import (
	"encoding/binary"
	"testing"

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

// TestMultiProtocolNegotiate: MS-SMB2 3.3.5.3.

// TestValidateNegotiate: MS-SMB2 3.3.5.15.12. A difference ends the connection.

// TestSessions: several on a connection, ended one by one (MS-SMB2 3.3.5.5, 3.3.5.6).

// TestPreviousSession: a new session of the same user ends the one it names (MS-SMB2 3.3.5.5.3).

// TestLoginTimeout: who does not authenticate is disconnected.

// TestConnectionLimit: one too many is turned away, and room comes back.

// TestSlowReader: a client that sends READs and takes no responses may neither
// hold memory without bound nor stay for ever, and others go on.

// TestShutdownFinishes: requests in flight are answered, the rest is closed.

// TestRemoveShare: its tree connects end, those of others do not.

// TestMetrics: what was done shows on the metrics endpoint.

// TestLimits: of opens, tree connects and sessions.
