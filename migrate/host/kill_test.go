package host

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"text/tabwriter"
	"time"
)

// TestSoakKills kills a host's agent, its VM's QEMU, the servers and the program that
// asks, at points of all that is done with a VM. After each the VM runs, or can be
// started, from one place, with all it flushed; nothing is left that is not named, nor
// stays. KILLS sets how many (default 11), SEED the run of random numbers.
func TestSoakKills(t *testing.T) {
	t.Parallel()
	n, seed := 11, uint64(time.Now().UnixNano())
	if v, err := strconv.Atoi(os.Getenv("KILLS")); err == nil && v > 0 {
		n = v
	}
	if v, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		seed = v
	}
	t.Logf("SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	type cell struct{ passed, failed int }
	table := map[[2]string]*cell{}
	passed, failed := 0, 0
	var g *killGuest
	for _, c := range killCases(n, r) {
		start := time.Now()
		ok := t.Run(fmt.Sprintf("%d %s", c.n, c.op), func(sub *testing.T) {
			if g == nil {
				g = newKillGuest(t, r)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
			defer cancel()
			g.t, g.ctx = sub, ctx
			g.do(c)
		})
		t.Logf("%v: %v, in %v", c, ok, time.Since(start).Round(time.Millisecond))
		key := [2]string{c.victim, c.op}
		if table[key] == nil {
			table[key] = &cell{}
		}
		if ok {
			table[key].passed++
			passed++
		} else {
			table[key].failed++
			failed++
			g = nil // what a failure left gets a new guest
		}
	}
	if g != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
		defer cancel()
		g.t, g.ctx = t, ctx
		g.end()
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	ops := []string{"rest", "start", "migrate", "checkpoint", "remove", "save", "resume", "restore", "stop"}
	fmt.Fprint(w, "killed")
	for _, op := range ops {
		fmt.Fprintf(w, "\t%s", op)
	}
	fmt.Fprintln(w)
	for _, victim := range []string{"agent", "source", "destination", "qemu", "cli", "host"} {
		fmt.Fprint(w, victim)
		for _, op := range ops {
			if c := table[[2]string{victim, op}]; c != nil {
				fmt.Fprintf(w, "\t%d/%d", c.passed, c.passed+c.failed)
			} else {
				fmt.Fprint(w, "\t-")
			}
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	fmt.Printf("%d passed, %d failed\n", passed, failed)
}

// lines reads what a staged agent says.
func lines(out *bufio.Reader) <-chan string {
	said := make(chan string, 16)
	go func() {
		defer close(said)
		for {
			line, err := out.ReadString('\n')
			if err != nil {
				return
			}
			said <- line
		}
	}()
	return said
}
