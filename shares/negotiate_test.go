package shares

import (
	"encoding/binary"
	"testing"

	"lunless/smbstore/smb2"
)

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
		if m := c.negotiated; m.MaxReadSize != maxTransfer || m.Capabilities&^smb2.CapMultiChannel != smb2.CapLargeMTU|smb2.CapLeasing|smb2.CapDirectoryLeasing|smb2.CapPersistentHandles ||
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
	t.Run("echo without a session", func(t *testing.T) {
		c := dialRaw(t, srv.addr)
		c.negotiate(smb2.Dialect311)
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
	t.Run("reauthentication unsigned", func(t *testing.T) {
		first.sign = false
		if st := first.setup(testUser, testPassword, 0); st != smb2.StatusAccessDenied {
			t.Error(st)
		}
		first.sign = true
	})
	t.Run("binding", func(t *testing.T) {
		r := first.call(smb2.CommandSessionSetup, &smb2.SessionSetupRequest{Flags: smb2.SessionFlagBinding}, nil)
		wantStatus(t, r, smb2.StatusRequestNotAccepted)
	})
}

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
