package migrate

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"lunless/smbstore/storetest"
)

// Points at which a migrating process is killed, with how often each is passed
// at most.
var (
	copyPoints   = []string{"entered-copying", "planned", "copied-window", "copied-file", "copied", "entered-verifying", "verified-file"}
	switchPoints = []string{"entered-switching", "before-switch", "offered", "offered-at-destination", "moved", "taken"}
	cleanPoints  = []string{"entered-cleaning", "before-clean", "removed-entry", "removed-record", "source-removed"}
	livePoints   = []string{"mirrored", "live-copied", "held"}
	cancelPoints = []string{"cancelling", "taken-back", "cancel-removed-entry"}
)

// soakRun is one run: a migration, what befalls it, and how it must end.
type soakRun struct {
	kind   string // offline, live, power (live, and the destination loses power at the switch) or stolen
	ends   string // "local", or whose servers both ends lie on: samba or lunless; "to " one, from local; or "one", for both on one
	server bool   // one of them is killed and started again
	kill   string // failpoint:hits:µs; "" for none
	cancel bool   // cancelled rather than resumed
	keep   bool   // the source is kept
	seed   uint64
}

func (r soakRun) group() string {
	point, _, _ := strings.Cut(r.kill, ":")
	name := r.kind + " on " + r.ends
	switch {
	case r.kind == "stolen":
		return "taken by another host meanwhile"
	case r.server:
		return name + ": a server killed"
	case r.kill == "":
		return name + ": no kill"
	case r.cancel:
		return name + ": tool killed, then cancelled"
	case slices.Contains(switchPoints, point) || point == "held":
		return name + ": tool killed in the switch"
	}
	return name + ": tool killed"
}

// plannedRuns are n runs that go through all points before repeating one.
func plannedRuns(n int, rnd *rand.Rand, only string) []soakRun {
	offline := slices.Concat(copyPoints, switchPoints, cleanPoints)
	live := slices.Concat(livePoints, switchPoints, cleanPoints)
	live = slices.DeleteFunc(live, func(p string) bool { return p == "offered" }) // a step of its own offline alone
	var runs []soakRun
	for i := 0; len(runs) < n; i++ {
		r := soakRun{kind: "offline", ends: "local", seed: rnd.Uint64()}
		switch i % 12 {
		case 1, 4:
			r.kind = "live"
		case 8:
			r.kind, r.ends = "live", "to lunless"
		case 9:
			r.kind, r.ends = "live", "one lunless"
		case 10:
			r.kind = "power"
		case 11:
			r.kind, r.ends = "live", "samba"
		case 3:
			r.kind = "stolen"
		case 5:
			r.kind, r.ends, r.server = "offline", "samba", rnd.IntN(2) == 0
		case 6:
			r.kind, r.ends, r.server = "offline", "lunless", rnd.IntN(2) == 0
		case 7:
			r.kind, r.ends, r.server = "live", "lunless", rnd.IntN(2) == 0
		}
		if only != "" {
			kind, ends, _ := strings.Cut(only, " ")
			r.kind, r.ends, r.server = kind, cmp.Or(ends, "local"), false
		}
		points := offline
		if r.kind == "live" {
			points = live
		}
		if !r.server && (r.kind == "offline" || r.kind == "live" && rnd.IntN(3) > 0) {
			// Half of the kills come a moment after the point: inside the step.
			r.kill = fmt.Sprintf("%s:%d:%d", points[rnd.IntN(len(points))], 1+rnd.IntN(2), rnd.IntN(2)*rnd.IntN(4000))
			r.cancel = rnd.IntN(4) == 0
		}
		r.keep = r.kind == "live" && rnd.IntN(2) == 0
		runs = append(runs, r)
	}
	return runs
}

// TestSoakStorage kills migrations, and servers under them, and looks whether
// the VM is whole, in one place, and moves on. RUNS sets how many (default 12),
// SEED the run of random numbers, SOAK_ONLY one kind of run ("live", or with its
// ends "live lunless"), SABOTAGE a fault that must turn it red; SOAK_UNTIL=failed ends it then.
func TestSoakStorage(t *testing.T) {
	n, seed := 12, uint64(time.Now().UnixNano())
	if v, err := strconv.Atoi(os.Getenv("RUNS")); err == nil && v > 0 {
		n = v
	}
	if v, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		seed = v
	}
	t.Logf("SEED=%d", seed)
	runs := plannedRuns(n, rand.New(rand.NewPCG(seed, 0)), os.Getenv("SOAK_ONLY"))
	servers := map[string]*serverPair{}
	for _, r := range runs {
		if whose := r.whose(); whose != "" && servers[whose] == nil {
			start := storetest.Servers[whose]
			servers[whose] = &serverPair{start(t), start(t)}
		}
	}
	var stalls, worst []time.Duration
	type tally struct{ passed, failed int }
	table := map[string]*tally{}
	var total tally
	for i, r := range runs {
		g := table[r.group()]
		if g == nil {
			g = &tally{}
			table[r.group()] = g
		}
		status, err := soakOne(t, r, servers[r.whose()])
		if status != nil && status.Guest != nil && !r.keep {
			stalls, worst = append(stalls, status.Guest.AtSwitch), append(worst, status.Guest.Worst)
		}
		if err != nil {
			g.failed++
			total.failed++
			t.Errorf("run %d %+v: %v", i, r, err)
			if os.Getenv("SOAK_UNTIL") == "failed" {
				break
			}
			continue
		}
		g.passed++
		total.passed++
	}
	var names []string
	for name := range table {
		names = append(names, name)
	}
	slices.Sort(names)
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "runs\tpassed\tfailed")
	for _, name := range names {
		fmt.Fprintf(w, "%s\t%d\t%d\n", name, table[name].passed, table[name].failed)
	}
	if len(stalls) > 0 {
		slices.Sort(stalls)
		fmt.Fprintf(w, "guest requests at the switch\tmedian %v\tlongest %v (of %d; in a whole job %v)\n", stalls[len(stalls)/2].Round(time.Millisecond/10),
			stalls[len(stalls)-1].Round(time.Millisecond/10), len(stalls), slices.Max(worst).Round(time.Millisecond/10))
	}
	w.Flush()
	fmt.Printf("%d passed, %d failed\n", total.passed, total.failed)
}

// Each named fault turns the soak red.
func TestSabotageIsSeen(t *testing.T) {
	for name, only := range map[string]string{
		sabotageMirror: "live", sabotageRemoveEarly: "offline", sabotageEpoch: "stolen", sabotageFlush: "power",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(os.Args[0], "-test.run", "^TestSoakStorage$", "-test.v")
			cmd.Env = append(os.Environ(), "SABOTAGE="+name, "SOAK_ONLY="+only, "RUNS=12", "SEED=7", "SOAK_UNTIL=failed")
			out, err := cmd.CombinedOutput()
			if err == nil || !bytes.Contains(out, []byte(" failed\n")) || bytes.Contains(out, []byte(" 0 failed\n")) {
				t.Errorf("the soak stayed green: %v\n%s", err, out)
			}
		})
	}
}
