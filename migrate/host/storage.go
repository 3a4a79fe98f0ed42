package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"lunless/migrate"
	"lunless/smbstore"
	"lunless/smbstore/block"
)

// MigrateRequest says where the storage of a running VM shall go, and how
// (migrate.LiveOptions).
type MigrateRequest struct {
	To         smbstore.Location `json:"to"` // storage location; the home keeps its name
	Format     smbstore.Format   `json:"format,omitempty"`
	Type       string            `json:"type,omitempty"`
	Flatten    bool              `json:"flatten,omitempty"`
	Verify     bool              `json:"verify,omitempty"`
	KeepSource bool              `json:"keepSource,omitempty"`
	Grace      time.Duration     `json:"grace,omitempty"`
	RateLimit  int64             `json:"rateLimit,omitempty"` // bytes a second
	Parallel   int               `json:"parallel,omitempty"`
}

// Migration is a migration that the agent runs, or ran.
type Migration struct {
	VM string `json:"vm"`
	migrate.Status
	// Ended: it is over, and Error says why if not as asked for; Kind is what the
	// error can be told by, "" for most.
	Ended bool   `json:"ended"`
	Kind  string `json:"kind,omitempty"`
	// Undone: it has ended, the VM is where it was, and nothing is left of the copy.
	Undone bool `json:"undone,omitempty"`
}

// move is a migration of one of the agent's VMs.
type move struct {
	v       *vm
	job     *migrate.Job
	stop    context.CancelFunc // interrupts it
	over    chan struct{}      // closed when all is seen to
	changed chan struct{}      // gets a value, if it has room, when there is something new
	mu      sync.Mutex         // guards what follows
	err     error
	undone  bool // Migration.Undone
}

// destinationPatience is how long a destination may be silent before the move to it
// is given up: the guest's writes wait for it.
const destinationPatience = 10 * time.Second

// migrate begins to move the VM's storage.
func (v *vm) migrate(ctx context.Context, q MigrateRequest) (*move, error) {
	done, err := v.begin(ctx)
	if err != nil {
		return nil, v.fail("move", err)
	}
	defer done()
	r, err := v.running()
	if err != nil {
		return nil, v.fail("move", fmt.Errorf("%w: name its home's location to move it while it is off", err))
	}
	if !r.moving.CompareAndSwap(false, true) {
		return nil, v.fail("move", fmt.Errorf("%w: a migration: `lunless migrate list` shows it", ErrBusy))
	}
	mv, err := r.startMove(q)
	if err != nil {
		r.moving.Store(false)
		return nil, v.fail("move", errors.Join(err, v.remember(func(k *kept) { k.Moving = smbstore.Location{} })))
	}
	v.a.mu.Lock()
	v.a.moves = withMove(v.a.moves, mv)
	v.a.mu.Unlock()
	v.a.wg.Go(func() { r.seeMove(mv) })
	return mv, nil
}

// maxMoves is how many migrations the agent remembers, beside those under way.
const maxMoves = 100

// withMove adds a migration, and forgets the oldest that is over if there are many.
func withMove(moves []*move, mv *move) []*move {
	if len(moves) >= maxMoves {
		if i := slices.IndexFunc(moves, (*move).isOver); i >= 0 {
			moves = slices.Delete(slices.Clone(moves), i, i+1)
		}
	}
	return append(moves, mv)
}

// startMove starts the job.
func (r *run) startMove(q MigrateRequest) (*move, error) {
	v := r.v
	from := v.location()
	slots, chains := map[string]*block.Slot{}, map[string]*smbstore.Chain{}
	for _, d := range r.exported() {
		conf, chain := d.now()
		slots[conf.Path], chains[conf.Path] = d.first(), chain
	}
	fence, err := r.newFence(r.at().home, r.epoch.Load()+1)
	if err != nil {
		return nil, err
	}
	if err := v.remember(func(k *kept) { k.Moving = q.To.Join(from.Base()) }); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.ctx))
	mv := &move{v: v, stop: cancel, over: make(chan struct{}), changed: make(chan struct{}, 1)}
	o := migrate.LiveOptions{
		Options: migrate.Options{Source: from, To: q.To, SourceOptions: v.a.homeOptions(), ToOptions: v.a.diskOptions(), Parallel: q.Parallel,
			RateLimit: q.RateLimit, KeepSource: q.KeepSource, Host: v.a.cfg.Name, Progress: func(migrate.Status) { mv.tell() }},
		Disks: slots, Format: q.Format, Type: q.Type, Flatten: q.Flatten, Verify: q.Verify, Grace: q.Grace, Fence: fence, Patience: destinationPatience,
		CloseSource: func(path string) error { return chains[path].Close() },
		Switched: func(home smbstore.Location, disks []migrate.MovedDisk) {
			r.moved(home, fence, disks)
		},
	}
	if mv.job, err = v.a.jobs.LiveStorage(ctx, o); err != nil {
		cancel()
		return nil, err
	}
	r.mu.Lock()
	r.job = mv
	r.mu.Unlock()
	return mv, nil
}

// moved is told that the guest runs from another home. It is called once the records
// say so, and waits for no server.
func (r *run) moved(home smbstore.Location, fence smbstore.Fence, disks []migrate.MovedDisk) {
	v := r.v
	r.epoch.Store(fence.Epoch)
	for _, m := range disks {
		for _, d := range r.exported() {
			conf, _ := d.now()
			if conf.Path != m.Source {
				continue
			}
			conf.Path, conf.Format = m.Path, m.Format
			d.become(conf, m.Chain)
		}
	}
	err := v.remember(func(k *kept) { k.Location, k.Epoch = home, fence.Epoch })
	if err != nil { // the next agent finds it by the old home's record
		v.a.log.Error("the VM has moved", "vm", v.name(), "to", home, "error", err)
		v.mu.Lock()
		v.kept.Location, v.kept.Epoch = home, fence.Epoch
		v.mu.Unlock()
	}
	v.a.log.Info("the VM runs from another place", "vm", v.name(), "home", home)
	v.a.wg.Go(func() { r.settleAt(home, fence.Epoch) })
}

// settleAt gives the run its new home, once that can be opened.
func (r *run) settleAt(home smbstore.Location, epoch uint64) {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		p, err := r.v.a.openPlace(r.ctx, home)
		if err == nil {
			err = p.openStore(r.ctx, r.v)
		}
		if err == nil {
			var fence smbstore.Fence
			if fence, err = r.newFence(p.home, epoch); err == nil {
				r.mu.Lock()
				r.fence = fence
				old := r.place.Swap(p)
				r.after = append(r.after, old)
				r.mu.Unlock()
				close(r.settling())
				return
			}
		}
		if p != nil {
			err = errors.Join(err, p.Release())
		}
		r.v.a.log.Warn("the new home of a VM that has moved cannot be opened yet", "vm", r.v.name(), "home", home, "error", err)
		select {
		case <-time.After(wait):
		case <-r.ctx.Done():
			return
		}
	}
}

// seeMove sees to a migration's end.
func (r *run) seeMove(mv *move) {
	defer close(mv.over)
	err := mv.job.Wait(context.Background())
	mv.stop()
	if err != nil {
		r.v.a.log.Warn("a migration has failed", "vm", r.v.name(), "job", mv.job.ID(), "error", err)
	}
	if r.v.location().Equal(mv.job.Status().Source) {
		r.stays()
	} else {
		select {
		case <-r.settling():
		case <-r.ctx.Done():
		}
		r.left(mv, err == nil)
	}
	undone := err != nil && r.v.location().Equal(mv.job.Status().Source) && !errors.Is(err, migrate.ErrNotUndone) && !errors.Is(err, migrate.ErrInDoubt)
	if err == nil || undone {
		if err := r.v.remember(func(k *kept) { k.Moving = smbstore.Location{} }); err != nil {
			r.v.a.log.Error("the host's state", "error", err)
		}
	} else {
		r.v.leaveMove()
		r.v.a.wg.Go(r.v.finishMoves)
	}
	mv.mu.Lock()
	mv.err, mv.undone = err, undone && !errors.Is(err, smbstore.ErrTaken)
	mv.mu.Unlock()
	r.mu.Lock()
	r.job = nil
	r.mu.Unlock()
	r.moving.Store(false)
	r.v.mergeLater()
	mv.tell()
}

// left closes what the disks lay on before a migration, unless its end leaves it
// unknown whether they do still: then that is kept until the VM's disks are closed,
// like what they lie on now.
func (r *run) left(mv *move, closed bool) {
	r.mu.Lock()
	before := r.after
	r.after, r.settled = []laid{mv.job}, nil
	if !closed {
		r.after = append(r.after, before...)
	}
	r.mu.Unlock()
	if !closed {
		return
	}
	for _, l := range before {
		if err := l.Release(); err != nil {
			r.v.a.log.Warn("closing what a VM has moved away from", "vm", r.v.name(), "error", err)
		}
	}
}

// stays takes note of the epoch that a migration without success left the VM in: an
// offer that was taken back raises it.
func (r *run) stays() {
	for r.ctx.Err() == nil {
		record, err := r.at().home.Record()
		if err == nil {
			if record.Host == r.v.a.cfg.Name && record.State == smbstore.Owned {
				r.epoch.Store(record.Epoch)
				if err := r.v.remember(func(k *kept) { k.Epoch = record.Epoch }); err != nil {
					r.v.a.log.Error("the host's state", "error", err)
				}
			}
			return
		}
		select {
		case <-time.After(time.Second):
		case <-r.ctx.Done():
		}
	}
}

// settling is closed when the run has its new home.
func (r *run) settling() chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.settled == nil {
		r.settled = make(chan struct{})
	}
	return r.settled
}

// endMove ends a migration that is under way, and waits until nothing of it is.
func (r *run) endMove() {
	r.mu.Lock()
	mv := r.job
	r.mu.Unlock()
	if mv == nil {
		return
	}
	mv.job.Cancel()
	select {
	case <-mv.over:
		return
	case <-time.After(5 * time.Second):
	}
	mv.stop() // the next agent sees to what is left
	r.release()
	<-mv.over
}

func (m *move) isOver() bool {
	select {
	case <-m.over:
		return true
	default:
		return false
	}
}

func (m *move) tell() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// show is where the migration stands.
func (m *move) show() Migration {
	s := Migration{VM: m.v.name(), Status: m.job.Status()}
	select {
	case <-m.over:
		m.mu.Lock()
		s.Ended, s.Undone = true, m.undone
		if m.err != nil {
			s.Error, s.Kind = m.err.Error(), kindOf(m.err).name
		}
		m.mu.Unlock()
	default:
	}
	return s
}
