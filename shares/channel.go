package shares

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"

	"lunless/smbstore/smb2"
)

// channel is a session's use of a connection (MS-SMB2 3.3.1.14). What is not
// marked otherwise is set before bound is, and does not change afterwards.
type channel struct {
	session *session
	conn    *conn
	signer  *smb2.Signer // Channel.SigningKey; nil for an anonymous session
	setup   sessionSetup // the exchange in progress; guarded by session.setupMu

	// bound says that the exchange which made the channel has succeeded: before
	// that it serves SESSION_SETUP alone.
	bound atomic.Bool
}

// usable reports whether requests other than SESSION_SETUP may use the channel.
func (ch *channel) usable() bool { return ch.bound.Load() && ch.session.isValid() }

// channelList is the session's channels at the moment, oldest first.
func (s *session) channelList() []*channel {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.channels)
}

// dropChannel takes a channel out whose connection has ended. The session lives on
// with the others; without any it ends (MS-SMB2 3.3.7.1). The connection has
// finished all its requests by then.
func (s *session) dropChannel(ctx context.Context, ch *channel, why error) {
	s.mu.Lock()
	if i := slices.Index(s.channels, ch); i >= 0 {
		s.channels = slices.Delete(s.channels, i, i+1)
	} else {
		s.mu.Unlock() // ended with the session already, or never bound
		return
	}
	last := len(s.channels) == 0
	s.ended = s.ended || last
	s.mu.Unlock()
	if last {
		s.end(ctx, why)
		return
	}
	s.log.Info("channel ended", "user", s.user, "session", s.id, "client", ch.conn.nc.RemoteAddr().String(), "reason", why)
}

// lostChannel says that the context of the request has ended with its connection,
// and that its session has another one.
func (r *request) lostChannel(ctx context.Context) bool {
	why, end := context.Cause(ctx), context.Cause(r.conn.ctx)
	if end == nil || !errors.Is(why, end) && !errors.Is(why, errConnEnded) {
		return false
	}
	return slices.ContainsFunc(r.session.channelList(), func(ch *channel) bool { return ch.conn.ctx.Err() == nil })
}

// cancelAsync ends the context of those of the session's async requests that
// which picks, on all its channels.
func (s *session) cancelAsync(why error, which func(op *asyncOp) bool) {
	for _, ch := range s.channelList() {
		ch.conn.cancelAsync(why, func(op *asyncOp) bool { return op.session == s && which(op) })
	}
}
