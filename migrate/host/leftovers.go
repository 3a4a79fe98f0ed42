package host

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"lunless/smbstore"
)

// What an operation makes, or is about to remove, stands in the home's configuration
// (smbstore.Config.Unfinished) before it is there, or needed no more. An operation
// that is cut leaves it there: whoever owns the VM next removes what nothing needs.
// In the agent's own notes stands which operation it was (kept.Doing).

// announce names files in the configuration.
func announce(home *smbstore.Home, files ...string) error {
	return home.UpdateConfig(func(c *smbstore.Config) error {
		c.Unfinished = append(c.Unfinished, files...)
		return nil
	})
}

// settled takes files out of what is unfinished.
func settled(c *smbstore.Config, files ...string) {
	c.Unfinished = slices.DeleteFunc(c.Unfinished, func(f string) bool { return slices.Contains(files, f) })
	if len(c.Unfinished) == 0 {
		c.Unfinished = nil
	}
}

// discard removes files that were announced; those that the configuration has taken
// since stay.
func discard(home *smbstore.Home, files ...string) error {
	if len(files) == 0 {
		return nil
	}
	c, err := home.Config()
	if err != nil {
		return err
	}
	var errs []error
	var gone []string
	for _, f := range files {
		if slices.Contains(c.Unfinished, f) {
			gone, errs = append(gone, f), append(errs, ignoreMissing(home.Store().Remove(f)))
		}
	}
	if err := errors.Join(append(errs, syncDirs(home, gone))...); err != nil {
		return err // they stay announced
	}
	return home.UpdateConfig(func(c *smbstore.Config) error {
		settled(c, files...)
		return nil
	})
}

// syncDirs puts it on stable storage that files are gone: nothing names them from then
// on, so that what came back would stay.
func syncDirs(home *smbstore.Home, files []string) error {
	dirs := map[string]bool{}
	for _, f := range files {
		dirs[path.Dir(f)] = true
	}
	var errs []error
	for dir := range dirs {
		if dir == "." {
			dir = ""
		}
		errs = append(errs, ignoreMissing(home.Store().SyncDir(dir)))
	}
	return errors.Join(errs...)
}

func paths(disks []smbstore.Disk) (list []string) {
	for _, d := range disks {
		list = append(list, d.Path)
	}
	return list
}

// tidy removes what operations that were cut left in a home that this host owns, and
// nothing writes to. It gives the names of what is left.
func tidy(ctx context.Context, home *smbstore.Home) (left []string, err error) {
	for _, dir := range []string{"", smbstore.MachinesDir} {
		infos, err := home.Store().ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, i := range infos {
			if name := path.Join(dir, i.Name); !i.Dir && smbstore.IsTemp(name) {
				home.Store().Remove(name) //nolint:errcheck // it is garbage by its name
			}
		}
	}
	c, err := home.Config()
	if err != nil || len(c.Unfinished) == 0 || sabotage(sabotageTidy) {
		return nil, err
	}
	needed, err := needs(ctx, home, &c)
	if err != nil {
		return c.Unfinished, err
	}
	var errs []error
	var gone []string
	for _, f := range c.Unfinished {
		if needed[f] {
			continue
		}
		if err := ignoreMissing(home.Store().Remove(f)); err != nil {
			left, errs = append(left, f), append(errs, err)
		} else {
			gone = append(gone, f)
		}
	}
	if err := syncDirs(home, gone); err != nil {
		return append(left, gone...), errors.Join(append(errs, err)...)
	}
	errs = append(errs, home.UpdateConfig(func(c *smbstore.Config) error {
		c.Unfinished = left
		return nil
	}))
	return left, errors.Join(errs...)
}

// needs are the files of the home that the VM or a checkpoint of it needs, the images
// below their disks too. It is an error if a chain cannot be followed to its end.
func needs(ctx context.Context, home *smbstore.Home, c *smbstore.Config) (map[string]bool, error) {
	needed := map[string]bool{c.UEFIVariables: true}
	states := []*smbstore.SavedState{c.Saved}
	disks := slices.Clone(c.Disks)
	for _, k := range c.Checkpoints {
		states, disks = append(states, k.Saved), append(disks, k.Disks...)
		needed[k.UEFIVariables] = true
	}
	for _, s := range states {
		if s != nil {
			needed[s.Path] = true
		}
	}
	for _, d := range disks {
		if needed[d.Path] {
			continue
		}
		needed[d.Path] = true
		if d.Format == smbstore.Raw {
			continue
		}
		images, err := smbstore.InspectChain(ctx, home.Store(), d.Path)
		if err != nil {
			return nil, err
		}
		for _, i := range images {
			if i.ParentError != "" {
				return nil, fmt.Errorf("%s: %s", i.Location, i.ParentError)
			}
			for _, f := range c.Unfinished {
				if i.Location.Equal(home.Location().Join(f)) {
					needed[f] = true
				}
			}
		}
	}
	return needed, nil
}

// evict has the server close what a dead agent has open of the disks of a VM that is
// off. Where that has no effect, whoever opens them is told.
func (p *place) evict(ctx context.Context, host string, epoch uint64) {
	c, err := p.home.Config()
	if err != nil {
		return
	}
	fence, err := p.home.Fence(host, epoch)
	if err != nil {
		return
	}
	files := append(append(paths(c.Disks), present(c.UEFIVariables)...), announced(&c)...)
	for _, k := range c.Checkpoints { // what a disk grows from was open with it
		files = append(files, paths(k.Disks)...)
	}
	for _, u := range c.Unmerged { // a merge may have had them open for writing
		if files = append(files, u.Path); u.Child != "" {
			files = append(files, u.Child)
		}
	}
	smbstore.Evict(ctx, p.home.Store(), fence, files)
}

// announced are the images that an operation which was cut made, or was to remove.
func announced(c *smbstore.Config) (images []string) {
	for _, f := range c.Unfinished {
		if smbstore.IsDiskName(f) {
			images = append(images, f)
		}
	}
	return images
}

// tidied tidies the VM's home, and shows what could not be removed: no reason not to
// go on.
func (v *vm) tidied(ctx context.Context, home *smbstore.Home) {
	left, err := tidy(ctx, home)
	if err != nil {
		v.a.log.Warn("what an operation that was cut left in the home is not needed, and stays", "vm", v.name(), "files", left, "error", err)
	}
	v.mu.Lock()
	v.leftovers = left
	v.mu.Unlock()
}

// doing notes that an operation which leaves something if it is cut has begun.
func (v *vm) doing(op string) (done func(), err error) {
	if err := v.remember(func(k *kept) { k.Doing = op }); err != nil {
		return nil, err
	}
	return func() {
		if v.a.isStopping() {
			return // it was cut
		}
		if err := v.remember(func(k *kept) { k.Doing = "" }); err != nil {
			v.a.log.Error("the host's state", "error", err)
		}
	}, nil
}

// cutShort tells what the last agent was at when it ended, "" for nothing.
func (v *vm) cutShort() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.kept.Doing
}

// clearUp sees to what a VM that is off has left of an operation that was cut, unless a
// start of it does.
func (v *vm) clearUp() {
	ctx := v.a.ctx
	for wait := 100 * time.Millisecond; v.cutShort() != ""; wait = min(2*wait, 10*time.Second) {
		err := v.clearUpNow(ctx)
		if err == nil || errors.Is(err, smbstore.ErrNotHome) {
			return
		}
		if !errors.Is(err, ErrRunning) && !errors.Is(err, ErrBusy) {
			v.a.log.Warn("what an operation that was cut left cannot be seen to yet", "vm", v.name(), "operation", v.cutShort(), "error", err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

func (v *vm) clearUpNow(ctx context.Context) error {
	done, err := v.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	v.mu.Lock()
	on := v.run != nil || v.kept.Running
	v.mu.Unlock()
	if on {
		return ErrRunning // its start sees to it, if it does not fail
	}
	var saved bool
	err = v.atHome(ctx, func(p *place) error {
		c, err := p.home.Config()
		saved = c.Saved != nil
		return err
	})
	if foreign(err) { // its owner sees to it
		return v.remember(func(k *kept) { k.Doing = "" })
	}
	if err != nil {
		return err
	}
	if saved {
		v.set(SavedOff, "")
	}
	return v.remember(func(k *kept) { k.Doing, k.Saved = "", saved })
}
