package state

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"lunless/shares/state/statetest"
)

// number is a number of the environment, or what it is without.
func number(t testing.TB, name string, without uint64) uint64 {
	s := os.Getenv(name)
	if s == "" {
		return without
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// compare does random operations to a Memory and the model until they differ. A
// file is forgotten now and then, so that a difference is found in a short run.
func compare(steps int, seed uint64, sabotage string) (done int, seen map[string]int, err error) {
	rnd := rand.New(rand.NewPCG(seed, 7))
	seen = map[string]int{}
	for done < steps {
		var model statetest.Model
		d := newDriver(sabotage)
		g := statetest.Generator{Rand: rnd, Weights: statetest.Weights()}
		var history []string
		for range 300 {
			op := g.Next(&model)
			history = append(history, op.String())
			want, have := model.Step(op), d.step(op)
			err := d.check(&model)
			if !slices.Equal(want, have) || err != nil {
				last := history[max(0, len(history)-25):]
				return done, seen, fmt.Errorf("after\n%s\nthe model says\n\t%s\nand the record\n\t%s\n%w",
					strings.Join(last, "\n"), strings.Join(want, "\n\t"), strings.Join(have, "\n\t"), err)
			}
			for _, s := range want {
				seen[summary(s)]++
			}
			done++
		}
	}
	return done, seen, nil
}

// summary is a line of what was seen without its numbers.
func summary(s string) string {
	f := strings.Fields(s)
	switch f[0] {
	case "break":
		return "break " + f[2]
	case "end", "deleted":
		return f[0]
	}
	return strings.Join(f[1:], " ")
}

// TestModel compares STEPS random operations with the model; SEED repeats a run.
// SABOTAGE puts in a fault that the run has to notice.
func TestModel(t *testing.T) {
	steps, seed := int(number(t, "STEPS", 50_000)), number(t, "SEED", uint64(time.Now().UnixNano()))
	done, seen, err := compare(steps, seed, os.Getenv("SABOTAGE"))
	kinds := make([]string, 0, len(seen))
	for k := range seen {
		kinds = append(kinds, k)
	}
	sort.Strings(kinds)
	for _, k := range kinds {
		if testing.Verbose() {
			fmt.Printf("%9d  %s\n", seen[k], k)
		}
	}
	failed := 0
	if err != nil {
		failed = 1
		t.Errorf("seed %d: %v", seed, err)
	}
	for _, k := range []string{ // else the operations are not such as to show anything
		"break RWH>RH!", "break RWH>RW!", "break RWH>0!", "break RH>R!", "break RH>0!", "break R>0", "end", "deleted",
		"lock: granted", "open: forced closed", "open: not available", "open: waits", "read: locked", "reconnect: not found",
	} {
		if seen[k] == 0 && err == nil && steps >= 50_000 {
			t.Errorf("seed %d: nothing like %q has been seen", seed, k)
		}
	}
	if testing.Verbose() {
		fmt.Printf("seed %d\n%d passed, %d failed\n", seed, done, failed)
	}
}

// Faults turn the run red.
func TestModelNotices(t *testing.T) {
	for _, name := range []string{"break-not-sent", "lock-forgotten-on-reclaim"} {
		if _, _, err := compare(20_000, 7, name); err == nil {
			t.Errorf("%s: nothing was noticed", name)
		}
	}
}

// What random operations have found once.
func TestModelCases(t *testing.T) {
	for _, tt := range statetest.Cases {
		t.Run(tt.Name, func(t *testing.T) {
			d, m := newDriver(""), new(statetest.Model)
			var last []string
			for _, op := range tt.Ops {
				have := d.step(op)
				if last = m.Step(op); !slices.Equal(have, last) {
					t.Errorf("%v: %q, the model says %q", op, have, last)
				}
			}
			if !slices.Contains(last, tt.Want) {
				t.Errorf("the last comes to %q, want %q", last, tt.Want)
			}
		})
	}
}
