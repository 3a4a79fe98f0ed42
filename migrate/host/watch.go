package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lunless/migrate/qemu"
	"lunless/smbstore"
)

const (
	lookEvery = 250 * time.Millisecond // at how long the guest's requests have waited
	askEvery  = 5 * time.Second        // whose the VM is, of which a guest without I/O hears nothing
	retryMin  = time.Second            // until a guest that its disk stopped is continued
	retryMax  = 15 * time.Second
	fullMax   = time.Second      // likewise, where there was no room: it is known to go on when there is
	calm      = 30 * time.Second // without trouble, after which retries begin anew
)

// trouble is what watch knows of a guest whose storage does not do as it should.
type trouble struct {
	stalled bool          // paused by us: a request has waited for longer than the VM's patience
	told    bool          // running, and told of errors: the same where that is the VM's policy
	failed  bool          // paused by QEMU: a request failed
	wait    time.Duration // until the next retry
	since   time.Time     // of the last failure
	retry   <-chan time.Time
	resumed time.Time // when it was continued after a failure; zero once that is known to have worked
	errors  tellings  // that the guest was told of
}

// tellings are errors that a guest was told of, by disk and operation: the first is
// logged at once, the others as a count now and then.
type tellings map[[2]string]*telling

type telling struct {
	n     int
	since time.Time
}

// count tells whether an error is the first of its kind in a while.
func (t *tellings) count(e qemu.Event) (first bool) {
	if *t == nil {
		*t = tellings{}
	}
	k := [2]string{e.Node, e.Operation}
	if old := (*t)[k]; old != nil {
		old.n++
		return false
	}
	(*t)[k] = &telling{since: time.Now()}
	return true
}

// look calls tell with what was not logged for longer than a while.
func (t tellings) look(every time.Duration, tell func(disk, operation string, n int)) {
	for k, c := range t {
		if time.Since(c.since) < every {
			continue
		}
		if c.n == 0 {
			delete(t, k)
			continue
		}
		tell(k[0], k[1], c.n)
		*c = telling{since: time.Now()}
	}
}

// watch follows the guest until QEMU has ended, or the agent lets go of it.
func (r *run) watch() {
	defer close(r.stopped)
	m := r.machine.Load()
	events := make(chan qemu.Event)
	go r.listen(m, events)
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	ask := time.NewTicker(askEvery)
	defer ask.Stop()
	var t trouble
	var why *ending
	var last error // of the guest's requests
	for {
		select {
		case <-m.Ended():
			r.over(m, why)
			return
		case <-r.ctx.Done():
			return
		case e := <-r.wanted:
			why = &e
			go func() {
				if err := m.Kill(context.WithoutCancel(r.ctx)); err != nil {
					r.v.a.log.Error("QEMU cannot be ended", "vm", r.v.name(), "error", err)
				}
			}()
		case last = <-r.failed:
		case e, more := <-events:
			if !more {
				events = nil
				continue
			}
			select { // it was failed before QEMU could say so
			case last = <-r.failed:
			default:
			}
			r.event(&t, e, last)
		case <-t.retry:
			t.retry = nil
			r.again(m)
		case <-look.C:
			r.look(m, &t)
			r.looked.Store(time.Now().UnixNano())
		case <-ask.C:
			go r.stillOurs()
		}
	}
}

// unwatched tells that watch has not looked at the guest for so long that it hangs.
func (r *run) unwatched() bool { return time.Since(time.Unix(0, r.looked.Load())) > hangs }

// hangs is how long watch is given for what takes it next to no time.
const hangs = 80 * lookEvery

// listen hands on the guest's events.
func (r *run) listen(m *qemu.Machine, to chan<- qemu.Event) {
	defer close(to)
	events := m.Events()
	defer events.Close()
	for {
		e, err := events.Next(r.ctx)
		if err != nil || e.Kind == qemu.EventDisconnected {
			return
		}
		select {
		case to <- e:
		case <-r.ctx.Done():
			return
		case <-r.stopped:
			return
		}
	}
}

// event shows what an event means.
func (r *run) event(t *trouble, e qemu.Event, last error) {
	v := r.v
	switch e.Kind {
	case qemu.EventIOError:
		if e.Action != "stop" {
			if t.errors.count(e) {
				v.a.log.Warn("the guest was told of an error of its disk", "vm", v.name(), "disk", e.Node, "operation", e.Operation, "error", e.Reason)
			}
			return
		}
		if time.Since(t.since) > calm {
			t.wait = 0
		}
		most := retryMax
		if full(e, last) {
			most = fullMax
		}
		t.failed, t.since, t.resumed, t.wait = true, time.Now(), time.Time{}, min(max(2*t.wait, retryMin), most)
		if t.retry == nil {
			t.retry = time.After(t.wait)
		}
		v.set(Paused, r.explain(e, last))
	case qemu.EventResume:
		switch {
		case t.failed: // it runs as soon as what failed has not failed again
			t.failed, t.resumed = false, time.Now()
		case !t.stalled:
			v.set(Running, "")
		}
	case qemu.EventShutdown:
		v.set(Stopping, "")
	case qemu.EventPanicked:
		v.set(Paused, "the guest's kernel has panicked: see its console; `lunless vm stop --force` ends it")
	case qemu.EventStop:
		v.mu.Lock()
		byOthers := v.state == Running
		v.mu.Unlock()
		if byOthers && !t.failed && !t.stalled {
			v.set(Paused, "")
		}
	case qemu.EventReset:
		v.a.log.Info("the guest was reset", "vm", v.name(), "reason", e.Reason)
	}
}

// explain says why a disk's request failed, and what happens next.
func (r *run) explain(e qemu.Event, last error) string {
	switch {
	case full(e, last):
		s := "no room for what the guest writes"
		if last != nil {
			s = smbstore.LeadFull(last).Error()
		}
		return s + ": make room there, and the guest goes on by itself; nothing it wrote is lost"
	case last != nil:
		return fmt.Sprintf("a %s of %s failed: %v: it is tried again", e.Operation, e.Node, last)
	}
	return fmt.Sprintf("a %s of %s failed: %s: it is tried again", e.Operation, e.Node, e.Reason)
}

// full tells that a request failed for want of room.
func full(e qemu.Event, last error) bool { return e.NoSpace || errors.Is(last, smbstore.ErrNoSpace) }

// again continues a guest that a failed request has stopped: QEMU repeats that.
func (r *run) again(m *qemu.Machine) {
	go func() {
		switch err := m.Cont(r.ctx); {
		case err == nil:
			r.v.goesOn()
		case r.ctx.Err() == nil:
			r.v.a.log.Warn("the guest cannot be continued", "vm", r.v.name(), "error", err)
		}
	}()
}

// look pauses the guest when its storage has not answered for longer than its
// patience, if that is its policy, and continues it when it has.
func (r *run) look(m *qemu.Machine, t *trouble) {
	r.v.mu.Lock()
	limit, report := patience(&r.v.kept), r.v.kept.Report
	r.v.mu.Unlock()
	t.errors.look(calm, func(disk, operation string, n int) {
		r.v.a.log.Warn("the guest was told of more errors of its disk", "vm", r.v.name(), "disk", disk, "operation", operation, "errors", n)
	})
	var oldest time.Duration
	var at, late *disk
	for _, d := range r.exported() {
		if d.isLate() {
			late = d
		}
		if age := d.export.Stats().Oldest; age > oldest {
			oldest, at = age, d
		}
	}
	if !t.resumed.IsZero() && !t.failed && !t.stalled && time.Since(t.resumed) > lookEvery {
		t.resumed = time.Time{}
		r.v.set(Running, "")
	}
	switch {
	case late != nil && !t.told && !t.failed:
		t.told = true
		r.v.set(Running, fmt.Sprintf("%s has not answered for %s: the guest is told of errors until it does", r.v.whereIs(late), limit))
	case late == nil && t.told:
		if t.told = false; !t.failed {
			r.v.set(Running, "")
		}
	case !t.stalled && !report && oldest > limit:
		t.stalled = true
		r.v.set(Paused, fmt.Sprintf("%s has not answered for %s: the guest goes on by itself when it does", r.v.whereIs(at), limit))
		r.v.pause(r.ctx, m)
	case t.stalled && oldest < limit/2:
		t.stalled = false
		r.again(m)
	}
}

// whereIs is a disk's location.
func (v *vm) whereIs(d *disk) smbstore.Location {
	conf, _ := d.now()
	return v.location().Join(conf.Path)
}

// stillOurs ends the guest if the record says that another host has the VM. A
// record that cannot be had says nothing.
func (r *run) stillOurs() {
	if !r.asking.CompareAndSwap(false, true) {
		return
	}
	defer r.asking.Store(false)
	if err := r.holds(); errors.Is(err, smbstore.ErrNotOwner) {
		r.end(ending{state: Lost, reason: err.Error()})
	}
}

// over ends what the VM had open once QEMU has ended.
func (r *run) over(m *qemu.Machine, why *ending) {
	v := r.v
	exit, err := m.Wait(context.WithoutCancel(r.ctx))
	m.Close()
	state, reason := endOf(exit, err)
	if why != nil {
		state, reason = why.state, why.reason
	}
	v.mu.Lock()
	v.run = nil
	v.mu.Unlock()
	failpoint("over-closing")
	wait := closeWait
	if why != nil && why.forced {
		wait = forceWait
	}
	if err := r.closeWithin(wait); err != nil && state != Lost {
		v.a.log.Error("closing the disks of a guest that has ended", "vm", v.name(), "error", err)
		if !r.v.kept.Report && state == Stopped && reason == "" {
			reason = "its disks did not close well: " + err.Error()
		}
	}
	failpoint("over-closed")
	v.off(state, reason)
}
