package shares

import (
	"context"
	"fmt"

	"lunless/smbstore/auth"
	"lunless/smbstore/smb2"
)

// maxChannels is how many connections a session may use at a time.
const maxChannels = 32

// bindSession takes one leg of the authentication that makes a connection another
// channel of a session (MS-SMB2 3.3.5.5, SMB2_SESSION_FLAG_BINDING).
func (r *request) bindSession(ctx context.Context, q *smb2.SessionSetupRequest) error {
	c := r.conn
	s := c.srv.globalSession(r.hdr.SessionID)
	if s == nil {
		return smb2.StatusUserSessionDeleted
	}
	s.setupMu.Lock()
	defer s.setupMu.Unlock()
	ch := c.findChannel(s.id) // of an earlier leg
	if ch == nil {
		ch = &channel{session: s, conn: c}
	}
	r.channel, r.session = ch, s // errors are signed too
	if err := r.checkBinding(s); err != nil {
		return err
	}
	if !ch.setup.binding {
		if !c.addChannel(ch) {
			return smb2.StatusInsufficientResources
		}
		ch.setup = sessionSetup{acceptor: auth.NewSPNEGOAcceptor(c.srv.auth), binding: true, preauth: c.neg.preauth}
	}
	return ch.authenticate(ctx, r, q)
}

// checkBinding makes the checks of MS-SMB2 3.3.5.5 in their order. A ClientGuid
// other than the session's is no mistake, as on Windows: who knows the session's
// key is its client. The session's setupMu is held.
func (r *request) checkBinding(s *session) error {
	c := r.conn
	gmac, want := s.signing == smb2.SigningAESGMAC, c.neg.signing == smb2.SigningAESGMAC
	switch {
	case gmac && !want: // this and the next as Windows has it
		return smb2.StatusRequestOutOfSequence
	case !gmac && want:
		return smb2.StatusNotSupported
	case c.neg.dialect < smb2.Dialect300:
		return smb2.StatusRequestNotAccepted // note 290
	case s.dialect != c.neg.dialect, r.hdr.Flags&smb2.FlagSigned == 0 && !r.encrypted:
		return smb2.StatusInvalidParameter
	case r.channel.bound.Load(): // its signature has been verified, as any other request's
		return smb2.StatusRequestNotAccepted
	case !s.isValid():
		return smb2.StatusRequestNotAccepted
	case s.expired(r.started):
		return smb2.StatusNetworkSessionExpired
	case s.anonymous:
		return smb2.StatusNotSupported
	case s.cipher != c.neg.cipher:
		return smb2.StatusInvalidParameter
	case !s.signer.Verify(r.msg): // 3.3.5.2.4: with Session.SigningKey
		c.log.Warn("bad signature", "user", s.user, "session", s.id, "command", "SESSION_SETUP, binding")
		return smb2.StatusAccessDenied
	}
	return nil
}

// acceptBinding makes the channel one of its session's, whose user it must be who
// has authenticated (MS-SMB2 3.3.5.5.3).
func (ch *channel) acceptBinding(user identity) error {
	s, n, p := ch.session, &ch.conn.neg, &ch.setup
	if user.name != s.user {
		return fmt.Errorf("%w: session of %s, bound by %s", smb2.StatusNotSupported, s.user, user.name)
	}
	keys := smb2.KeyInput{
		Dialect: n.dialect, Key: p.acceptor.SessionKey(), Preauth: &p.preauth, IsServer: true,
	}.Derive()
	var err error
	if ch.signer, err = smb2.NewSigner(n.signing, keys.Signing); err != nil {
		return err
	}
	if err := s.addChannel(ch); err != nil {
		return err
	}
	ch.bound.Store(true)
	ch.conn.log.Info("channel added", "user", s.user, "session", s.id, "channels", len(s.channelList()))
	return nil
}

// addChannel enters a channel that has been authenticated, unless the session has
// ended meanwhile or has as many as it may.
func (s *session) addChannel(ch *channel) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
		return smb2.StatusUserSessionDeleted
	case len(s.channels) >= maxChannels:
		return smb2.StatusInsufficientResources
	}
	s.channels = append(s.channels, ch)
	return nil
}
