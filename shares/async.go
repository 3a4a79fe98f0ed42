package shares

import (
	"context"

	"lunless/smbstore/smb2"
)

// asyncOp is a request that has gone async (Connection.AsyncCommandList).
type asyncOp struct {
	r      *request
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// newAsync enters r among the connection's async requests.
func (c *conn) newAsync(r *request) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended || len(c.async) >= c.srv.cfg.Limits.Async {
		return 0, smb2.StatusInsufficientResources
	}
	c.lastAsync++
	op := &asyncOp{r: r}
	op.ctx, op.cancel = context.WithCancelCause(c.ctx)
	c.async[c.lastAsync] = op
	return c.lastAsync, nil
}

// startAsync runs what r left to do in a goroutine of its own, once the interim
// response is on its way. The job's buffer stays with r: its message lies in it.
func (c *conn) startAsync(r *request, j *job) {
	c.mu.Lock()
	op := c.async[r.asyncID]
	c.mu.Unlock()
	c.asyncs.Add(1)
	go func() {
		defer c.asyncs.Done()
		defer c.release(j)
		defer func() {
			if v := recover(); v != nil {
				r.leaveOpen()
				c.abort(c.crashed(v))
			}
		}()
		c.finishAsync(op, j.sealed)
	}()
}

// finishAsync waits for the outcome of an async request and sends the final response.
func (c *conn) finishAsync(op *asyncOp, sealed *session) {
	r := op.r
	p := reply{buf: getBuffer(0), frame: -1}
	defer func() { p.buf.release() }()
	p.begin(sealed)
	r.reply, r.responded, r.related = &p, false, false
	if s, t := r.session, r.tree; sealed == nil && (s != nil && s.encrypt || t != nil && t.encrypt) {
		p.seal(s)
	}
	err := r.async(op.ctx)
	r.leaveOpen()
	c.mu.Lock()
	delete(c.async, r.asyncID)
	c.mu.Unlock()
	op.cancel(nil)
	switch {
	case err != nil:
		r.fail(statusOf(err))
	case !r.responded:
		r.fail(smb2.StatusInternalError)
	}
	if err := p.end(); err != nil {
		c.abort(err)
		return
	}
	c.send(p.buf.b)
	c.srv.metrics.request(r)
	if r.failed() {
		c.logFailure(r, err)
	}
}

// cancelAsync ends the context of the async requests that which picks.
func (c *conn) cancelAsync(why error, which func(r *request) bool) {
	c.mu.Lock()
	var list []*asyncOp
	for _, op := range c.async {
		if which(op.r) {
			list = append(list, op)
		}
	}
	c.mu.Unlock()
	for _, op := range list {
		op.cancel(why)
	}
}
