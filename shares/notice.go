package shares

import (
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lunless/smbstore/smb2"
)

// noticeHold is how long a notice waits for the response that must be sent before it.
const noticeHold = time.Second

// noticeTimeout is how long one may take to be written to a connection, before
// another is tried. Tests shorten it.
var noticeTimeout = 5 * time.Second

var (
	errNoChannel = errors.New("the client has no connection for a notification")
	errNotTaken  = errors.New("no connection of the client takes a notification")
)

// notices are the messages a connection sends that answer no request: breaks of
// oplocks and leases (MS-SMB2 2.2.23). They have a goroutine of their own while
// there are any, so that whoever sends one never waits for the client.
type notices struct {
	turn     sync.Mutex   // held from when one is taken until it is written; after it conn.writeMu
	unsent   atomic.Int32 // how many are in the queue or being written
	mu       sync.Mutex   // innermost
	queue    []*notice
	busy     bool          // the goroutine is there
	holds    int           // responses on their way that must go first
	released chan struct{} // made while holds > 0 and someone waits; closed at 0
}

// notice is one such message on one connection.
type notice struct {
	conn    *conn
	frame   []byte
	state   atomic.Int32
	written chan error
}

const (
	noticeQueued int32 = iota
	noticeTaken        // being written
	noticeGivenUp
)

// target is a way to a client.
type target struct {
	conn *conn
	seal *session // whose key seals the message; nil: it is sent in the clear
}

// sendNotice sends an OPLOCK_BREAK notification about an open of the session to
// its client, over the first of its channels that takes it (MS-SMB2 3.3.4.6). It
// returns at once; done is called when the message has been given to a
// connection, or with errNoChannel or errNotTaken. The message is
// not signed, and sealed if the session is, or if seal asks for that.
//
// Responses that the first channel's lane makes after that do not overtake the message.
func (s *session) sendNotice(m body, seal bool, done func(error)) {
	deliver(s.targets(seal), s.id, m, done)
}

// sendNotice sends a lease's OPLOCK_BREAK notification to a client, over the first
// connection of any of its sessions that takes it (MS-SMB2 3.3.4.7).
// session.sendNotice says the rest.
func (srv *Server) sendNotice(client smb2.GUID, m body, seal bool, done func(error)) {
	deliver(srv.targetsOf(client, seal), 0, m, done)
}

// targetsOf are the connections of all the client's sessions, oldest first.
func (srv *Server) targetsOf(client smb2.GUID, seal bool) []target {
	var list []target
	for _, s := range srv.sessionsOf(client) {
		list = append(list, s.targets(seal)...)
	}
	slices.SortStableFunc(list, func(a, b target) int { return a.conn.opened.Compare(b.conn.opened) })
	return list
}

// targets are the session's channels, oldest first.
func (s *session) targets(seal bool) []target {
	if !s.isValid() || s.anonymous {
		return nil
	}
	var list []target
	for _, ch := range s.channelList() {
		if ch.conn.ctx.Err() != nil { // lost, which the session does not know yet
			continue
		}
		t := target{conn: ch.conn}
		if s.encrypt || seal && s.sealer != nil {
			t.seal = s
		}
		list = append(list, t)
	}
	return list
}

// sessionsOf are the sessions of a client, in no order.
func (srv *Server) sessionsOf(client smb2.GUID) []*session {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	var list []*session
	for s := range srv.clients[client] {
		list = append(list, s)
	}
	return list
}

// deliver sends a notification over the first of the connections that takes it. It
// is in the first one's queue when deliver returns, which waits for nobody.
func deliver(list []target, sessionID uint64, m body, done func(error)) {
	tried := map[*conn]bool{}
	stuck := false
	next := func() *notice {
		for _, t := range list {
			if tried[t.conn] {
				continue
			}
			tried[t.conn] = true
			frame, err := notification(t.seal, sessionID, m)
			if err == nil {
				return t.conn.post(frame)
			}
			t.conn.log.Info("notification not sent", "err", err)
		}
		return nil
	}
	n := next()
	go func() {
		for ; n != nil; n = next() {
			err := n.wait()
			if err == nil {
				done(nil)
				return
			}
			stuck = stuck || errors.Is(err, errWriteTimeout)
			n.conn.log.Info("notification not sent", "err", err)
		}
		if stuck {
			done(errNotTaken)
			return
		}
		done(errNoChannel)
	}()
}

// notification makes the frame of one (MS-SMB2 3.3.4.6, 3.3.4.7).
func notification(seal *session, sessionID uint64, m body) ([]byte, error) {
	head := frameHeader
	if seal != nil {
		head += smb2.TransformHeaderSize
	}
	frame := make([]byte, head+m.Size(), head+m.Size()+smb2.SealTailroom)
	h := smb2.Header{
		Command: smb2.CommandOplockBreak, Flags: smb2.FlagServerToRedir,
		MessageID: ^uint64(0), SessionID: sessionID,
	}
	h.Encode(frame[head:])
	m.Encode(frame[head:])
	if seal != nil {
		if err := seal.sealer.Seal(frame[frameHeader:]); err != nil {
			return nil, err
		}
	}
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-frameHeader))
	return frame, nil
}

// post hands a frame to the connection's notices.
func (c *conn) post(frame []byte) *notice {
	n := &notice{conn: c, frame: frame, written: make(chan error, 1)}
	q := &c.notices
	q.mu.Lock()
	defer q.mu.Unlock()
	q.queue = append(q.queue, n)
	q.unsent.Add(1)
	if !q.busy {
		q.busy = true
		go c.sendNotices()
	}
	return n
}

// wait waits, not for long, until the notice is written.
func (n *notice) wait() error {
	timeout := time.NewTimer(noticeTimeout)
	defer timeout.Stop()
	select {
	case err := <-n.written:
		return err
	case <-n.conn.ctx.Done():
		select {
		case err := <-n.written: // before
			return err
		default:
			return errConnEnded
		}
	case <-timeout.C:
	}
	if n.state.CompareAndSwap(noticeQueued, noticeGivenUp) {
		return errWriteTimeout
	}
	select {
	case err := <-n.written:
		return err
	default:
		return errWriteTimeout
	}
}

// sendNotices writes what is queued, one after another.
func (c *conn) sendNotices() {
	q := &c.notices
	for {
		q.mu.Lock()
		if len(q.queue) == 0 {
			q.busy, q.queue = false, nil
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()
		c.sendNotice(!q.awaitRelease())
	}
}

// sendQueued writes what is queued and not held back: what was asked for before is
// not to be overtaken by what the caller answers next.
func (c *conn) sendQueued() {
	for c.notices.unsent.Load() > 0 && c.sendNotice(false) {
	}
}

// sendNotice writes the next notice, unless none is queued, or (but for late)
// responses hold it back.
func (c *conn) sendNotice(late bool) bool {
	q := &c.notices
	q.turn.Lock()
	defer q.turn.Unlock()
	q.mu.Lock()
	if len(q.queue) == 0 || q.holds > 0 && !late {
		q.mu.Unlock()
		return false
	}
	n := q.queue[0]
	q.queue = q.queue[1:]
	q.mu.Unlock()
	defer q.unsent.Add(-1)
	if n.state.CompareAndSwap(noticeQueued, noticeTaken) {
		n.written <- c.write(n.frame)
	}
	return true
}

// holdNotices keeps notifications from overtaking the response of r: a client
// must know of a lease or an oplock before it hears of its break. They are held
// until the response has been sent, but for a long delay.
func (r *request) holdNotices() {
	q := &r.conn.notices
	q.mu.Lock()
	q.holds++
	q.mu.Unlock()
	r.reply.holds++
}

// releaseNotices ends the holds of the responses in p, which have been sent.
func (c *conn) releaseNotices(p *reply) {
	if p.holds == 0 {
		return
	}
	q := &c.notices
	q.mu.Lock()
	q.holds -= p.holds
	p.holds = 0
	if q.holds == 0 && q.released != nil {
		close(q.released)
		q.released = nil
	}
	q.mu.Unlock()
}

// awaitRelease waits until nothing holds notices back, but not for long. It reports
// whether nothing does.
func (q *notices) awaitRelease() bool {
	q.mu.Lock()
	if q.holds == 0 {
		q.mu.Unlock()
		return true
	}
	if q.released == nil {
		q.released = make(chan struct{})
	}
	released := q.released
	q.mu.Unlock()
	timeout := time.NewTimer(noticeHold)
	defer timeout.Stop()
	select {
	case <-released:
		return true
	case <-timeout.C:
		return false
	}
}
