package host

import (
	"context"
	"fmt"
	"time"

	"lunless/migrate/qemu"
)

// unpause has a guest go on that people have paused, on its monitor or before the agent
// found it. One that stands for its storage goes on by itself when that works, and one
// whose kernel has panicked cannot: the error, ErrRunning, says so.
func (r *run) unpause(ctx context.Context) error {
	v := r.v
	v.mu.Lock()
	state, since, stood := v.state, v.since, v.kept.Standing
	stands := fmt.Errorf("%w already (%s)", ErrRunning, v.describe())
	v.mu.Unlock()
	if state != Paused || stood {
		return stands
	}
	ctx, cancel := context.WithTimeout(ctx, contWait)
	defer cancel()
	m := r.machine.Load()
	s, err := m.Status(ctx)
	if err != nil {
		return fmt.Errorf("%w: asking its QEMU: %w", stands, err)
	}
	v.mu.Lock()
	stood = v.kept.Standing // before the agent pauses a guest, it says so
	v.mu.Unlock()
	if stood || s != qemu.StatePaused && s != qemu.StatePrelaunch {
		return stands
	}
	if err := m.Cont(ctx); err != nil {
		return err
	}
	return v.shown(ctx, r, since)
}

// shown waits until watch has shown what became of a guest that was paused at since: it
// may have been stopped again at once.
func (v *vm) shown(ctx context.Context, r *run, since time.Time) error {
	for {
		v.mu.Lock()
		changed, paused, what := !v.since.Equal(since), v.state == Paused, v.describe()
		v.mu.Unlock()
		switch {
		case changed && paused:
			return fmt.Errorf("it went on, and stands again: %s", what)
		case changed:
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-r.stopped:
			return fmt.Errorf("%w: it went on, and ended", ErrNotRunning)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
