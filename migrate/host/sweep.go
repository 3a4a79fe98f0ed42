package host

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"lunless/smbstore"
)

// Once a checkpoint is removed, its disks' images are needed by what grows from them
// alone. An image with one child takes that child in: the child's content is brought
// into it, what grew from the child grows from it, the configuration names it in the
// child's stead, and the child's file is removed, in this order. Each step leaves
// chains that open with all that was flushed; smbstore.Config.Unmerged says what there
// is to do still, so that whoever owns the VM next goes on with it.

// sweep merges what a home's configuration says is unmerged.
type sweep struct {
	home *smbstore.Home
	// merge does a step, and calls commit before the child's file goes.
	merge func(ctx context.Context, s step, commit func(context.Context) error) error
	// commit changes the configuration: see run.commit.
	commit func(change func(*smbstore.Config) error, is func(*smbstore.Config) bool) error
	tell   func(s step, left int) // may be nil: a step begins
}

// errLater is a merge that cannot be done as long as the guest runs.
var errLater = errors.New("it is merged when the VM is off")

// run does all that can be done now. later says why something cannot, nil if nothing
// is left but what several images need.
func (w *sweep) run(ctx context.Context) (later, err error) {
	var put []step // off
	for {
		if err := ctx.Err(); err != nil {
			return later, context.Cause(ctx)
		}
		c, err := w.home.Config()
		if err != nil || len(c.Unmerged) == 0 && !slices.ContainsFunc(c.Unfinished, smbstore.IsDiskName) {
			return nil, err
		}
		f, err := familyOf(ctx, w.home, &c)
		if err != nil {
			return later, err
		}
		if err := discard(w.home, f.left(&c)...); err != nil {
			return later, err
		}
		if len(c.Unmerged) == 0 {
			return nil, nil
		}
		settled, gone, steps := f.next(&c)
		if len(settled)+len(gone) > 0 {
			if err := w.drop(settled, gone); err != nil {
				return later, err
			}
			continue
		}
		steps = slices.DeleteFunc(steps, func(s step) bool {
			return slices.ContainsFunc(put, func(p step) bool { return p.child == s.child && p.into == s.into })
		})
		if len(steps) == 0 {
			return later, nil
		}
		switch err := w.one(ctx, steps[0], len(steps)+len(put)); {
		case errors.Is(err, errLater), errors.Is(err, smbstore.ErrSharing):
			put, later = append(put, steps[0]), err
		case err != nil:
			return later, err
		}
	}
}

// drop takes images out of what is unmerged; those that are gone are removed.
func (w *sweep) drop(settled, gone []string) error {
	err := w.home.UpdateConfig(func(c *smbstore.Config) error {
		c.Unmerged = slices.DeleteFunc(c.Unmerged, func(u smbstore.Unmerged) bool {
			return slices.Contains(settled, u.Path) || slices.Contains(gone, u.Path)
		})
		for _, g := range gone {
			if !slices.Contains(c.Unfinished, g) {
				c.Unfinished = append(c.Unfinished, g)
			}
		}
		return nil
	})
	failpoint("merge-dropped")
	if err != nil {
		return err
	}
	return discard(w.home, gone...)
}

// one does a step.
func (w *sweep) one(ctx context.Context, s step, left int) error {
	err := w.home.UpdateConfig(func(c *smbstore.Config) error {
		for i, u := range c.Unmerged {
			if u.Path == s.into {
				c.Unmerged[i].Child = s.child
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	failpoint("merge-begun")
	if w.tell != nil {
		w.tell(s, left)
	}
	err = w.merge(ctx, s, func(context.Context) error {
		failpoint("merge-brought")
		if sabotage(sabotageMerge) {
			return nil
		}
		err := w.commit(s.change, s.isDone)
		failpoint("merge-committed")
		return err
	})
	if err != nil {
		return err // what is left of it, if it was committed, is announced
	}
	failpoint("merge-removed")
	return w.home.UpdateConfig(func(c *smbstore.Config) error {
		settled(c, s.child)
		return nil
	})
}

// change has the configuration name the image in place of its child.
func (s step) change(c *smbstore.Config) error {
	replace := func(disks []smbstore.Disk) {
		for i := range disks {
			if disks[i].Path == s.child {
				disks[i].Path = s.into
			}
		}
	}
	replace(c.Disks)
	for i := range c.Checkpoints {
		replace(c.Checkpoints[i].Disks)
	}
	unneeded := slices.ContainsFunc(c.Unmerged, func(u smbstore.Unmerged) bool { return u.Path == s.child })
	var list []smbstore.Unmerged
	for _, u := range c.Unmerged {
		if u.Path == s.into {
			if !unneeded {
				continue
			}
			u.Child = ""
		}
		if u.Path != s.child {
			list = append(list, u)
		}
	}
	c.Unmerged = list
	if !slices.Contains(c.Unfinished, s.child) {
		c.Unfinished = append(c.Unfinished, s.child)
	}
	return nil
}

// isDone tells whether the configuration was changed.
func (s step) isDone(c *smbstore.Config) bool {
	return !uses(c, s.child) && slices.Contains(c.Unfinished, s.child)
}

// mergeFiles does a step whose files nobody writes to, on a store with the VM's fence.
func mergeFiles(ctx context.Context, home *smbstore.Home, on smbstore.Store, s step, o smbstore.MergeOptions, commit func(context.Context) error) error {
	o.Into, o.Merged = home.Location().Join(s.into), s.merged
	for _, c := range s.children {
		o.Children = append(o.Children, home.Location().Join(c))
	}
	o.Commit = func(ctx context.Context, _, _ smbstore.Location) error { return commit(ctx) }
	_, err := smbstore.MergeDisk(ctx, on, s.child, o)
	return err
}

// mergeUnder does a step under a guest that uses chains. errLater if it cannot.
func mergeUnder(ctx context.Context, home *smbstore.Home, on smbstore.Store, chains []*smbstore.Chain, s step, o smbstore.MergeLiveOptions, commit func(context.Context) error) error {
	child, into := home.Location().Join(s.child), home.Location().Join(s.into)
	for _, chain := range chains {
		images := chain.Images()
		i := slices.IndexFunc(images, child.Equal)
		if i < 0 {
			continue
		}
		switch {
		case i+1 == len(images) || !images[i+1].Equal(into):
			return fmt.Errorf("%s is not over %s in the chain in use, but %v: restart the VM", s.child, s.into, images)
		case s.format != smbstore.VHDX:
			return fmt.Errorf("%s is a %s, which has no log: %w", s.child, s.format, errLater)
		case s.merged:
			return fmt.Errorf("a merge of %s that was cut is nearly done: %w", s.child, errLater)
		}
		for _, c := range s.children {
			if at := home.Location().Join(c); i == 0 || !images[i-1].Equal(at) {
				o.Children = append(o.Children, at)
			}
		}
		o.Commit = func(ctx context.Context, _ smbstore.Location) error { return commit(ctx) }
		return chain.Merge(ctx, i, o)
	}
	return mergeFiles(ctx, home, on, s, smbstore.MergeOptions{Convert: o.Convert, Progress: o.Progress}, commit)
}
