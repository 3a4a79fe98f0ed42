package statetest

import (
	"math/rand/v2"
	"strings"
)

// Generator makes random operations that clients could do to a model's file.
type Generator struct {
	Rand *rand.Rand
	// Kinds are left out where they are zero: what a driver cannot do.
	Weights map[string]int
	// One says that no operation is made while another one waits, but those that end waits.
	One bool

	last int // ID
}

// Weights of all kinds.
func Weights() map[string]int {
	return map[string]int{
		"open": 30, "close": 14, "read": 4, "write": 8, "size": 3, "lock": 10, "unlock": 6, "delete": 3, "rename": 3,
		"resilient": 1, "ack": 16, "timeout": 1, "disconnect": 2, "reconnect": 10, "expire": 1,
	}
}

const (
	clients     = 3
	mostOpens   = 8
	mostWaiting = 4
	span        = 12 // bytes that locks are about
)

func pick[T any](g *Generator, from []T) T { return from[g.Rand.IntN(len(from))] }

func (g *Generator) odds(n int) bool { return g.Rand.IntN(n) == 0 }

// Next is the next operation.
func (g *Generator) Next(m *Model) Op {
	total := 0
	kinds := []string{"open", "close", "read", "write", "size", "lock", "unlock", "delete", "rename", "resilient", "ack", "timeout", "disconnect", "reconnect", "expire"}
	for _, k := range kinds {
		total += g.Weights[k]
	}
	for range 1000 {
		n := g.Rand.IntN(total)
		for _, k := range kinds {
			if n -= g.Weights[k]; n >= 0 {
				continue
			}
			if op, ok := g.make(k, m); ok {
				op.Kind = k
				return op
			}
			break
		}
	}
	return Op{Kind: "disconnect", Client: 1 + g.Rand.IntN(clients)} // nothing else is possible
}

func (g *Generator) make(kind string, m *Model) (Op, bool) {
	waiting := len(m.waiting) + len(m.queue)
	switch kind {
	case "ack", "timeout":
		return g.answer(kind, m)
	case "expire":
		return Op{}, !g.One || waiting == 0
	case "disconnect":
		return Op{Client: 1 + g.Rand.IntN(clients)}, !g.One || waiting == 0
	}
	if waiting >= mostWaiting || g.One && len(m.waiting) > 0 {
		return Op{}, false
	}
	if kind == "open" {
		return g.open(m)
	}
	var of []*Open
	for _, o := range m.Opens {
		if o.Away == (kind == "reconnect") && !m.Waits(o.ID) {
			of = append(of, o)
		}
	}
	if len(of) == 0 {
		return Op{}, false
	}
	o := pick(g, of)
	op := Op{ID: o.ID, Client: o.Client}
	switch kind {
	case "reconnect":
		if g.odds(4) {
			op.Wrong = pick(g, []string{"owner", "guid", "client", "lease", "link"})
			if op.Wrong == "client" {
				op.Client = op.Client%clients + 1
			}
		}
	case "read", "write", "lock", "unlock":
		op.Offset = g.Rand.IntN(span)
		op.Length = 1 + g.Rand.IntN(span-op.Offset)
		op.Exclusive, op.Wait = g.odds(2), g.odds(3)
		if g.odds(2) {
			op.Sequence, op.Number = 1+g.Rand.IntN(2), g.Rand.IntN(2)
		}
		if kind == "unlock" && len(o.locks) > 0 && !g.odds(4) {
			l := pick(g, o.locks)
			op.Offset, op.Length = l.offset, l.length
		}
	case "delete":
		op.Pending = !g.odds(3)
	}
	return op, may(kind, o)
}

// may says whether the open has the rights that the operation needs.
func may(kind string, o *Open) bool {
	switch kind {
	case "write", "size":
		return strings.Contains(o.Access, "W")
	case "read":
		return strings.Contains(o.Access, "R")
	case "lock", "unlock":
		return strings.ContainsAny(o.Access, "RW")
	case "delete", "rename":
		return strings.Contains(o.Access, "D")
	}
	return true
}

func (g *Generator) open(m *Model) (Op, bool) {
	if len(m.Opens) >= mostOpens {
		return Op{}, false
	}
	g.last++
	op := Op{
		ID: g.last, Client: 1 + g.Rand.IntN(clients),
		Access: pick(g, []string{"R", "RW", "RW", "RW", "W", "RWD", "RWD", "RD", "D", "", "C"}),
		Share:  pick(g, []string{"RWD", "RWD", "RWD", "RWD", "RW", "R", "RD", ""}),
	}
	op.Overwrite = g.odds(8)
	op.DeleteOnClose = strings.Contains(op.Access, "D") && g.odds(6)
	switch g.Rand.IntN(5) {
	case 0, 1, 2:
		op.Key, op.Want = 1+g.Rand.IntN(2), pick(g, []string{"RWH", "RWH", "RWH", "RH", "RH", "RW", "R", ""})
	case 3:
		op.Oplock = pick(g, []string{"2", "X", "B", "B"})
	}
	if g.odds(2) {
		op.Handle = pick(g, []string{"durable", "durable2", "durable2", "persistent"})
	}
	if g.odds(6) {
		op.App, op.Version = 1, g.Rand.IntN(4)
	}
	return op, true
}

// answer makes an acknowledgment or its lack, mostly of a break that is there.
func (g *Generator) answer(kind string, m *Model) (Op, bool) {
	var of []Op
	for _, l := range m.Leases {
		if (l.Breaking && !l.unsent || kind == "ack" && g.odds(10)) && m.there(l) {
			op := Op{Client: l.Client, Key: l.Key, To: l.Told}
			if g.odds(4) {
				op.To = pick(g, []string{"", "R", "RH", "RW", "RWH"})
			}
			of = append(of, op)
		}
	}
	for _, o := range m.Opens {
		if (o.Breaking && !o.unsent || kind == "ack" && g.odds(20)) && !o.Away {
			op := Op{ID: o.ID, Client: o.Client, To: o.Told}
			if g.odds(4) {
				op.To = pick(g, []string{"", "2", "X", "B"})
			}
			of = append(of, op)
		}
	}
	if len(of) == 0 {
		return Op{}, false
	}
	return pick(g, of), true
}

// Connected is how many opens a client has that it would lose with its connection.
func (m *Model) Connected(client int) (n int) {
	for _, o := range m.Opens {
		if o.Client == client && !o.Away {
			n++
		}
	}
	return n
}

// there says whether a client has an open of its lease.
func (m *Model) there(l *Lease) bool {
	for _, o := range m.opensOf(l) {
		if !o.Away {
			return true
		}
	}
	return false
}
