package shares

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"

	"lunless/smbstore/smb2"
)

// job is a frame, decrypted or not, on its way to the goroutine that answers it.
type job struct {
	buf      *buffer // what msg lies in; nil: the receiver's
	msg      []byte
	sealed   *session // whose key decrypted msg
	raw      bool     // msg still has its transform header
	admitted bool     // its message ids have been taken
	cost     int64    // what it takes from the connection's budget
}

var jobPool = sync.Pool{New: func() any { return new(job) }}

// detached is the reader's job with a message of its own.
func (c *conn) detached() *job {
	j := jobPool.Get().(*job)
	*j = c.job
	j.buf, j.msg = c.in.detach(c.job.msg)
	return j
}

// toWorker hands the reader's job to a worker, making one if none is free and
// there may be more. If all are busy, or hold all the memory they may, the reader
// waits, and the client with it.
func (c *conn) toWorker() error {
	cost := c.job.bytes()
	if err := c.hold(cost); err != nil {
		return err
	}
	j := c.detached()
	j.cost = cost
	c.handed.Add(1)
	for {
		select {
		case c.work <- j:
			return nil
		default:
		}
		if c.addWorker() {
			go c.runWorker(j)
			return nil
		}
		c.flush()
		select {
		case c.work <- j:
			return nil
		case <-c.retired: // perhaps the last
		case <-c.ctx.Done():
			c.release(j)
			return context.Cause(c.ctx)
		}
	}
}

// hold takes n bytes of what the connection may hold, and waits for them if it has to.
func (c *conn) hold(n int64) error {
	if c.inFlight.take(n, false) {
		return nil
	}
	c.flush()
	if !c.inFlight.take(n, true) {
		return context.Cause(c.ctx)
	}
	return nil
}

// addWorker counts one more worker in, if there may be one: the connection's first
// always, others within the limits of all.
func (c *conn) addWorker() bool {
	l := &c.srv.cfg.Limits
	n := c.workers.Load()
	if int(n) >= l.Workers {
		return false
	}
	if n > 0 && (c.peer.workers.Load() >= int64(l.ClientWorkers) || c.srv.workers.Load() >= int64(l.AllWorkers)) {
		return false
	}
	c.workers.Add(1)
	c.peer.workers.Add(1)
	c.srv.workers.Add(1)
	c.tasks.Add(1)
	return true
}

// workerGone counts one out.
func (c *conn) workerGone() {
	c.workers.Add(-1)
	c.peer.workers.Add(-1)
	c.srv.workers.Add(-1)
	select {
	case c.retired <- struct{}{}:
	default:
	}
	c.tasks.Done()
}

// retireIdle ends the workers of a connection that has had nothing for them since
// it was called last. Only Server.watch calls it.
func (c *conn) retireIdle() {
	handed := c.handed.Load()
	if handed != c.seen {
		c.seen = handed
		return
	}
	for range c.workers.Load() {
		select {
		case c.retire <- struct{}{}:
		default:
			return
		}
	}
}

// bytes is what answering the job takes in buffers, more or less.
func (j *job) bytes() int64 {
	n := int64(len(j.msg))
	if !j.raw && smb2.Command(binary.LittleEndian.Uint16(j.msg[12:])) == smb2.CommandRead && n >= smb2.HeaderSize+8 {
		n += min(int64(binary.LittleEndian.Uint32(j.msg[smb2.HeaderSize+4:])), maxTransfer)
	}
	return n
}

// recount takes what answering j needs in fact, which was not to be seen before it
// was decrypted. Nothing is held while it waits for that.
func (c *conn) recount(j *job) error {
	n := j.bytes()
	if n <= j.cost {
		return nil
	}
	c.inFlight.give(j.cost)
	j.cost = 0
	if !c.inFlight.take(n, true) {
		return context.Cause(c.ctx)
	}
	j.cost = n
	return nil
}

// release gives back what a job holds.
func (c *conn) release(j *job) {
	c.inFlight.give(j.cost)
	j.buf.release()
	*j = job{}
	jobPool.Put(j)
}

// toLane queues a job for the lane, on behalf of the reader or of a worker that
// has found out only by decrypting it where it belongs.
func (c *conn) toLane(j *job, reader bool) error {
	select {
	case c.lane <- j:
		return nil
	default:
	}
	if reader {
		c.flush() // what it has gathered must not wait
	}
	select {
	case c.lane <- j:
		return nil
	case <-c.ctx.Done():
		c.release(j)
		return context.Cause(c.ctx)
	}
}

func (c *conn) runLane() {
	w := c.newWorker()
	defer close(c.laneDone)
	for j := range c.lane {
		w.do(j)
	}
}

func (c *conn) runWorker(j *job) {
	w := c.newWorker()
	defer c.workerGone()
	defer c.forgetWorker(w)
	for {
		w.do(j)
		var ok bool
		select {
		case j, ok = <-c.work:
			if !ok {
				return
			}
		case <-c.retire:
			return
		}
	}
}

func (c *conn) forgetWorker(w *worker) {
	c.mu.Lock()
	c.active = slices.DeleteFunc(c.active, func(a *activity) bool { return a == &w.doing })
	c.mu.Unlock()
}

// worker is what a goroutine of a connection needs to answer frames.
type worker struct {
	c     *conn
	reply reply
	req   *request
	frame frameRun
	doing activity
}

func (c *conn) newWorker() *worker {
	w := &worker{c: c}
	c.mu.Lock()
	c.active = append(c.active, &w.doing)
	c.mu.Unlock()
	return w
}

// do answers one frame. An error ends the connection.
func (w *worker) do(j *job) {
	defer func() {
		if v := recover(); v != nil {
			if w.req != nil {
				w.req.leaveOpen()
			}
			w.c.abort(w.c.crashed(v))
		}
	}()
	if err := w.answer(j); err != nil {
		w.c.abort(err)
	}
}

func (w *worker) answer(j *job) error {
	c := w.c
	if c.ctx.Err() != nil {
		c.release(j)
		return nil
	}
	if j.raw {
		err := c.unseal(j)
		if err == nil {
			err = c.recount(j)
		}
		if err == nil {
			var where place
			if where, err = placeOf(j); err == nil && where == ordered {
				return c.toLane(j, false)
			}
		}
		if err != nil {
			c.release(j)
			return err
		}
	}
	if w.req == nil {
		w.req = new(request)
	}
	w.frame = frameRun{job: j, rest: j.msg}
	w.reply.buf = getBuffer(0)
	w.reply.begin(j.sealed)
	w.req.doing = &w.doing
	op, err := c.runFrame(&w.frame, &w.reply, w.req)
	w.doing.end()
	if err == nil {
		if err = w.reply.end(); err == nil {
			c.send(w.reply.buf.b)
		}
	}
	c.releaseNotices(&w.reply)
	c.sendQueued()
	w.reply.buf.release()
	if op != nil && err == nil {
		f := w.frame
		w.req.doing = nil
		c.startAsync(op, &f)
		w.req = nil
		return nil
	}
	c.release(j)
	return err
}

// budget is a number of bytes that may be held at a time, by one connection and by
// all.
type budget struct {
	mu     sync.Mutex // innermost
	freed  sync.Cond
	held   int64
	size   int64
	srv    *Server
	closed bool
}

func newBudget(srv *Server) budget { return budget{size: int64(srv.cfg.Limits.InFlight), srv: srv} }

// full says that n bytes more are too many. A holder of none may take any number,
// and one that holds less than its share of what all may hold does not wait for
// others: what it waits for is always its own to give back.
func (b *budget) full(n int64) bool {
	if b.held == 0 {
		return false
	}
	most := int64(b.srv.cfg.Limits.AllInFlight)
	return b.held+n > b.size ||
		b.srv.inFlight.Load()+n > most && b.held+n > most/max(1, b.srv.connCount.Load())
}

// take takes n bytes. It reports false if they are not free, which with wait
// happens only once the budget is closed.
func (b *budget) take(n int64, wait bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.full(n) {
		if !wait || b.closed {
			return false
		}
		b.freed.Wait()
	}
	b.held += n
	b.srv.inFlight.Add(n)
	return true
}

func (b *budget) give(n int64) {
	if n == 0 {
		return
	}
	b.mu.Lock()
	b.held -= n
	b.mu.Unlock()
	b.srv.inFlight.Add(-n)
	b.freed.Broadcast() // to whoever needs little enough
}

// close makes those who wait give up.
func (b *budget) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.freed.Broadcast()
}
