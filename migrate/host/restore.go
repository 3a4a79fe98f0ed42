package host

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"lunless/smbstore"
)

// restore puts the VM back to a checkpoint. A guest that runs is ended, and what it
// did since is lost; it runs again afterwards, from the checkpoint's state if there
// is one.
func (v *vm) restore(ctx context.Context, q CheckpointRequest) error {
	done, err := v.begin(ctx)
	if err != nil {
		return v.fail("restore", err)
	}
	defer done()
	did, err := v.doing("a restore")
	if err != nil {
		return v.fail("restore", err)
	}
	defer did()
	var again bool
	if r, err := v.running(); err == nil {
		// First see that there is such a checkpoint.
		c, err := r.at().home.Config()
		if err == nil {
			_, err = find(&c, q.Name)
		}
		if err != nil {
			return v.fail("restore", err)
		}
		again = true
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
	var saved bool
	err = v.atHome(ctx, func(p *place) (err error) {
		saved, err = restoreOff(ctx, p, q.Name)
		return err
	})
	if err != nil {
		return v.fail("restore", err)
	}
	if err := v.remember(func(k *kept) { k.Saved, k.Ended = saved, "" }); err != nil {
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
// removes those it had. saved tells whether there is a state to go on from.
func restoreOff(ctx context.Context, p *place, name string) (saved bool, err error) {
	c, err := p.home.Config()
	if err != nil {
		return false, err
	}
	k, err := find(&c, name)
	if err != nil {
		return false, err
	}
	branch := uuid.NewString()
	if err := announceChildren(p.home, k.Disks, branch); err != nil {
		return false, err
	}
	children, err := grow(ctx, p.home, k.Disks, branch)
	if err != nil {
		return false, err
	}
	failpoint("restore-grown")
	old := c
	err = p.home.UpdateConfig(func(c *smbstore.Config) error {
		c.Disks, c.Current, c.Saved = children, k.ID, k.Saved
		settled(c, paths(children)...)
		c.Unfinished = append(c.Unfinished, unused(c, old.Disks, old.Saved)...)
		return nil
	})
	failpoint("restore-committed")
	if err != nil {
		if c, rerr := p.home.Config(); rerr != nil || uses(&c, children[0].Path) {
			return false, errors.Join(err, rerr)
		}
		return false, errors.Join(err, discard(p.home, paths(children)...))
	}
	if c, err = p.home.Config(); err != nil {
		return false, err
	}
	return k.Saved != nil, discard(p.home, unused(&c, old.Disks, old.Saved)...)
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
