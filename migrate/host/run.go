package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lunless/migrate/qemu"
	"lunless/smbstore"
	"lunless/smbstore/nbd"
)

// run is a VM in use: its home and disks, open under its fence, and its QEMU. What
// is in it does not change once the vm shows it, but for what the disks' slots hold.
type run struct {
	v      *vm
	dir    string // runtime folder
	place  atomic.Pointer[place]
	epoch  atomic.Uint64 // of the record, as this host knows it
	asking atomic.Bool   // whether it is so still
	looked atomic.Int64  // when watch last looked at the guest, Unix time in ns
	moving atomic.Bool   // a migration of the VM is under way, or its end is being seen to
	disks  []*disk
	// vars and flash are the UEFI's variables, from varsPath in the home; nil and "" without.
	vars     *disk
	flash    *flash
	varsPath string
	nbd      *nbd.Server
	machine  atomic.Pointer[qemu.Machine]
	stopped  chan struct{} // closed when nothing is open any more
	// release has watch end and leave QEMU as it is.
	release context.CancelFunc
	ctx     context.Context
	// wanted is why QEMU is being ended, nil if nobody wants that.
	wanted chan ending
	failed chan error // the last request of the guest that failed
	held   bool       // the guest was paused when it was found

	mu      sync.Mutex     // guards what follows
	fence   smbstore.Fence // of disks that are opened from now on
	job     *move          // nil unless moving
	after   []laid         // what disks that were moved lie on, to be closed once they are
	settled chan struct{}  // see settling
}

// place is where a VM lies: its home, with a connection of its own that gives up
// soon, and what the disks lie on.
type place struct {
	home  *smbstore.Home
	store smbstore.Store
}

// laid is what disks lie on: a place, or a migration that moved them.
type laid interface {
	Release() error
	// Abandon has what waits for its servers fail, now and in Release.
	Abandon()
}

// Release closes it.
func (p *place) Release() error {
	var errs []error
	if p.store != nil {
		errs = append(errs, p.store.Close())
	}
	return errors.Join(append(errs, p.home.Close())...)
}

// Abandon is Release without waiting for a server.
func (p *place) Abandon() {
	p.home.Abandon() // before the disks fail, and who closes them comes to it
	if p.store != nil {
		smbstore.Abandon(p.store)
	}
}

// at is where the VM lies now.
func (r *run) at() *place { return r.place.Load() }

// openPlace opens a VM's home.
func (a *Agent) openPlace(ctx context.Context, at smbstore.Location) (*place, error) {
	h, err := smbstore.OpenHome(ctx, at, a.homeOptions())
	if err != nil {
		return nil, err
	}
	return &place{home: h}, nil
}

// openStore opens what the VM's disks lie on.
func (p *place) openStore(ctx context.Context, v *vm) error {
	s, err := smbstore.Open(ctx, p.home.Location(), v.a.diskOptions())
	if err == nil {
		p.store = s
	}
	return err
}

// ending is what is to be said of a QEMU's end.
type ending struct {
	state  State
	reason string
	forced bool // by an administrator, who does not wait for the storage
}

// closeWait is how long disks are waited for whose server does not answer, when
// QEMU has ended already; forceWait is the same of a guest ended by force.
const (
	closeWait = 10 * time.Second
	forceWait = 2 * time.Second
)

// prepare opens the home, makes this host its owner and opens the disks. On an
// error nothing stays open.
func (v *vm) prepare(ctx context.Context, takeOver bool) (*run, smbstore.Config, error) {
	for hops := 0; ; hops++ {
		r, c, err := v.prepareAt(ctx, takeOver)
		if errors.Is(err, smbstore.ErrNotHome) || errors.Is(err, smbstore.ErrNotExist) {
			err = v.arrived(ctx, err)
		}
		var moved *movedError
		if hops == maxHops || !errors.As(err, &moved) {
			return r, c, err
		}
		// A migration of this host was at its end when its agent ended.
		v.a.log.Info("the VM has moved", "vm", v.name(), "to", moved.to)
		err = v.remember(func(k *kept) {
			k.Location, k.Followed = moved.to, moved.job
			for _, to := range append(k.Left[:len(k.Left):len(k.Left)], k.Moving) {
				if to.Equal(moved.to) {
					k.Location = to // a record names no user
				}
			}
		})
		if err != nil {
			return nil, c, err
		}
	}
}

// arrived looks for a VM whose home is gone where its cut migrations went to: one may
// have been finished, and the source removed, while no agent ran. It gives a
// *movedError if this host owns the VM at one of them, else why.
func (v *vm) arrived(ctx context.Context, why error) error {
	v.mu.Lock()
	ends := append(slices.Clone(v.kept.Left), v.kept.Moving)
	v.mu.Unlock()
	for _, to := range ends {
		if to != (smbstore.Location{}) && v.owns(ctx, to) {
			return &movedError{to, ""}
		}
	}
	return why
}

// owns tells whether there is a home of the VM that is known to be this host's.
func (v *vm) owns(ctx context.Context, at smbstore.Location) bool {
	h, err := smbstore.OpenHome(ctx, at, v.a.homeOptions())
	if err != nil {
		return false
	}
	defer h.Close() //nolint:errcheck // is only read
	c, err := h.Config()
	record, rerr := h.Record()
	v.mu.Lock()
	known := v.kept.Epoch
	v.mu.Unlock()
	return err == nil && rerr == nil && c.ID == v.kept.ID && record.State == smbstore.Owned && record.Host == v.a.cfg.Name && record.Epoch >= known
}

// maxHops bounds the moves that are followed at a time.
const maxHops = 8

func (v *vm) prepareAt(ctx context.Context, takeOver bool) (_ *run, c smbstore.Config, err error) {
	r := &run{v: v, dir: v.a.runtimeDir(v.kept.ID), stopped: make(chan struct{}), wanted: make(chan ending, 1), failed: make(chan error, 1)}
	p, err := v.a.openPlace(ctx, v.location())
	if err != nil {
		return nil, c, err
	}
	r.place.Store(p)
	r.ctx, r.release = context.WithCancel(v.a.ctx)
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	v.mu.Lock()
	o := ownOptions{takeOver: takeOver, job: v.kept.Followed,
		follow: v.kept.Running || len(v.kept.Left) > 0 || v.kept.Moving != (smbstore.Location{})}
	v.mu.Unlock()
	record, err := v.a.own(ctx, p.home, o)
	if err != nil {
		return nil, c, err
	}
	failpoint("start-owned")
	if c, err = p.home.Config(); err != nil {
		return nil, c, err
	}
	if c.ID != v.kept.ID {
		return nil, c, fmt.Errorf("%w: at %s lies the VM %s, not %s", ErrNoVM, p.home.Location(), c.ID, v.kept.ID)
	}
	if r.fence, err = r.newFence(p.home, record.Epoch); err != nil {
		return nil, c, err
	}
	r.epoch.Store(record.Epoch)
	err = v.remember(func(k *kept) {
		k.Name, k.Epoch, k.Patience, k.Report = c.Name, record.Epoch, c.StoragePatience, c.StorageTrouble == smbstore.TroubleReport
		k.Merging = len(c.Unmerged) > 0
	})
	if err != nil {
		return nil, c, err
	}
	if err := p.openStore(ctx, v); err != nil {
		return nil, c, err
	}
	if err := haveVariables(p.home, &c); err != nil {
		return nil, c, err
	}
	r.varsPath = c.UEFIVariables
	if err := r.openTaken(ctx, c.Disks, takeOver); err != nil {
		return nil, c, err
	}
	smbstore.Evict(ctx, p.home.Store(), r.fence, announced(&c))
	v.tidied(ctx, p.home) // now that the server has closed what a dead agent had open
	return r, c, nil
}

// newFence is the fence of an epoch of the VM.
func (r *run) newFence(h *smbstore.Home, epoch uint64) (smbstore.Fence, error) {
	f, err := h.Fence(r.v.a.cfg.Name, epoch)
	f.Holds = r.holds
	return f, err
}

// homeOptions open homes: what asks for a record is to hear soon that nobody answers.
func (a *Agent) homeOptions() smbstore.Options {
	o := a.cfg.Options
	o.ReconnectTimeout = 5 * time.Second
	o.RequestTimeout = 10 * time.Second
	return o
}

// close closes the disks and their stores. What a server keeps waiting for is
// given up after closeWait.
func (r *run) close() error { return r.closeWithin(closeWait) }

// closeWithin is close with another patience.
func (r *run) closeWithin(wait time.Duration) error {
	r.endMove()
	r.release()
	var errs []error
	// What the guest had asked for may wait for a silent server until then.
	giveUp := time.AfterFunc(wait, func() {
		for _, l := range r.lies() {
			l.Abandon() // said by closeDisks
		}
	})
	if r.nbd != nil {
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		errs = append(errs, r.nbd.Shutdown(ctx))
		cancel()
	}
	errs = append(errs, r.closeDisks())
	giveUp.Stop()
	for _, l := range r.lies() {
		errs = append(errs, l.Release())
	}
	return errors.Join(errs...)
}

// lies is all that the disks lie on, and the home: that first, which no disk's failure
// tells of.
func (r *run) lies() []laid {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]laid{r.at()}, r.after...)
}

// requestFailed is told of every request of the guest that failed.
func (r *run) requestFailed(f nbd.Failure) {
	err := f.Err
	if err == nil {
		return
	}
	if errors.Is(err, smbstore.ErrTaken) {
		r.end(ending{state: Lost, reason: err.Error()})
		return
	}
	select {
	case <-r.failed: // of interest is the last one
	default:
	}
	select {
	case r.failed <- err:
	default:
	}
}

// end has QEMU ended at once, for a reason; the first one counts.
func (r *run) end(e ending) {
	select {
	case r.wanted <- e:
	default:
	}
}
