package shares

import (
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

// wireDriver does a model's operations to a server, over one connection a client,
// and reads what comes back of them.
type wireDriver struct {
	t        testing.TB
	srv      *testServer
	clients  [4]*rawClient // from 1
	arrivals chan arrival
	ended    chan struct{} // closed when nobody takes them any more
	timer    *time.Timer
	patience time.Duration // for what the server is to send
	cuts     int
	done     int            // operations sent
	seen     map[string]int // what came of them
	echoes   int            // not answered yet

	file      int    // counts them
	name      string // of the file
	renamed   string // what it was to be renamed to last
	renames   int
	ids       map[int]smb2.FileID
	opens     map[int]statetest.Op
	resilient map[int]bool
	waiting   map[uint64]*statetest.Op // by client and message
	out       []string
}

func newWireDriver(t testing.TB, srv *testServer) *wireDriver {
	return &wireDriver{
		t: t, srv: srv, arrivals: make(chan arrival, 64), ended: make(chan struct{}), timer: time.NewTimer(time.Hour), patience: 20 * time.Second,
		seen: map[string]int{},
	}
}

// begin turns to a new file.
func (d *wireDriver) begin() {
	d.file++
	d.name = fmt.Sprintf("file%d", d.file)
	d.ids, d.opens, d.resilient, d.waiting = map[int]smb2.FileID{}, map[int]statetest.Op{}, map[int]bool{}, map[uint64]*statetest.Op{}
}

// end closes the connections.
func (d *wireDriver) end() {
	close(d.ended)
	for _, c := range d.clients {
		if c != nil {
			c.nc.Close()
		}
	}
}

func (d *wireDriver) guid(client int) smb2.GUID { return smb2.GUID{0xC1, byte(client)} }

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
	for len(d.out) < len(want) {
		a, ok := d.next()
		if !ok {
			break
		}
		d.take(a)
	}
	d.fence()
	sort.Strings(d.out)
	return d.out
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
		// Two ways that give no byte away, of which the second does not ask for locks.
		if op.Exclusive {
			set(fscc.FileEndOfFileInformation, &fscc.EndOfFileInfo{EndOfFile: 4096})
			return
		}
		set(fscc.FileAllocationInformation, &fscc.AllocationInfo{AllocationSize: 8192})
	case "rename":
		d.renames++
		d.renamed = fmt.Sprintf("file%d-%d", d.file, d.renames)
		set(fscc.FileRenameInformation, &fscc.RenameInfo{Name: d.renamed})
	case "resilient":
		q := smb2.NetworkResiliencyRequest{Timeout: 300_000}
		b := make([]byte, q.Size())
		q.Encode(b)
		d.send(op, smb2.CommandIoctl, &smb2.IoctlRequest{CtlCode: smb2.FsctlLMRRequestResiliency, FileID: id, Input: b, Flags: smb2.IoctlIsFSCTL}, nil)
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
	case "timeout":
		d.timeout(op)
	case "expire":
		d.expire()
	default:
		d.t.Fatalf("no request for %v", op)
	}
}

func (d *wireDriver) leaseKey(op *statetest.Op) smb2.GUID {
	return smb2.GUID{byte(op.Client), byte(op.Key)}
}

func (d *wireDriver) createGUID(id int) smb2.GUID {
	return smb2.GUID{0xCC, byte(id), byte(id >> 8), byte(d.file), byte(d.file >> 8), byte(d.file >> 16)}
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
	q.Contexts = append(q.Contexts, (&smb2.AllocationSize{AllocationSize: 8192}).Context()) // locks are to lie below it
	q.Contexts = append(q.Contexts, d.leaseContext(q, op)...)
	switch op.Handle {
	case "durable":
		q.Contexts = append(q.Contexts, smb2.DurableRequest{}.Context())
	case "durable2", "persistent":
		c := smb2.DurableRequestV2{CreateGUID: d.createGUID(op.ID), Timeout: 300_000}
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
	}
	switch {
	case o.Handle == "durable", d.resilient[op.ID]:
		q.Contexts = append(q.Contexts, (&smb2.DurableReconnect{FileID: d.ids[op.ID]}).Context())
	default:
		c := smb2.DurableReconnectV2{FileID: d.ids[op.ID], CreateGUID: guid}
		if o.Handle == "persistent" {
			c.Flags = smb2.DurableFlagPersistent
		}
		q.Contexts = append(q.Contexts, c.Context())
	}
	if op.Wrong == "owner" {
		d.claimAsAnother(op, q)
		return
	}
	d.send(op, smb2.CommandCreate, q, nil)
}

// claimAsAnother sends a claim as another user, who has a connection of the client
// for that.
func (d *wireDriver) claimAsAnother(op *statetest.Op, q *smb2.CreateRequest) {
	c := d.dial(op.Client, otherUser)
	r := c.call(smb2.CommandCreate, q, nil)
	d.out = append(d.out, fmt.Sprintf("%d reconnect: %s", op.ID, d.result(op, r)))
	c.nc.(*net.TCPConn).CloseWrite()
	c.gone()
	c.nc.Close()
}

// result is the outcome of a request in the model's words.
func (d *wireDriver) result(op *statetest.Op, r response) string {
	st := r.hdr.Status
	switch {
	case st == smb2.StatusSuccess && (op.Kind == "open" || op.Kind == "reconnect"):
		return d.granted(op, r)
	case st == smb2.StatusSuccess && op.Kind == "rename":
		d.name = d.renamed
		return "ok"
	case st == smb2.StatusSuccess && op.Kind == "resilient":
		d.resilient[op.ID] = d.opens[op.ID].Handle != "persistent"
		return "ok"
	case st == smb2.StatusSuccess, st == smb2.StatusEndOfFile && op.Kind == "read":
		return "ok"
	case op.Kind == "lock" && op.Wait && slices.Contains([]smb2.Status{smb2.StatusRangeNotLocked, smb2.StatusCancelled, smb2.StatusFileClosed}, st):
		return "dropped"
	case op.Kind == "ack" && op.Key == 0 && op.To != "" && st == smb2.StatusInvalidOplockProtocol:
		return "wrong or not breaking" // an acknowledgment that keeps something of nothing
	case op.Kind == "ack" && st == smb2.StatusObjectNameNotFound:
		return "unknown"
	case op.Kind == "reconnect" && st == smb2.StatusAccessDenied:
		return "not the owner"
	}
	if s, ok := wireStatuses[st]; ok {
		return s
	}
	return st.String()
}

var wireStatuses = map[smb2.Status]string{
	smb2.StatusSharingViolation: "sharing violation", smb2.StatusDeletePending: "delete pending", smb2.StatusFileNotAvailable: "not available",
	smb2.StatusFileForcedClosed: "forced closed", smb2.StatusObjectNameNotFound: "not found", smb2.StatusInvalidParameter: "wrong",
	smb2.StatusInvalidOplockProtocol: "wrong", smb2.StatusRequestNotAccepted: "too much", smb2.StatusUnsuccessful: "not breaking",
	smb2.StatusInvalidDeviceState: "not breaking", smb2.StatusFileClosed: "unknown", smb2.StatusCancelled: "unknown",
	smb2.StatusLockNotGranted: "not granted", smb2.StatusRangeNotLocked: "not locked", smb2.StatusFileLockConflict: "locked", smb2.StatusAccessDenied: "access denied",
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
		o := d.opens[op.ID]
		o.Client = op.Client
		d.opens[op.ID] = o
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
