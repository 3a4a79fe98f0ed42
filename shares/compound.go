package shares

import (
	"fmt"

	"lunless/smbstore/smb2"
)

// chain is what one command of a related compound leaves to the next (MS-SMB2
// 3.3.5.2.7.2).
type chain struct {
	started    bool // there was a command, with the two ids that follow
	sessionID  uint64
	treeID     uint32
	fileID     smb2.FileID
	hasFile    bool
	openStatus smb2.Status // why the CREATE of the chain failed
	broken     smb2.Status // all that is left of the chain fails with this
}

// note takes over what r has come to.
func (ch *chain) note(r *request) {
	if needs := commandOf(r.hdr.Command).needs; needs&needSession != 0 && r.session == nil || needs&needTree != 0 && r.tree == nil {
		ch.broken = smb2.StatusInvalidParameter
	}
	switch r.hdr.Command {
	case smb2.CommandCreate:
		ch.hasFile, ch.openStatus = false, 0
		switch {
		case r.status.IsError():
			ch.openStatus = r.status
		case r.open != nil:
			ch.fileID, ch.hasFile = r.open.id, true
		}
	case smb2.CommandTreeConnect, smb2.CommandSessionSetup:
		ch.sessionID, ch.treeID = r.hdr.SessionID, r.hdr.TreeID
	}
}

// maxChain bounds the commands of one compound.
const maxChain = 256

// frameRun is how far the work on a frame has come.
type frameRun struct {
	job   *job
	rest  []byte // the commands that are left
	taken int    // those that are not
	chain chain
}

// runFrame answers the commands of a frame that are left, in order, into one frame
// of p. It stops after one that has gone async, and returns that.
func (c *conn) runFrame(f *frameRun, p *reply, r *request) (*asyncOp, error) {
	for {
		if f.taken == maxChain {
			return nil, fatalf("compound of more than %d commands", maxChain)
		}
		r.reset(c, p)
		if err := r.hdr.Decode(f.rest); err != nil {
			return nil, fatalf("%w", err)
		}
		var err error
		if r.msg, f.rest, err = smb2.SplitCompound(f.rest); err != nil {
			return nil, fatalf("compound: %w", err)
		}
		if err := c.admit(r, f.job, f.taken > 0 || f.rest != nil); err != nil {
			return nil, err
		}
		r.mayWait, r.encrypted, r.last = true, f.job.sealed != nil, f.rest == nil
		r.related = r.hdr.IsRelated()
		if !r.related {
			f.chain = chain{}
		} else if f.taken == 0 {
			f.chain.broken = smb2.StatusInvalidParameter // note 269
		}
		f.taken++
		if err := c.run(r, &f.chain); err != nil {
			return nil, err
		}
		if r.async != nil {
			return r.async, nil
		}
		f.chain.note(r)
		if f.rest == nil {
			return nil, nil
		}
	}
}

// admit takes the message's ids out of the window, and checks what a message
// must be to be answered at all (MS-SMB2 3.3.5.2.1 to 3.3.5.2.3). An unknown
// command ends the connection (3.3.5.2.6), but for one in a compound, which
// Windows fails with STATUS_INVALID_PARAMETER.
func (c *conn) admit(r *request, j *job, compound bool) error {
	h := &r.hdr
	if h.Command >= smb2.NumCommands && !compound || h.IsResponse() {
		return fatalf("%v, flags %#x", h.Command, uint32(h.Flags))
	}
	if h.Command == smb2.CommandNegotiate && compound {
		return fatalf("NEGOTIATE in a compound") // what it settles is the reader's, and compounds are the lane's
	}
	if c.neg.dialect == 0 && h.Command != smb2.CommandNegotiate {
		return fatalf("%v before NEGOTIATE", h.Command)
	}
	if j.sealed != nil && !h.IsRelated() && h.SessionID != j.sealed.id {
		return fatalf("session %x in a message encrypted for session %x", h.SessionID, j.sealed.id)
	}
	if h.Command == smb2.CommandCancel || j.admitted {
		return nil
	}
	charge := h.CreditCharge
	if !c.neg.multiCredit {
		charge = 1
	}
	c.creditMu.Lock()
	ok := c.window.take(h.MessageID, charge)
	c.creditMu.Unlock()
	if !ok {
		return fatalf("message id %d, credit charge %d: not granted", h.MessageID, charge)
	}
	return nil
}

// fatalError ends the connection; its client has broken the protocol.
type fatalError struct{ err error }

func (e fatalError) Error() string { return e.err.Error() }
func (e fatalError) Unwrap() error { return e.err }

func fatalf(format string, args ...any) error { return fatalError{fmt.Errorf(format, args...)} }

// errDisconnect is returned by a handler that must end the connection without a response.
var errDisconnect = fatalf("disconnected as the protocol demands")

func isFatal(err error) bool {
	_, ok := err.(fatalError)
	return ok
}
