package host

import (
	"fmt"
	"math/rand/v2"
)

// killCase is something that a VM's host is asked to do, and who is killed when it has
// come to a point of it.
type killCase struct {
	n      int
	op     string // rest, start, migrate, checkpoint, remove, save, resume, restore or stop
	victim string // agent, source, destination, qemu, cli or host (agent and QEMU)
	point  string // failpoint; "" for a random moment
	hits   int    // how often it is come to before
	delay  int    // ms, of a random moment
	down   int    // ms, of a server that is killed
	byHand bool   // a migration is resumed or cancelled by hand, while no agent runs
	toCA   bool   // a migration goes to a continuously available share
	resume bool   // what can be undone by hand is finished
}

func (c killCase) String() string {
	at := c.point
	if at == "" {
		at = fmt.Sprintf("%d ms", c.delay)
	} else if c.hits > 1 {
		at = fmt.Sprintf("%s %d", at, c.hits)
	}
	s := fmt.Sprintf("%d: %s killed, %s at %s", c.n, c.victim, c.op, at)
	if c.toCA {
		s += ", to a continuously available share"
	}
	if c.byHand {
		s += ", settled by hand"
		if c.resume {
			s += ": finished"
		}
	}
	return s
}

var killPoints = map[string][]string{
	"rest":       {""},
	"start":      {"record-locked", "start-owned", "start-noted", "start-spawned", "start-ready", ""},
	"resume":     {"state-restored", "state-dropped", "start-spawned", "start-ready"},
	"checkpoint": {"", "checkpoint-state", "checkpoint-closed", "grown-one", "checkpoint-grown", "checkpoint-committed"},
	"remove":     {"", "checkpoint-forgotten", "merge-begun", "merge-brought", "merge-committed", "merge-removed"},
	"save":       {"", "save-written", "save-committed", "over-closing", "over-closed"},
	"restore":    {"restore-ended", "record-locked", "grown-one", "restore-grown", "restore-committed", "state-restored", "start-ready"},
	"stop":       {"over-closing", "over-closed", ""},
	"migrate": {"moved", "offered-at-destination", "taken", "entered-copying", "copied-window", "mirrored", "live-copied", "entered-verifying", "before-switch",
		"before-flush", "held", "entered-cleaning", "before-clean", "removed-entry", "removed-record", "source-removed", ""},
}

var killVictims = map[string][]string{
	"rest":       {"agent", "source", "qemu", "host"},
	"start":      {"agent", "source", "cli", "host"},
	"resume":     {"agent", "qemu", "source"},
	"checkpoint": {"agent", "source", "cli", "qemu", "host"},
	"remove":     {"agent", "source", "cli", "qemu", "host"},
	"save":       {"agent", "source", "cli", "host"},
	"restore":    {"agent", "source", "cli"},
	"stop":       {"agent", "source", "cli"},
	"migrate":    {"agent", "source", "destination", "qemu", "cli", "host"},
}

var killPhases = []string{"migrate", "rest", "migrate", "checkpoint", "migrate", "save", "migrate", "start", "restore", "remove", "migrate", "resume", "stop"}

// killCases are the cases of a run: the ones that every run has, and random ones of
// every phase in turn.
func killCases(n int, r *rand.Rand) []killCase {
	all := []killCase{
		{op: "migrate", victim: "agent", point: "moved"}, // exactly between the records
		{op: "checkpoint", victim: "agent", point: "checkpoint-grown"},
		{op: "migrate", victim: "agent", point: "live-copied", hits: 2, byHand: true},
		{op: "migrate", victim: "host", point: "moved"},
		{op: "migrate", victim: "agent", point: "taken", byHand: true}, // finished while no agent runs
		{op: "migrate", victim: "host", point: "taken", byHand: true},
		{op: "save", victim: "agent", point: "save-written"},
		{op: "resume", victim: "agent", point: "start-ready"}, // it has its state, and does not run yet
		{op: "rest", victim: "source", down: 300},
		{op: "migrate", victim: "agent", point: "copied-window", byHand: true, toCA: true},            // it has a copy open
		{op: "migrate", victim: "host", point: "live-copied", byHand: true, toCA: true, resume: true}, // and a disk
	}
	turn := map[string]int{}
	for i := 0; len(all) < n; i++ {
		op := killPhases[i%len(killPhases)]
		victims, points := killVictims[op], killPoints[op]
		k := turn[op]
		turn[op]++
		c := killCase{op: op, victim: victims[k%len(victims)], point: points[r.IntN(len(points))], hits: 1, delay: r.IntN(600), down: r.IntN(1500),
			byHand: op == "migrate" && r.IntN(3) == 0}
		switch c.point {
		case "live-copied", "copied-window":
			c.hits = 1 + r.IntN(8)
		case "removed-entry":
			c.hits = 1 + r.IntN(2)
		}
		if r.IntN(6) == 0 {
			c.down += 6000 // longer than a home's record is waited for
		}
		all = append(all, c)
	}
	for i := range all {
		all[i].n = i + 1
		all[i].byHand = all[i].byHand && (all[i].victim == "agent" || all[i].victim == "host")
	}
	return all[:n]
}
