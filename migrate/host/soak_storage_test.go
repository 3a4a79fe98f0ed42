package host

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"
	"text/tabwriter"
	"time"
)

// TestSoakStorage moves the storage of guests that run, with two disks each and a
// chain of checkpoints, between local folders and servers. RUNS sets how many moves
// (default 3), SEED the run of random numbers, SOAK_ONLY what becomes of each (moved,
// killed or taken), SOAK_ENDS=local has it move between local folders alone, SABOTAGE
// names a fault that must turn it red.
func TestSoakStorage(t *testing.T) {
	n, seed := 3, uint64(time.Now().UnixNano())
	if v, err := strconv.Atoi(os.Getenv("RUNS")); err == nil && v > 0 {
		n = v
	}
	if v, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		seed = v
	}
	t.Logf("SEED=%d", seed)
	machines := []string{"local"}
	if os.Getenv("SOAK_ENDS") != "local" {
		machines = append(machines, "one", "two")
		if n > 3 {
			machines = append(machines, "samba")
		}
	}
	sites := makeSites(t, machines...)
	var table soakTable
	for _, group := range plannedRuns(n, rand.New(rand.NewPCG(seed, 0)), sites, os.Getenv("SOAK_ONLY")) {
		for len(group) > 0 {
			before := len(table)
			t.Run(fmt.Sprintf("guest from run %d", group[0].n), func(t *testing.T) { soakOne(t, group, &table) })
			group = group[len(table)-before:] // what a failure left gets a new guest
		}
	}
	table.print()
}

// soakOne has one guest go through runs, until one fails.
func soakOne(t *testing.T, runs []soakRun, table *soakTable) {
	defer func() {
		if t.Failed() {
			(*table)[len(*table)-1].passed = false
		}
	}()
	var g *soakGuest
	for _, r := range runs {
		o := &soakOutcome{run: r}
		*table = append(*table, o)
		if g == nil {
			g = newSoakGuest(t, r)
		}
		start := time.Now()
		if o.seen = g.do(r); t.Failed() {
			return
		}
		o.passed = true
		t.Logf("%v, in %v: %v", r, time.Since(start).Round(time.Millisecond), o.seen)
	}
	g.end()
}

// seen is what a guest saw of a move.
type seen struct {
	stall  time.Duration // its longest request around the switch
	op     string        // what that was
	gap    time.Duration // between heartbeats there, as the host saw them
	usual  time.Duration // its longest request before the move: what else the machine is busy with
	before time.Duration // its longest request of the move up to the switch
	held   time.Duration // how long the agent held its requests back
}

func (s *seen) String() string {
	if s == nil {
		return "not measured"
	}
	round := func(d time.Duration) time.Duration { return d.Round(time.Millisecond / 10) }
	return fmt.Sprintf("longest request of the guest around the switch %v (%s), heartbeats %v apart, requests held back for %v; before the switch %v, before the move %v",
		round(s.stall), s.op, round(s.gap), round(s.held), round(s.before), round(s.usual))
}

// soakTable is what became of the runs.
type soakTable []*soakOutcome

type soakOutcome struct {
	run    soakRun
	passed bool
	seen   *seen // nil where the guest was not measured
}

func (s soakTable) print() {
	groups := map[string]soakTable{}
	for _, o := range s {
		groups[o.run.group()] = append(groups[o.run.group()], o)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "runs\tpassed\tfailed\tlongest request of the guest at the switch")
	stall := func(s *seen) time.Duration { return s.stall }
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		rows := groups[name]
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\n", name, rows.passed(), len(rows)-rows.passed(), rows.spread(stall))
	}
	for _, figure := range []struct {
		name string
		of   func(*seen) time.Duration
	}{
		{"all: longest request at the switch", stall},
		{"all: between heartbeats there", func(s *seen) time.Duration { return s.gap }},
		{"all: requests held back by the agent", func(s *seen) time.Duration { return s.held }},
		{"all: longest request before the switch", func(s *seen) time.Duration { return s.before }},
		{"all: longest request before the move", func(s *seen) time.Duration { return s.usual }},
	} {
		fmt.Fprintf(w, "%s\t\t\t%s\n", figure.name, s.spread(figure.of))
	}
	w.Flush()
	fmt.Printf("%d passed, %d failed\n", s.passed(), len(s)-s.passed())
}

func (s soakTable) passed() (n int) {
	for _, o := range s {
		if o.passed {
			n++
		}
	}
	return n
}

// spread is the median and the longest of a figure.
func (s soakTable) spread(of func(*seen) time.Duration) string {
	var list []time.Duration
	for _, o := range s {
		if o.seen != nil {
			list = append(list, of(o.seen).Round(time.Millisecond/10))
		}
	}
	if len(list) == 0 {
		return ""
	}
	slices.Sort(list)
	return fmt.Sprintf("median %v, longest %v (of %d)", list[len(list)/2], list[len(list)-1], len(list))
}

// Each named fault turns the soak red.
func TestSoakSeesSabotage(t *testing.T) {
	for name, only := range map[string]string{
		"mirror-write-dropped": "moved", "switch-before-flush": "killed", "epoch-check-skipped": "taken",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestSoakStorage$", "-test.v")
			cmd.Env = append(os.Environ(), "SABOTAGE="+name, "SOAK_ONLY="+only, "SOAK_ENDS=local", "RUNS=1", "SEED=7")
			out, err := cmd.CombinedOutput()
			if err == nil || !bytes.Contains(out, []byte("\n0 passed, 1 failed\n")) || !bytes.Contains(out, []byte(sabotageShows[name])) {
				t.Errorf("the soak stayed green, or failed of something else: %v\n%s", err, out)
			}
		})
	}
}

// sabotageShows is what the soak says of a fault.
var sabotageShows = map[string]string{
	"mirror-write-dropped": "is not what the destination was at the switch",
	"switch-before-flush":  "is not what the destination was at the switch",
	"epoch-check-skipped":  "another host had taken",
}
