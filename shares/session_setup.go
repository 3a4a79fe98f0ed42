package shares

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lunless/smbstore/auth"
	"lunless/smbstore/smb2"
)

// sessionSetup is an authentication in progress: of a new session, or of one
// that is valid already.
type sessionSetup struct {
	acceptor auth.Acceptor
	again    bool             // the session has been authenticated before: its keys stay
	preauth  smb2.PreauthHash // 3.1.1
}

// handleSessionSetup answers SESSION_SETUP (MS-SMB2 3.3.5.5).
func handleSessionSetup(ctx context.Context, r *request) error {
	var q smb2.SessionSetupRequest
	if err := q.Decode(r.msg); err != nil {
		return err
	}
	c := r.conn
	switch {
	case c.srv.cfg.Encrypt && c.neg.cipher == 0:
		return smb2.StatusAccessDenied
	case q.Flags&smb2.SessionFlagBinding != 0:
		return smb2.StatusRequestNotAccepted // no multichannel: nothing binds here
	case r.hdr.SessionID == 0:
		s, err := c.newSession()
		if err != nil {
			return err
		}
		r.session, r.hdr.SessionID = s, s.id
	case r.session == nil:
		return smb2.StatusUserSessionDeleted
	}
	return r.session.authenticate(ctx, r, &q)
}

// newSession makes a session that is not authenticated yet (MS-SMB2 3.3.5.5.1).
func (c *conn) newSession() (*session, error) {
	s := &session{conn: c, created: time.Now(), trees: map[uint32]*tree{}, opens: map[uint64]*open{}}
	c.srv.addSession(s)
	if !c.addSession(s) {
		c.srv.forgetSession(s)
		return nil, smb2.StatusInsufficientResources
	}
	return s, nil
}

// authenticate takes one token of the exchange (MS-SMB2 3.3.5.5.3).
func (s *session) authenticate(ctx context.Context, r *request, q *smb2.SessionSetupRequest) error {
	c, p := s.conn, &s.setup
	if p.acceptor == nil {
		*p = sessionSetup{acceptor: auth.NewSPNEGOAcceptor(c.srv.auth), again: s.isValid(), preauth: c.neg.preauth}
	}
	if c.neg.dialect == smb2.Dialect311 && !p.again {
		p.preauth.Update(r.msg)
	}
	out, done, err := p.acceptor.Accept(q.SecurityBuffer)
	if err == nil && done {
		err = s.accept(p, q)
	}
	if err != nil {
		status := c.srv.authFailed(c, p.acceptor.Identity(), err)
		s.end(ctx, fmt.Errorf("authentication failed: %w", err))
		return status
	}
	if !done {
		err := r.respondStatus(smb2.StatusMoreProcessingRequired, &smb2.SessionSetupResponse{SecurityBuffer: out})
		if c.neg.dialect == smb2.Dialect311 && !p.again && err == nil {
			p.preauth.Update(r.reply.lastPart())
		}
		return err
	}
	c.srv.endPrevious(ctx, s, q.PreviousSessionID)
	resp := &smb2.SessionSetupResponse{SecurityBuffer: out}
	switch {
	case s.anonymous:
		resp.SessionFlags = smb2.SessionFlagIsNull
	case s.encrypt:
		resp.SessionFlags = smb2.SessionFlagEncryptData
	}
	*p = sessionSetup{}
	r.sign = !s.anonymous
	return r.respond(resp)
}

// accept makes the session valid for whoever has been authenticated.
func (s *session) accept(p *sessionSetup, q *smb2.SessionSetupRequest) error {
	c := s.conn
	id := p.acceptor.Identity()
	if p.again {
		return s.acceptAgain(id)
	}
	user, err := c.srv.identify(id)
	if err != nil {
		return err
	}
	s.user, s.token, s.anonymous = user.name, user.token, id.Anonymous
	if s.anonymous {
		if c.srv.cfg.NoAnonymous || c.srv.cfg.Encrypt {
			return errAnonymous
		}
	} else if err := s.setKeys(p); err != nil {
		return err
	}
	want := smb2.SecurityMode(q.SecurityMode) | c.neg.clientMode | c.neg.serverMode
	s.signingRequired = !s.anonymous && want&smb2.SigningRequired != 0
	if c.srv.cfg.Encrypt {
		s.encrypt, s.signingRequired = true, false
	}
	s.valid.Store(true)
	if !s.anonymous {
		c.authed.Store(true)
		c.creditMu.Lock()
		c.window.ahead = overdraft
		c.creditMu.Unlock()
	}
	c.srv.metrics.sessions.Inc()
	c.log.Info("session started", "user", s.user, "session", s.id, "dialect", c.neg.dialect.String(),
		"signed", s.signingRequired, "encrypted", s.encrypt, "cipher", c.neg.cipher.String())
	return nil
}

// acceptAgain ends a reauthentication: keys and security context stay, so it has
// to be the same user (MS-SMB2 3.3.5.5.2).
func (s *session) acceptAgain(id auth.Identity) error {
	user, err := s.conn.srv.identify(id)
	if err != nil {
		return err
	}
	if user.name != s.user {
		return errOtherUser
	}
	return nil
}

var (
	errAnonymous = errors.New("anonymous sessions are not accepted")
	errOtherUser = errors.New("reauthenticated as another user")
)

// setKeys derives the session's keys (MS-SMB2 3.3.5.5.3).
func (s *session) setKeys(p *sessionSetup) error {
	n := &s.conn.neg
	keys := smb2.KeyInput{
		Dialect: n.dialect, Cipher: n.cipher, Key: p.acceptor.SessionKey(), Preauth: &p.preauth, IsServer: true,
	}.Derive()
	var err error
	if s.signer, err = smb2.NewSigner(n.signing, keys.Signing); err != nil {
		return err
	}
	if n.cipher == 0 {
		return nil
	}
	if s.sealer, err = smb2.NewSealer(n.cipher, keys.Encryption, s.id); err != nil {
		return err
	}
	s.opener, err = smb2.NewOpener(n.cipher, keys.Decryption)
	return err
}

// endPrevious ends the session that the client had before it lost its connection,
// if it was the same user's (MS-SMB2 3.3.5.5.3, PreviousSessionId).
func (srv *Server) endPrevious(ctx context.Context, s *session, previous uint64) {
	if previous == 0 || previous == s.id {
		return
	}
	old := srv.globalSession(previous)
	if old == nil || !old.isValid() || old.anonymous || s.anonymous || old.user != s.user {
		return
	}
	old.end(ctx, errReplaced)
}

var errReplaced = errors.New("replaced by the client's new session")

// authFailed records a failed authentication and says what the client is told.
func (srv *Server) authFailed(c *conn, id auth.Identity, err error) smb2.Status {
	status := smb2.StatusLogonFailure
	reason := "logon"
	switch {
	case errors.Is(err, auth.ErrMalformed), errors.Is(err, auth.ErrNoMechanism):
		status, reason = smb2.StatusInvalidParameter, "malformed"
	case errors.Is(err, auth.ErrNTLMv1):
		reason = "ntlmv1"
	case errors.Is(err, auth.ErrIntegrity):
		reason = "integrity"
	case errors.Is(err, errAnonymous):
		status, reason = smb2.StatusAccessDenied, "anonymous"
	}
	srv.metrics.authFailed(reason)
	if le := (*auth.LogonError)(nil); errors.As(err, &le) {
		id.User, id.Domain = le.User, le.Domain // as the client claims
	}
	c.log.Warn("authentication failed", "user", id.User, "domain", id.Domain, "err", err, "status", status.String())
	return status
}
