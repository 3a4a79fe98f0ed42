package shares

import (
	"context"
	"time"

	"lunless/smbstore/smb2"
)

// asyncOp is a request that has gone async (Connection.AsyncCommandList).
type asyncOp struct {
	r      *request
	ctx    context.Context
	cancel context.CancelCauseFunc

	// What r is about; r itself belongs to the goroutine that works on it.
	id      uint64 // AsyncId
	message uint64 // MessageId
	command smb2.Command
	session *session
	tree    *tree
	open    *open // nil where the command found none before it went async
	since   time.Time
	run     func(ctx context.Context) error // what is left to do
}

// freeAsync is how many requests of a connection may go async however many there
// are of others.
const freeAsync = 16

// newAsync enters r among the connection's async requests.
func (c *conn) newAsync(r *request) (*asyncOp, error) {
	op := &asyncOp{
		r: r, message: r.hdr.MessageID, command: r.hdr.Command,
		session: r.session, tree: r.tree, open: r.open, since: time.Now(),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || len(c.async) >= c.srv.cfg.Limits.Async {
		return nil, smb2.StatusInsufficientResources
	}
	if len(c.async) >= freeAsync && c.srv.asyncs.Load() >= int64(c.srv.cfg.Limits.AllAsync) {
		return nil, smb2.StatusInsufficientResources
	}
	c.srv.asyncs.Add(1)
	c.lastAsync++
	op.id = c.lastAsync
	op.ctx, op.cancel = context.WithCancelCause(c.ctx)
	c.async[op.id] = op
	return op, nil
}

// orphaned says why the request must not wait: what it waits on behalf of ended
// while it was entered among those that will be told of that.
func (op *asyncOp) orphaned() error {
	switch s := op.session; {
	case s == nil:
		return nil
	case !s.isValid():
		return errSessionEnded
	case op.tree != nil && s.tree(op.tree.id) != op.tree:
		return errTreeDisconnect
	case op.open != nil && op.open.busy.isShut():
		return errClosedByClient
	}
	return nil
}

// startAsync runs what op's request left to do, and the commands after it in its
// frame, in a goroutine of its own, once the interim response is on its way. The
// job's buffer stays with it: the messages lie there.
func (c *conn) startAsync(op *asyncOp, f *frameRun) {
	if why := op.orphaned(); why != nil {
		op.cancel(why)
	}
	c.asyncs.Add(1)
	go func() {
		defer c.asyncs.Done()
		defer c.release(f.job)
		r := op.r
		defer func() {
			if v := recover(); v != nil {
				r.leaveOpen()
				c.abort(c.crashed(v))
			}
		}()
		for op != nil {
			var err error
			if op, err = c.finishAsync(op, f); err != nil {
				c.abort(err)
				return
			}
		}
	}()
}

// finishAsync waits for the outcome of an async request, goes on with its frame,
// and sends the final responses. It returns the next request of the frame that
// has gone async, if one has.
func (c *conn) finishAsync(op *asyncOp, f *frameRun) (next *asyncOp, err error) {
	r := op.r
	p := &reply{buf: getBuffer(0), frame: -1}
	defer func() { p.buf.release() }()
	defer c.releaseNotices(p)
	p.begin(f.job.sealed)
	r.reply, r.responded, r.related, r.async = p, false, false, nil
	if s, t := r.session, r.tree; f.job.sealed == nil && (s != nil && s.encrypt || t != nil && t.encrypt) {
		p.seal(s)
	}
	err = op.run(op.ctx)
	c.mu.Lock()
	delete(c.async, op.id)
	c.srv.asyncs.Add(-1)
	c.mu.Unlock()
	op.cancel(nil)
	switch {
	case err != nil:
		r.fail(statusOf(err))
	case !r.responded:
		r.fail(smb2.StatusInternalError)
	}
	r.done()
	c.srv.metrics.request(r)
	if r.failed() {
		c.logFailure(r, err)
	}
	f.chain.note(r)
	err = nil
	if f.rest != nil {
		if next, err = c.runFrame(f, p, r); err != nil {
			return nil, err
		}
	}
	if err := p.end(); err != nil {
		return nil, err
	}
	c.send(p.buf.b)
	return next, nil
}

// cancelAsync ends the context of the async requests that which picks.
func (c *conn) cancelAsync(why error, which func(op *asyncOp) bool) {
	c.mu.Lock()
	var list []*asyncOp
	for _, op := range c.async {
		if which(op) {
			list = append(list, op)
		}
	}
	c.mu.Unlock()
	for _, op := range list {
		op.cancel(why)
	}
}
