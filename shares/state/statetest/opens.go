package statetest

import (
	"slices"
	"strings"
)

// excludes is MS-FSA 2.1.5.1.2.2, of two accesses and what they share.
func excludes(access1, share1, access2, share2 string) bool {
	a, b := data(access1), data(access2)
	return a != "" && b != "" && (!contains(share2, a) || !contains(share1, b))
}

func data(access string) (of string) {
	for _, c := range "RWD" {
		if strings.ContainsRune(access, c) {
			of += string(c)
		}
	}
	return of
}

// open is MS-FSA 2.1.5.1.2 and MS-SMB2 3.3.5.9.
func (m *Model) open(op *Op) (status string, wait bool) {
	if status, wait := m.takeOver(op); wait || status != "" {
		return status, wait
	}
	access, what := op.Access, "open"
	if op.Overwrite {
		access, what = access+"W", "overwrite"
	}
	switch {
	case m.Going:
		return "delete pending", false
	case slices.ContainsFunc(m.Opens, func(o *Open) bool { return o.Kept == "persistent" && o.Away }):
		return "not available", false
	}
	batch := map[string]string{"open": "batch", "overwrite": "batch0"}[what]
	if access != "" && m.takeOplocks(batch, nil) {
		return "", true
	}
	if len(m.doomed) > 0 && data(access) != "" {
		return "", true
	}
	inTheWay := func(o *Open) bool { return excludes(access, op.Share, o.Access, o.Share) }
	if slices.ContainsFunc(m.Opens, inTheWay) {
		if m.takeLeases("handles", op.Client, op.Key) {
			return "", true
		}
		for _, o := range m.Opens {
			if o.Away && o.Kept != "resilient" && inTheWay(o) {
				m.doom(o)
				wait = true
			}
		}
		return "sharing violation", wait
	}
	if access != "" && m.takeOplocks(what, nil) {
		wait = true
	}
	if data(access) != "" && m.takeLeases(what, op.Client, op.Key) {
		wait = true
	}
	if wait {
		return "", true
	}
	if op.DeleteOnClose {
		m.takeLeases("handles", op.Client, op.Key)
	}
	return m.add(op), false
}

// takeOver is MS-SMB2 3.3.5.9.13.
func (m *Model) takeOver(op *Op) (status string, wait bool) {
	var old []*Open
	for _, o := range m.Opens {
		if op.App != 0 && o.App == op.App && o.Client != op.Client {
			old = append(old, o)
		}
	}
	for _, o := range old {
		if o.Version != 0 && op.Version <= o.Version {
			return "forced closed", false
		}
	}
	for _, o := range old {
		m.doom(o)
	}
	return "", len(old) > 0
}

// add enters an open that nothing is against, and says what it got.
func (m *Model) add(op *Op) string {
	o := &Open{Op: *op, sequence: map[int]int{}}
	m.Opens = append(m.Opens, o)
	if op.Key != 0 {
		i := slices.IndexFunc(m.Leases, func(l *Lease) bool { return l.Client == op.Client && l.Key == op.Key })
		if i < 0 {
			i = len(m.Leases)
			m.Leases = append(m.Leases, &Lease{Client: op.Client, Key: op.Key})
		}
		o.Lease = m.Leases[i]
		m.grantLease(o)
	} else {
		m.grantOplock(o)
	}
	if op.Handle == "persistent" || m.cachesHandles(o) && (op.Handle != "durable" || op.wantsHandles()) {
		o.Kept = op.Handle
	}
	return "ok " + m.got(o)
}

// wantsHandles says that the open itself asks to cache handles: its lease may do so
// for others, which does not make it durable (MS-SMB2 3.3.5.9.6).
func (op *Op) wantsHandles() bool { return op.Oplock == "B" || contains(op.Want, "H") }

func (m *Model) cachesHandles(o *Open) bool {
	return o.State == "B" || o.Lease != nil && contains(o.Lease.State, "H")
}

// got is what an open has, as its client is told.
func (m *Model) got(o *Open) string {
	s := Letters(o.State)
	if o.Lease != nil {
		s = Letters(o.Lease.State)
		if o.Lease.Breaking {
			s += " breaking"
		}
	}
	if o.Kept != "" {
		s += " " + o.Kept
	}
	return s
}

// remove is MS-FSA 2.1.5.5.
func (m *Model) remove(o *Open) {
	m.Opens = slices.DeleteFunc(m.Opens, func(other *Open) bool { return other == o })
	doomed := slices.Contains(m.doomed, o)
	m.doomed = slices.DeleteFunc(m.doomed, func(other *Open) bool { return other == o })
	m.dropLocks(o)
	if o.Breaking || doomed {
		m.ended = true
	}
	if l := o.Lease; l != nil && len(m.opensOf(l)) == 0 {
		m.Leases = slices.DeleteFunc(m.Leases, func(other *Lease) bool { return other == l })
		m.ended = m.ended || l.Breaking
	}
	if o.DeleteOnClose {
		m.Going = true
		m.takeLeases("handles", o.Client, o.Key)
	}
	if m.Going && len(m.Opens) == 0 {
		m.say("deleted")
		m.Going, m.ended = false, true
	}
}

// disconnect is MS-SMB2 3.3.7.1: the client's requests are gone, and its opens too
// or parked.
func (m *Model) disconnect(client int) {
	m.waiting = slices.DeleteFunc(m.waiting, func(op *Op) bool { return op.Client == client })
	for _, o := range m.Opens {
		if o.Client != client || o.Away || slices.Contains(m.doomed, o) {
			continue
		}
		held := o.State == "B" && !o.Breaking
		if o.Lease != nil {
			held = contains(o.Lease.State, "H") && !o.Lease.Breaking
		}
		switch {
		case o.Kept == "persistent", o.Kept == "resilient", o.Kept != "" && held:
			o.Away = true
			m.ended = true
			m.drop(o)
		default:
			m.doom(o)
		}
	}
}

// reconnect is MS-SMB2 3.3.5.9.7 and 3.3.5.9.12.
func (m *Model) reconnect(o *Open, op *Op) string {
	second := o.Handle == "durable2" && o.Kept != "resilient" || o.Kept == "persistent"
	switch {
	case !o.Away, slices.Contains(m.doomed, o),
		op.Wrong == "guid" && second,
		(op.Wrong == "client" || op.Wrong == "lease") && o.Lease != nil,
		strings.HasPrefix(o.Kept, "durable") && !m.cachesHandles(o):
		return "not found"
	case op.Wrong == "link" && o.Lease != nil && !o.DeleteOnClose:
		return "wrong"
	case op.Wrong == "owner":
		return "not the owner"
	}
	c, name := &o.Cache, o.name()
	alone := true // nobody else of the client can have been told of a break
	if o.Lease != nil {
		c, name = &o.Lease.Cache, o.Lease.name()
		alone = !m.there(o.Lease)
	}
	o.Away, o.Client = false, op.Client // who may be another client where there is no lease
	if c.unsent || c.Breaking && alone {
		c.unsent = false
		m.say("break %s %s>%s!", name, Letters(c.State), Letters(c.Told))
	}
	return "ok " + m.got(o)
}
