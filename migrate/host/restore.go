package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"lunless/smbstore"
)

// RestoreRequest names the checkpoint to go back to, by its name or id, and says what
// becomes of what the VM is now: one of Keep and Discard.
type RestoreRequest struct {
	Name string `json:"name"`
	// Keep makes a checkpoint of what the VM is now, before; As is its name, "" for the time.
	Keep    bool   `json:"keep,omitempty"`
	As      string `json:"as,omitempty"`
	Discard bool   `json:"discard,omitempty"`
}

// ErrWouldLose: a restore was asked for without a word on what the VM is now.
var ErrWouldLose = errors.New("a restore drops what the VM is now")

// restore puts the VM back to a checkpoint. A guest that runs is ended; what the VM was
// is a checkpoint then, or lost. From a checkpoint of a running guest it runs again if
// it ran before, and is saved if it was off; from one of a VM that was off it is off.
func (v *vm) restore(ctx context.Context, q RestoreRequest) error {
	done, err := v.begin(ctx)
	if err != nil {
		return v.fail("restore", err)
	}
	defer done()
	k, err := v.toRestore(ctx, q)
	if err != nil {
		return v.fail("restore", err)
	}
	if q.Keep {
		if err := v.checkpointNow(ctx, q.As); err != nil {
			return v.fail("restore", fmt.Errorf("it is as it was, because no checkpoint of it could be made: %w", err))
		}
	}
	did, err := v.doing("a restore")
	if err != nil {
		return v.fail("restore", err)
	}
	defer did()
	var again bool
	if r, err := v.running(); err == nil {
		again = k.Saved != nil
		r.end(ending{state: Stopped, reason: "it is put back to a checkpoint"})
		// From here on it is done whoever asked for it.
		var cancel context.CancelFunc
		ctx, cancel = v.a.goingOn(ctx)
		defer cancel()
		select {
		case <-r.stopped:
		case <-ctx.Done():
			return v.fail("restore", context.Cause(ctx))
		}
		failpoint("restore-ended")
	}
	unmerged := false
	err = v.atHome(ctx, func(p *place) error {
		err := restoreOff(ctx, p.home, k.ID)
		c, cerr := p.home.Config()
		unmerged = cerr != nil || len(c.Unmerged) > 0
		return err
	})
	if err != nil {
		return v.fail("restore", err)
	}
	saved := k.Saved != nil
	if err := v.remember(func(k *kept) { k.Saved, k.Ended, k.Merging = saved, "", unmerged }); err != nil {
		return v.fail("restore", err)
	}
	state := Stopped
	if saved {
		state = SavedOff
	}
	v.set(state, "")
	if !again {
		return nil
	}
	if err := v.startNow(ctx, StartRequest{}); err != nil {
		return v.fail("start", err)
	}
	return nil
}

// toRestore is the checkpoint that a request means, if there is nothing against it.
func (v *vm) toRestore(ctx context.Context, q RestoreRequest) (k smbstore.Checkpoint, err error) {
	var home *smbstore.Home
	r, rerr := v.running()
	if rerr == nil {
		if r.moving.Load() {
			return k, fmt.Errorf("%w: a migration: wait for it, or cancel it", ErrBusy)
		}
		home = r.at().home
	} else {
		if home, err = smbstore.OpenHome(ctx, v.location(), v.a.homeOptions()); err != nil {
			return k, err
		}
		defer home.Close() //nolint:errcheck // was only read
	}
	c, err := home.Config()
	if err != nil {
		return k, err
	}
	if k, err = find(&c, q.Name); err != nil {
		return k, err
	}
	if q.Keep == q.Discard {
		return k, fmt.Errorf("%w: %s: say either --keep NAME, which makes a checkpoint of it, or --discard", ErrWouldLose, atStake(home, &c, rerr == nil))
	}
	return k, nil
}

// atStake says what of a VM no checkpoint has.
func atStake(home *smbstore.Home, c *smbstore.Config, running bool) string {
	var size int64
	for _, d := range c.Disks {
		if st, err := home.Store().Stat(d.Path); err == nil {
			size += st.Size
		}
	}
	s := fmt.Sprintf("what its %d disk(s) have been written, %.1f MiB at most", len(c.Disks), float64(size)/(1<<20))
	if k, err := find(c, c.Current); err == nil {
		s += fmt.Sprintf(", since the checkpoint %q of %s", k.Name, k.Created.Local().Format(time.DateTime))
	}
	switch {
	case running:
		s += ", and the guest's memory"
	case c.Saved != nil && !hasState(c, c.Saved.Path):
		s += ", and the guest's saved state"
	}
	return s
}

// find gives a checkpoint by its name or id.
func find(c *smbstore.Config, name string) (smbstore.Checkpoint, error) {
	for _, k := range c.Checkpoints {
		if k.ID == name || k.Name == name {
			return k, nil
		}
	}
	return smbstore.Checkpoint{}, fmt.Errorf("%w: %q (`lunless vm checkpoint list` shows them)", ErrNoCheckpoint, name)
}

// restoreOff gives a VM that is off new disks that grow from a checkpoint's, and
// removes those it had.
func restoreOff(ctx context.Context, home *smbstore.Home, name string) error {
	c, err := home.Config()
	if err != nil {
		return err
	}
	k, err := find(&c, name)
	if err != nil {
		return err
	}
	branch := uuid.NewString()
	variables := ""
	if k.UEFIVariables != "" { // else those there are stay
		variables = variablesOf(&c, branch)
	}
	if err := announceChildren(home, k.Disks, branch, variables); err != nil {
		return err
	}
	children, err := grow(ctx, home, k.Disks, branch)
	if err == nil {
		err = copyVariables(home, k.UEFIVariables, variables)
	}
	if err != nil {
		return errors.Join(err, discard(home, append(paths(children), variables)...))
	}
	failpoint("restore-grown")
	old := c
	err = home.UpdateConfig(func(c *smbstore.Config) error {
		c.Disks, c.Current, c.Saved = children, k.ID, k.Saved
		settled(c, append(paths(children), variables)...)
		c.Unfinished = append(c.Unfinished, unused(c, old.Disks, old.Saved)...)
		if variables != "" {
			c.UEFIVariables = variables
			c.Unfinished = append(c.Unfinished, old.UEFIVariables)
		}
		return nil
	})
	failpoint("restore-committed")
	if err != nil {
		if c, rerr := home.Config(); rerr != nil || uses(&c, children[0].Path) {
			return errors.Join(err, rerr)
		}
		return errors.Join(err, discard(home, append(paths(children), variables)...))
	}
	if c, err = home.Config(); err != nil {
		return err
	}
	gone := unused(&c, old.Disks, old.Saved)
	if variables != "" {
		gone = append(gone, old.UEFIVariables)
	}
	return discard(home, gone...)
}

// uses tells whether a disk is the VM's or one of its checkpoints'.
func uses(c *smbstore.Config, name string) bool {
	in := func(disks []smbstore.Disk) bool {
		for _, d := range disks {
			if d.Path == name {
				return true
			}
		}
		return false
	}
	for _, k := range c.Checkpoints {
		if in(k.Disks) {
			return true
		}
	}
	return in(c.Disks)
}

// unused are those of disks that nothing grows from, and of a state, which the
// configuration does not name any more.
func unused(c *smbstore.Config, disks []smbstore.Disk, saved *smbstore.SavedState) (files []string) {
	for _, d := range disks {
		if !uses(c, d.Path) {
			files = append(files, d.Path)
		}
	}
	if saved != nil && (c.Saved == nil || c.Saved.Path != saved.Path) && !hasState(c, saved.Path) {
		files = append(files, saved.Path)
	}
	return files
}
