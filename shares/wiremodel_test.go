package shares

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"lunless/shares/fs"
	"lunless/shares/state"
	"lunless/shares/state/statetest"
	"lunless/smbstore/smb2"
)

// onWire are those of the model's lines that clients can see.
func onWire(op *statetest.Op, lines []string) (out []string) {
	for _, l := range lines {
		f := strings.Fields(l)
		switch {
		case f[0] == "end", f[0] == "deleted", strings.HasSuffix(l, ": waits"), strings.HasSuffix(l, ": queued"):
			continue
		case strings.HasSuffix(l, ": dropped") && op.Kind == "disconnect":
			continue // whose connection has gone
		case f[0] == "break" && strings.HasPrefix(f[1], "open"):
			l = f[0] + " " + f[1] + " >" + strings.TrimSuffix(f[2][strings.Index(f[2], ">")+1:], "!")
		case op.Kind == "ack" && op.Key == 0 && op.To != "" && (strings.HasSuffix(l, "ack: wrong") || strings.HasSuffix(l, "ack: not breaking")):
			l = f[0] + " ack: wrong or not breaking"
		case f[1] == "reconnect:":
			for _, kept := range []string{" durable", " durable2", " persistent"} {
				l = strings.TrimSuffix(l, kept)
			}
		}
		out = append(out, strings.Replace(l, "lock: granted", "lock: ok", 1))
	}
	sort.Strings(out)
	return out
}

// settled waits until the server has as many opens and leases as the model.
func (d *wireDriver) settled(m *statetest.Model) error { return d.settledWithin(m, 5*time.Second) }

func (d *wireDriver) settledWithin(m *statetest.Model, limit time.Duration) error {
	var opens, leases int
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); sleepBriefly() {
		opens, leases = 0, 0
		err := d.srv.store.Walk(context.Background(), func(_ fs.FileID, r state.Record) bool {
			opens, leases = opens+len(r.Opens), leases+len(r.Leases)
			return true
		})
		if err != nil || opens == len(m.Opens) && leases == len(m.Leases) {
			return err
		}
	}
	return fmt.Errorf("%d opens and %d leases, want %d and %d", opens, leases, len(m.Opens), len(m.Leases))
}

// compareOnWire does random operations to a server and the model until they differ.
func compareOnWire(t *testing.T, steps int, seed uint64) (done int, err error) {
	srv := startServer(t, caShare(t))
	rnd := rand.New(rand.NewPCG(seed, 11))
	d := &wireDriver{t: t, srv: srv}
	for i := 1; i < len(d.clients); i++ {
		d.connect(i)
	}
	weights := statetest.Weights()
	for _, k := range []string{"timeout", "expire", "rename", "resilient"} {
		delete(weights, k)
	}
	for n := 0; done < steps; n++ {
		d.name = fmt.Sprintf("file%d", n)
		d.ids, d.opens, d.waiting = map[int]smb2.FileID{}, map[int]statetest.Op{}, map[uint64]*statetest.Op{}
		g := statetest.Generator{Rand: rnd, Weights: weights, One: true}
		var model statetest.Model
		var history []string
		do := func(op statetest.Op) error {
			history = append(history, op.String())
			want := onWire(&op, model.Step(op))
			have := d.step(op, want)
			err := d.settled(&model)
			if slices.Equal(want, have) && err == nil {
				return nil
			}
			return fmt.Errorf("after\n%s\nthe model says\n\t%s\nand the wire\n\t%s\n%w", strings.Join(history[max(0, len(history)-25):], "\n"),
				strings.Join(want, "\n\t"), strings.Join(have, "\n\t"), errors.Join(err, errDiffers))
		}
		for range 150 {
			op := g.Next(&model)
			switch {
			case op.Wrong == "owner": // there is one user
				op.Wrong = ""
			case op.Kind == "size" && model.Locked(), // which would be another rule's (MS-FSA 2.1.5.15.3)
				op.App != 0 && model.Going: // whose name is refused before its instances are looked at
				continue
			}
			if err := do(op); err != nil {
				return done, err
			}
			done++
		}
		if err := d.clear(&model); err != nil {
			return done, err
		}
	}
	return done, nil
}

var errDiffers = errors.New("the server and the model differ")

// clear ends what is open, so that the next file begins with nothing.
func (d *wireDriver) clear(m *statetest.Model) error {
	for i := 1; i < len(d.clients); i++ {
		d.disconnect(i)
	}
	var err error
	for range 20 { // a session may be gone and its opens not parked yet
		for _, o := range d.srv.table.list(func(*open) bool { return true }) {
			o.unparkAndClose(context.Background(), d.srv.Server, errForced)
		}
		if err = d.settledWithin(&statetest.Model{}, 500*time.Millisecond); err == nil {
			return nil
		}
	}
	return err
}

// TestModel compares STEPS random operations over the wire with the model of
// sharing; SEED repeats a run (MS-SMB2 3.3.5.9, 3.3.5.14, 3.3.5.22, 3.3.4.6,
// 3.3.4.7, 3.3.7.1).
func TestModel(t *testing.T) {
	steps, seed := int(number(t, "STEPS", 800)), number(t, "SEED", uint64(time.Now().UnixNano()))
	if name := os.Getenv("SABOTAGE"); name != "" {
		fault.Store(&name)
		defer fault.Store(nil)
	}
	done, err := compareOnWire(t, steps, seed)
	failed := 0
	if err != nil {
		failed = 1
		t.Errorf("seed %d: %v", seed, err)
	}
	if testing.Verbose() {
		fmt.Printf("seed %d\n%d passed, %d failed\n", seed, done, failed)
	}
}

// A break that is not sent turns the run red.
func TestModelNotices(t *testing.T) {
	name := "break-not-sent"
	fault.Store(&name)
	defer fault.Store(nil)
	if _, err := compareOnWire(t, 500, 7); !errors.Is(err, errDiffers) {
		t.Errorf("nothing was noticed: %v", err)
	}
}
