// Package statetest is a model of how one file is shared: share modes, byte-range
// locks, oplocks and leases, durable opens. It is written for being read, from
// tables, and shares nothing with package state, so that the two can be compared
// over random operations.
package statetest

import (
	"fmt"
	"reflect"
	"slices"
	"sort"
)

// Op is something a client does, or that happens to it.
type Op struct {
	Kind   string // open, close, read, write, size, lock, unlock, delete, rename, resilient, ack, timeout, disconnect, reconnect, expire
	ID     int    // of the open; new for open
	Client int

	// Of an open: Access has letters of "RWD" and C (READ_CONTROL), none for
	// attributes alone; Share of "RWD"; Oplock is 2, X or B; Key is that of a lease,
	// 0 for none, with the state wanted, letters of "RWH", in Want.
	Access, Share, Oplock, Want string
	Key                         int
	Overwrite, DeleteOnClose    bool
	Handle                      string // durable, durable2 or persistent
	App, Version                int    // 0 for none

	Offset, Length   int // of read, write, lock and unlock
	Exclusive, Wait  bool
	Sequence, Number int    // of lock and unlock; sequence 0 for none
	Pending          bool   // delete: mark or take back
	To               string // ack: "RWH" letters of a lease, 2, X, B or nothing of an oplock
	Wrong            string // reconnect: what is not as it should be: owner, guid, client, lease, link
}

// String is what is not zero of it.
func (op Op) String() string {
	s := op.Kind
	v := reflect.ValueOf(op)
	for i := 1; i < v.NumField(); i++ {
		if f := v.Field(i); !f.IsZero() {
			s += fmt.Sprintf(" %s=%v", v.Type().Field(i).Name, f)
		}
	}
	return s
}

// Model is the file. The zero value is one that nobody has open.
type Model struct {
	Opens  []*Open // in order of arrival
	Leases []*Lease
	Going  bool // it will be deleted

	waiting []*Op       // for others' caching, in order of arrival
	queue   []*lockWait // for locks, in order of arrival
	doomed  []*Open     // the server is to close them
	ended   bool        // something has that others may have waited for
	out     []string
}

// Open is one open of the file.
type Open struct {
	Op       // that it came by
	Lease    *Lease
	Cache           // its oplock: 2, X or B
	Kept     string // the kind of handle it got
	Away     bool
	sequence map[int]int
	locks    []lock
}

// Lease is a lease with all its opens; its states are letters of "RWH".
type Lease struct {
	Client, Key int
	Cache
}

// Cache is the state of an oplock or a lease.
type Cache struct {
	State    string
	Breaking bool
	Told     string // what the client was told to go to
	need     string // what may be left in the end
	unsent   bool   // the client was not there to be told
	told     bool   // a level II oplock has gone, which wants no acknowledgment
}

func (m *Model) say(format string, args ...any) { m.out = append(m.out, fmt.Sprintf(format, args...)) }

// Find is the open, or nil.
func (m *Model) Find(id int) *Open {
	for _, o := range m.Opens {
		if o.ID == id {
			return o
		}
	}
	return nil
}

// Waits says whether a request of an open, or for it, is waiting.
func (m *Model) Waits(id int) bool {
	return slices.ContainsFunc(m.waiting, func(op *Op) bool { return op.ID == id }) ||
		slices.ContainsFunc(m.queue, func(w *lockWait) bool { return w.op.ID == id })
}

// Waiting is how many requests wait for others' caching.
func (m *Model) Waiting() int { return len(m.waiting) }

// Step does an operation and returns what everybody sees of it, sorted: "ID kind:
// status" of it and of requests that waited, "break HOLDER FROM>TO" with ! where
// an acknowledgment is wanted, and "end ID" of opens that the server closes.
func (m *Model) Step(op Op) []string {
	m.out = nil
	m.do(&op)
	for len(m.doomed) > 0 || m.ended {
		for len(m.doomed) > 0 {
			o := m.doomed[0]
			m.say("end %d", o.ID)
			m.remove(o)
		}
		if m.ended {
			again := m.waiting
			m.ended, m.waiting = false, nil
			for _, op := range again {
				m.do(op)
			}
		}
	}
	sort.Strings(m.out)
	return m.out
}

// do tries an operation: it is done, or waits.
func (m *Model) do(op *Op) {
	status, wait := "", false
	o := m.Find(op.ID)
	switch {
	case op.Kind == "open":
		status, wait = m.open(op)
	case op.Kind == "ack":
		status = m.ack(op)
	case op.Kind == "timeout":
		m.timeout(op)
	case op.Kind == "disconnect":
		m.disconnect(op.Client)
	case op.Kind == "expire":
		for _, o := range m.Opens {
			if o.Away {
				m.doom(o)
			}
		}
	case o == nil:
		status = "unknown"
	case op.Kind == "reconnect":
		status = m.reconnect(o, op)
	default:
		status, wait = m.use(o, op)
	}
	switch {
	case wait:
		m.waiting = append(m.waiting, op)
		if !slices.Contains(m.out, fmt.Sprintf("%d %s: waits", op.ID, op.Kind)) {
			m.say("%d %s: waits", op.ID, op.Kind)
		}
	case status != "":
		m.say("%d %s: %s", op.ID, op.Kind, status)
	}
}

// use is what is done through an open.
func (m *Model) use(o *Open, op *Op) (status string, wait bool) {
	switch op.Kind {
	case "close":
		m.remove(o)
		return "ok", false
	case "read", "write":
		if op.Kind == "write" && m.take("data", o.Client, o.Key, o) {
			return "", true
		}
		if m.lockedFor(o, op) {
			return "locked", false
		}
		return "ok", false
	case "size":
		return "ok", m.take("data", o.Client, o.Key, o)
	case "lock":
		if m.take("data", o.Client, o.Key, o) {
			return "", true
		}
		return m.lock(o, op), false
	case "unlock":
		return m.unlock(o, op), false
	case "rename":
		return "ok", m.take("rename", o.Client, o.Key, o)
	case "delete":
		if op.Pending && m.take("handles", o.Client, o.Key, o) {
			return "", true
		}
		m.Going = op.Pending
		return "ok", false
	case "resilient":
		if o.Kept != "persistent" {
			o.Kept = "resilient"
		}
		return "ok", false
	}
	panic("no operation is called " + op.Kind)
}
