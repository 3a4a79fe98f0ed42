package shares

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"lunless/smbstore/auth"
	"lunless/smbstore/smb2"
)

// rawClient is a client that sends exactly what a test tells it to, and keeps no
// rules of its own.
type rawClient struct {
	t       testing.TB
	nc      net.Conn
	dialect smb2.Dialect
	cipher  smb2.Cipher
	preauth smb2.PreauthHash

	message uint64 // next message id
	session uint64
	tree    uint32
	sign    bool // requests
	seal    bool // requests
	signer  *smb2.Signer
	sealer  *smb2.Sealer
	opener  *smb2.Opener

	caps        smb2.Capabilities // offered besides the usual ones
	negotiated  smb2.NegotiateResponse
	negotiation smb2.NegotiateRequest
	granted     int // credits the server has granted
	shareFlags  smb2.ShareFlags
	guid        smb2.GUID  // ClientGuid; zero: {1, 2, 3}
	notices     []response // breaks that have arrived while responses were waited for
}

func dialRaw(t testing.TB, addr string) *rawClient {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	return &rawClient{t: t, nc: nc}
}

// loginRaw connects, negotiates one dialect, logs on and connects to a share.
func loginRaw(t testing.TB, addr string, d smb2.Dialect, share string) *rawClient {
	t.Helper()
	c := dialRaw(t, addr)
	c.negotiate(d)
	c.login(testUser, testPassword)
	if st := c.treeConnect(share); st != smb2.StatusSuccess {
		t.Fatalf("tree connect %s: %v", share, st)
	}
	return c
}

type response struct {
	hdr smb2.Header
	msg []byte // header and body, up to the next response of a compound
}

// message makes a request, the payload behind it included.
func (c *rawClient) build(cmd smb2.Command, m body, payload []byte) []byte {
	charge := (max(len(payload), 1)-1)/creditUnit + 1
	h := smb2.Header{
		Command: cmd, CreditCharge: uint16(charge), Credits: 64, MessageID: c.message,
		SessionID: c.session, TreeID: c.tree,
	}
	c.message += uint64(charge)
	b := make([]byte, m.Size()+len(payload))
	h.Encode(b)
	m.Encode(b[:m.Size()])
	copy(b[m.Size():], payload)
	return b
}

// send frames msg, one message or a compound, signing or sealing it as the
// client is set to.
func (c *rawClient) send(msg []byte) {
	c.t.Helper()
	switch {
	case c.seal:
		buf := make([]byte, smb2.TransformHeaderSize+len(msg), smb2.TransformHeaderSize+len(msg)+smb2.SealTailroom)
		copy(buf[smb2.TransformHeaderSize:], msg)
		if err := c.sealer.Seal(buf); err != nil {
			c.t.Fatal(err)
		}
		msg = buf
	case c.sign && c.signer != nil:
		for rest := msg; rest != nil; {
			n := binary.LittleEndian.Uint32(rest[20:])
			one := rest
			if n != 0 {
				one, rest = rest[:n], rest[n:]
			} else {
				rest = nil
			}
			c.signer.Sign(one)
		}
	}
	c.sendFrame(msg)
}

func (c *rawClient) sendFrame(msg []byte) {
	c.t.Helper()
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(msg)))
	if _, err := c.nc.Write(append(frame, msg...)); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// receive returns the responses of the next frame, or nil when the server has
// ended the connection. It fails the test if a signature is wrong.
func (c *rawClient) receive() []response {
	c.t.Helper()
	list, err := c.nextFrame()
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		c.t.Fatal("no response")
	}
	return list
}

// tryReceive is receive that returns nil when nothing comes in time.
func (c *rawClient) tryReceive() []response {
	c.t.Helper()
	list, _ := c.nextFrame()
	return list
}

func (c *rawClient) nextFrame() ([]response, error) {
	c.t.Helper()
	var h [4]byte
	if _, err := io.ReadFull(c.nc, h[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(h[:]))
	msg := make([]byte, n, n+smb2.SealTailroom)
	if _, err := io.ReadFull(c.nc, msg); err != nil {
		c.t.Fatalf("receive: %v", err)
	}
	return c.responses(msg), nil
}

// responses are those of a frame.
func (c *rawClient) responses(msg []byte) (list []response) {
	c.t.Helper()
	if smb2.IsTransform(msg) {
		var err error
		if msg, err = c.opener.Open(msg); err != nil {
			c.t.Fatal(err)
		}
	}
	for msg != nil {
		var r response
		if err := r.hdr.Decode(msg); err != nil {
			c.t.Fatal(err)
		}
		r.msg = msg
		if next := r.hdr.NextCommand; next != 0 {
			r.msg, msg = msg[:next], msg[next:]
		} else {
			msg = nil
		}
		if r.hdr.Flags&smb2.FlagSigned != 0 && c.signer != nil && !c.signer.Verify(r.msg) {
			c.t.Fatalf("%v response: bad signature", r.hdr.Command)
		}
		c.granted += int(r.hdr.Credits)
		list = append(list, r)
	}
	return list
}

// isNotice says whether a message answers no request (MS-SMB2 3.3.4.6).
func isNotice(msg []byte) bool {
	return len(msg) >= smb2.HeaderSize && binary.LittleEndian.Uint16(msg[12:]) == uint16(smb2.CommandOplockBreak) &&
		binary.LittleEndian.Uint64(msg[24:]) == ^uint64(0)
}

// call sends one request and returns its response.
func (c *rawClient) call(cmd smb2.Command, m body, payload []byte) response {
	c.t.Helper()
	c.send(c.build(cmd, m, payload))
	return c.response()
}

// response is the next response of a single command; breaks that arrive before it
// are kept in notices.
func (c *rawClient) response() response {
	c.t.Helper()
	for {
		list := c.receive()
		if len(list) != 1 {
			c.t.Fatalf("%d responses", len(list))
		}
		if !isNotice(list[0].msg) {
			return list[0]
		}
		c.notices = append(c.notices, list[0])
	}
}

// gone demands that the server has ended the connection without a response.
func (c *rawClient) gone() {
	c.t.Helper()
	if list := c.receive(); list != nil {
		c.t.Fatalf("server answered %v %v, want the connection ended", list[0].hdr.Command, list[0].hdr.Status)
	}
}

func (c *rawClient) negotiate(ds ...smb2.Dialect) smb2.Status {
	c.t.Helper()
	m := &smb2.NegotiateRequest{
		SecurityMode: smb2.SigningEnabled, Capabilities: smb2.CapEncryption | smb2.CapLargeMTU | c.caps,
		ClientGUID: smb2.GUID{1, 2, 3}, Dialects: ds,
	}
	if !c.guid.IsZero() {
		m.ClientGUID = c.guid
	}
	if m.HasDialect(smb2.Dialect311) {
		p := smb2.PreauthIntegrityCapabilities{HashAlgorithms: []smb2.HashAlgorithm{smb2.HashSHA512}, Salt: []byte{1}}
		e := smb2.EncryptionCapabilities{Ciphers: []smb2.Cipher{smb2.CipherAES128GCM}}
		s := smb2.SigningCapabilities{Algorithms: []smb2.SigningAlgorithm{smb2.SigningAESGMAC, smb2.SigningAESCMAC}}
		m.Contexts = []smb2.NegotiateContext{p.Context(), e.Context(), s.Context()}
	}
	c.negotiation = *m
	req := c.build(smb2.CommandNegotiate, m, nil)
	c.send(req)
	list := c.receive()
	if len(list) != 1 {
		c.t.Fatalf("NEGOTIATE: %d responses", len(list))
	}
	if st := list[0].hdr.Status; st != smb2.StatusSuccess {
		return st
	}
	if err := c.negotiated.Decode(list[0].msg); err != nil {
		c.t.Fatal(err)
	}
	c.dialect = c.negotiated.DialectRevision
	if c.dialect == smb2.Dialect311 {
		c.preauth.Update(req)
		c.preauth.Update(list[0].msg)
		c.cipher = smb2.CipherAES128GCM
	} else if c.negotiated.Capabilities&smb2.CapEncryption != 0 {
		c.cipher = smb2.CipherAES128CCM
	}
	return smb2.StatusSuccess
}

// login authenticates a new session and makes it the client's; later requests
// are signed.
func (c *rawClient) login(user, password string) {
	c.t.Helper()
	if st := c.setup(user, password, 0); st != smb2.StatusSuccess {
		c.t.Fatalf("SESSION_SETUP: %v", st)
	}
	c.sign = true
}

func (c *rawClient) setup(user, password string, previous uint64) smb2.Status {
	c.t.Helper()
	again := c.session != 0
	in := auth.NewSPNEGOInitiator(&auth.ClientConfig{User: user, NTHash: auth.NTHash(password)})
	preauth, token := c.preauth, c.negotiated.SecurityBuffer
	for {
		out, _, err := in.Init(token)
		if err != nil {
			c.t.Fatal(err)
		}
		req := c.build(smb2.CommandSessionSetup, &smb2.SessionSetupRequest{
			SecurityMode: smb2.SigningEnabled, PreviousSessionID: previous, SecurityBuffer: out}, nil)
		if c.dialect == smb2.Dialect311 {
			preauth.Update(req)
		}
		c.send(req)
		list := c.receive()
		if len(list) != 1 {
			c.t.Fatalf("SESSION_SETUP: %d responses", len(list))
		}
		r := list[0]
		var m smb2.SessionSetupResponse
		if st := r.hdr.Status; st != smb2.StatusSuccess && st != smb2.StatusMoreProcessingRequired {
			return st
		} else if err := m.Decode(r.msg); err != nil {
			c.t.Fatal(err)
		}
		c.session, token = r.hdr.SessionID, m.SecurityBuffer
		if r.hdr.Status == smb2.StatusMoreProcessingRequired {
			if c.dialect == smb2.Dialect311 {
				preauth.Update(r.msg)
			}
			continue
		}
		if len(token) > 0 {
			if _, _, err := in.Init(token); err != nil {
				c.t.Fatal(err)
			}
		}
		if !again && user != "" {
			c.keys(in.SessionKey(), &preauth)
			if !c.signer.Verify(r.msg) {
				c.t.Fatal("final SESSION_SETUP response is not signed with the session's key")
			}
		}
		return smb2.StatusSuccess
	}
}

func (c *rawClient) keys(key []byte, preauth *smb2.PreauthHash) {
	alg := smb2.SigningFor(c.dialect)
	if c.dialect == smb2.Dialect311 {
		alg = smb2.SigningAESGMAC
	}
	k := smb2.KeyInput{Dialect: c.dialect, Cipher: c.cipher, Key: key, Preauth: preauth}.Derive()
	var err error
	if c.signer, err = smb2.NewSigner(alg, k.Signing); err != nil {
		c.t.Fatal(err)
	}
	if c.cipher == 0 {
		return
	}
	if c.sealer, err = smb2.NewSealer(c.cipher, k.Encryption, c.session); err != nil {
		c.t.Fatal(err)
	}
	if c.opener, err = smb2.NewOpener(c.cipher, k.Decryption); err != nil {
		c.t.Fatal(err)
	}
}

func (c *rawClient) treeConnect(share string) smb2.Status {
	c.t.Helper()
	r := c.call(smb2.CommandTreeConnect, &smb2.TreeConnectRequest{Path: `\\server\` + share}, nil)
	if r.hdr.Status == smb2.StatusSuccess {
		var m smb2.TreeConnectResponse
		if err := m.Decode(r.msg); err != nil {
			c.t.Fatal(err)
		}
		c.tree, c.shareFlags = r.hdr.TreeID, m.ShareFlags
	}
	return r.hdr.Status
}

func createRequest(name string) *smb2.CreateRequest {
	return &smb2.CreateRequest{
		ImpersonationLevel: smb2.ImpersonationImpersonation,
		DesiredAccess:      smb2.GenericRead | smb2.GenericWrite | smb2.Delete,
		ShareAccess:        smb2.FileShareRead | smb2.FileShareWrite | smb2.FileShareDelete,
		CreateDisposition:  smb2.FileOpenIf,
		Name:               name,
	}
}

func (c *rawClient) create(name string) smb2.FileID {
	c.t.Helper()
	r := c.call(smb2.CommandCreate, createRequest(name), nil)
	var m smb2.CreateResponse
	if r.hdr.Status != smb2.StatusSuccess {
		c.t.Fatalf("create %s: %v", name, r.hdr.Status)
	} else if err := m.Decode(r.msg); err != nil {
		c.t.Fatal(err)
	}
	return m.FileID
}
