package shares

import (
	"bufio"
	"fmt"
	"net"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"lunless/shares/state/statetest"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// peeked is a connection of which one can see whether something has arrived.
type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (p *peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

// arrived says whether the beginning of a frame has, or does within d.
func (p *peeked) arrived(d time.Duration) bool {
	p.SetReadDeadline(time.Now().Add(d))
	_, err := p.r.Peek(4)
	p.SetReadDeadline(time.Now().Add(30 * time.Second))
	return err == nil
}

// wireDriver does a model's operations to a server, over one connection a client,
// and reads what comes back of them.
type wireDriver struct {
	t       *testing.T
	srv     *testServer
	clients [4]*rawClient // from 1
	name    string        // of the file
	ids     map[int]smb2.FileID
	opens   map[int]statetest.Op
	waiting map[uint64]*statetest.Op // by client and message
	out     []string
}

func (d *wireDriver) guid(client int) smb2.GUID { return smb2.GUID{0xC1, byte(client)} }

// connect gives a client a new connection, session and tree connect.
func (d *wireDriver) connect(client int) {
	c := dialRaw(d.t, d.srv.addr)
	c.nc = &peeked{c.nc, bufio.NewReader(c.nc)}
	c.guid, c.caps = d.guid(client), smb2.CapLeasing|smb2.CapDirectoryLeasing|smb2.CapPersistentHandles|smb2.CapMultiChannel
	c.negotiate(smb2.Dialect311)
	c.login(testUser, testPassword)
	if st := c.treeConnect("ca"); st != smb2.StatusSuccess {
		d.t.Fatal(st)
	}
	d.clients[client] = c
}

func key(client int, message uint64) uint64 { return uint64(client)<<56 | message }

func (d *wireDriver) send(op *statetest.Op, cmd smb2.Command, m body, payload []byte) {
	c := d.clients[op.Client]
	d.waiting[key(op.Client, c.message)] = op
	c.send(c.build(cmd, m, payload))
}

// step does an operation, and returns what all clients have seen when it has done
// as much as want says, or nothing more is to be expected.
func (d *wireDriver) step(op statetest.Op, want []string) []string {
	d.out = nil
	d.do(&op)
	deadline := time.Now().Add(5 * time.Second)
	for len(d.out) < len(want) && time.Now().Before(deadline) {
		for i := 1; i < len(d.clients); i++ {
			d.take(i, 200*time.Microsecond)
		}
	}
	for i := 1; i < len(d.clients); i++ { // what was sent before the answer to this has arrived with it
		echo := &statetest.Op{Kind: "echo", Client: i}
		d.send(echo, smb2.CommandEcho, &smb2.EchoRequest{}, nil)
		for echo.Kind != "" && time.Now().Before(deadline) {
			d.take(i, time.Second)
		}
	}
	sort.Strings(d.out)
	return d.out
}

// take takes what has arrived at a client.
func (d *wireDriver) take(client int, within time.Duration) {
	c := d.clients[client]
	if !c.nc.(*peeked).arrived(within) {
		return
	}
	list := c.receive()
	if list == nil {
		d.out = append(d.out, fmt.Sprintf("client %d has been disconnected", client))
		d.connect(client)
	}
	for _, r := range list {
		d.message(client, r)
	}
}

func (d *wireDriver) message(client int, r response) {
	if isNotice(r.msg) {
		d.notice(client, r.msg)
		return
	}
	k := key(client, r.hdr.MessageID)
	op := d.waiting[k]
	switch {
	case op == nil:
		d.out = append(d.out, fmt.Sprintf("an answer to nothing: %v %v", r.hdr.Command, r.hdr.Status))
	case r.hdr.Status == smb2.StatusPending:
	case op.Kind == "echo":
		delete(d.waiting, k)
		op.Kind = ""
	default:
		delete(d.waiting, k)
		d.out = append(d.out, fmt.Sprintf("%d %s: %s", op.ID, op.Kind, d.result(op, r)))
	}
}

func (d *wireDriver) notice(client int, msg []byte) {
	if !smb2.IsLeaseBreak(msg) {
		var m smb2.OplockBreakNotification
		if err := m.Decode(msg); err != nil {
			d.t.Fatal(err)
		}
		for id, f := range d.ids {
			if f == m.FileID && d.opens[id].Client == client {
				// What an oplock was is not on the wire, nor whether it wants an answer.
				d.out = append(d.out, fmt.Sprintf("break open%d >%s", id, statetest.Letters(map[smb2.OplockLevel]string{smb2.OplockII: "2"}[m.OplockLevel])))
			}
		}
		return
	}
	var m smb2.LeaseBreakNotification
	if err := m.Decode(msg); err != nil {
		d.t.Fatal(err)
	}
	mark := ""
	if m.Flags&smb2.LeaseFlagBreakAckRequired != 0 {
		mark = "!"
	}
	d.out = append(d.out, fmt.Sprintf("break client%d.lease%d %s>%s%s", client, m.LeaseKey[1], letters(m.CurrentLeaseState), letters(m.NewLeaseState), mark))
}

func letters(s smb2.LeaseState) (out string) {
	for _, l := range []struct {
		bit smb2.LeaseState
		s   string
	}{{smb2.LeaseReadCaching, "R"}, {smb2.LeaseWriteCaching, "W"}, {smb2.LeaseHandleCaching, "H"}} {
		if s&l.bit != 0 {
			out += l.s
		}
	}
	return statetest.Letters(out)
}

func leaseBits(s string) (out smb2.LeaseState) {
	for _, c := range s {
		out |= map[rune]smb2.LeaseState{'R': smb2.LeaseReadCaching, 'W': smb2.LeaseWriteCaching, 'H': smb2.LeaseHandleCaching}[c]
	}
	return out
}

var wireLevels = map[string]smb2.OplockLevel{"": smb2.OplockNone, "2": smb2.OplockII, "X": smb2.OplockExclusive, "B": smb2.OplockBatch}

// do sends an operation's request.
func (d *wireDriver) do(op *statetest.Op) {
	id := d.ids[op.ID]
	off, n := uint64(op.Offset), uint32(op.Length)
	set := func(class fscc.InfoClass, m encoder) {
		b := make([]byte, m.Size())
		m.Encode(b)
		d.send(op, smb2.CommandSetInfo, &smb2.SetInfoRequest{InfoType: smb2.InfoFile, FileInfoClass: uint8(class), FileID: id, Buffer: b}, nil)
	}
	switch op.Kind {
	case "open":
		d.opens[op.ID] = *op
		d.send(op, smb2.CommandCreate, d.create(op), nil)
	case "reconnect":
		d.reconnect(op)
	case "close":
		d.send(op, smb2.CommandClose, &smb2.CloseRequest{FileID: id}, nil)
	case "read":
		d.send(op, smb2.CommandRead, &smb2.ReadRequest{FileID: id, Offset: off, Length: n}, nil)
	case "write":
		d.send(op, smb2.CommandWrite, &smb2.WriteRequest{FileID: id, Offset: off, Length: n}, make([]byte, n))
	case "size":
		set(fscc.FileEndOfFileInformation, &fscc.EndOfFileInfo{EndOfFile: 4096})
	case "delete":
		set(fscc.FileDispositionInformation, &fscc.DispositionInfo{DeletePending: op.Pending})
	case "lock", "unlock":
		flags := smb2.LockFlagSharedLock
		switch {
		case op.Kind == "unlock":
			flags = smb2.LockFlagUnlock
		case op.Exclusive:
			flags = smb2.LockFlagExclusiveLock
		}
		if op.Kind == "lock" && !op.Wait {
			flags |= smb2.LockFlagFailImmediately
		}
		d.send(op, smb2.CommandLock, &smb2.LockRequest{
			FileID: id, LockSequence: uint32(op.Sequence<<4 | op.Number), Locks: []smb2.LockElement{{Offset: off, Length: uint64(n), Flags: flags}},
		}, nil)
	case "ack":
		if op.Key != 0 {
			d.send(op, smb2.CommandOplockBreak, &smb2.LeaseBreakAcknowledgment{LeaseKey: d.leaseKey(op), LeaseState: leaseBits(op.To)}, nil)
			return
		}
		d.send(op, smb2.CommandOplockBreak, &smb2.OplockBreakAcknowledgment{FileID: id, OplockLevel: wireLevels[op.To]}, nil)
	case "disconnect":
		d.disconnect(op.Client)
	default:
		d.t.Fatalf("no request for %v", op)
	}
}

func (d *wireDriver) leaseKey(op *statetest.Op) smb2.GUID {
	return smb2.GUID{byte(op.Client), byte(op.Key)}
}

func (d *wireDriver) createGUID(id int) smb2.GUID {
	return smb2.GUID{0xCC, byte(id), byte(id >> 8), d.name[len(d.name)-1]}
}

// create is the CREATE of an open.
func (d *wireDriver) create(op *statetest.Op) *smb2.CreateRequest {
	q := &smb2.CreateRequest{
		ImpersonationLevel: smb2.ImpersonationImpersonation, Name: d.name, CreateDisposition: smb2.FileOpenIf,
		CreateOptions: smb2.FileNonDirectoryFile, DesiredAccess: smb2.FileReadAttributes | smb2.Synchronize,
		RequestedOplockLevel: wireLevels[op.Oplock],
	}
	for _, c := range op.Access {
		q.DesiredAccess |= map[rune]smb2.AccessMask{'R': smb2.FileReadData, 'W': smb2.FileWriteData, 'D': smb2.Delete, 'C': smb2.ReadControl}[c]
	}
	for _, c := range op.Share {
		q.ShareAccess |= map[rune]smb2.ShareAccess{'R': smb2.FileShareRead, 'W': smb2.FileShareWrite, 'D': smb2.FileShareDelete}[c]
	}
	if op.Overwrite {
		q.CreateDisposition = smb2.FileOverwriteIf
	}
	if op.DeleteOnClose {
		q.CreateOptions |= smb2.FileDeleteOnClose
	}
	q.Contexts = append(q.Contexts, (&smb2.AllocationSize{AllocationSize: 4096}).Context()) // locks are to lie below it
	q.Contexts = append(q.Contexts, d.leaseContext(q, op)...)
	switch op.Handle {
	case "durable":
		q.Contexts = append(q.Contexts, smb2.DurableRequest{}.Context())
	case "durable2", "persistent":
		c := smb2.DurableRequestV2{CreateGUID: d.createGUID(op.ID), Timeout: 60_000}
		if op.Handle == "persistent" {
			c.Flags = smb2.DurableFlagPersistent
		}
		q.Contexts = append(q.Contexts, c.Context())
	}
	if op.App != 0 {
		q.Contexts = append(q.Contexts, (&smb2.AppInstanceID{ID: smb2.GUID{0xAA, byte(op.App)}}).Context())
		if op.Version != 0 {
			q.Contexts = append(q.Contexts, (&smb2.AppInstanceVersion{Low: uint64(op.Version)}).Context())
		}
	}
	return q
}

func (d *wireDriver) leaseContext(q *smb2.CreateRequest, op *statetest.Op) []smb2.CreateContext {
	if op.Key == 0 {
		return nil
	}
	q.RequestedOplockLevel = smb2.OplockLease
	l := smb2.Lease{Version: 2, LeaseKey: d.leaseKey(op), LeaseState: leaseBits(op.Want)}
	return []smb2.CreateContext{l.Context()}
}

// reconnect sends the claim of an open, wrong as the operation says.
func (d *wireDriver) reconnect(op *statetest.Op) {
	o := d.opens[op.ID]
	q := &smb2.CreateRequest{
		ImpersonationLevel: smb2.ImpersonationImpersonation, Name: d.name, CreateDisposition: smb2.FileOpen,
		DesiredAccess: smb2.FileReadAttributes, RequestedOplockLevel: wireLevels[o.Oplock],
	}
	q.Contexts = d.leaseContext(q, &o)
	guid := d.createGUID(op.ID)
	switch op.Wrong {
	case "guid":
		guid[15]++
	case "lease":
		if o.Key != 0 {
			q.Contexts[0].Data[15]++
		}
	case "link":
		q.Name += "x"
	case "client":
		op.Client = op.Client%3 + 1
	}
	switch o.Handle {
	case "durable":
		q.Contexts = append(q.Contexts, (&smb2.DurableReconnect{FileID: d.ids[op.ID]}).Context())
	default:
		c := smb2.DurableReconnectV2{FileID: d.ids[op.ID], CreateGUID: guid}
		if o.Handle == "persistent" {
			c.Flags = smb2.DurableFlagPersistent
		}
		q.Contexts = append(q.Contexts, c.Context())
	}
	d.send(op, smb2.CommandCreate, q, nil)
}

// disconnect cuts a client's connection, waits until the server has noticed, and
// connects the client again.
func (d *wireDriver) disconnect(client int) {
	for k := range d.waiting {
		if k>>56 == uint64(client) {
			delete(d.waiting, k)
		}
	}
	d.clients[client].nc.Close()
	for deadline := time.Now().Add(10 * time.Second); ; sleepBriefly() {
		d.srv.mu.Lock()
		n := len(d.srv.sessions)
		d.srv.mu.Unlock()
		if n < len(d.clients)-1 {
			break
		}
		if time.Now().After(deadline) {
			d.t.Fatal("the server does not notice that a client has gone")
		}
	}
	d.connect(client)
}

// result is the outcome of a request in the model's words.
func (d *wireDriver) result(op *statetest.Op, r response) string {
	st := r.hdr.Status
	switch {
	case st == smb2.StatusSuccess && (op.Kind == "open" || op.Kind == "reconnect"):
		return d.granted(op, r)
	case st == smb2.StatusSuccess, st == smb2.StatusEndOfFile && op.Kind == "read":
		return "ok"
	case op.Kind == "lock" && op.Wait && slices.Contains([]smb2.Status{smb2.StatusRangeNotLocked, smb2.StatusCancelled, smb2.StatusFileClosed}, st):
		return "dropped"
	case op.Kind == "ack" && op.Key == 0 && op.To != "" && st == smb2.StatusInvalidOplockProtocol:
		return "wrong or not breaking" // an acknowledgment that keeps something of nothing
	case op.Kind == "ack" && st == smb2.StatusObjectNameNotFound:
		return "unknown"
	}
	for status, s := range map[smb2.Status]string{
		smb2.StatusSharingViolation: "sharing violation", smb2.StatusDeletePending: "delete pending", smb2.StatusFileNotAvailable: "not available",
		smb2.StatusFileForcedClosed: "forced closed", smb2.StatusObjectNameNotFound: "not found", smb2.StatusInvalidParameter: "wrong",
		smb2.StatusInvalidOplockProtocol: "wrong", smb2.StatusRequestNotAccepted: "too much", smb2.StatusUnsuccessful: "not breaking",
		smb2.StatusInvalidDeviceState: "not breaking", smb2.StatusFileClosed: "unknown", smb2.StatusCancelled: "unknown",
		smb2.StatusLockNotGranted: "not granted", smb2.StatusRangeNotLocked: "not locked", smb2.StatusFileLockConflict: "locked",
	} {
		if st == status {
			return s
		}
	}
	return st.String()
}

// granted is what a CREATE response grants.
func (d *wireDriver) granted(op *statetest.Op, r response) string {
	var m smb2.CreateResponse
	if err := m.Decode(r.msg); err != nil {
		d.t.Fatal(err)
	}
	d.ids[op.ID] = m.FileID
	s := "ok "
	if data, ok := smb2.FindCreateContext(m.Contexts, smb2.CreateContextLease); ok {
		var l smb2.Lease
		if err := l.Decode(data); err != nil {
			d.t.Fatal(err)
		}
		s += letters(l.LeaseState)
		if l.Flags&smb2.LeaseFlagBreakInProgress != 0 {
			s += " breaking"
		}
	} else {
		for level, l := range wireLevels {
			if l == m.OplockLevel {
				s += statetest.Letters(level)
			}
		}
	}
	if op.Kind == "reconnect" {
		return s // a response to a claim need not say that the open is durable
	}
	if _, ok := smb2.FindCreateContext(m.Contexts, smb2.CreateContextDurableRequest); ok {
		s += " durable"
	}
	if data, ok := smb2.FindCreateContext(m.Contexts, smb2.CreateContextDurableRequestV2); ok {
		var v2 smb2.DurableResponseV2
		if err := v2.Decode(data); err != nil {
			d.t.Fatal(err)
		}
		if s += " durable2"; v2.Flags&smb2.DurableFlagPersistent != 0 {
			s = strings.TrimSuffix(s, "durable2") + "persistent"
		}
	}
	return s
}
