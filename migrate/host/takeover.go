package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lunless/migrate/qemu"
	"lunless/smbstore"
)

// takeOver gets back the guest that an earlier agent left running. Until it is
// known whose the VM is the guest is paused and in doubt.
//
// A QEMU that was being paused when the earlier agent ended answers only when the
// guest's requests have been: its disks are served to it before it is asked anything.
func (v *vm) takeOver() {
	v.op <- struct{}{}
	defer func() { <-v.op }()
	ctx := v.a.ctx
	var m *qemu.Machine // nil until it answers
	pausing := false
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		err := error(nil)
		if m == nil {
			m, err = qemu.Attach(ctx, v.a.runtimeDir(v.kept.ID))
		}
		if silent := errors.Is(err, qemu.ErrNotAnswering); err == nil || silent {
			pausing = pausing || silent
			if m, err = v.takeOverNow(ctx, m, pausing); err == nil {
				return
			}
		}
		switch {
		case ctx.Err() != nil:
			if m != nil {
				m.Close()
			}
			return
		case gone(err):
			if m != nil {
				m.Close()
			}
			if v.isStarting() {
				v.off(Stopped, "its start was cut short: the agent ended before the guest was known to run")
			} else {
				v.off(Crashed, fmt.Sprintf("its QEMU ended while no agent ran: %v", err))
			}
			return
		case foreign(err):
			v.lose(m, err)
			return
		}
		v.set(InDoubt, err.Error())
		var ended <-chan struct{}
		if m != nil {
			ended = m.Ended()
			if !pausing {
				pausing = true
				v.pause(ctx, m)
			}
		}
		select {
		case <-time.After(wait):
		case <-ended:
			v.ended(m, nil)
			return
		case <-ctx.Done():
		}
	}
}

// pause has the guest stand until the agent continues it, or the next one.
func (v *vm) pause(ctx context.Context, m *qemu.Machine) {
	if err := v.remember(func(k *kept) { k.Standing = true }); err != nil {
		v.a.log.Error("the host's state", "error", err)
	}
	// QEMU stops the guest at once, and answers when its disks have.
	go m.Stop(ctx) //nolint:errcheck // it is tried to continue it whatever came of it
}

// standing tells whether a guest that is found paused shall go on.
func (v *vm) standing() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.kept.Standing || v.kept.Doing != ""
}

// goesOn notes that the guest does not stand any more.
func (v *vm) goesOn() {
	v.mu.Lock()
	stood := v.kept.Standing
	v.mu.Unlock()
	if !stood {
		return
	}
	if err := v.remember(func(k *kept) { k.Standing = false }); err != nil {
		v.a.log.Error("the host's state", "error", err)
	}
}

// takeOverNow makes the VM this host's and serves its disks to the QEMU that is
// there. With an error nothing stays open but the machine, which it gives, if there
// is one by then.
func (v *vm) takeOverNow(ctx context.Context, m *qemu.Machine, paused bool) (*qemu.Machine, error) {
	r, c, err := v.prepare(ctx, false)
	if err != nil {
		return m, err
	}
	r.machine.Store(m)
	if err = r.serve(); err == nil && m == nil {
		if m, err = r.attach(ctx); err == nil {
			r.machine.Store(m)
		}
	}
	if err != nil {
		return m, errors.Join(err, r.close())
	}
	v.a.log.Info("the guest goes on", "vm", v.name(), "process", m.PID(), "epoch", v.kept.Epoch)
	v.followAgain(r, &c, paused)
	return m, nil
}

// attach waits for a QEMU that has its disks back to answer. Errors are those of
// qemu.Attach, and foreign ones where the VM is another's meanwhile.
func (r *run) attach(ctx context.Context) (*qemu.Machine, error) {
	for {
		m, err := qemu.Attach(ctx, r.dir)
		if !errors.Is(err, qemu.ErrNotAnswering) || ctx.Err() != nil {
			return m, err
		}
		r.v.set(InDoubt, fmt.Sprintf("its QEMU is there and does not answer: %v; `lunless vm stop --force` ends it", err))
		if err := r.holds(); errors.Is(err, smbstore.ErrNotOwner) {
			return nil, err
		}
		select {
		case e := <-r.wanted:
			return nil, fmt.Errorf("%w: %s", smbstore.ErrTaken, e.reason)
		default:
		}
	}
}

// lose ends a guest that is another host's by now; m is nil if its QEMU has not
// answered.
func (v *vm) lose(m *qemu.Machine, why error) {
	ctx := context.WithoutCancel(v.a.ctx)
	var err error
	if m != nil {
		err = m.Kill(ctx)
		m.Close()
	} else {
		err = qemu.KillAt(ctx, v.a.runtimeDir(v.kept.ID))
	}
	if err != nil && !gone(err) {
		v.a.log.Error("a guest that is another host's cannot be ended: nothing it writes arrives", "vm", v.name(), "error", err)
	}
	v.off(Lost, why.Error())
}
