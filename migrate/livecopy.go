package migrate

import (
	"context"
	"errors"
	"fmt"

	"lunless/smbstore"
	"lunless/smbstore/block"
)

// assign says of each planned file what becomes of it: disks in use are mirrored,
// and what flattening leaves without a use is left.
func (l *liveDisks) assign(ctx context.Context) error {
	for _, d := range l.disks {
		f := l.m.journal.file(d.name)
		if f == nil {
			return fmt.Errorf("%s: %w", d.name, smbstore.ErrNotExist)
		}
		f.Role = roleMirrored
	}
	if !l.o.Flatten {
		return nil
	}
	below := map[string]bool{} // images under disks in use, by path in the home
	for _, d := range l.disks {
		for _, at := range d.chain {
			below[l.m.inSource(at)] = true
		}
	}
	for _, f := range l.m.journal.Files {
		if f.Role != "" || below[f.Name] || !smbstore.IsDiskName(f.Name) {
			continue
		}
		images, err := smbstore.InspectChain(ctx, l.m.ends.src, f.Name)
		if err != nil {
			continue // whatever it is, it comes along, and needs nobody that can be told
		}
		for _, i := range images {
			delete(below, l.m.inSource(i.Location))
		}
	}
	if err := l.checkpoints(ctx, below); err != nil {
		return err
	}
	for _, f := range l.m.journal.Files {
		if below[f.Name] {
			f.Role = roleLeft
		}
	}
	return nil
}

// checkpoints takes out what the VM's checkpoints need.
func (l *liveDisks) checkpoints(ctx context.Context, below map[string]bool) error {
	c, err := l.m.home.Config()
	if err != nil {
		return err
	}
	for _, p := range c.Checkpoints {
		for _, disk := range p.Disks {
			delete(below, disk.Path)
			images, err := smbstore.InspectChain(ctx, l.m.ends.src, disk.Path)
			if err != nil {
				continue // broken already, as it stays
			}
			for _, i := range images {
				delete(below, l.m.inSource(i.Location))
			}
		}
	}
	return nil
}

// inSource is the path in the source's home of what lies there, "" for others.
func (m *migration) inSource(at smbstore.Location) string {
	home := m.home.Location()
	if !home.Contains(at) || home.Equal(at) {
		return ""
	}
	rest := at.Path[len(home.Path):]
	for len(rest) > 0 && rest[0] == '/' {
		rest = rest[1:]
	}
	return rest
}

// copy mirrors every disk, copies the home's other files, and then what the
// disks held before.
func (l *liveDisks) copy(ctx context.Context, c *copier) error {
	for _, d := range l.m.journal.Folders {
		if err := l.m.ends.dst.MkdirAll(d); err != nil {
			return err
		}
	}
	if err := l.mirror(ctx, c, false); err != nil {
		return err
	}
	if err := l.governed(ctx, c, func() error { return c.run(ctx) }); err != nil {
		return err
	}
	if err := l.mirror(ctx, c, true); err != nil {
		return err
	}
	if err := l.rename(); err != nil {
		return err
	}
	l.progress = l.m.journal.progress(l.m.ends.dst)
	if l.o.often {
		l.progress.every = 0
	}
	return l.governed(ctx, c, func() error {
		for _, d := range l.disks {
			if err := l.pass(ctx, c, d); err != nil {
				return err
			}
		}
		return nil
	})
}

// governed runs a copy whose pace heeds the guest.
func (l *liveDisks) governed(ctx context.Context, c *copier, do func() error) error {
	defer c.pace.govern(ctx, &l.latency, l.guard, c.job)()
	return do()
}

// mirror attaches the disks that are kept as chains, whose parents have been
// copied, or all others.
func (l *liveDisks) mirror(ctx context.Context, c *copier, kept bool) error {
	attached := false
	for _, d := range l.disks {
		if d.keep != kept {
			continue
		}
		if err := l.attach(ctx, d); err != nil {
			return fmt.Errorf("mirror %s: %w", d.name, err)
		}
		attached = true
		failpoint("mirrored")
		if err := d.mirror.Survey(ctx, d.layer); err != nil {
			return l.failure(fmt.Errorf("map %s: %w", d.name, err))
		}
		c.job.hole(max(d.mirror.Size()-d.mirror.Remaining(), 0), true)
	}
	if !attached {
		return nil
	}
	if err := l.guard.learn(ctx, &l.latency); err != nil {
		return err
	}
	if l.guard != nil {
		c.job.measured(&l.latency, func(g *GuestLatency) { g.Usual = l.guard.base })
	}
	return nil
}

// pass copies what one disk held before it was mirrored.
func (l *liveDisks) pass(ctx context.Context, c *copier, d *liveDisk) error {
	state := l.m.journal.file(d.name)
	if state == nil {
		return fmt.Errorf("%s: %w", d.name, smbstore.ErrNotExist)
	}
	last, left := block.CopyProgress{}, min(d.mirror.Remaining(), d.mirror.Size())
	o := block.CopyOptions{Parallel: maxParallel, Pace: c.pace, Progress: func(p block.CopyProgress) {
		now := min(p.Remaining, d.mirror.Size())
		c.job.passed(p.Copied-last.Copied, p.Skipped+p.Zeroed-last.Skipped-last.Zeroed, now-left)
		last, left = p, now
		state.Disk, state.Left = d.mirror.Size(), max(now, 0)
		l.progress.tell()
		failpoint("live-copied")
	}}
	var err error
	if d.keep {
		err = d.mirror.MergePass(ctx, d.layer, o)
	} else {
		err = d.mirror.CopyPass(ctx, o)
	}
	if err != nil {
		return l.failure(fmt.Errorf("copy %s: %w", d.name, err)) // abandon waits
	}
	l.progress.wait()
	return nil
}

// size is how much the copying has to look at, in bytes.
func (l *liveDisks) size() int64 {
	var n int64
	for _, f := range l.m.journal.Files {
		if f.Role == "" {
			n += f.Size
		}
	}
	for _, d := range l.disks {
		n += d.slot.Size()
	}
	return n
}

// rename writes the paths of converted disks into the destination's configuration.
func (l *liveDisks) rename() error {
	same := true
	for _, d := range l.disks {
		same = same && d.name == d.dstName
	}
	if same {
		return nil
	}
	home, err := smbstore.HomeIn(l.m.ends.dst)
	if err != nil {
		return err
	}
	return home.UpdateConfig(func(c *smbstore.Config) error {
		for i := range c.Disks {
			for _, d := range l.disks {
				if c.Disks[i].Path == d.name {
					c.Disks[i].Path, c.Disks[i].Format = d.dstName, d.format
				}
			}
		}
		return nil
	})
}

// verify compares the files; the disks the mirror keeps alike, and they are
// compared under the guest where that is asked for.
func (l *liveDisks) verify(ctx context.Context, c *copier) error {
	for _, f := range c.journal.Files {
		if f.Role != "" || f.Name == l.m.home.ConfigName() {
			f.Verified = true
		}
	}
	if err := c.verify(ctx); err != nil {
		return err
	}
	return l.governed(ctx, c, func() error { return l.compare(ctx, c) })
}

// compare reads both sides of every disk, where that is asked for, and makes sure
// that none has lost its destination.
func (l *liveDisks) compare(ctx context.Context, c *copier) error {
	for _, d := range l.disks {
		if l.o.Verify {
			err := d.mirror.Compare(ctx, block.CopyOptions{Parallel: maxParallel, Pace: c.pace, Progress: func(p block.CopyProgress) {
				c.job.compared(p.Copied)
			}})
			if errors.Is(err, block.ErrDiffers) {
				err = fmt.Errorf("%w: %w", ErrVerify, err)
			}
			if err != nil {
				return l.failure(fmt.Errorf("verify %s: %w", d.name, err))
			}
		}
		if err := d.mirror.Err(); err != nil {
			return l.failure(err)
		}
	}
	return nil
}
