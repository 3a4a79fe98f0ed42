package host

import (
	"context"
	"fmt"
	"slices"

	"lunless/smbstore"
)

// RemoveRequest names a checkpoint to be removed, by its name or id.
type RemoveRequest struct {
	Name    string `json:"name"`
	Subtree bool   `json:"subtree,omitempty"` // those that grew from it too
}

// removeCheckpoint takes a checkpoint out of the configuration. What is needed of its
// disks by nothing but one other disk is merged with that from then on; see sweep.
func (v *vm) removeCheckpoint(ctx context.Context, q RemoveRequest) error {
	done, err := v.begin(ctx)
	if err != nil {
		return v.fail("remove a checkpoint of", err)
	}
	defer done()
	did, err := v.doing("the removal of a checkpoint")
	if err != nil {
		return v.fail("remove a checkpoint of", err)
	}
	defer did()
	if err := v.remember(func(k *kept) { k.Merging = true }); err != nil {
		return v.fail("remove a checkpoint of", err)
	}
	if r, rerr := v.running(); rerr == nil {
		if r.moving.Load() {
			err = fmt.Errorf("%w: a migration: wait for it, or cancel it", ErrBusy)
		} else {
			err = forget(r.at().home, q)
		}
	} else {
		err = v.atHome(ctx, func(p *place) error { return forget(p.home, q) })
	}
	return v.fail("remove a checkpoint of", err)
}

// forget takes checkpoints out of a configuration, and notes their disks as what may
// be merged. The saved states that were theirs alone are removed.
func forget(home *smbstore.Home, q RemoveRequest) error {
	var gone []string
	err := home.UpdateConfig(func(c *smbstore.Config) error {
		k, err := find(c, q.Name)
		if err != nil {
			return err
		}
		removed := []string{k.ID}
		for i := 0; q.Subtree && i < len(removed); i++ {
			for _, o := range c.Checkpoints {
				if o.Parent == removed[i] {
					removed = append(removed, o.ID)
				}
			}
		}
		all := c.Checkpoints
		c.Checkpoints = nil
		for _, o := range all {
			if slices.Contains(removed, o.ID) {
				continue
			}
			if o.Parent == k.ID {
				o.Parent = k.Parent
			}
			c.Checkpoints = append(c.Checkpoints, o)
		}
		if slices.Contains(removed, c.Current) {
			c.Current = k.Parent
		}
		for _, o := range all {
			if slices.Contains(removed, o.ID) {
				unneeded(c, o.Disks)
				gone = append(append(gone, unused(c, nil, o.Saved)...), present(o.UEFIVariables)...)
			}
		}
		c.Unfinished = append(c.Unfinished, gone...)
		return nil
	})
	failpoint("checkpoint-forgotten")
	if err != nil {
		return err
	}
	return discard(home, gone...)
}

// unneeded notes disks that the configuration does not name any more as what may be
// merged, or go.
func unneeded(c *smbstore.Config, disks []smbstore.Disk) {
	for _, d := range disks {
		known := slices.ContainsFunc(c.Unmerged, func(u smbstore.Unmerged) bool { return u.Path == d.Path })
		if !known && !uses(c, d.Path) {
			c.Unmerged = append(c.Unmerged, smbstore.Unmerged{Path: d.Path})
		}
	}
}
