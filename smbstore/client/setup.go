package client

import (
	"context"
	"errors"
	"fmt"

	"lunless/smbstore/auth"
	"lunless/smbstore/smb2"
)

// maxLegs bounds the messages of one log-on.
const maxLegs = 8

// logon is one authentication exchange on a connection.
type logon struct {
	c        *conn
	binding  *session // the session that the connection becomes a channel of, or nil
	previous uint64   // the session that a new one takes the place of
	preauth  smb2.PreauthHash
	id       uint64
	key      []byte
	flags    smb2.SessionFlags
	final    []byte // the last response, which the session's own key must have signed
}

// run exchanges tokens until both sides are done (MS-SMB2 3.2.4.2.3, 3.2.5.3).
func (l *logon) run(ctx context.Context) error {
	cfg, n := l.c.cfg, &l.c.neg
	l.preauth = n.preauth
	in := auth.NewSPNEGOInitiator(&auth.ClientConfig{
		User: cfg.Credentials.User, Domain: cfg.Credentials.Domain, NTHash: auth.NTHash(cfg.Credentials.Password),
		TargetName: "cifs/" + cfg.ServerName,
	})
	token := n.token
	for range maxLegs {
		out, _, err := in.Init(token)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrLogon, err)
		}
		k, err := l.leg(ctx, out)
		if err != nil {
			return err
		}
		more := k.resp.Status == smb2.StatusMoreProcessingRequired
		if !more && k.resp.Status != smb2.StatusSuccess {
			defer k.free()
			return logonError(k.resp.Status)
		}
		var m smb2.SessionSetupResponse
		if err := m.Decode(k.body); err != nil {
			k.free()
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		l.id, l.flags = k.resp.SessionID, m.SessionFlags
		token = append([]byte(nil), m.SecurityBuffer...)
		body := append([]byte(nil), k.body...)
		k.free()
		if l.binding != nil && l.id != l.binding.id {
			return protocolError("the server binds session %#x instead of %#x", l.id, l.binding.id)
		}
		if more {
			l.preauth.Update(body)
			continue
		}
		l.final = body
		if len(token) > 0 {
			if _, _, err := in.Init(token); err != nil {
				return fmt.Errorf("%w: %w", ErrLogon, err)
			}
		}
		l.key = in.SessionKey()
		if len(l.key) == 0 {
			return fmt.Errorf("%w: the server ended the log-on early", ErrSecurity)
		}
		return nil
	}
	return fmt.Errorf("%w: no end to the negotiation", ErrLogon)
}

// leg sends one token. Requests that bind a channel are signed with the session's
// key (MS-SMB2 3.2.4.1.1).
func (l *logon) leg(ctx context.Context, token []byte) (*call, error) {
	cfg := l.c.cfg
	m := &smb2.SessionSetupRequest{
		SecurityMode: cfg.securityMode(), PreviousSessionID: l.previous, SecurityBuffer: token,
		Capabilities: cfg.clientCapabilities() & smb2.CapDFS,
	}
	k := newCall(smb2.CommandSessionSetup)
	k.hdr.SessionID = l.id
	if l.binding != nil {
		m.Flags = smb2.SessionFlagBinding
		k.hdr.SessionID = l.binding.id
	}
	if err := l.c.reserve(ctx, k, 1); err != nil {
		return nil, err
	}
	if l.binding == nil {
		l.c.send(ctx, k, m, nil)
	} else {
		l.c.sendSigned(ctx, k, m, l.binding.signer)
	}
	l.preauth.Update(k.request(m.Size()))
	if err := k.wait(ctx); err != nil {
		return nil, err
	}
	return k, nil
}

// sendSigned is send with a key that is not the connection's own.
func (c *conn) sendSigned(ctx context.Context, k *call, m message, signer *smb2.Signer) {
	n := m.Size()
	k.wire = make([]byte, wireHead+n)
	msg := k.wire[wireHead:]
	k.hdr.Encode(msg)
	m.Encode(msg)
	signer.Sign(msg)
	smb2.PutFrameHeader(k.wire[smb2.TransformHeaderSize:], n)
	c.write(ctx, k.wire[smb2.TransformHeaderSize:], nil)
}

func logonError(status smb2.Status) error {
	err := &StatusError{Command: smb2.CommandSessionSetup, Status: status}
	switch status {
	case smb2.StatusLogonFailure, smb2.StatusNoSuchUser, smb2.StatusWrongPassword, smb2.StatusAccountRestriction,
		smb2.StatusInvalidLogonHours, smb2.StatusInvalidWorkstation, smb2.StatusPasswordExpired, smb2.StatusAccountDisabled,
		smb2.StatusPasswordMustChange, smb2.StatusAccountLockedOut, smb2.StatusLogonTypeNotGranted, smb2.StatusAccessDenied:
		return fmt.Errorf("%w: %w", ErrLogon, err)
	}
	return err
}

// keys derives the keys of a session, or of a channel of one, and checks that the
// server's last word is signed with them (MS-SMB2 3.2.5.3.1, 3.2.5.3.3).
func (l *logon) keys() (smb2.SessionKeys, *smb2.Signer, error) {
	n := &l.c.neg
	k := smb2.KeyInput{Dialect: n.dialect, Cipher: n.cipher, Key: l.key, Preauth: &l.preauth}.Derive()
	signer, err := smb2.NewSigner(n.signing, k.Signing)
	if err != nil {
		return k, nil, err
	}
	var h smb2.Header
	if err := h.Decode(l.final); err != nil {
		return k, nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	signed := h.Flags&smb2.FlagSigned != 0
	if !signed && (n.dialect == smb2.Dialect311 || l.binding != nil || l.c.cfg.RequireSigning || n.serverMode&smb2.SigningRequired != 0) {
		return k, nil, fmt.Errorf("%w: the server's answer to the log-on is not signed", ErrSecurity)
	}
	if signed && !signer.Verify(l.final) {
		return k, nil, fmt.Errorf("%w: the server's answer to the log-on has a bad signature", ErrSecurity)
	}
	return k, signer, nil
}

// newSession logs on over a connection. previous is the session it takes the
// place of, 0 if none.
func (cl *Client) newSession(ctx context.Context, c *conn, previous uint64) (*session, error) {
	l := &logon{c: c, previous: previous}
	if err := l.run(ctx); err != nil {
		return nil, err
	}
	if l.flags&(smb2.SessionFlagIsGuest|smb2.SessionFlagIsNull) != 0 {
		return nil, fmt.Errorf("%w: the server gives a guest session", ErrLogon)
	}
	keys, signer, err := l.keys()
	if err != nil {
		return nil, err
	}
	n := &c.neg
	s := &session{client: cl, id: l.id, neg: n, signer: signer, lost: make(chan struct{})}
	s.encrypt = cl.cfg.Encrypt || l.flags&smb2.SessionFlagEncryptData != 0
	s.sign = cl.cfg.RequireSigning || n.serverMode&smb2.SigningRequired != 0
	if n.cipher != 0 {
		if s.sealer, err = smb2.NewSealer(n.cipher, keys.Encryption, s.id); err != nil {
			return nil, err
		}
		if s.opener, err = smb2.NewOpener(n.cipher, keys.Decryption); err != nil {
			return nil, err
		}
	} else if s.encrypt {
		return nil, fmt.Errorf("%w: no cipher was agreed on", ErrSecurity)
	}
	if !s.add(c, signer) {
		return nil, &lostError{errors.New("the connection ended during the log-on")}
	}
	return s, nil
}

// bind makes a further connection a channel of the session (MS-SMB2 3.2.4.2.3,
// 3.2.5.3.3).
func (s *session) bind(ctx context.Context, c *conn) error {
	if c.neg.dialect != s.neg.dialect || c.neg.cipher != s.neg.cipher || c.neg.serverGUID != s.neg.serverGUID {
		return fmt.Errorf("%w: %s is another server, or negotiates otherwise", ErrSecurity, c.addr)
	}
	l := &logon{c: c, binding: s}
	if err := l.run(ctx); err != nil {
		return err
	}
	_, signer, err := l.keys()
	if err != nil {
		return err
	}
	if !s.add(c, signer) {
		return &lostError{errors.New("the session ended meanwhile")}
	}
	return nil
}
