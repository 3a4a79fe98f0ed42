package smbstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudsoda/go-smb2"
)

// NTSTATUS values this package decides by (MS-ERREF 2.3.1).
const (
	statusInvalidParameter    = 0xC000000D
	statusNotSupported        = 0xC00000BB
	statusSharingViolation    = 0xC0000043
	statusDeletePending       = 0xC0000056
	statusNoSuchUser          = 0xC0000064
	statusWrongPassword       = 0xC000006A
	statusLogonFailure        = 0xC000006D
	statusAccountRestriction  = 0xC000006E
	statusPasswordExpired     = 0xC0000071
	statusAccountDisabled     = 0xC0000072
	statusDiskFull            = 0xC000007F
	statusFileForcedClosed    = 0xC00000B6
	statusFileClosed          = 0xC0000128
	statusVirtualCircuit      = 0xC00000D6
	statusFileIsADirectory    = 0xC00000BA
	statusNetworkNameDeleted  = 0xC00000C9
	statusBadNetworkName      = 0xC00000CC
	statusDirectoryNotEmpty   = 0xC0000101
	statusNotADirectory       = 0xC0000103
	statusObjectNameInvalid   = 0xC0000033
	statusUserSessionDeleted  = 0xC0000203
	statusDisconnected        = 0xC000020C
	statusConnectionReset     = 0xC000020D
	statusFileNotAvailable    = 0xC0000467
	statusNetworkSessionEnded = 0xC000035C
)

// statusOf digs the NTSTATUS out of an error of the client.
func statusOf(err error) (uint32, bool) {
	var re *smb2.ResponseError
	if errors.As(err, &re) {
		return re.Code, true
	}
	return 0, false
}

// lost reports whether an error means that the connection, the session or the
// handle is gone, rather than that the server refused.
func lost(err error) bool {
	if err == nil || err == io.EOF {
		return false
	}
	if code, ok := statusOf(err); ok {
		switch code {
		case statusFileForcedClosed, statusFileClosed, statusVirtualCircuit, statusNetworkNameDeleted, statusUserSessionDeleted,
			statusDisconnected, statusConnectionReset, statusNetworkSessionEnded, statusFileNotAvailable:
			return true
		}
		return false
	}
	var te *smb2.TransportError
	var ie *smb2.InvalidResponseError
	var ne net.Error
	return errors.As(err, &te) || errors.As(err, &ie) || errors.As(err, &ne) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrUnexpectedEOF)
}

// mapSMB turns the client's errors into this package's.
func mapSMB(err error) error {
	if err == nil {
		return nil
	}
	var pe *os.PathError
	var le *os.LinkError
	switch {
	case errors.As(err, &pe):
		err = pe.Err
	case errors.As(err, &le):
		err = le.Err
	}
	code, ok := statusOf(err)
	if !ok {
		return err
	}
	var to error
	switch code {
	case statusSharingViolation:
		to = ErrSharing
	case statusDeletePending:
		to = ErrNotExist
	case statusDiskFull:
		to = ErrNoSpace
	case statusDirectoryNotEmpty:
		to = ErrNotEmpty
	case statusBadNetworkName:
		to = ErrNoShare
	case statusObjectNameInvalid:
		to = ErrBadName
	case statusNoSuchUser, statusWrongPassword, statusLogonFailure, statusAccountRestriction, statusPasswordExpired,
		statusAccountDisabled:
		to = ErrLogon
	default:
		return err
	}
	return fmt.Errorf("%w (%v)", to, err)
}

// session is one authenticated connection with the share mounted. It is never
// repaired: a lost one is replaced.
type session struct {
	net      *watchedConn
	sess     *smb2.Session
	share    *smb2.Share
	inflight atomic.Int32
	dead     atomic.Bool
	done     chan struct{}
	gone     chan struct{} // closed when the server has let go of the connection, or was waited for long enough
	once     sync.Once
}

// watchedConn remembers when bytes last arrived.
type watchedConn struct {
	net.Conn
	last  atomic.Int64 // ns since the epoch
	ended atomic.Bool
	mu    sync.Mutex // held through Read, and by end
}

func (c *watchedConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended.Load() {
		return 0, net.ErrClosed
	}
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.last.Store(time.Now().UnixNano())
	}
	return n, err
}

func (s *session) begin() {
	if s.inflight.Add(1) == 1 {
		s.net.last.Store(time.Now().UnixNano())
	}
}

func (s *session) end() { s.inflight.Add(-1) }

// end fails whoever reads or writes at once, then ends the stream.
func (c *watchedConn) end() {
	c.ended.Store(true)
	_ = c.Conn.SetDeadline(time.Now())
	c.mu.Lock()
	defer c.mu.Unlock()
	endStream(c.Conn)
}

// partingWait is how long a server may take to close its end of a connection
// that was given up.
const partingWait = 5 * time.Second

// endStream ends a connection and returns when the server has too: it then has
// read every request that was sent, and starts none of them later than ones
// that come over another connection. From a server that does not close its end,
// what it has not got yet is withheld.
func endStream(c net.Conn) {
	t, ok := c.(*net.TCPConn)
	if ok && t.CloseWrite() == nil && t.SetReadDeadline(time.Now().Add(partingWait)) == nil {
		if _, err := io.Copy(io.Discard, t); errors.Is(err, os.ErrDeadlineExceeded) {
			_ = t.SetLinger(0)
		}
	}
	_ = c.Close()
}

// kill ends the session at once; everything in flight on it fails.
func (s *session) kill() {
	s.once.Do(func() {
		s.dead.Store(true)
		close(s.done)
		go func() {
			s.net.end()
			close(s.gone)
		}()
	})
}

// watch ends the session when the server has been silent for too long with
// requests outstanding: a stopped server keeps its TCP connections alive.
func (s *session) watch(limit time.Duration) {
	t := time.NewTicker(max(limit/8, 50*time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-s.done:
			return
		case now := <-t.C:
			if s.inflight.Load() > 0 && now.Sub(time.Unix(0, s.net.last.Load())) > limit {
				s.kill()
			}
		}
	}
}

// smbConn is one of a store's connections: at most one live session.
type smbConn struct {
	store *smbShare
	mu    sync.Mutex // held while dialing: those who wait share the result
	cur   *session

	failed   error // what the last get gave up with, and when
	failedAt time.Time
}

// get returns a live session, dialing with backoff until the deadline or until
// the outage has lasted for ReconnectTimeout. After that it dials once.
func (c *smbConn) get(deadline time.Time) (*session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cur != nil && !c.cur.dead.Load() {
		return c.cur, nil
	}
	deadline, once := c.store.outage.bound(deadline, c.store.opts.ReconnectTimeout)
	if once && time.Since(c.failedAt) < lastTryEvery {
		return nil, c.failed
	}
	if c.cur != nil {
		// Requests it sent must not be carried out after their repetition.
		select {
		case <-c.cur.gone:
		case <-c.store.ctx.Done():
		}
	}
	wait := 50 * time.Millisecond
	for {
		if c.store.closed.Load() {
			return nil, ErrStoreClosed
		}
		ctx, cancel := context.WithDeadline(c.store.ctx, minTime(deadline, time.Now().Add(c.store.opts.RequestTimeout)))
		s, err := c.store.dial(ctx)
		cancel()
		if err == nil {
			c.cur = s
			c.store.outage.over()
			return s, nil
		}
		if errors.Is(err, ErrLogon) || errors.Is(err, ErrPermission) {
			return nil, err
		}
		if left := time.Until(deadline); left <= wait || once {
			c.failed, c.failedAt = fmt.Errorf("%w: %s: %w", ErrUnreachable, c.store.loc.Addr(), err), time.Now()
			return nil, c.failed
		}
		c.store.opts.Logger.Debug("cannot reach the server, trying again", "server", c.store.loc.Addr(), "error", err)
		select {
		case <-time.After(wait):
		case <-c.store.ctx.Done():
			return nil, ErrStoreClosed
		}
		wait = min(wait*2, 2*time.Second)
	}
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// dial connects, authenticates and mounts once.
func (s *smbShare) dial(ctx context.Context) (*session, error) {
	d := net.Dialer{KeepAlive: 10 * time.Second}
	raw, err := d.DialContext(ctx, "tcp", s.loc.Addr())
	if err != nil {
		return nil, err
	}
	conn := &watchedConn{Conn: raw}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	dialer := smb2.Dialer{
		Negotiator: smb2.Negotiator{RequireMessageSigning: s.opts.RequireSigning, ClientGuid: s.clientGUID},
		Initiator:  &smb2.NTLMInitiator{User: s.cred.User, Password: s.cred.Password, Domain: s.cred.Domain},
	}
	sess, err := dialer.DialConn(ctx, conn, s.loc.Addr())
	if err != nil {
		raw.Close()
		if errors.Is(err, os.ErrPermission) {
			err = fmt.Errorf("%w (%v)", ErrLogon, err)
		}
		return nil, mapSMB(err)
	}
	share, err := sess.WithContext(ctx).Mount(`\\` + s.loc.Host + `\` + s.loc.Share)
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("share %s: %w", s.loc.Share, mapSMB(err))
	}
	v := &session{net: conn, sess: sess, share: share, done: make(chan struct{}), gone: make(chan struct{})}
	go v.watch(s.opts.RequestTimeout)
	return v, nil
}
