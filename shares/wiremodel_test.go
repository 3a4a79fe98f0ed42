package shares

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lunless/shares/fs"
	"lunless/shares/state/statetest"
)

// onWire are those of the model's lines that clients can see.
func (d *wireDriver) onWire(op *statetest.Op, lines []string) (out []string) {
	for _, l := range lines {
		f := strings.Fields(l)
		switch {
		case f[0] == "end", f[0] == "deleted", strings.HasSuffix(l, ": waits"), strings.HasSuffix(l, ": queued"):
			continue
		case strings.HasSuffix(l, ": dropped") && op.Kind == "disconnect":
			continue // whose connection has gone
		case f[0] == "break" && op.Kind == "disconnect" && d.holder(f[1]) == op.Client:
			continue
		case f[0] == "break" && strings.HasPrefix(f[1], "open"):
			l = f[0] + " " + f[1] + " >" + strings.TrimSuffix(f[2][strings.Index(f[2], ">")+1:], "!")
		case op.Kind == "ack" && op.Key == 0 && op.To != "" && (strings.HasSuffix(l, "ack: wrong") || strings.HasSuffix(l, "ack: not breaking")):
			l = f[0] + " ack: wrong or not breaking"
		case f[1] == "reconnect:":
			for _, kept := range []string{" durable", " durable2", " persistent", " resilient"} {
				l = strings.TrimSuffix(l, kept)
			}
		}
		out = append(out, strings.Replace(l, "lock: granted", "lock: ok", 1))
	}
	sort.Strings(out)
	return out
}

// late says that a line is of a break whose holder has just gone: it was on its way
// to any connection of the client (MS-SMB2 3.3.4.7), and may have found the next.
func (d *wireDriver) late(op *statetest.Op, m *statetest.Model, line string) bool {
	f := strings.Fields(line)
	if f[0] != "break" || !strings.HasPrefix(f[1], "client") {
		return false
	}
	client := d.holder(f[1])
	return op.Kind == "disconnect" && client == op.Client || m.Connected(client) == 0
}

// holder is the client that a line of a break is about.
func (d *wireDriver) holder(name string) (client int) {
	var id int
	if n, _ := fmt.Sscanf(name, "open%d", &id); n == 1 {
		return d.opens[id].Client
	}
	fmt.Sscanf(name, "client%d.", &client)
	return client
}

var errDiffers = errors.New("the server and the model differ")

// compareOnWire does random operations to servers and models, several at a time,
// until one differs from its model or there have been enough of all. It says how
// many were sent, and what has been seen how often.
func compareOnWire(t *testing.T, worlds, steps int, seed uint64, patience time.Duration) (done int, seen map[string]int, err error) {
	drivers := make([]*wireDriver, worlds)
	for i := range drivers {
		srv := startServer(t, modelShare(t))
		drivers[i] = newWireDriver(wireTB{t}, srv)
		drivers[i].patience = patience
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	errs := make([]error, worlds)
	for i, d := range drivers {
		wg.Go(func() {
			errs[i] = d.compare(steps/worlds, seed+uint64(i), &stop)
			if errs[i] != nil {
				stop.Store(true)
			}
		})
	}
	wg.Wait()
	seen = map[string]int{}
	for _, d := range drivers {
		done += d.done
		for line, n := range d.seen {
			seen[line] += n
		}
	}
	return done, seen, errors.Join(errs...)
}

const otherUser = "eve"

// modelShare is a continuously available share: there are all kinds of handles, and
// what is to outlive the server is committed. Both are in memory if they can be,
// where fsync costs nothing: what it is good for is not looked at here.
func modelShare(t testing.TB) func(*Config) {
	dir, err := os.MkdirTemp("/dev/shm", "lunless-model-")
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	f, err := fs.NewPOSIX(dir, fs.Options{})
	if err != nil { // of a kernel that has no extended attributes there
		dir = t.TempDir()
	} else {
		f.Close()
	}
	root, data := filepath.Join(dir, "share"), filepath.Join(dir, "state")
	for _, sub := range []string{root, data} {
		if err := os.Mkdir(sub, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return func(c *Config) {
		if err := c.Accounts.AddUser(otherUser, testPassword); err != nil {
			t.Fatal(err)
		}
		c.StateDir = data
		c.Shares = append(c.Shares, Share{Name: "ca", Path: root, FS: openFS(t, root), ContinuouslyAvailable: true})
		c.Limits.Break, c.Limits.Durable = 10*time.Minute, 10*time.Minute // which end when the model says so
	}
}

// compare sends steps operations, or more: it ends with the end of a file.
func (d *wireDriver) compare(steps int, seed uint64, stop *atomic.Bool) (err error) {
	var history []statetest.Op
	defer d.end()
	defer func() {
		switch v := recover().(type) {
		case nil:
		case wireFailed:
			err = errors.New(string(v))
		default:
			panic(v)
		}
		if err != nil {
			err = fmt.Errorf("seed %d, step %d: %w", seed, d.done, told(err, history))
		}
	}()
	for i := 1; i < len(d.clients); i++ {
		d.connect(i)
	}
	weights := statetest.Weights()
	weights["disconnect"] *= 2 // or few opens would be claimed
	g := statetest.Generator{Rand: rand.New(rand.NewPCG(seed, 11)), Weights: weights, One: true}
	for d.done < steps && !stop.Load() {
		d.begin()
		var model statetest.Model
		history = history[:0]
		for range 150 {
			op := g.Next(&model)
			if op.Kind == "size" {
				op.Exclusive = !model.Locked() // else it would be another rule's (MS-FSA 2.1.5.15.3)
			}
			history = append(history, op)
			if err := d.same(op, &model); err != nil {
				return err
			}
		}
		if err := d.clear(); err != nil {
			return err
		}
	}
	return nil
}

// told is err with the last operations.
func told(err error, history []statetest.Op) error {
	var s strings.Builder
	for _, op := range history[max(0, len(history)-40):] {
		fmt.Fprintf(&s, "%v\n", op)
	}
	return fmt.Errorf("after\n%s%w", s.String(), err)
}

// same does an operation to the model and the server.
func (d *wireDriver) same(op statetest.Op, m *statetest.Model) error {
	var want []string
	if op.Kind == "rename" && m.Going { // MS-FSA 2.1.5.15.12
		want = []string{fmt.Sprintf("%d rename: access denied", op.ID)}
	} else {
		want = d.onWire(&op, m.Step(op))
	}
	have := slices.DeleteFunc(d.step(op, want), func(line string) bool {
		return !slices.Contains(want, line) && d.late(&op, m, line)
	})
	if op.Kind != "timeout" && op.Kind != "expire" { // which nobody sends
		d.done++
	}
	for _, line := range want {
		d.seen[wireSummary(line)]++
	}
	if slices.Equal(want, have) {
		if err := d.settled(m); err == nil {
			return nil
		}
	}
	err := d.differs(m)
	return fmt.Errorf("the model says\n\t%s\nand the wire\n\t%s\n%w",
		strings.Join(want, "\n\t"), strings.Join(have, "\n\t"), errors.Join(err, errDiffers))
}

// clear ends what is open, so that the next file begins with nothing.
func (d *wireDriver) clear() error {
	for i := 1; i < len(d.clients); i++ {
		d.disconnect(i)
	}
	d.until("all opens have been closed", func() bool {
		d.expire()
		opens, leases := d.held()
		return opens+leases == 0
	})
	return d.settled(new(statetest.Model))
}

// wireSummary is a line of what was seen without its numbers.
func wireSummary(line string) string {
	f := strings.Fields(line)
	if f[0] == "break" {
		return "break " + f[2]
	}
	return strings.Join(f[1:], " ")
}

// TestModel compares STEPS random operations over the wire with the model of
// sharing, WORLDS servers at a time; SEED repeats a run, and one of its servers'
// with WORLDS=1 (MS-SMB2 3.3.5.9, 3.3.5.14, 3.3.5.22, 3.3.4.6, 3.3.4.7, 3.3.7.1).
func TestModel(t *testing.T) {
	def := uint64(16000)
	if raceEnabled {
		def = 5000
	}
	steps, worlds, seed := int(number(t, "STEPS", def)), int(number(t, "WORLDS", 4)), number(t, "SEED", uint64(time.Now().UnixNano()))
	if name := os.Getenv("SABOTAGE"); name != "" {
		fault.Store(&name)
		defer fault.Store(nil)
	}
	done, seen, err := compareOnWire(t, max(worlds, 1), steps, seed, time.Minute)
	failed := 0
	if err != nil {
		failed = 1
		t.Error(err)
	}
	saw := func(prefix string) bool {
		return slices.ContainsFunc(slices.Collect(maps.Keys(seen)), func(k string) bool { return strings.HasPrefix(k, prefix) })
	}
	demand := []string{ // else the operations are not such as to show anything
		"break RWH>RH!", "break RH>R!", "break RH>0!", "break R>0", "break >R", "break >0", "lock: ok", "open: forced closed", "open: not available",
		"open: sharing violation", "open: delete pending", "read: locked", "reconnect: ok", "rename: ok", "ack: too much",
	}
	if steps >= 100_000 { // these come a few hundred times in a million
		demand = append(demand, "reconnect: ok RH", "reconnect: ok RWH", "reconnect: not found", "reconnect: wrong")
	}
	for _, k := range demand {
		if !saw(k) && err == nil && steps >= 3000 {
			t.Errorf("seed %d: nothing like %q has been seen", seed, k)
		}
	}
	if testing.Verbose() {
		for _, k := range slices.Sorted(maps.Keys(seen)) {
			fmt.Printf("%9d  %s\n", seen[k], k)
		}
		fmt.Printf("seed %d\n%d passed, %d failed\n", seed, done, failed)
	}
}

// Faults turn the run red.
func TestModelNotices(t *testing.T) {
	for _, name := range []string{"break-not-sent", "ack-early", "lock-forgotten-on-reclaim"} {
		fault.Store(&name)
		_, _, err := compareOnWire(t, 2, 20_000, 7, 2*time.Second)
		fault.Store(nil)
		if !errors.Is(err, errDiffers) {
			t.Errorf("%s: nothing was noticed: %v", name, err)
		}
	}
}

// What random operations have found once.
func TestModelCases(t *testing.T) {
	d := newWireDriver(t, startServer(t, modelShare(t)))
	defer d.end()
	for i := 1; i < len(d.clients); i++ {
		d.connect(i)
	}
	for _, tt := range statetest.Cases {
		t.Run(tt.Name, func(t *testing.T) {
			d.begin()
			var m statetest.Model
			for _, op := range tt.Ops {
				if err := d.same(op, &m); err != nil {
					t.Errorf("%v: %v", op, err)
				}
			}
			if err := d.clear(); err != nil {
				t.Error(err)
			}
		})
	}
}
