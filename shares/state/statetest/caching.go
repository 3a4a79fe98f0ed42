package statetest

import (
	"fmt"
	"slices"
	"strings"
)

// step is what an operation makes of a state.
type step struct {
	to    string
	ack   bool // the holder has to acknowledge it
	waits bool // the operation waits for that
}

// What operations of others make of leases (MS-FSA 2.1.4.12): an open, one that
// overwrites, new data (WRITE, a lock, a size), and what wants no cached handles.
var leaseSteps = map[string]map[string]step{
	"open":      {"RWH": {"RH", true, true}, "RW": {"R", true, true}},
	"overwrite": {"RWH": {"", true, true}, "RW": {"", true, true}, "RH": {"", true, false}, "R": {"", false, false}},
	"data":      {"RWH": {"", true, true}, "RW": {"", true, true}, "RH": {"", true, false}, "R": {"", false, false}},
	"handles":   {"RWH": {"RW", true, true}, "RH": {"R", true, true}},
	"rename":    {"RWH": {"RW", true, true}, "RH": {"R", true, true}},
}

// And of oplocks. "batch" is the part of an open, "batch0" of one that overwrites,
// that comes before the sharing check.
var oplockSteps = map[string]map[string]step{
	"batch":     {"B": {"2", true, true}},
	"batch0":    {"B": {"", true, true}},
	"open":      {"B": {"2", true, true}, "X": {"2", true, true}},
	"overwrite": {"B": {"", true, true}, "X": {"", true, true}, "2": {"", false, false}},
	"data":      {"B": {"", true, true}, "X": {"", true, true}, "2": {"", false, false}},
	"rename":    {"B": {"", true, true}},
}

// toNone are the operations that leave nothing of a break to level II.
var toNone = map[string]map[string]step{
	"batch0": {"2": {}}, "overwrite": {"2": {}}, "data": {"2": {}}, "rename": {"2": {}},
}

// oplockLetters are the levels as caching.
var oplockLetters = map[string]string{"": "0", "2": "R", "X": "RW", "B": "RWH"}

// Letters is a state of a lease or an oplock for people: 0, R, RW, RH or RWH.
func Letters(state string) string {
	if l, ok := oplockLetters[state]; ok {
		return l
	}
	return state
}

func (l *Lease) name() string { return fmt.Sprintf("client%d.lease%d", l.Client, l.Key) }
func (o *Open) name() string  { return fmt.Sprintf("open%d", o.ID) }

func (m *Model) opensOf(l *Lease) (of []*Open) {
	for _, o := range m.Opens {
		if o.Lease == l {
			of = append(of, o)
		}
	}
	return of
}

// take takes caching from everybody but the lease of a client and, unless it is
// nobody's own, the oplock of an open. It says whether to wait.
func (m *Model) take(what string, client, key int, own *Open) bool {
	wait := m.takeOplocks(what, own)
	return m.takeLeases(what, client, key) || wait
}

func (m *Model) takeOplocks(what string, own *Open) (wait bool) {
	for _, o := range m.Opens {
		if o == own && o.State != "2" {
			continue
		}
		if m.takeFrom(&o.Cache, oplockSteps[what], toNone[what], o.name(), []*Open{o}) {
			wait = true
		}
	}
	return wait
}

func (m *Model) takeLeases(what string, client, key int) (wait bool) {
	for _, l := range m.Leases {
		if key != 0 && l.Client == client && l.Key == key {
			continue
		}
		if m.takeFrom(&l.Cache, leaseSteps[what], leaseSteps[what], l.name(), m.opensOf(l)) {
			wait = true
		}
	}
	return wait
}

// takeFrom takes caching from one oplock or lease. steps are what the operation
// makes of its state, breaking what it makes of the end of a break that goes on.
func (m *Model) takeFrom(c *Cache, steps, breaking map[string]step, name string, opens []*Open) bool {
	s, hit := steps[c.State]
	if !hit {
		return false
	}
	to := s.to
	if c.Breaking {
		next, more := breaking[c.need]
		if !more {
			return s.waits
		}
		to = next.to
	}
	there := slices.ContainsFunc(opens, func(o *Open) bool { return !o.Away })
	if !there && !slices.ContainsFunc(opens, func(o *Open) bool { return o.Kept == "persistent" }) {
		return m.giveUp(c, opens)
	}
	switch {
	case c.Breaking:
		c.need = to
		return s.waits
	case there && s.ack:
		m.say("break %s %s>%s!", name, Letters(c.State), Letters(to))
	case there:
		m.say("break %s %s>%s", name, Letters(c.State), Letters(to))
	}
	if !s.ack {
		*c = Cache{State: to, told: c.State == "2"}
		return false
	}
	c.Breaking, c.Told, c.need, c.unsent = true, to, to, !there
	return s.waits
}

// giveUp is what becomes of caching that nobody can be told to give back (MS-SMB2
// 3.3.4.6, 3.3.4.7): durable opens end, resilient ones go on without.
func (m *Model) giveUp(c *Cache, opens []*Open) (wait bool) {
	*c = Cache{}
	for _, o := range opens {
		if o.Kept != "resilient" {
			m.doom(o)
			wait = true
		}
	}
	return wait
}

func (m *Model) doom(o *Open) {
	if !slices.Contains(m.doomed, o) {
		m.doomed = append(m.doomed, o)
	}
}

func contains(all, part string) bool {
	for _, c := range part {
		if !strings.ContainsRune(all, c) {
			return false
		}
	}
	return true
}

// grantLease is MS-SMB2 3.3.5.9.8: a lease grows or stays.
func (m *Model) grantLease(o *Open) {
	less := map[string][]string{"RWH": {"RWH", "RH", "R"}, "RW": {"RW", "R"}, "RH": {"RH", "R"}, "R": {"R"}}
	l := o.Lease
	if l.Breaking || !contains(o.Want, l.State) {
		return
	}
	states := less[o.Want]
	if l.State != "" && len(states) > 0 {
		states = states[:1] // all or nothing
	}
	for _, state := range states {
		if m.leaseFits(o, state) {
			l.State = state
			return
		}
	}
}

func (m *Model) leaseFits(o *Open, state string) bool {
	writes, handles := contains(state, "W"), contains(state, "H")
	if !writes && m.anyLock() {
		return false
	}
	for _, other := range m.Opens {
		if other == o || other.Lease == o.Lease {
			continue
		}
		if writes && strings.ContainsAny(other.Access, "RWD") {
			return false
		}
		switch other.State {
		case "X", "B":
			return false
		case "2":
			if writes || handles {
				return false
			}
		}
		if l := other.Lease; l != nil && l.State != "" && (writes || contains(l.State, "W")) {
			return false
		}
	}
	return true
}

// grantOplock is MS-SMB2 3.3.5.9, Oplock Acquisition.
func (m *Model) grantOplock(o *Open) {
	if o.Oplock == "" {
		return
	}
	if o.Oplock != "2" && len(m.Opens) == 1 {
		o.State = o.Oplock
		return
	}
	if m.anyLock() {
		return
	}
	for _, other := range m.Opens {
		if other.State == "X" || other.State == "B" {
			return
		}
		if l := other.Lease; l != nil && (l.Breaking || strings.ContainsAny(l.State, "WH")) {
			return
		}
	}
	o.State = "2"
}

// ack is MS-SMB2 3.3.5.22: of a lease if the operation has a key, else of an oplock.
func (m *Model) ack(op *Op) string {
	if op.Key == 0 {
		return m.ackOplock(op)
	}
	i := slices.IndexFunc(m.Leases, func(l *Lease) bool { return l.Client == op.Client && l.Key == op.Key })
	if i < 0 {
		return "unknown"
	}
	l := m.Leases[i]
	switch {
	case !l.Breaking:
		return "not breaking"
	case !contains(l.Told, op.To):
		return "too much"
	}
	l.Breaking, l.State = false, op.To
	if !contains(l.State, "R") {
		l.State = ""
	}
	for _, c := range []string{"W", "H", "R"} { // on to what others need by now, step by step
		if !contains(l.State, c) || contains(l.need, c) {
			continue
		}
		to := strings.Replace(l.State, c, "", 1)
		if c == "R" {
			to = ""
		}
		if l.State == "R" {
			m.say("break %s R>0", l.name())
			l.State = ""
			break
		}
		m.say("break %s %s>%s!", l.name(), Letters(l.State), Letters(to))
		l.Breaking, l.Told = true, to
		return "ok"
	}
	m.ended = true
	return "ok"
}

func (m *Model) ackOplock(op *Op) string {
	o := m.Find(op.ID)
	if o == nil {
		return "unknown"
	}
	switch {
	case o.told:
		o.told = false
		return "wrong"
	case !o.Breaking:
		return "not breaking"
	}
	status, level := "ok", op.To
	switch {
	case level == "B", level == "X" && o.State == "X":
		status, level = "wrong", ""
	case level == "X":
		level = ""
	case level == "2" && o.need == "":
		status, level = "too much", ""
	}
	o.Cache = Cache{State: level}
	m.ended = true
	return status
}

// timeout ends a break that nobody acknowledges (MS-SMB2 3.3.6.1, 3.3.6.5).
func (m *Model) timeout(op *Op) {
	for _, l := range m.Leases {
		if op.Key != 0 && l.Client == op.Client && l.Key == op.Key && l.Breaking {
			l.Cache = Cache{}
			m.ended = true
		}
	}
	if o := m.Find(op.ID); op.Key == 0 && o != nil && o.Breaking {
		o.Cache = Cache{}
		m.ended = true
	}
}
