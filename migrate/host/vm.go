package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"lunless/migrate/qemu"
	"lunless/smbstore"
)

// State is what a VM does, as this host knows it.
type State string

// States.
const (
	Stopped  State = "stopped"
	Crashed  State = "stopped (crashed)"
	Lost     State = "stopped (taken over)" // another host took the VM
	SavedOff State = "saved"
	Starting State = "starting"
	Running  State = "running"
	Paused   State = "paused"
	InDoubt  State = "in doubt"
	Stopping State = "stopping"
	Saving   State = "saving"
)

// VM is what the host knows of a VM.
type VM struct {
	Name     string            `json:"name"`
	ID       string            `json:"id"`
	Location smbstore.Location `json:"location"`
	Host     string            `json:"host"`
	State    State             `json:"state"`
	Reason   string            `json:"reason,omitempty"` // of a state that nobody asked for
	Since    time.Time         `json:"since,omitzero"`
	Epoch    uint64            `json:"epoch,omitempty"` // that it runs in
	PID      int               `json:"pid,omitempty"`   // of its QEMU
	Disks    []DiskStatus      `json:"disks,omitempty"`
	Console  string            `json:"consoleLog,omitempty"` // file with all the guest wrote
	// Unfinished says what was cut and is being seen to; Leftovers are files in the home
	// that nothing needs and could not be removed.
	Unfinished []string `json:"unfinished,omitempty"`
	Leftovers  []string `json:"leftovers,omitempty"`
	// Merging says what becomes of images of removed checkpoints; nil if nothing.
	Merging *Merging `json:"merging,omitempty"`
}

// DiskStatus is a disk in use.
type DiskStatus struct {
	Path    string              `json:"path"`
	Format  smbstore.Format     `json:"format"`
	Size    int64               `json:"size"`
	Images  []smbstore.Location `json:"images"`  // the chain, the leaf first
	Waiting int                 `json:"waiting"` // requests without an answer
	Oldest  time.Duration       `json:"oldest"`  // how long the first of them has waited
	Longest time.Duration       `json:"longest"` // the longest any had to
}

// vm is a VM of this host. One operation runs on it at a time; what it shows may be
// asked for at any time.
type vm struct {
	a  *Agent
	op chan struct{} // holds one value while an operation is under way
	// host is whose a VM is that is only looked at, "" for this one's.
	host string

	mu     sync.Mutex // guards what follows
	kept   kept
	state  State
	reason string
	since  time.Time
	run    *run // nil while it does not run, or nobody knows
	forced bool // its QEMU is being ended by force, without a run
	// leftovers are in the home; finishing tells that somebody sees to kept.Left, with
	// the last error of each.
	leftovers  []string
	finishing  bool
	leftErr    map[string]string
	merging    *merging // the job that merges images, nil if none does
	mergeWaits string   // why the last one left some
}

func newVM(a *Agent, k *kept) *vm {
	v := &vm{a: a, op: make(chan struct{}, 1), kept: *k, state: Stopped, since: time.Now()}
	switch {
	case k.Running:
		v.state, v.reason = InDoubt, "the agent is taking it over"
	case k.Saved:
		v.state = SavedOff
	case k.Ended != "":
		v.state, v.reason = Crashed, k.Ended
	}
	return v
}

// SetRequest says what of a VM shall change; nil leaves a property as it is.
type SetRequest struct {
	CPUs            *int    `json:"cpus,omitempty"`
	Memory          *int64  `json:"memory,omitempty"` // bytes
	StorageTrouble  *string `json:"storageTrouble,omitempty"`
	StoragePatience *int    `json:"storagePatience,omitempty"` // seconds
	Notes           *string `json:"notes,omitempty"`
}

// setProperties changes a VM that is off.
func (v *vm) setProperties(ctx context.Context, q SetRequest) error {
	done, err := v.begin(ctx)
	if err != nil {
		return v.fail("change", err)
	}
	defer done()
	if _, err := v.running(); err == nil {
		return v.fail("change", fmt.Errorf("%w: `lunless vm stop %s` first", ErrRunning, v.name()))
	}
	return v.fail("change", v.atHome(ctx, func(p *place) error { return p.home.UpdateConfig(q.apply) }))
}

// apply changes a configuration, if what comes of it is one.
func (q SetRequest) apply(c *smbstore.Config) error {
	if c.Saved != nil && (q.CPUs != nil || q.Memory != nil) {
		return fmt.Errorf("%w: the guest is saved, and goes on with the processors and the memory it had: start it and shut it down first", ErrSaved)
	}
	if q.CPUs != nil && *q.CPUs < 1 || q.Memory != nil && *q.Memory < 1<<20 {
		return fmt.Errorf("%w: a VM has at least one processor and 1 MiB of memory", smbstore.ErrBadConfig)
	}
	assign(&c.CPUs, q.CPUs)
	assign(&c.Memory, q.Memory)
	assign(&c.StorageTrouble, q.StorageTrouble)
	assign(&c.StoragePatience, q.StoragePatience)
	assign(&c.Notes, q.Notes)
	return c.Check()
}

func assign[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

func (v *vm) name() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.kept.Name
}

func (v *vm) location() smbstore.Location {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.kept.Location
}

// set changes the state.
func (v *vm) set(s State, reason string) {
	v.mu.Lock()
	changed := v.state != s || v.reason != reason
	if v.state, v.reason = s, reason; changed {
		v.since = time.Now()
	}
	name := v.kept.Name
	v.mu.Unlock()
	if changed {
		v.a.log.Info("VM", "vm", name, "state", s, "reason", reason)
	}
}

// begin starts an operation: ErrBusy if another is under way and not done in time.
// Merges are interrupted, and go on when it is done.
func (v *vm) begin(ctx context.Context) (done func(), err error) {
	if err := v.interruptMerges(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			v.mergeLater()
		}
	}()
	patience := time.NewTimer(time.Second)
	defer patience.Stop()
	select {
	case v.op <- struct{}{}:
		return func() {
			<-v.op
			v.mergeLater()
		}, nil
	case <-patience.C:
		return nil, ErrBusy
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// running gives what runs: ErrNotRunning if nothing does.
func (v *vm) running() (*run, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.run == nil {
		return nil, fmt.Errorf("%w: it is %s", ErrNotRunning, v.describe())
	}
	return v.run, nil
}

// describe is the state with its reason; the caller holds mu.
func (v *vm) describe() string {
	if v.reason == "" {
		return string(v.state)
	}
	return string(v.state) + ": " + v.reason
}

// show says what the host knows.
func (v *vm) show() VM {
	v.mu.Lock()
	s := VM{Name: v.kept.Name, ID: v.kept.ID, Location: v.kept.Location, Host: cmp.Or(v.host, v.a.cfg.Name),
		State: v.state, Reason: v.reason, Since: v.since, Unfinished: v.unfinished(), Leftovers: slices.Clone(v.leftovers), Merging: v.showMerging()}
	r := v.run
	if r != nil {
		s.Epoch = v.kept.Epoch
	}
	v.mu.Unlock()
	if r == nil {
		return s
	}
	if m := r.machine.Load(); m != nil {
		s.PID, s.Console = m.PID(), m.ConsoleLog()
	}
	for _, d := range r.disks {
		st := d.export.Stats()
		conf, chain := d.now()
		s.Disks = append(s.Disks, DiskStatus{Path: conf.Path, Format: conf.Format, Size: d.export.Size(), Images: chain.Images(),
			Waiting: st.InFlight, Oldest: st.Oldest, Longest: st.Longest})
	}
	return s
}

// unfinished says what is being seen to; the caller holds mu.
func (v *vm) unfinished() (list []string) {
	if v.kept.Doing != "" && v.state != Saving {
		list = append(list, fmt.Sprintf("%s: cut short: what it left goes when the home can be opened", v.kept.Doing))
	}
	for _, to := range v.kept.Left {
		s := fmt.Sprintf("a migration to %s: `lunless migrate show %s`", to, to)
		if why := v.leftErr[to.String()]; why != "" {
			s += ": " + why
		}
		list = append(list, s)
	}
	return list
}

// remember changes what is kept of the VM, on stable storage.
func (v *vm) remember(change func(k *kept)) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	next := v.kept
	change(&next)
	if err := v.a.keep(&next); err != nil {
		return fmt.Errorf("the host's state: %w", err)
	}
	v.kept = next
	return nil
}

// fail says of which VM an error is.
func (v *vm) fail(op string, err error) error {
	if err == nil {
		return nil
	}
	return &VMError{Op: op, VM: v.name(), Host: v.a.cfg.Name, Err: err}
}

// gone tells the errors by which QEMU is known to have ended.
func gone(err error) bool { return errors.Is(err, qemu.ErrGone) }
