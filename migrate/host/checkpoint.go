package host

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/google/uuid"

	"lunless/smbstore"
)

// CheckpointRequest names a checkpoint: a new one's name, or an old one's name or id.
type CheckpointRequest struct {
	Name string `json:"name,omitempty"`
}

// Checkpoints are a VM's, as its configuration has them.
type Checkpoints struct {
	Current     string                `json:"current,omitempty"` // id of the one that the disks grow from
	Checkpoints []smbstore.Checkpoint `json:"checkpoints"`
}

// Errors of checkpoints.
var (
	// ErrNoCheckpoint: the VM has no such checkpoint.
	ErrNoCheckpoint = errors.New("the VM has no such checkpoint")
	// ErrCheckpointTaken: the VM has a checkpoint of that name.
	ErrCheckpointTaken = errors.New("the VM has a checkpoint of that name")
)

// A checkpoint makes the disks the parents of new ones, which the guest goes on
// with. The configuration is the commit point: before it is changed the new disks
// are garbage, after it the old ones are the checkpoint's and change no more.

// checkpoint keeps the VM as it is now: its disks and, if it runs, the guest's state.
func (v *vm) checkpoint(ctx context.Context, q CheckpointRequest) error {
	done, err := v.begin(ctx)
	if err != nil {
		return v.fail("make a checkpoint of", err)
	}
	defer done()
	return v.fail("make a checkpoint of", v.checkpointNow(ctx, q.Name))
}

func (v *vm) checkpointNow(ctx context.Context, name string) error {
	did, err := v.doing("a checkpoint")
	if err != nil {
		return err
	}
	defer did()
	now := time.Now().UTC().Round(time.Second)
	k := smbstore.Checkpoint{ID: uuid.NewString(), Name: name, Created: now}
	if k.Name == "" {
		k.Name = now.Format("2006-01-02 15:04:05")
	}
	r, err := v.running()
	if err != nil {
		return v.atHome(ctx, func(p *place) error { return checkpointOff(ctx, p.home, &k) })
	}
	return r.checkpoint(ctx, &k)
}

// atHome calls do with the home of a VM that is off, owned by this host in a new epoch.
func (v *vm) atHome(ctx context.Context, do func(p *place) error) error {
	v.mu.Lock()
	left := v.kept.Running
	v.mu.Unlock()
	if left {
		return ErrBusy // the agent is taking it over
	}
	p, err := v.a.openPlace(ctx, v.location())
	if err != nil {
		return err
	}
	defer p.Release() //nolint:errcheck // all was written by then
	record, err := v.a.own(ctx, p.home, ownOptions{})
	if err != nil {
		return err
	}
	if err := v.remember(func(k *kept) { k.Epoch = record.Epoch }); err != nil {
		return err
	}
	p.evict(ctx, v.a.cfg.Name, record.Epoch)
	v.tidied(ctx, p.home)
	return do(p)
}

// add puts a checkpoint of the disks there are into the configuration, and new disks
// in their place.
func add(c *smbstore.Config, k *smbstore.Checkpoint, disks []smbstore.Disk) (err error) {
	if c.Checkpoints, err = withCheckpoint(c, k); err != nil {
		return err
	}
	c.Current, c.Disks = k.ID, disks
	settled(c, append(paths(disks), k.UEFIVariables)...)
	if k.Saved != nil {
		settled(c, k.Saved.Path)
	}
	return nil
}

// withCheckpoint is the tree with a new checkpoint of the disks there are.
func withCheckpoint(c *smbstore.Config, k *smbstore.Checkpoint) ([]smbstore.Checkpoint, error) {
	for i, d := range c.Disks {
		if _, err := childOf(d, k.ID, i); err != nil {
			return nil, err
		}
	}
	for _, old := range c.Checkpoints {
		if old.Name == k.Name {
			return nil, fmt.Errorf("%w: %q", ErrCheckpointTaken, k.Name)
		}
	}
	k.Parent, k.Disks = c.Current, c.Disks
	return append(c.Checkpoints, *k), nil
}

// has tells whether a configuration has a checkpoint.
func has(c *smbstore.Config, id string) bool {
	for _, k := range c.Checkpoints {
		if k.ID == id {
			return true
		}
	}
	return false
}

// childOf is the differencing disk that shall grow from one, of a branch with an id
// of its own.
func childOf(d smbstore.Disk, branch string, i int) (smbstore.Disk, error) {
	ext := map[smbstore.Format]string{smbstore.VHDX: ".avhdx", smbstore.VHD: ".avhd"}[d.Format]
	if ext == "" {
		return d, fmt.Errorf("%w: %s is %s, of which there are no differencing disks: convert it to vhdx", smbstore.ErrFormat, d.Path, d.Format)
	}
	d.Path = fmt.Sprintf("%s/%s-%d%s", smbstore.SnapshotsDir, branch, i, ext)
	return d, nil
}

// childrenOf are the differencing disks that shall grow from others.
func childrenOf(parents []smbstore.Disk, branch string) (children []smbstore.Disk, err error) {
	for i, d := range parents {
		child, err := childOf(d, branch, i)
		if err != nil {
			return nil, err
		}
		children = append(children, child)
	}
	return children, nil
}

// grow makes empty differencing disks, which were announced, over disks that nobody
// writes to. What it made of a branch that fails is removed.
func grow(ctx context.Context, home *smbstore.Home, parents []smbstore.Disk, branch string) (children []smbstore.Disk, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, discard(home, paths(children)...))
		}
	}()
	for i, d := range parents {
		child, err := childOf(d, branch, i)
		if err != nil {
			return children, err
		}
		// Named before it is there: what was made of it when that failed goes too.
		children = append(children, child)
		dev, err := smbstore.CreateDisk(ctx, home.Store(), child.Path, smbstore.CreateDiskOptions{Parent: home.Location().Join(d.Path)})
		if err != nil {
			return children, err
		}
		if err := dev.Close(); err != nil {
			return children, err
		}
		failpoint("grown-one")
	}
	if sabotage(sabotageGrown) {
		return children, nil
	}
	return children, home.Store().SyncDir(smbstore.SnapshotsDir)
}

// checkpointOff makes a checkpoint of a VM that is off. A saved state is the
// checkpoint's too.
func checkpointOff(ctx context.Context, home *smbstore.Home, k *smbstore.Checkpoint) error {
	c, err := home.Config()
	if err != nil {
		return err
	}
	k.UEFIVariables = variablesOf(&c, k.ID)
	if err := announceChildren(home, c.Disks, k.ID, k.UEFIVariables); err != nil {
		return err
	}
	children, err := grow(ctx, home, c.Disks, k.ID)
	if err == nil {
		err = copyVariables(home, c.UEFIVariables, k.UEFIVariables)
	}
	if err != nil {
		return errors.Join(err, discard(home, append(paths(children), k.UEFIVariables)...))
	}
	failpoint("checkpoint-grown")
	err = home.UpdateConfig(func(c *smbstore.Config) error {
		k.Saved = c.Saved
		return add(c, k, children)
	})
	failpoint("checkpoint-committed")
	if err == nil {
		return nil
	}
	if c, rerr := home.Config(); rerr != nil || has(&c, k.ID) {
		return errors.Join(err, rerr) // they may be the VM's
	}
	return errors.Join(err, discard(home, append(paths(children), k.UEFIVariables)...))
}

// announceChildren names the disks that shall grow from others, and the copy of
// variables, "" for none, that goes with them.
func announceChildren(home *smbstore.Home, parents []smbstore.Disk, branch, variables string) error {
	children, err := childrenOf(parents, branch)
	if err != nil {
		return err
	}
	return announce(home, append(paths(children), present(variables)...)...)
}

// checkpoint makes one of the running guest, which stands meanwhile.
func (r *run) checkpoint(ctx context.Context, k *smbstore.Checkpoint) error {
	if r.moving.Load() {
		return fmt.Errorf("%w: a migration", ErrBusy)
	}
	c, err := r.at().home.Config()
	if err == nil {
		_, err = withCheckpoint(&c, k)
	}
	if err != nil {
		return err
	}
	state := path.Join(smbstore.SnapshotsDir, k.ID+".state")
	children, err := childrenOf(c.Disks, k.ID)
	if err != nil {
		return err
	}
	k.UEFIVariables = variablesOf(&c, k.ID)
	files := append(paths(children), present(state, k.UEFIVariables)...)
	if err := announce(r.at().home, files...); err != nil {
		return err
	}
	r.v.set(Saving, "")
	saved, err := r.writeState(ctx, state)
	if err == nil {
		failpoint("checkpoint-state")
		k.Saved = saved
		err = r.copyVariables(ctx, k.UEFIVariables)
	}
	if err == nil {
		// From here on the guest goes on, or ends, whoever asked for this.
		var made bool
		if made, err = r.branch(context.WithoutCancel(ctx), k); made {
			files = nil
		}
	}
	if errors.Is(err, errUnsettled) {
		return err // it stands until the next agent knows which disks it has
	}
	return errors.Join(err, r.goOn(files...))
}

// branch exchanges the disks of a guest that stands for children of theirs. When it
// fails the guest has the old ones; if not even those, it is ended; with errUnsettled it
// has none, and its requests stay held. made tells whether there is a checkpoint.
func (r *run) branch(ctx context.Context, k *smbstore.Checkpoint) (made bool, err error) {
	var old []smbstore.Disk
	for _, d := range r.disks {
		if err := d.export.Hold(ctx); err != nil {
			return false, errors.Join(err, r.releaseAll(ctx, nil))
		}
		conf, _ := d.now()
		old = append(old, conf)
	}
	for _, d := range r.disks {
		_, chain := d.now()
		if err := chain.Close(); err != nil {
			r.end(ending{state: Crashed, reason: "its disks failed when they were closed for a checkpoint: " + err.Error()})
			return false, err
		}
	}
	failpoint("checkpoint-closed")
	children, err := grow(ctx, r.at().home, old, k.ID)
	if err == nil {
		failpoint("checkpoint-grown")
		err = r.commit(func(c *smbstore.Config) error { return add(c, k, children) },
			func(c *smbstore.Config) bool { return has(c, k.ID) })
		if errors.Is(err, errUnsettled) {
			// The old disks may be parents by now, which nobody may write to.
			return false, err
		}
		if err != nil {
			err = errors.Join(err, discard(r.at().home, paths(children)...))
		}
	}
	failpoint("checkpoint-committed")
	disks := children
	if made = err == nil; !made {
		disks = old
	}
	return made, errors.Join(err, r.releaseAll(ctx, disks))
}

// releaseAll opens the disks, in place of those that were closed, and has the guest
// use them; nil are those there are.
func (r *run) releaseAll(ctx context.Context, disks []smbstore.Disk) error {
	for i, d := range r.disks {
		if disks != nil {
			chain, err := r.openChain(ctx, disks[i])
			if err != nil {
				r.end(ending{state: Crashed, reason: "its disks could not be opened again after a checkpoint: " + err.Error()})
				return err
			}
			d.become(disks[i], chain)
		}
		if !d.export.Stats().Held {
			continue
		}
		_, chain := d.now()
		if err := d.export.Release(r.device(d, chain.Disk())); err != nil {
			return err
		}
	}
	return nil
}

// checkpoints lists a VM's.
func (v *vm) checkpoints(ctx context.Context) (l Checkpoints, err error) {
	h, err := smbstore.OpenHome(ctx, v.location(), v.a.homeOptions())
	if err != nil {
		return l, v.fail("list the checkpoints of", err)
	}
	c, err := h.Config()
	if err = errors.Join(err, h.Close()); err != nil {
		return l, v.fail("list the checkpoints of", err)
	}
	if c.Checkpoints == nil {
		c.Checkpoints = []smbstore.Checkpoint{}
	}
	return Checkpoints{Current: c.Current, Checkpoints: c.Checkpoints}, nil
}
