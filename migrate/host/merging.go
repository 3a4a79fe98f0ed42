package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"lunless/migrate"
	"lunless/smbstore"
	"lunless/smbstore/block"
)

// Merging is what a host shows of the merges that the removal of checkpoints asked for.
type Merging struct {
	Image string `json:"image,omitempty"` // under way, in the home
	Into  string `json:"into,omitempty"`
	Total int64  `json:"total,omitempty"` // bytes of the image under way
	Done  int64  `json:"done,omitempty"`
	Left  int    `json:"left,omitempty"` // images, that one included
	// Waits is why nothing is merged now, "" if something is, or is about to be.
	Waits string `json:"waits,omitempty"`
}

// merging is the job that merges a VM's images. It holds the VM's operation while it
// does. Whatever else is asked of the VM interrupts it, and it goes on afterwards.
type merging struct {
	cancel context.CancelFunc
	over   chan struct{}
	again  bool // there is a reason to look again; guarded by vm.mu
	mu     sync.Mutex
	shows  Merging
}

// Between two tries of merges that failed, or were cut off by the guest's end.
const (
	mergeRetryMin = time.Second
	mergeRetryMax = 5 * time.Minute
)

// errMoving: the end of the migration is the time to merge.
var errMoving = errors.New("the VM's storage is being moved")

func (m *merging) show(s Merging) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shows = s
}

func (m *merging) progress(p smbstore.ConvertProgress) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shows.Total, m.shows.Done = p.Total, p.Done
}

// mergeLater begins to merge what there is, unless that is under way.
func (v *vm) mergeLater() {
	if v.a.isStopping() || v.a.ctx.Err() != nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.merging != nil {
		v.merging.again = true
		return
	}
	if !v.kept.Merging {
		return
	}
	ctx, cancel := context.WithCancel(v.a.ctx)
	m := &merging{cancel: cancel, over: make(chan struct{})}
	v.merging = m
	v.a.wg.Go(func() {
		defer close(m.over)
		defer cancel()
		for v.mergeAll(ctx, m); v.mergeAgain(ctx, m); {
			v.mergeAll(ctx, m)
		}
	})
}

// mergeAgain tells whether the job has to look once more, else it is none any more.
func (v *vm) mergeAgain(ctx context.Context, m *merging) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if m.again && v.kept.Merging && ctx.Err() == nil {
		m.again = false
		return true
	}
	v.merging = nil
	return false
}

// interruptMerges ends the job, for another operation.
func (v *vm) interruptMerges(ctx context.Context) error {
	for {
		v.mu.Lock()
		m := v.merging
		v.mu.Unlock()
		if m == nil {
			return nil
		}
		m.cancel()
		select {
		case <-m.over:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// mergeAll merges until there is nothing to merge, or the job is interrupted.
func (v *vm) mergeAll(ctx context.Context, m *merging) {
	for wait := mergeRetryMin; ; wait = min(2*wait, mergeRetryMax) {
		again, err := v.mergeNow(ctx, m)
		switch {
		case ctx.Err() != nil, errors.Is(err, errLater), errors.Is(err, errMoving), foreign(err), errors.Is(err, smbstore.ErrNotHome):
			return
		case err == nil:
			if err := v.remember(func(k *kept) { k.Merging = false }); err != nil {
				v.a.log.Error("the host's state", "error", err)
			}
			return
		}
		v.a.log.Warn("images of removed checkpoints are not merged yet", "vm", v.name(), "error", err)
		m.show(Merging{Waits: err.Error()})
		select {
		case <-again:
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// mergeNow merges what can be merged now. again, if it is not nil, is closed when there
// is a reason to try again.
func (v *vm) mergeNow(ctx context.Context, m *merging) (again <-chan struct{}, err error) {
	select {
	case v.op <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-v.op }()
	r, err := v.running()
	var later error
	if err == nil {
		again = r.stopped
		later, err = r.mergeLive(ctx, m)
	} else {
		later, err = v.mergeOff(ctx, m)
	}
	if err == nil {
		err = later
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.mergeWaits = ""; err != nil && ctx.Err() == nil {
		v.mergeWaits = err.Error()
	}
	return again, err
}

// mergeOff merges the images of a VM that is off.
func (v *vm) mergeOff(ctx context.Context, m *merging) (later, err error) {
	err = v.atHome(ctx, func(p *place) error {
		record, err := p.home.Record()
		if err != nil {
			return err
		}
		fence, err := p.home.Fence(v.a.cfg.Name, record.Epoch)
		if err != nil {
			return err
		}
		w := sweep{home: p.home, tell: m.tell}
		w.merge = func(ctx context.Context, s step, commit func(context.Context) error) error {
			return mergeFiles(ctx, p.home, smbstore.Fenced(p.home.Store(), fence), s, smbstore.MergeOptions{Progress: m.progress},
				func(ctx context.Context) error { return errors.Join(fence.Holds(), commit(ctx)) })
		}
		w.commit = func(change func(*smbstore.Config) error, is func(*smbstore.Config) bool) error {
			return changeConfig(ctx, p.home, change, is, func(error) {})
		}
		later, err = w.run(ctx)
		return err
	})
	return later, err
}

// mergeLive merges the images of a guest that runs.
func (r *run) mergeLive(ctx context.Context, m *merging) (later, err error) {
	if r.moving.Load() {
		return errMoving, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)()
	var slots []*block.Slot
	var chains []*smbstore.Chain
	for _, d := range r.disks {
		_, chain := d.now()
		if chain == nil {
			return nil, fmt.Errorf("%w: a disk is not open", ErrBusy)
		}
		slots, chains = append(slots, chain.Disk()), append(chains, chain)
	}
	pace, parallel, stop, err := migrate.Gentle(ctx, slots)
	if err != nil {
		return nil, err
	}
	defer stop()
	p := r.at()
	r.mu.Lock()
	on := smbstore.Fenced(p.store, r.fence)
	r.mu.Unlock()
	w := sweep{home: p.home, commit: r.commit, tell: m.tell}
	w.merge = func(ctx context.Context, s step, commit func(context.Context) error) error {
		o := smbstore.MergeLiveOptions{Convert: smbstore.ConvertOptions{Pace: pace, Parallel: parallel}, Progress: m.progress}
		return mergeUnder(ctx, p.home, on, chains, s, o, func(ctx context.Context) error {
			if err := r.holds(); err != nil {
				return err
			}
			err := commit(ctx)
			if err == nil {
				r.renamed(s)
			}
			return err
		})
	}
	return w.run(ctx)
}

// renamed takes note of a disk that is another image now.
func (r *run) renamed(s step) {
	for _, d := range r.disks {
		d.mu.Lock()
		if d.conf.Path == s.child {
			d.conf.Path = s.into
		}
		d.mu.Unlock()
	}
}

func (m *merging) tell(s step, left int) { m.show(Merging{Image: s.child, Into: s.into, Left: left}) }

// showMerging is what there is to show, nil for nothing; the caller holds v.mu.
func (v *vm) showMerging() *Merging {
	if m := v.merging; m != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		s := m.shows
		return &s
	}
	if v.kept.Merging {
		return &Merging{Waits: v.mergeWaits}
	}
	return nil
}
