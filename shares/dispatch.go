package shares

import (
	"encoding/binary"
	"errors"
	"lunless/smbstore/smb2"
)

// place is where a command's handler runs; see the package comment.
type place uint8

const (
	ordered  place = iota // on the connection's lane, in order of arrival
	onReader              // on the reader goroutine
	data                  // on the reader goroutine if it is small and need not wait, else on a worker
	onWorker              // on a worker
)

// need is what dispatch looks up for a command before its handler runs.
type need uint8

const (
	needSession need = 1 << iota
	needTree
	needOpen
	mayOpen // an open, unless the FileId is all ones
)

// command is what the server knows of a command besides smb2.Commands.
type command struct {
	handle   handler
	place    place
	needs    need
	expired  bool                     // answered for a session that has expired, too (MS-SMB2 3.3.5.2.9)
	fileIDAt int                      // where the FileId is, from the header's first byte
	payload  func(body []byte) uint64 // bytes that the credit charge must cover (MS-SMB2 3.3.5.2.5)
	limit    func(l transfers) uint32 // most that payload may be; nil: no limit of its own
}

const onFile = needSession | needTree | needOpen

// commands is indexed by command code. OPLOCK_BREAK finds its open itself: an
// acknowledgment of a lease has none.
var commands [smb2.NumCommands]command

// The table's handlers reach the table again through run, hence the init.
func init() {
	commands = [smb2.NumCommands]command{
		smb2.CommandNegotiate:      {handle: handleNegotiate, place: onReader},
		smb2.CommandSessionSetup:   {handle: handleSessionSetup},
		smb2.CommandLogoff:         {handle: handleLogoff, needs: needSession, expired: true},
		smb2.CommandTreeConnect:    {handle: handleTreeConnect, needs: needSession},
		smb2.CommandTreeDisconnect: {handle: handleTreeDisconnect, needs: needSession | needTree},
		smb2.CommandCreate:         {handle: handleCreate, needs: needSession | needTree},
		smb2.CommandClose:          {handle: handleClose, needs: onFile, expired: true, fileIDAt: 72},
		smb2.CommandFlush:          {handle: handleFlush, place: onWorker, needs: onFile, fileIDAt: 72},
		smb2.CommandRead:           {handle: handleRead, place: data, needs: onFile, fileIDAt: 80, payload: u32at(4), limit: maxRead},
		smb2.CommandWrite:          {handle: handleWrite, place: data, needs: onFile, fileIDAt: 80, payload: u32at(4), limit: maxWrite},
		smb2.CommandLock:           {handle: handleLock, needs: onFile, expired: true, fileIDAt: 72},
		smb2.CommandIoctl:          {handle: handleIoctl, needs: needSession | needTree | mayOpen, fileIDAt: 72, payload: ioctlPayload, limit: maxTransact},
		smb2.CommandCancel:         {handle: handleCancel, expired: true},
		smb2.CommandEcho:           {handle: handleEcho, place: onReader},
		smb2.CommandQueryDirectory: {handle: handleQueryDirectory, needs: onFile, fileIDAt: 72, payload: u32at(28), limit: maxTransact},
		smb2.CommandChangeNotify:   {handle: handleChangeNotify, needs: onFile, fileIDAt: 72, payload: u32at(4), limit: maxTransact},
		smb2.CommandQueryInfo:      {handle: handleQueryInfo, needs: onFile, fileIDAt: 88, payload: queryInfoPayload, limit: maxTransact},
		smb2.CommandSetInfo:        {handle: handleSetInfo, needs: onFile, fileIDAt: 80, payload: u32at(4), limit: maxTransact},
		smb2.CommandOplockBreak:    {handle: handleOplockBreak, needs: needSession | needTree},
	}
}

// unknownCommand is any code that is no command's; CheckRequest refuses it.
var unknownCommand command

func commandOf(code smb2.Command) *command {
	if code >= smb2.NumCommands {
		return &unknownCommand
	}
	return &commands[code]
}

func u32at(off int) func([]byte) uint64 {
	return func(b []byte) uint64 { return uint64(binary.LittleEndian.Uint32(b[off:])) }
}

// ioctlPayload is the larger of what an IOCTL sends and what it may get (MS-SMB2 3.3.5.15).
func ioctlPayload(b []byte) uint64 {
	at := func(off int) uint64 { return uint64(binary.LittleEndian.Uint32(b[off:])) }
	return max(at(28)+at(40), at(32)+at(44))
}

// queryInfoPayload is the larger of a QUERY_INFO's input and output (MS-SMB2 3.3.5.20).
func queryInfoPayload(b []byte) uint64 { return max(u32at(4)(b), u32at(12)(b)) }

func maxRead(l transfers) uint32     { return l.read }
func maxWrite(l transfers) uint32    { return l.write }
func maxTransact(l transfers) uint32 { return l.transact }

// run answers one command: the checks of MS-SMB2 3.3.5.2, then the handler. It
// returns errWouldWait, with nothing done, if the handler has to be run again
// where it may wait, and otherwise an error only if the connection must end.
func (c *conn) run(r *request, ch *chain) error {
	r.started = clock()
	err := c.check(r, ch)
	if err == nil {
		r.doing.begin(r)
		err = commandOf(r.hdr.Command).handle(c.ctx, r)
	}
	switch {
	case r.hdr.Command == smb2.CommandCancel && !isFatal(err):
		return nil
	case err == nil && (r.responded || r.asyncID != 0):
	case err == nil:
		r.fail(smb2.StatusInternalError)
	case errors.Is(err, errWouldWait):
		r.leaveOpen()
		return errWouldWait
	case isFatal(err):
		r.leaveOpen()
		return err
	default:
		r.fail(statusOf(err))
	}
	if r.async != nil {
		r.interim()
	} else {
		r.done()
	}
	c.srv.metrics.request(r)
	if r.failed() {
		c.logFailure(r, err)
	}
	return nil
}

// check does what is common to all commands, in the order of MS-SMB2 3.3.5.2. An
// error that isFatal ends the connection, another is the response's status.
func (c *conn) check(r *request, ch *chain) error {
	code := r.hdr.Command
	if err := c.checkSession(r, ch); err != nil {
		return err
	}
	if err := smb2.CheckRequest(code, r.msg); err != nil {
		return smb2.StatusInvalidParameter
	}
	cmd := commandOf(code)
	if cmd.payload != nil {
		if err := c.checkPayload(r, cmd); err != nil {
			return err
		}
	}
	if cmd.needs&needTree != 0 {
		if err := c.checkTree(r); err != nil {
			return err
		}
	}
	if code == smb2.CommandCreate && !r.session.mayOpen() {
		return smb2.StatusInsufficientResources
	}
	if cmd.needs&(needOpen|mayOpen) != 0 {
		return c.findOpen(r, ch, cmd)
	}
	return nil
}

// checkSession finds the session and verifies signature and encryption (MS-SMB2
// 3.3.5.2.4, 3.3.5.2.9). NEGOTIATE, SESSION_SETUP, ECHO and CANCEL may have none.
func (c *conn) checkSession(r *request, ch *chain) error {
	if r.related {
		if ch.started {
			r.hdr.SessionID, r.hdr.TreeID = ch.sessionID, ch.treeID
		}
		if ch.sessionID == 0 && commandOf(r.hdr.Command).needs&needSession != 0 {
			ch.broken = smb2.StatusInvalidParameter
		}
	}
	ch.sessionID, ch.treeID, ch.started = r.hdr.SessionID, r.hdr.TreeID, true
	code, ended := r.hdr.Command, false
	if r.hdr.SessionID != 0 {
		to := c.findChannel(r.hdr.SessionID)
		switch {
		case to == nil:
		case code != smb2.CommandSessionSetup && !to.usable():
			ended = true // or its keys may be about to be made
		default:
			r.channel, r.session = to, to.session
		}
	}
	s := r.session
	switch {
	case r.related && ch.broken != 0:
		return ch.broken
	case ended:
		r.signAsStranger()
		return smb2.StatusUserSessionDeleted
	case s == nil:
		return c.checkNoSession(r)
	}
	if err := c.verify(r); err != nil {
		return err
	}
	if code == smb2.CommandSessionSetup || code == smb2.CommandNegotiate {
		return nil
	}
	if s.encrypt {
		r.reply.seal(s)
	}
	if s.encrypt && !r.encrypted {
		return smb2.StatusAccessDenied
	}
	if s.expired(r.started) && !commandOf(code).expired {
		return smb2.StatusNetworkSessionExpired
	}
	return nil
}

// checkNoSession decides about a request whose session is not there.
func (c *conn) checkNoSession(r *request) error {
	switch r.hdr.Command {
	case smb2.CommandNegotiate:
		if r.hdr.Flags&smb2.FlagSigned != 0 {
			return smb2.StatusInvalidParameter
		}
		return nil
	case smb2.CommandSessionSetup:
		return nil // it says itself what is wrong with the SessionId
	case smb2.CommandEcho, smb2.CommandCancel:
		if r.hdr.SessionID == 0 && r.hdr.Flags&smb2.FlagSigned == 0 {
			return nil
		}
	}
	r.signAsStranger()
	return smb2.StatusUserSessionDeleted
}

// signAsStranger has the error response signed with the key of a session which is
// not one of this connection's, or not any more, if the client has shown that it
// knows the key: it would not believe the response otherwise.
func (r *request) signAsStranger() {
	if r.hdr.Flags&smb2.FlagSigned == 0 || r.encrypted {
		return
	}
	ch := r.conn.goneChannel(r.hdr.SessionID)
	if ch == nil {
		s := r.conn.srv.globalSession(r.hdr.SessionID)
		if s == nil || !s.isValid() {
			return
		}
		ch = &channel{session: s, conn: r.conn, signer: s.signer}
	}
	if ch.signer != nil && ch.signer.Verify(r.msg) {
		r.channel = ch
	}
}

// goneChannel finds a channel that ended not long ago, or nil.
func (c *conn) goneChannel(id uint64) *channel {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range c.gone {
		if ch != nil && ch.session.id == id {
			return ch
		}
	}
	return nil
}

// verify checks the request's signature, or that it needs none (MS-SMB2 3.3.5.2.4).
func (c *conn) verify(r *request) error {
	s, signer := r.session, r.channel.signer
	switch {
	case r.encrypted:
		return nil // authenticated by the cipher
	case r.hdr.Command == smb2.CommandSessionSetup && !r.channel.bound.Load():
		return nil // a leg of the first authentication: there is no key yet; binding sees to it itself
	}
	if r.hdr.Flags&smb2.FlagSigned == 0 {
		if s.signingRequired && s.isValid() {
			return smb2.StatusAccessDenied
		}
		return nil
	}
	if signer == nil {
		return smb2.StatusNotSupported
	}
	if !signer.Verify(r.msg) {
		c.log.Warn("bad signature", "user", s.user, "session", s.id, "command", r.hdr.Command.String())
		return smb2.StatusAccessDenied
	}
	return nil
}

// checkPayload verifies payload size and credit charge (MS-SMB2 3.3.5.2.5).
func (c *conn) checkPayload(r *request, cmd *command) error {
	n := cmd.payload(r.msg[smb2.HeaderSize:])
	if cmd.limit != nil && n > uint64(cmd.limit(c.neg.max)) {
		return smb2.StatusInvalidParameter
	}
	if c.neg.multiCredit && n > uint64(max(r.hdr.CreditCharge, 1))*creditUnit {
		return smb2.StatusInvalidParameter
	}
	if r.reply.size()+int(n) > maxFrame-responseMargin { // what a compound asks for must fit one frame
		return smb2.StatusInsufficientResources
	}
	return nil
}

// responseMargin is room for what follows a compound's payloads: its other responses.
const responseMargin = 64 << 10

// creditUnit is what one credit pays for, bytes (MS-SMB2 3.1.5.2).
const creditUnit = 64 << 10

// checkTree finds the tree connect (MS-SMB2 3.3.5.2.11).
func (c *conn) checkTree(r *request) error {
	t := r.session.tree(r.hdr.TreeID)
	if t == nil {
		return smb2.StatusNetworkNameDeleted
	}
	r.tree = t
	if t.encrypt {
		r.reply.seal(r.session)
		if !r.encrypted {
			return smb2.StatusAccessDenied
		}
	}
	return nil
}

// findOpen resolves the FileId, in a related compound to the open of the command
// before (MS-SMB2 3.3.5.2.7.2).
func (c *conn) findOpen(r *request, ch *chain, cmd *command) error {
	id := smb2.FileID{
		Persistent: binary.LittleEndian.Uint64(r.msg[cmd.fileIDAt:]),
		Volatile:   binary.LittleEndian.Uint64(r.msg[cmd.fileIDAt+8:]),
	}
	if r.related {
		switch {
		case ch.openStatus != 0:
			return ch.openStatus
		case ch.hasFile:
			id = ch.fileID
		}
	}
	ch.fileID, ch.hasFile = id, id != smb2.RelatedFileID
	if id == smb2.RelatedFileID && cmd.needs&mayOpen != 0 {
		return nil
	}
	o := r.session.findOpen(id)
	if o == nil || o.tree != r.tree {
		if r.hdr.Command == smb2.CommandIoctl && needsNoOpen(r.msg) {
			return smb2.StatusInvalidParameter
		}
		return smb2.StatusFileClosed
	}
	r.open = o
	if o.replayable.Load() {
		o.replayable.Store(false) // the client has heard of it (MS-SMB2 3.3.5.10 to 3.3.5.21)
	}
	return r.enterOpen()
}
