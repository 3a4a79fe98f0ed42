package shares

import (
	"context"
	"time"

	"lunless/smbstore/smb2"
)

// outcome is what a control code has come to: a status with its output, or an error.
type outcome struct {
	status smb2.Status
	output []byte
	err    error
}

// patience is how long the lane waits for work that may take long. What is not
// done by then goes async, and the client hears of it.
const patience = 5 * time.Millisecond

// long answers req with what work comes to, which may take any time and must not
// use r: others' caches are broken, bytes are copied, disks are waited for. work
// ends early when its context does: CANCEL, or the end of what it is done for. In
// the middle of a compound it is waited for, since nothing can go async there.
func (r *request) long(ctx context.Context, req *smb2.IoctlRequest, work func(context.Context) outcome) error {
	if !r.last { // it cannot go async
		ctx = context.WithValue(ctx, onLaneKey{}, true)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan outcome, 1)
	go func() { done <- r.conn.guard(ctx, work) }()

	respond := func(o outcome) error {
		cancel(nil)
		if o.err != nil {
			return o.err
		}
		return r.respondIoctl(o.status, req, o.output)
	}
	if !r.last {
		return respond(<-done)
	}
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case o := <-done:
		return respond(o)
	case <-t.C:
	}
	err := r.goAsync(func(async context.Context) error {
		select {
		case o := <-done:
			return respond(o)
		case <-async.Done():
			cancel(context.Cause(async))
		}
		if o := <-done; o.err == nil { // it had just been done
			return respond(o)
		}
		return async.Err()
	})
	if err != nil { // too many wait already
		cancel(err)
		<-done
	}
	return err
}

// guard runs work. If it panics the connection ends, as it does for handlers.
func (c *conn) guard(ctx context.Context, work func(context.Context) outcome) (o outcome) {
	defer func() {
		if v := recover(); v != nil {
			c.abort(c.crashed(v))
			o = outcome{err: smb2.StatusInternalError}
		}
	}()
	return work(ctx)
}
