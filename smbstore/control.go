package smbstore

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"lunless/smbstore/auth"
	"lunless/smbstore/block"
	"lunless/smbstore/smb2"
)

// controlConn is a connection of our own for the control codes the client for
// reads and writes has no calls for: server-side copy, zeroing, allocated
// ranges. One request is in flight at a time. It only ever speeds things up: a
// server it cannot work with gives block.ErrNotSupported, and callers do without.
type controlConn struct {
	store *smbShare

	mu       sync.Mutex // held through every request
	link     *link      // nil: none now
	files    map[*smbFile]*controlFile
	refused  bool      // the server does not speak SMB 3, or refuses us
	notUntil time.Time // no new connection before
}

// controlFile is a file's handle on the control connection.
type controlFile struct {
	id     smb2.FileID
	key    smb2.ResumeKey
	hasKey bool
}

// link is one control connection, with one session and one tree. Its methods
// return errRefused with a status for an answer, anything else for a lost link.
type link struct {
	nc      net.Conn
	timeout time.Duration
	dialect smb2.Dialect
	cipher  smb2.Cipher
	signing smb2.SigningAlgorithm
	preauth smb2.PreauthHash
	message uint64
	session uint64
	tree    uint32
	seal    bool
	signer  *smb2.Signer
	sealer  *smb2.Sealer
	opener  *smb2.Opener
}

// maxControlMessage bounds a response, in bytes.
const maxControlMessage = 1 << 20

// refusal is the server's answer to a control request.
type refusal struct{ status smb2.Status }

func (r refusal) Error() string { return r.status.String() }

type messageBody interface {
	Size() int
	Encode([]byte)
}

// dialControl connects, authenticates and mounts the store's share.
func (s *smbShare) dialControl(ctx context.Context) (_ *link, err error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", s.loc.Addr())
	if err != nil {
		return nil, err
	}
	l := &link{nc: nc, timeout: s.opts.RequestTimeout}
	defer func() {
		if err != nil {
			nc.Close()
		}
	}()
	token, err := l.negotiate(s.clientGUID)
	if err != nil {
		return nil, err
	}
	if err := l.logOn(s.cred, token); err != nil {
		return nil, err
	}
	return l, l.mount(`\\` + s.loc.Host + `\` + s.loc.Share)
}

// negotiate offers SMB 3 alone and returns the server's security token.
func (l *link) negotiate(guid [16]byte) ([]byte, error) {
	salt := make([]byte, 32)
	_, _ = rand.Read(salt) // never fails (crypto/rand)
	p := smb2.PreauthIntegrityCapabilities{HashAlgorithms: []smb2.HashAlgorithm{smb2.HashSHA512}, Salt: salt}
	e := smb2.EncryptionCapabilities{Ciphers: []smb2.Cipher{smb2.CipherAES128GCM, smb2.CipherAES128CCM}}
	g := smb2.SigningCapabilities{Algorithms: []smb2.SigningAlgorithm{smb2.SigningAESGMAC, smb2.SigningAESCMAC}}
	req := l.build(smb2.CommandNegotiate, &smb2.NegotiateRequest{
		SecurityMode: smb2.SigningEnabled, Capabilities: smb2.CapEncryption | smb2.CapLargeMTU, ClientGUID: guid,
		Dialects: []smb2.Dialect{smb2.Dialect300, smb2.Dialect302, smb2.Dialect311},
		Contexts: []smb2.NegotiateContext{p.Context(), e.Context(), g.Context()},
	})
	res, err := l.exchange(req)
	if err != nil {
		return nil, err
	}
	var m smb2.NegotiateResponse
	if err := m.Decode(res.msg); err != nil {
		return nil, err
	}
	l.dialect, l.signing = m.DialectRevision, smb2.SigningFor(m.DialectRevision)
	if l.dialect < smb2.Dialect300 || l.dialect > smb2.Dialect311 {
		return nil, fmt.Errorf("%w: dialect %v", block.ErrNotSupported, l.dialect)
	}
	if l.dialect < smb2.Dialect311 {
		if m.Capabilities&smb2.CapEncryption != 0 {
			l.cipher = smb2.CipherAES128CCM
		}
		return m.SecurityBuffer, nil
	}
	l.preauth.Update(req)
	l.preauth.Update(res.msg)
	if data, ok := smb2.FindNegotiateContext(m.Contexts, smb2.NegotiateEncryption); ok {
		var c smb2.EncryptionCapabilities
		if err := c.Decode(data); err != nil {
			return nil, err
		}
		if len(c.Ciphers) == 1 {
			l.cipher = c.Ciphers[0]
		}
	}
	if data, ok := smb2.FindNegotiateContext(m.Contexts, smb2.NegotiateSigning); ok {
		var c smb2.SigningCapabilities
		if err := c.Decode(data); err != nil {
			return nil, err
		}
		if len(c.Algorithms) == 1 {
			l.signing = c.Algorithms[0]
		}
	}
	return m.SecurityBuffer, nil
}

// logOn authenticates and derives the session's keys (MS-SMB2 3.2.5.3).
func (l *link) logOn(cred Credentials, token []byte) error {
	in := auth.NewSPNEGOInitiator(&auth.ClientConfig{User: cred.User, Domain: cred.Domain, NTHash: auth.NTHash(cred.Password)})
	for range 8 {
		out, _, err := in.Init(token)
		if err != nil {
			return err
		}
		req := l.build(smb2.CommandSessionSetup, &smb2.SessionSetupRequest{SecurityMode: smb2.SigningEnabled, SecurityBuffer: out})
		l.preauth.Update(req)
		res, err := l.exchange(req)
		var r refusal
		more := errors.As(err, &r) && r.status == smb2.StatusMoreProcessingRequired
		if err != nil && !more {
			return err
		}
		var m smb2.SessionSetupResponse
		if err := m.Decode(res.msg); err != nil {
			return err
		}
		l.session, token = res.hdr.SessionID, m.SecurityBuffer
		if more {
			l.preauth.Update(res.msg)
			continue
		}
		if len(token) > 0 {
			if _, _, err := in.Init(token); err != nil {
				return err
			}
		}
		if m.SessionFlags&(smb2.SessionFlagIsGuest|smb2.SessionFlagIsNull) != 0 {
			return fmt.Errorf("%w: a guest session", ErrLogon)
		}
		if err := l.keys(in.SessionKey()); err != nil {
			return err
		}
		if !l.signer.Verify(res.msg) {
			return errors.New("the server's last word on the session is not signed with its key")
		}
		l.seal = m.SessionFlags&smb2.SessionFlagEncryptData != 0
		return nil
	}
	return fmt.Errorf("%w: no end to the negotiation", ErrLogon)
}

func (l *link) keys(key []byte) (err error) {
	k := smb2.KeyInput{Dialect: l.dialect, Cipher: l.cipher, Key: key, Preauth: &l.preauth}.Derive()
	if l.signer, err = smb2.NewSigner(l.signing, k.Signing); err != nil || l.cipher == 0 {
		return err
	}
	if l.sealer, err = smb2.NewSealer(l.cipher, k.Encryption, l.session); err != nil {
		return err
	}
	l.opener, err = smb2.NewOpener(l.cipher, k.Decryption)
	return err
}

func (l *link) mount(share string) error {
	res, err := l.exchange(l.build(smb2.CommandTreeConnect, &smb2.TreeConnectRequest{Path: share}))
	if err != nil {
		return err
	}
	var m smb2.TreeConnectResponse
	if err := m.Decode(res.msg); err != nil {
		return err
	}
	l.tree = res.hdr.TreeID
	if m.ShareFlags&smb2.ShareFlagEncryptData != 0 {
		l.seal = true
	}
	if l.seal && l.sealer == nil {
		return fmt.Errorf("%w: no cipher was agreed on", block.ErrNotSupported)
	}
	return nil
}

// build makes a request of at most 64 KiB in either direction: one credit.
func (l *link) build(cmd smb2.Command, m messageBody) []byte {
	h := smb2.Header{Command: cmd, CreditCharge: 1, Credits: 16, MessageID: l.message, SessionID: l.session, TreeID: l.tree}
	l.message++
	b := make([]byte, m.Size(), m.Size()+smb2.SealTailroom)
	h.Encode(b)
	m.Encode(b)
	return b
}

type controlResponse struct {
	hdr smb2.Header
	msg []byte
}

// exchange sends a request and waits for its final response. A status other
// than success is a refusal, with the response.
func (l *link) exchange(msg []byte) (controlResponse, error) {
	id := l.message - 1
	if err := l.nc.SetDeadline(time.Now().Add(l.timeout)); err != nil {
		return controlResponse{}, err
	}
	buf := msg
	switch {
	case l.seal:
		buf = make([]byte, smb2.TransformHeaderSize+len(msg), smb2.TransformHeaderSize+len(msg)+smb2.SealTailroom)
		copy(buf[smb2.TransformHeaderSize:], msg)
		if err := l.sealer.Seal(buf); err != nil {
			return controlResponse{}, err
		}
	case l.signer != nil:
		l.signer.Sign(msg)
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(buf)), uint32(len(buf)))
	if _, err := l.nc.Write(append(frame, buf...)); err != nil {
		return controlResponse{}, err
	}
	for {
		r, err := l.receive()
		if err != nil {
			return r, err
		}
		if r.hdr.MessageID != id || r.hdr.Status == smb2.StatusPending {
			continue // an oplock break, or word that it takes longer
		}
		if r.hdr.Status != smb2.StatusSuccess {
			return r, refusal{r.hdr.Status}
		}
		return r, nil
	}
}

// receive reads one response and checks its seal or signature.
func (l *link) receive() (controlResponse, error) {
	var head [4]byte
	if _, err := io.ReadFull(l.nc, head[:]); err != nil {
		return controlResponse{}, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < smb2.HeaderSize || n > maxControlMessage {
		return controlResponse{}, fmt.Errorf("a response of %d bytes", n)
	}
	msg := make([]byte, n, n+smb2.SealTailroom)
	if _, err := io.ReadFull(l.nc, msg); err != nil {
		return controlResponse{}, err
	}
	sealed := smb2.IsTransform(msg)
	if sealed {
		if l.opener == nil {
			return controlResponse{}, errors.New("an encrypted response without a key")
		}
		var err error
		if msg, err = l.opener.Open(msg); err != nil {
			return controlResponse{}, err
		}
	} else if l.seal {
		return controlResponse{}, errors.New("a response in the clear on an encrypted session")
	}
	r := controlResponse{msg: msg}
	if err := r.hdr.Decode(msg); err != nil {
		return r, err
	}
	// Interim responses are not signed (MS-SMB2 3.2.5.1.3).
	if l.signer != nil && !sealed && r.hdr.Status != smb2.StatusPending && !l.signer.Verify(msg) {
		return r, errors.New("a response with a bad signature")
	}
	return r, nil
}
