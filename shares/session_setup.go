package shares

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lunless/smbstore/auth"
	"lunless/smbstore/smb2"
)

// sessionSetup is an authentication in progress on a channel: of a new session,
// of one that is valid already, or to bind one to another connection.
type sessionSetup struct {
	acceptor auth.Acceptor
	again    bool             // reauthentication: the keys stay
	binding  bool             // of a session to another connection: the session's own keys stay
	begun    bool             // there was a leg before
	preauth  smb2.PreauthHash // 3.1.1
}

// handleSessionSetup answers SESSION_SETUP (MS-SMB2 3.3.5.5).
func handleSessionSetup(ctx context.Context, r *request) error {
	var q smb2.SessionSetupRequest
	if err := q.Decode(r.msg); err != nil {
		return err
	}
	c := r.conn
	binding := q.Flags&smb2.SessionFlagBinding != 0
	switch {
	case c.srv.cfg.Encrypt && c.neg.cipher == 0:
		return smb2.StatusAccessDenied
	case binding:
		return r.bindSession(ctx, &q)
	case r.hdr.SessionID == 0:
		ch, err := c.newSession()
		if err != nil {
			return err
		}
		r.channel, r.session, r.hdr.SessionID = ch, ch.session, ch.session.id
	case r.channel == nil:
		r.signAsStranger()
		return smb2.StatusUserSessionDeleted
	}
	s := r.session
	s.setupMu.Lock()
	defer s.setupMu.Unlock()
	if r.channel.setup.binding { // not one of the connection's sessions yet
		r.signAsStranger()
		return smb2.StatusUserSessionDeleted
	}
	return r.channel.authenticate(ctx, r, &q)
}

// newSession makes a session that is not authenticated yet (MS-SMB2 3.3.5.5.1).
func (c *conn) newSession() (*channel, error) {
	s := &session{
		srv: c.srv, log: c.log, created: time.Now(), trees: map[uint32]*tree{}, opens: map[uint64]*open{}, over: make(chan struct{}),
		peer: c.peer, dialect: c.neg.dialect, clientGUID: c.neg.clientGUID, cipher: c.neg.cipher, signing: c.neg.signing,
	}
	ch := &channel{session: s, conn: c}
	s.channels = []*channel{ch}
	c.srv.addSession(s)
	if !c.addChannel(ch) {
		c.srv.forgetSession(s)
		return nil, smb2.StatusInsufficientResources
	}
	return ch, nil
}

// authenticate takes one token of the exchange (MS-SMB2 3.3.5.5.3). The session's
// setupMu is held.
func (ch *channel) authenticate(ctx context.Context, r *request, q *smb2.SessionSetupRequest) error {
	c, s, p := ch.conn, ch.session, &ch.setup
	if p.acceptor == nil {
		*p = sessionSetup{acceptor: auth.NewSPNEGOAcceptor(c.srv.auth), again: ch.bound.Load(), preauth: c.neg.preauth}
	}
	if c.neg.dialect == smb2.Dialect311 && !p.again {
		p.preauth.Update(r.msg)
	}
	if !p.begun {
		p.begun = true
	} else if !p.again && !c.awaitTurn() { // this leg brings what depends on the password; who is in already shall not lose the session
		return ch.authFailed(ctx, errGuesses)
	}
	out, done, err := p.acceptor.Accept(q.SecurityBuffer)
	if err == nil && done {
		err = ch.accept(q)
	}
	if err != nil {
		if errors.Is(err, auth.ErrLogonFailure) {
			c.peer.logons.fail(clock())
		}
		return ch.authFailed(ctx, err)
	}
	if !done {
		err := r.respondStatus(smb2.StatusMoreProcessingRequired, &smb2.SessionSetupResponse{SecurityBuffer: out})
		if p.binding && err == nil {
			r.reply.signLast() // the hash is of what goes over the wire
		}
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
	case s.encrypt && !p.binding:
		resp.SessionFlags = smb2.SessionFlagEncryptData
	}
	ch.setup = sessionSetup{}
	r.sign = !s.anonymous
	return r.respond(resp)
}

// accept takes the outcome of an exchange: whoever has been authenticated.
func (ch *channel) accept(q *smb2.SessionSetupRequest) error {
	s, p := ch.session, &ch.setup
	id := p.acceptor.Identity()
	user, err := s.srv.identify(id)
	switch {
	case err != nil:
		return err
	case p.again:
		return s.acceptAgain(user, id.Anonymous)
	case p.binding:
		if err := ch.acceptBinding(user); err != nil {
			return err
		}
		ch.conn.authenticated(s)
		return nil
	}
	if err := ch.acceptFirst(q, user, id.Anonymous); err != nil {
		return err
	}
	ch.conn.authenticated(s)
	return nil
}

// acceptFirst makes the session valid.
func (ch *channel) acceptFirst(q *smb2.SessionSetupRequest, user identity, anonymous bool) error {
	s, c := ch.session, ch.conn
	s.user, s.token, s.anonymous = user.name, user.token, anonymous
	if anonymous {
		if c.srv.cfg.NoAnonymous || c.srv.cfg.Encrypt {
			return errAnonymous
		}
	} else if err := ch.setKeys(); err != nil {
		return err
	}
	want := smb2.SecurityMode(q.SecurityMode) | c.neg.clientMode | c.neg.serverMode
	s.signingRequired = !anonymous && want&smb2.SigningRequired != 0
	if c.srv.cfg.Encrypt {
		s.encrypt, s.signingRequired = true, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended { // meanwhile, with its connection
		return errConnEnded
	}
	s.renew()
	s.valid.Store(true)
	ch.bound.Store(true)
	c.srv.metrics.sessions.Inc()
	c.log.Info("session started", "user", s.user, "session", s.id, "dialect", c.neg.dialect.String(),
		"signed", s.signingRequired, "encrypted", s.encrypt, "cipher", c.neg.cipher.String())
	return nil
}

// authenticated lets the connection have what only those get who are known.
func (c *conn) authenticated(s *session) {
	if s.anonymous {
		return
	}
	if !c.authed.Swap(true) {
		c.srv.mu.Lock()
		c.peer.unauth--
		c.srv.mu.Unlock()
	}
	c.creditMu.Lock()
	c.window.ahead = overdraft
	c.creditMu.Unlock()
}

// acceptAgain ends a reauthentication. The keys stay, and so does the security
// context, even if nobody has authenticated: "If Session.SecurityContext is not NULL
// […] no changes are necessary" (MS-SMB2 3.3.5.5.3). Another user is refused, and
// so is nobody where the session has expired.
func (s *session) acceptAgain(user identity, anonymous bool) error {
	if user.name != s.user && (!anonymous || s.expired(clock())) {
		return errOtherUser
	}
	s.renew()
	return nil
}

// renew sets when the client has to authenticate again (Session.ExpirationTime).
func (s *session) renew() {
	if life := s.srv.cfg.SessionLifetime; life > 0 {
		s.expires.Store(int64(clock() + life))
	}
}

// expired reports whether the client has to authenticate again before it gets
// anything done; at is by clock.
func (s *session) expired(at time.Duration) bool {
	when := s.expires.Load()
	return when != 0 && int64(at) > when
}

var (
	errAnonymous = errors.New("anonymous sessions are not accepted")
	errOtherUser = errors.New("reauthenticated as another user")
	errGuesses   = errors.New("too many failed log-ons from this address: not tried")
)

// setKeys derives the keys of a session on its first channel (MS-SMB2 3.3.5.5.3).
func (ch *channel) setKeys() error {
	s, n, p := ch.session, &ch.conn.neg, &ch.setup
	keys := smb2.KeyInput{
		Dialect: n.dialect, Cipher: n.cipher, Key: p.acceptor.SessionKey(), Preauth: &p.preauth, IsServer: true,
	}.Derive()
	var err error
	if s.signer, err = smb2.NewSigner(n.signing, keys.Signing); err != nil {
		return err
	}
	ch.signer = s.signer
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
	if old != nil && old.isValid() && !old.anonymous && !s.anonymous && old.user == s.user {
		old.end(ctx, errReplaced)
	}
	srv.ending.wait(ctx, previous) // it may have ended with its connection, or be about to
}

var errReplaced = errors.New("replaced by the client's new session")

// authFailed ends what the exchange was for: the session, or just the channel that
// was to be bound to it, since a session must not end by what another connection
// sends without its key (MS-SMB2 3.3.5.5.3).
func (ch *channel) authFailed(ctx context.Context, err error) error {
	p := &ch.setup
	status := ch.session.srv.authFailed(ch.conn, p.acceptor.Identity(), err)
	if p.binding {
		ch.conn.removeChannel(ch)
	} else {
		ch.session.end(ctx, fmt.Errorf("authentication failed: %w", err))
	}
	return status
}

// authFailed records a failed authentication and says what the client is told.
func (srv *Server) authFailed(c *conn, id auth.Identity, err error) smb2.Status {
	status := smb2.StatusLogonFailure
	reason := "logon"
	switch {
	case errors.Is(err, auth.ErrMalformed), errors.Is(err, auth.ErrNoMechanism):
		status, reason = smb2.StatusInvalidParameter, "malformed"
	case errors.Is(err, errGuesses):
		reason = "throttled"
	case errors.Is(err, auth.ErrNTLMv1):
		reason = "ntlmv1"
	case errors.Is(err, auth.ErrIntegrity):
		reason = "integrity"
	case errors.Is(err, errAnonymous):
		status, reason = smb2.StatusAccessDenied, "anonymous"
	case errors.As(err, &status):
		reason = "refused"
	}
	srv.metrics.authFailed(reason)
	if le := (*auth.LogonError)(nil); errors.As(err, &le) {
		id.User, id.Domain = le.User, le.Domain // as the client claims
	}
	c.log.Warn("authentication failed", "user", id.User, "domain", id.Domain, "err", err, "status", status.String())
	return status
}
