package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lunless/migrate/qemu"
)

// StopRequest says how to stop a VM.
type StopRequest struct {
	// Force ends it as a loss of power would. Without, the guest is asked to, as by its
	// power button, and waited for.
	Force bool `json:"force,omitempty"`
	// Timeout is how long the guest is waited for (default a minute).
	Timeout time.Duration `json:"timeout,omitempty"`
}

// stop ends the guest; when it returns nil, the VM is off and its disks are closed.
func (v *vm) stop(ctx context.Context, q StopRequest) error {
	v.mu.Lock()
	r, left := v.run, v.kept.Running
	v.mu.Unlock()
	if r == nil && left && q.Force {
		return v.fail("stop", v.stopLeft(ctx))
	}
	if q.Timeout <= 0 {
		q.Timeout = time.Minute
	}
	patience, cancel := context.WithTimeout(ctx, q.Timeout)
	defer cancel()
	late := fmt.Errorf("the guest has not powered itself off within %v: see `lunless vm console %s`, or give --force", q.Timeout, v.name())
	if r != nil && q.Force {
		// Whatever else is under way: it fails, or waits for what does not come.
		r.end(ending{state: Stopped, forced: true, reason: byForce})
		late = fmt.Errorf("its QEMU is being ended, and has not let go of its disks within %v: `lunless vm show %s` says what it waits for", q.Timeout, v.name())
	} else {
		var err error
		if r, err = v.press(patience); err != nil {
			if ctx.Err() == nil && patience.Err() != nil {
				err = fmt.Errorf("its QEMU has not answered within %v: it waits for its storage, or stands: --force ends it", q.Timeout)
			}
			return v.fail("stop", err)
		}
	}
	select {
	case <-r.stopped:
		return nil
	case <-patience.Done():
	}
	if ctx.Err() != nil {
		late = context.Cause(ctx)
	}
	return v.fail("stop", late)
}

// press presses the guest's power button, and gives what runs. The operation ends
// with that: who waits for the guest is in nobody's way.
func (v *vm) press(ctx context.Context) (*run, error) {
	done, err := v.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	r, err := v.running()
	if err != nil {
		return nil, err
	}
	return r, r.machine.Load().Powerdown(ctx)
}

// byForce is the reason of a VM that was ended so.
const byForce = "ended by force: what the guest had not flushed is lost, as by a loss of power"

// isForced tells that a guest is being ended by force which this agent does not follow.
func (v *vm) isForced() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.forced
}

func (v *vm) setForced(yes bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.forced = yes
}

// stopLeft ends a guest that this agent could not take over yet, or is starting.
func (v *vm) stopLeft(ctx context.Context) error {
	v.setForced(true)
	defer v.setForced(false)
	v.mu.Lock()
	dir := v.a.runtimeDir(v.kept.ID)
	v.mu.Unlock()
	if err := qemu.KillAt(ctx, dir); err != nil && !errors.Is(err, qemu.ErrGone) {
		return err
	}
	for range 100 {
		v.mu.Lock()
		left := v.kept.Running || v.state == Starting || v.state == InDoubt // until it is known what it is
		v.mu.Unlock()
		if !left {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return ErrBusy
}

// detach lets go of the guest, which runs on; its I/O waits for the next agent.
func (v *vm) detach(ctx context.Context) {
	done, err := v.begin(ctx)
	if err == nil {
		defer done()
	}
	v.mu.Lock()
	r := v.run
	v.run = nil
	v.mu.Unlock()
	if r == nil {
		return
	}
	r.release()
	<-r.stopped
	m := r.machine.Load()
	if err := r.close(); err != nil {
		v.a.log.Error("closing the disks of a guest that runs on", "vm", v.name(), "error", err)
	}
	m.Close()
	v.a.log.Info("the guest runs on, and waits for the next agent", "vm", v.name(), "process", m.PID())
}
