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
	done, err := v.begin(ctx)
	if err != nil {
		return v.fail("stop", err)
	}
	defer done()
	if r, err = v.running(); err != nil {
		return v.fail("stop", err)
	}
	if q.Force {
		r.end(ending{state: Stopped, forced: true, reason: "ended by force: what the guest had not flushed is lost, as by a loss of power"})
	} else if err := r.machine.Load().Powerdown(ctx); err != nil {
		return v.fail("stop", err)
	}
	if q.Timeout <= 0 {
		q.Timeout = time.Minute
	}
	patience := time.NewTimer(q.Timeout)
	defer patience.Stop()
	select {
	case <-r.stopped:
		return nil
	case <-patience.C:
		return v.fail("stop", fmt.Errorf("the guest has not powered itself off within %v: see `lunless vm console %s`, or give --force", q.Timeout, v.name()))
	case <-ctx.Done():
		return v.fail("stop", context.Cause(ctx))
	}
}

// stopLeft ends a guest that this agent could not take over yet.
func (v *vm) stopLeft(ctx context.Context) error {
	if err := qemu.KillAt(ctx, v.a.runtimeDir(v.kept.ID)); err != nil && !errors.Is(err, qemu.ErrGone) {
		return err
	}
	for range 100 {
		v.mu.Lock()
		left := v.kept.Running
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
