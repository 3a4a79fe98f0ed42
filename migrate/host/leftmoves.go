package host

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"lunless/migrate"
	"lunless/smbstore"
)

// A migration that failed and could not clean up, or whose agent did not live to end,
// is seen to by its host: it is undone, or, once the VM has moved, its old home is
// removed. That is tried until it is done; `lunless migrate list` shows it meanwhile.

// maxLeft bounds how many of a VM's migrations wait for that.
const maxLeft = 32

// leaveMove notes that the migration that was under way is to be seen to.
func (v *vm) leaveMove() {
	v.mu.Lock()
	to := v.kept.Moving
	v.mu.Unlock()
	if to == (smbstore.Location{}) {
		return
	}
	err := v.remember(func(k *kept) {
		k.Left = slices.DeleteFunc(slices.Clone(k.Left), to.Equal)
		if len(k.Left) == maxLeft {
			k.Left = k.Left[1:]
		}
		k.Left, k.Moving = append(k.Left, to), smbstore.Location{}
	})
	if err != nil {
		v.a.log.Error("the host's state", "error", err)
	}
}

// left are the homes of migrations that are to be seen to.
func (v *vm) left() []smbstore.Location {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.kept.Left)
}

// finishMoves sees to what migrations left until nothing is, or the agent ends.
func (v *vm) finishMoves() {
	v.mu.Lock()
	already := v.finishing
	v.finishing = true
	v.mu.Unlock()
	if already {
		return
	}
	ctx := v.a.ctx
	for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
		for _, to := range v.left() {
			v.sawTo(to, v.finishMove(ctx, to))
		}
		v.mu.Lock()
		if len(v.kept.Left) == 0 || ctx.Err() != nil {
			v.finishing = false
			v.mu.Unlock()
			return
		}
		v.mu.Unlock()
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// sawTo takes note of what came of it.
func (v *vm) sawTo(to smbstore.Location, err error) {
	if v.a.ctx.Err() != nil {
		return
	}
	v.mu.Lock()
	errs := maps.Clone(v.leftErr)
	if errs == nil {
		errs = map[string]string{}
	}
	told := errs[to.String()]
	delete(errs, to.String())
	if err != nil {
		errs[to.String()] = err.Error()
	}
	v.leftErr = errs
	v.mu.Unlock()
	if err != nil {
		if told != err.Error() {
			v.a.log.Warn("what a migration left cannot be seen to yet: `lunless migrate list` shows it", "vm", v.name(), "to", to, "error", err)
		}
		return
	}
	v.a.log.Info("a migration that was cut is seen to", "vm", v.name(), "to", to, "home", v.location())
	err = v.remember(func(k *kept) {
		k.Left = slices.DeleteFunc(slices.Clone(k.Left), to.Equal)
		if len(k.Left) == 0 {
			k.Followed = ""
		}
	})
	if err != nil {
		v.a.log.Error("the host's state", "error", err)
	}
}

// finishMove finishes a migration to a home if the VM lies there, and undoes it else.
func (v *vm) finishMove(ctx context.Context, to smbstore.Location) error {
	_, err := v.a.settleMove(ctx, v.kept.ID, to, !v.location().Equal(to))
	if errors.Is(err, migrate.ErrTooLate) {
		// It lies there, and has not been started since.
		var done migrate.Status
		if done, err = v.a.settleMove(ctx, v.kept.ID, to, false); err == nil {
			return v.moved(done.Source, to)
		}
	}
	if errors.Is(err, migrate.ErrNoJob) || errors.Is(err, smbstore.ErrNotExist) {
		var here *movedError
		if old := v.location(); !old.Equal(to) && errors.As(v.gone(ctx, old), &here) {
			return v.moved(old, here.to) // by hand, while no agent ran
		}
		return migrate.RemoveEmpty(ctx, to, v.a.homeOptions()) // it had not begun, or was done
	}
	return err
}

// gone looks whether the VM's old home is there: nil if it is, or if that is not known;
// else what arrived gives.
func (v *vm) gone(ctx context.Context, old smbstore.Location) error {
	h, err := smbstore.OpenHome(ctx, old, v.a.homeOptions())
	if err == nil {
		return h.Close()
	}
	if errors.Is(err, smbstore.ErrNotHome) || errors.Is(err, smbstore.ErrNotExist) {
		return v.arrived(ctx, err)
	}
	return nil
}

// moved takes note of where a VM has moved that did not follow: it is off, is being
// taken over, or has run with its disks shut since its move ended in doubt. One that has
// another home by now, by an administrator's word, keeps that.
func (v *vm) moved(from, to smbstore.Location) error {
	return v.remember(func(k *kept) {
		if k.Location.Equal(from) {
			k.Location = to
		}
	})
}

// settleMove finishes, or undoes, the migration of a VM ("": of any) whose destination
// home is named.
func (a *Agent) settleMove(ctx context.Context, vm string, to smbstore.Location, undo bool) (migrate.Status, error) {
	o := migrate.Options{SourceOptions: a.homeOptions(), ToOptions: a.homeOptions(), Host: a.cfg.Name, VM: vm}
	if undo {
		return migrate.Cancel(ctx, to, o)
	}
	job, err := migrate.Resume(ctx, to, o)
	if err != nil {
		return migrate.Status{Destination: to}, err
	}
	err = job.Wait(context.WithoutCancel(ctx))
	return job.Status(), err
}

// leftMoves are the migrations of the VM that are to be seen to.
func (v *vm) leftMoves() (list []Migration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, to := range v.kept.Left {
		m := Migration{VM: v.kept.Name, Ended: true, Status: migrate.Status{Kind: migrate.KindLiveStorage, Phase: migrate.Failed,
			Destination: to, Error: v.leftErr[to.String()], Next: []string{"lunless migrate show " + to.String()}}}
		if m.Error == "" {
			m.Error = "it was cut, and is being seen to"
		}
		list = append(list, m)
	}
	return list
}
