package state

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"lunless/shares/state/statetest"
)

// driver does a model's operations to a Memory, as a server would.
type driver struct {
	m        *Memory
	sabotage string
	now      time.Time
	requests map[Ticket]*statetest.Op // that wait
	tickets  map[Ticket]<-chan error
	breaks   map[string]Break // the last one of each holder
	doomed   []OpenID
	again    []Ticket
	out      []string
}

func newDriver(sabotage string) *driver {
	return &driver{
		m: NewMemory(), sabotage: sabotage, now: noon,
		requests: map[Ticket]*statetest.Op{}, tickets: map[Ticket]<-chan error{}, breaks: map[string]Break{},
	}
}

func (d *driver) say(format string, args ...any) { d.out = append(d.out, fmt.Sprintf(format, args...)) }

// step is Model.Step.
func (d *driver) step(op statetest.Op) []string {
	d.out = nil
	d.do(&op)
	for len(d.doomed)+len(d.again) > 0 {
		for len(d.doomed) > 0 {
			id := d.doomed[0]
			d.doomed = d.doomed[1:]
			d.say("end %d", id)
			d.update(nil, RemoveOpen(id, false))
		}
		again := d.again
		d.again = nil
		for _, t := range again {
			op := d.requests[t]
			delete(d.requests, t)
			if err := <-d.tickets[t]; err != nil {
				d.say("ticket: %v", err)
			}
			delete(d.tickets, t)
			d.do(op)
		}
	}
	sort.Strings(d.out)
	return d.out
}

// update commits a change and does what its effects say.
func (d *driver) update(op *statetest.Op, c Change) (Effects, error) {
	fx, err := d.m.Update(context.Background(), file, c)
	for _, b := range fx.Breaks {
		name := fmt.Sprintf("open%d", b.Open)
		if b.IsLease {
			name = fmt.Sprintf("client%d.lease%d", b.Lease.Client[0], b.Lease.Key[0])
		}
		d.breaks[name] = b
		if d.sabotage == "break-not-sent" {
			continue
		}
		mark := ""
		if b.AckRequired {
			mark = "!"
		}
		d.say("break %s %s>%s%s", name, letters(b.From), letters(b.To), mark)
	}
	d.doomed = append(d.doomed, fx.Close...)
	for _, t := range fx.Granted {
		d.granted(t, op, "granted")
	}
	for _, t := range fx.Dropped {
		d.granted(t, op, "dropped")
	}
	d.again = append(d.again, fx.Retry...)
	if fx.Delete {
		d.say("deleted")
		d.update(nil, Deleted(fx.Link))
	}
	return fx, err
}

// granted tells of a lock that was waited for, but in the request that asks for it.
func (d *driver) granted(t Ticket, op *statetest.Op, how string) {
	waited, ok := d.requests[t]
	if !ok {
		return
	}
	if err := <-d.tickets[t]; (err == nil) != (how == "granted") {
		d.say("%s, but the ticket: %v", how, err)
	}
	delete(d.requests, t)
	delete(d.tickets, t)
	d.say("%d lock: %s", waited.ID, how)
}

func (d *driver) ticket(op *statetest.Op) Ticket {
	t, c := d.m.NewTicket()
	d.tickets[t], d.requests[t] = c, op
	return t
}

func (d *driver) forget(t Ticket) {
	d.m.ReleaseTicket(t)
	delete(d.tickets, t)
	delete(d.requests, t)
}

var statuses = map[error]string{
	ErrSharingViolation: "sharing violation", ErrDeletePending: "delete pending", ErrNotAvailable: "not available",
	ErrForcedClosed: "forced closed", ErrUnknownOpen: "unknown", ErrUnknownLease: "unknown", ErrNotBreaking: "not breaking",
	ErrNotAccepted: "too much", ErrOplockProtocol: "wrong", ErrNotReclaimable: "not found", ErrBadReclaim: "wrong",
	ErrNotOwner: "not the owner", ErrLockNotGranted: "not granted", ErrRangeNotLocked: "not locked",
}

func status(err error) string {
	if err == nil {
		return "ok"
	}
	for e, s := range statuses {
		if errors.Is(err, e) {
			return s
		}
	}
	return err.Error()
}

// do tries an operation once.
func (d *driver) do(op *statetest.Op) {
	var s string
	switch op.Kind {
	case "open":
		q := d.request(op)
		q.Ticket = d.ticket(op)
		fx, err := d.update(op, AddOpen(q))
		if err == nil && fx.Wait {
			d.waits(op)
			return
		}
		d.forget(q.Ticket)
		if s = status(err); err == nil {
			s += " " + got(fx)
		}
	case "ack":
		s = d.ack(op)
	case "timeout":
		name := fmt.Sprintf("open%d", op.ID)
		if op.Key != 0 {
			name = fmt.Sprintf("client%d.lease%d", op.Client, op.Key)
		}
		d.update(op, BreakTimeout(d.breaks[name]))
		return
	case "disconnect":
		d.disconnect(op)
		return
	case "expire":
		d.now = d.now.Add(time.Hour)
		for _, o := range d.record().Opens {
			d.update(op, Expire(o.ID, d.now))
		}
		return
	case "reconnect":
		s = d.reconnect(op)
	default:
		var wait bool
		if s, wait = d.use(op, OpenID(op.ID)); wait {
			d.waits(op)
			return
		}
	}
	d.say("%d %s: %s", op.ID, op.Kind, s)
}

func (d *driver) waits(op *statetest.Op) {
	s := fmt.Sprintf("%d %s: waits", op.ID, op.Kind)
	if !slices.Contains(d.out, s) {
		d.out = append(d.out, s)
	}
}

func (d *driver) record() (out Record) {
	d.m.Update(context.Background(), file, func(r Record) (Record, Effects, error) {
		out = r
		return r, Effects{}, nil
	})
	return out
}

var rights = map[rune]uint32{'R': ReadData, 'W': WriteData, 'D': Delete, 'C': 0x20000}
var shareModes = map[rune]uint32{'R': ShareRead, 'W': ShareWrite, 'D': ShareDelete}
var levels = map[string]Caching{"": 0, "2": LevelII, "X": Exclusive, "B": Batch}
var kinds = map[string]HandleKind{"": NotDurable, "durable": Durable, "durable2": DurableV2, "persistent": Persistent}

// request is the CREATE an operation is.
func (d *driver) request(op *statetest.Op) OpenRequest {
	q := OpenRequest{Allocation: 4096, Overwrites: op.Overwrite, TakeOver: true, Want: levels[op.Oplock], Open: Open{
		ID: OpenID(op.ID), Access: 0x100080, Link: "f", DeleteOnClose: op.DeleteOnClose,
		Handle: Handle{
			Kind: kinds[op.Handle], Timeout: time.Minute, Owner: "hv", ClientGUID: [16]byte{byte(op.Client)},
			CreateGUID: [16]byte{byte(op.ID), byte(op.ID >> 8), byte(op.ID >> 16), 1},
		},
	}}
	for _, c := range op.Access {
		q.Open.Access |= rights[c]
	}
	for _, c := range op.Share {
		q.Open.Share |= shareModes[c]
	}
	if op.Overwrite {
		q.Transient = WriteData
	}
	if op.Handle == "durable" && op.Oplock != "B" && !strings.Contains(op.Want, "H") {
		q.Open.Handle.Kind = NotDurable // which the server does not ask for then (MS-SMB2 3.3.5.9.6)
	}
	if op.Key != 0 {
		q.Open.HasLease, q.Open.Lease, q.Want = true, leaseKey(byte(op.Client), byte(op.Key)), caching(op.Want)
		q.Lease = LeaseRequest{Key: q.Open.Lease, Version: 2}
	}
	if op.App != 0 {
		q.Open.Handle.AppInstance = AppInstance{ID: [16]byte{byte(op.App)}, HasVersion: op.Version != 0, Low: uint64(op.Version)}
	}
	return q
}

// got is what an open has been granted.
func got(fx Effects) string {
	s := letters(fx.Open.Oplock.State)
	if fx.Open.HasLease {
		s = letters(fx.Lease.State)
		if fx.Lease.Breaking {
			s += " breaking"
		}
	}
	if k := fx.Open.Handle.Kind; k != NotDurable {
		s += " " + [...]string{"", "durable", "durable2", "resilient", "persistent"}[k]
	}
	return s
}

// use does what goes through an open; wait says that it has to wait for caching.
func (d *driver) use(op *statetest.Op, id OpenID) (s string, wait bool) {
	tok := d.m.Token(file)
	off, n := uint64(op.Offset), uint64(op.Length)
	switch op.Kind {
	case "close":
		_, err := d.update(op, RemoveOpen(id, false))
		return status(err), false
	case "read", "write":
		if r := d.record(); r.find(id) < 0 {
			return "unknown", false
		}
		if op.Kind == "write" && tok.MustBreak(id) {
			if s, wait = d.breaking(op, func(t Ticket) Change { return BreakForWrite(id, t) }); wait || s != "ok" {
				return s, wait
			}
		}
		if tok.Conflicts(id, off, n, op.Kind == "write") {
			return "locked", false
		}
		return "ok", false
	case "size":
		return d.breaking(op, func(t Ticket) Change { return BreakForSize(id, t) })
	case "rename":
		return d.breaking(op, func(t Ticket) Change { return BreakForRename(id, t) })
	case "delete":
		if op.Pending {
			if s, wait = d.breaking(op, func(t Ticket) Change { return BreakForDelete(id, t) }); wait || s != "ok" {
				return s, wait
			}
		}
		_, err := d.update(op, SetDeletePending(id, op.Pending))
		return status(err), false
	case "resilient":
		_, err := d.update(op, SetResilient(id, time.Minute, "hv"))
		return status(err), false
	case "lock":
		if s, wait = d.breaking(op, func(t Ticket) Change { return BreakForLock(id, t) }); wait || s != "ok" {
			return s, wait
		}
		return d.lock(op, Lock{Owner: id, Offset: off, Length: n, Exclusive: op.Exclusive}), false
	}
	seq := LockSequence{Index: uint8(op.Sequence), Number: uint8(op.Number)}
	_, err := d.update(op, Once(id, seq, Unlock(id, off, n)))
	return status(err), false
}

func (d *driver) breaking(op *statetest.Op, do func(Ticket) Change) (string, bool) {
	t := d.ticket(op)
	fx, err := d.update(op, do(t))
	if fx.Wait && err == nil {
		return "", true
	}
	d.forget(t)
	return status(err), false
}

func (d *driver) lock(op *statetest.Op, l Lock) string {
	seq := LockSequence{Index: uint8(op.Sequence), Number: uint8(op.Number)}
	if !op.Wait {
		_, err := d.update(op, Once(l.Owner, seq, AddLocks([]Lock{l})))
		return status(err)
	}
	t, c := d.m.NewTicket()
	fx, err := d.update(op, Once(l.Owner, seq, AddLockOrWait(l, t)))
	if err != nil || fx.Replayed || slices.Contains(fx.Granted, t) {
		d.m.ReleaseTicket(t)
		return status(err)
	}
	d.tickets[t], d.requests[t] = c, op
	return "queued"
}

func (d *driver) ack(op *statetest.Op) string {
	if op.Key != 0 {
		_, err := d.update(op, AckLease(leaseKey(byte(op.Client), byte(op.Key)), caching(op.To)))
		return status(err)
	}
	_, err := d.update(op, AckOplock(OpenID(op.ID), levels[op.To]))
	return status(err)
}

func (d *driver) disconnect(op *statetest.Op) {
	r := d.record()
	for t, waiting := range d.requests {
		if waiting.Client == op.Client && slices.Contains(r.Breaks, t) {
			d.update(op, CancelWait(t))
			d.forget(t)
		}
	}
	for _, o := range r.Opens {
		if o.Handle.ClientGUID[0] == byte(op.Client) {
			d.update(op, Disconnect(o.ID, d.now))
		}
	}
}

func (d *driver) reconnect(op *statetest.Op) string {
	r := d.record()
	i := r.find(OpenID(op.ID))
	if i < 0 {
		return "unknown"
	}
	o := &r.Opens[i]
	q := Reclaim{
		ClientGUID: o.Handle.ClientGUID, Owner: "hv", Link: "f", HasLease: o.HasLease, Lease: o.Lease, Version: 2,
		V2: o.Handle.Kind == DurableV2 || o.Handle.Kind == Persistent, CreateGUID: o.Handle.CreateGUID, Persistent: o.Handle.Kind == Persistent,
	}
	switch op.Wrong {
	case "owner":
		q.Owner = "eve"
	case "guid":
		q.CreateGUID[15]++
	case "client":
		q.ClientGUID = [16]byte{byte(op.Client)}
	case "lease":
		q.Lease.Key[15]++
	case "link":
		q.Link = "g"
	}
	fx, err := d.update(op, Reconnect(o.ID, q))
	if err != nil {
		return status(err)
	}
	if d.sabotage == "lock-forgotten-on-reclaim" {
		d.m.Update(context.Background(), file, func(r Record) (Record, Effects, error) {
			r.Locks = keep(r.Locks, func(l Lock) bool { return l.Owner != o.ID })
			return r, Effects{}, nil
		})
	}
	return "ok " + got(fx)
}

// check compares what is there with the model.
func (d *driver) check(m *statetest.Model) error {
	r := d.record()
	if len(r.Opens) != len(m.Opens) || len(r.Leases) != len(m.Leases) {
		return fmt.Errorf("%d opens and %d leases, want %d and %d", len(r.Opens), len(r.Leases), len(m.Opens), len(m.Leases))
	}
	for i := range m.Opens {
		o, want := &r.Opens[i], m.Opens[i]
		if int(o.ID) != want.ID || letters(o.Oplock.State) != statetest.Letters(want.State) || o.Oplock.Breaking != want.Breaking || o.Handle.Disconnected != want.Away {
			return fmt.Errorf("open %+v, want %+v", o, want)
		}
	}
	for i := range m.Leases {
		l, want := &r.Leases[i], m.Leases[i]
		if letters(l.State) != statetest.Letters(want.State) || l.Breaking != want.Breaking || l.Breaking && letters(l.BreakTo) != statetest.Letters(want.Told) {
			return fmt.Errorf("lease %+v, want %+v", l, want)
		}
	}
	if len(d.m.waits) != len(d.tickets) {
		return fmt.Errorf("%d tickets, want %d", len(d.m.waits), len(d.tickets))
	}
	return nil
}
