package shares

import (
	"context"
	"errors"
	"time"

	"lunless/smbstore/smb2"
)

// handler answers one command. A returned error that is (or wraps) an
// smb2.Status is the response's status; statusOf maps all others. A nil error
// means that the handler has responded, or gone async.
type handler func(ctx context.Context, r *request) error

// errWouldWait is what a handler returns on the reader goroutine (request.mayWait
// false) when it cannot go on without waiting; nothing may have been changed or
// responded yet. The handler is then run again where it may wait.
var errWouldWait = errors.New("would have to wait")

// body is a response body of smbstore/smb2: Size counts from the header's first
// byte, Encode writes msg[smb2.HeaderSize:Size()].
type body interface {
	Size() int
	Encode(msg []byte)
}

// request is one command of a frame while it is being answered (MS-SMB2
// 3.3.1.13). It belongs to the goroutine that works on it and is used again for
// the next command, so a handler keeps neither it nor anything of msg beyond its
// return; a function given to goAsync may use both until it returns.
type request struct {
	conn    *conn
	channel *channel // over which the session's request came; nil where the command needs none
	session *session // the channel's
	tree    *tree    // nil where the command needs none
	open    *open    // found by dispatch from the FileId; CREATE sets it to what it opened
	inside  bool     // the open's gate has been entered: it stays with its session until leaveOpen

	hdr smb2.Header
	msg []byte // header and body of this command, without the commands after it

	mayWait   bool // the handler may block: it is not on the reader goroutine
	encrypted bool // arrived encrypted (Request.IsEncrypted)
	related   bool // later member of a related compound
	last      bool // nothing follows in its frame

	doing     *activity // of the goroutine; nil: it never blocks, or is an async request's own
	reply     *reply
	responded bool
	sign      bool          // signed even though the request was not
	status    smb2.Status   // what was responded
	granted   bool          // credits have been granted, with the interim response
	asyncID   uint64        // nonzero once an interim response has been decided on
	async     *asyncOp      // what is left to do after that
	started   time.Duration // by clock

	// Wire structs of the data path live here, so that handing them to an
	// interface allocates nothing.
	data dataScratch
}

// respond answers with STATUS_SUCCESS and m.
func (r *request) respond(m body) error { return r.respondStatus(smb2.StatusSuccess, m) }

// respondStatus answers with m under a status of its own: the warnings whose
// responses have a full body (STATUS_BUFFER_OVERFLOW), and the errors of MS-SMB2
// 3.3.4.4 that do.
func (r *request) respondStatus(status smb2.Status, m body) error {
	return r.respondPayload(status, m, 0)
}

// reserve makes room for a response with a fixed part of fixed bytes (header
// included) and up to n bytes of payload behind it, and returns the payload's
// place. What is written there is sent by respondPayload, which must follow
// with a body of that same size.
func (r *request) reserve(fixed, n int) []byte {
	at := r.reply.room(fixed + n)
	b := r.reply.buf.b[:cap(r.reply.buf.b)]
	return b[at+fixed : at+fixed+n : at+fixed+n]
}

// respondPayload answers with m and the first n bytes of what reserve returned.
func (r *request) respondPayload(status smb2.Status, m body, n int) error {
	if r.responded {
		return errResponded
	}
	r.responded, r.status = true, status
	r.reply.add(r, status, m, n)
	return nil
}

var errResponded = errors.New("shares: request answered twice")

// failed says that the command has been answered with an error.
// STATUS_MORE_PROCESSING_REQUIRED has the form of one and is none.
func (r *request) failed() bool {
	return r.status.IsError() && r.status != smb2.StatusMoreProcessingRequired
}

// fail answers with an ERROR response (MS-SMB2 2.2.2).
func (r *request) fail(status smb2.Status) {
	if !r.responded {
		r.responded, r.status = true, status
		r.reply.add(r, status, &errorBody, 0)
	}
}

// errorBody is the ERROR response without error data.
var errorBody smb2.ErrorResponse

// goAsync answers with an interim response (MS-SMB2 3.3.4.2) once the handler
// has returned, then runs fn in a goroutine of its own. fn ends with a response
// of r or an error, exactly as a handler does. Its context ends with CANCEL, and
// with the end of the tree connect, the session or the connection; fn returns
// the context's error then, which becomes STATUS_CANCELLED.
//
// Only the last command of a frame may go async; earlier ones fail with
// STATUS_INTERNAL_ERROR, as Windows has it (3.3.5.2.7, note 266). A handler does
// nothing after goAsync but return what it returned.
func (r *request) goAsync(fn func(ctx context.Context) error) error {
	if r.mayWait && !r.last {
		return smb2.StatusInternalError
	}
	return r.suspend(fn)
}

// suspend is goAsync for what waits for another client's answer to a break, and
// may so in the middle of a compound too (3.3.5.2.7, note 266): the commands
// behind it are worked on after it, off the lane, on which the very answer may
// arrive. Responses so far leave with the interim response; those of the rest
// follow in one frame.
func (r *request) suspend(fn func(ctx context.Context) error) error {
	if !r.mayWait {
		return errWouldWait
	}
	if r.asyncID != 0 {
		return errResponded
	}
	op, err := r.conn.newAsync(r)
	if err != nil {
		return err
	}
	op.run = fn
	r.asyncID, r.async = op.id, op
	return nil
}

// done ends the work on a request that has been answered, but for sending that.
func (r *request) done() {
	if r.hdr.Command == smb2.CommandCreate && r.open != nil && !r.failed() {
		r.open.busy.start(r.sequence())
	}
	r.leaveOpen()
}

// interim makes the interim response (MS-SMB2 3.3.4.2). The final one follows in
// a frame of its own.
func (r *request) interim() {
	r.responded, r.status = true, smb2.StatusPending
	r.reply.add(r, smb2.StatusPending, &errorBody, 0)
}

// reset makes r ready for the next command of c.
func (r *request) reset(c *conn, p *reply) {
	r.conn, r.reply = c, p
	r.channel, r.session, r.tree, r.open = nil, nil, nil, nil
	r.msg, r.async, r.asyncID = nil, nil, 0
	r.mayWait, r.encrypted, r.related, r.last = false, false, false, false
	r.responded, r.sign, r.granted, r.status = false, false, false, 0
}
