package host

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"lunless/smbstore"
)

// The server stands still in the middle of a take-over, and the agent of the host that
// had the VM is killed and started again meanwhile: the guest is held and its VM in
// doubt, and runs on neither host, until the record can be read; then it runs on the
// one that the record names.
func TestTakeOverInDoubt(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	f := newFight(t, "vms", startWrittenDown(t), rand.New(rand.NewPCG(seed, 1)), "")
	if err := f.doubt(); err != nil {
		t.Error(err)
	}
}

func (f *fight) doubt() error {
	ctx, cancel := context.WithTimeout(f.ctx, perStep)
	defer cancel()
	loser, taker := f.hosts[0], f.hosts[1]
	home, err := smbstore.OpenHome(ctx, f.at, loser.options())
	if err != nil {
		return err
	}
	err = home.UpdateConfig(func(c *smbstore.Config) error {
		c.StoragePatience = 1
		return nil
	})
	if err = errors.Join(err, home.Close()); err != nil {
		return err
	}
	if err := f.begin(); err != nil {
		return err
	}
	if err := f.comeBack(ctx); err != nil {
		return err
	}
	taken := make(chan error, 1)
	go func() {
		_, err := taker.Start(ctx, f.at.String(), StartRequest{TakeOver: true})
		taken <- err
	}()
	time.Sleep(time.Duration(f.rnd.IntN(60)) * time.Millisecond)
	f.server.Pause()
	defer f.server.Continue()
	held, err := loser.isOneOf(ctx, Paused, Lost)
	if err != nil {
		return err
	}
	if held == Paused {
		loser.kill()
		loser.startAgent()
		if _, err := loser.isOneOf(ctx, InDoubt); err != nil {
			return err
		}
	}
	if v, err := taker.Show(ctx, "web1"); err == nil && v.State == Running && len(taken) == 0 {
		return fmt.Errorf("it runs on %s, whose server is silent", v.Host)
	}
	f.server.Continue()
	has, err := f.settle(ctx, taken)
	if err != nil {
		return err
	}
	f.t.Logf("the VM was %s on the first host, and is %s's", held, has.cfg.Config.Name)
	if has == taker {
		f.has = 1
	}
	if err := f.attach(ctx, has); err != nil {
		return err
	}
	if has == taker {
		if _, err := loser.isOneOf(ctx, Lost); err != nil {
			return err
		}
	}
	if _, err := f.console.Verify(ctx); err != nil {
		return err
	}
	return f.end()
}

// comeBack has the server stand still until the guest is held, and its agent killed
// and started again then: the guest goes on when the server does.
func (f *fight) comeBack(ctx context.Context) error {
	h := f.hosts[0]
	f.server.Pause()
	defer f.server.Continue()
	if _, err := h.isOneOf(ctx, Paused); err != nil {
		return err
	}
	h.kill()
	h.startAgent()
	if _, err := h.isOneOf(ctx, InDoubt); err != nil {
		return err
	}
	f.server.Continue()
	if _, err := h.isOneOf(ctx, Running); err != nil {
		return err
	}
	h.reattach(f.console, "web1")
	return f.flushes(ctx, 2)
}

// settle waits until the VM runs where its record says that it is.
func (f *fight) settle(ctx context.Context, taken <-chan error) (*rig, error) {
	loser, taker := f.hosts[0], f.hosts[1]
	var err error
	select {
	case err = <-taken:
	case <-ctx.Done():
		return nil, fmt.Errorf("the take-over does not end: %w", ctx.Err())
	}
	if err == nil {
		return taker, nil
	}
	f.t.Logf("the take-over: %v", err)
	state, err := loser.isOneOf(ctx, Running, Lost)
	if err != nil || state == Running {
		return loser, err
	}
	_, err = taker.Start(ctx, "web1", StartRequest{})
	return taker, err
}

// isOneOf waits until the VM is in one of some states.
func (h *rig) isOneOf(ctx context.Context, want ...State) (State, error) {
	for {
		v, err := h.Show(ctx, "web1")
		for _, s := range want {
			if err == nil && v.State == s {
				return s, nil
			}
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return "", fmt.Errorf("on %s the VM is %s (%s), %v: want %v", h.cfg.Config.Name, v.State, v.Reason, err, want)
		}
	}
}
