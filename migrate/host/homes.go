package host

import (
	"context"
	"errors"
	"fmt"

	"lunless/smbstore"
)

// A VM may have several homes: what a move left, a copy that somebody made, a backup
// that was restored beside the original. Each has a record of its own, and those of
// copies say what the original's said. The agent works with the one it keeps. Another
// takes its place if its record gives this host the VM in an epoch not before the one
// that the agent knows, and the old one is none any more; or if the old one's record
// says that the VM has moved there. Anything else takes an administrator's word.

// authority is by what a home may take the place of the one that the agent keeps.
type authority int

const (
	byRecord   authority = iota
	byTakeOver           // the host that the record names is not to have the VM any more
	byClaim              // this home is the VM, whatever others say
)

// authorized is a request that may say more than records do.
type authorized interface{ authority() authority }

func (q StartRequest) authority() authority {
	if q.TakeOver {
		return byTakeOver
	}
	return byRecord
}

// claimRequest is that of a claim, which says nothing else.
type claimRequest struct{}

func (claimRequest) authority() authority { return byClaim }

// adopt makes the VM of a home one that the agent knows; the home takes the place of the
// one that the agent keeps of it only if it may.
func (a *Agent) adopt(ctx context.Context, at smbstore.Location, by authority) (*vm, error) {
	h, c, err := a.openHome(ctx, at)
	if err != nil {
		return nil, err
	}
	defer h.Close() //nolint:errcheck // all was written by then
	v, err := a.addVM(&kept{Version: 1, ID: c.ID, Name: c.Name, Location: at})
	if err != nil || v.location().Equal(at) {
		return v, err
	}
	if err := v.relocate(ctx, h, &c, by); err != nil {
		return nil, v.fail("find", err)
	}
	return v, nil
}

// addVM makes a VM known, and gives it; one that is stays as it is.
func (a *Agent) addVM(k *kept) (*vm, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if v := a.vms[k.ID]; v != nil {
		return v, nil
	}
	if err := a.keep(k); err != nil {
		return nil, err
	}
	v := newVM(a, k)
	a.vms[k.ID] = v
	return v, nil
}

// openHome opens a home of a VM that may be looked after.
func (a *Agent) openHome(ctx context.Context, at smbstore.Location) (*smbstore.Home, smbstore.Config, error) {
	h, err := smbstore.OpenHome(ctx, at, a.homeOptions())
	if err != nil {
		return nil, smbstore.Config{}, err
	}
	c, err := h.Config()
	if err == nil {
		err = a.unread[c.ID] // it may run
	}
	if err != nil {
		return nil, c, errors.Join(err, h.Close())
	}
	return h, c, nil
}

// lookAt gives what there is to see of the VM of a home that the agent does not keep. It
// is none of the agent's.
func (a *Agent) lookAt(ctx context.Context, at smbstore.Location) (*vm, error) {
	h, c, err := a.openHome(ctx, at)
	if err != nil {
		return nil, err
	}
	r, err := h.Record()
	if err = errors.Join(err, h.Close()); err != nil {
		return nil, err
	}
	v := newVM(a, &kept{Version: 1, ID: c.ID, Name: c.Name, Location: at})
	v.host, v.state = r.Host, elsewhere(a, r)
	a.mu.Lock()
	mine := a.vms[c.ID]
	a.mu.Unlock()
	if mine != nil {
		mine.mu.Lock()
		v.reason = fmt.Sprintf("this host has the VM at %s, where it is %s", mine.kept.Location, mine.describe())
		mine.mu.Unlock()
	}
	return v, nil
}

// relocate has a home take the place of the one that the agent keeps of the VM, if it
// may. The home of a VM that is on stays, and the other is to be known as one that it
// moved from or to. Nothing changes if it is the same folder under another name. Errors: ErrTwoHomes, ErrOldHome, ErrInDoubt, those of refusal.
func (v *vm) relocate(ctx context.Context, h *smbstore.Home, c *smbstore.Config, by authority) error {
	if v.isOn() {
		return v.alsoNames(h, by)
	}
	done, err := v.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	if v.isOn() { // by now
		return v.alsoNames(h, by)
	}
	at := h.Location()
	if v.location().Equal(at) {
		return nil
	}
	r, err := h.Record()
	if err != nil {
		return err
	}
	way := v.wayTo(ctx, at)
	if way.err == nil && !way.met && way.record.Epoch == r.Epoch && v.isSameFolder(ctx, h, way.last) {
		return nil
	}
	if err := v.mayTakeItsPlace(at, r, way, by); err != nil {
		return err
	}
	if by == byClaim {
		if r, err = v.overrule(ctx, h, way); err != nil {
			return err
		}
	}
	v.a.log.Info("another home is the VM's", "vm", v.name(), "home", at, "record", r, "before", v.location())
	err = v.remember(func(k *kept) {
		k.Location, k.Name, k.Epoch, k.Followed, k.Ended = at, c.Name, max(k.Epoch, r.Epoch), "", ""
		k.Saved, k.Merging = c.Saved != nil, len(c.Unmerged) > 0
	})
	if err != nil {
		return err
	}
	if c.Saved != nil {
		v.set(SavedOff, "")
	} else {
		v.set(Stopped, "")
	}
	return nil
}

// isSameFolder tells whether a location is another name of a home's folder, as a server
// or a share may have: a file that is made in the one is in the other then.
func (v *vm) isSameFolder(ctx context.Context, h *smbstore.Home, name smbstore.Location) bool {
	other, err := smbstore.OpenHome(ctx, name, v.a.homeOptions())
	if err != nil {
		return false
	}
	defer other.Close() //nolint:errcheck // is only read
	same, err := smbstore.SameFolder(h.Store(), other.Store())
	return err == nil && same
}

func (v *vm) isOn() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.run != nil || v.kept.Running
}

// alsoNames is nil if a home stands for a VM that is on as well: one that it has moved
// from, or moves to. A copy of where it runs does not.
func (v *vm) alsoNames(h *smbstore.Home, by authority) error {
	if by == byClaim {
		return nil // which is refused
	}
	r, err := h.Record()
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if r.State != smbstore.Owned || r.Host == v.a.cfg.Name && r.Epoch > v.kept.Epoch || v.kept.Location.Equal(h.Location()) {
		return nil
	}
	return fmt.Errorf("%w: it is %s, from %s, and %s is another home (%s): name it by its name, or by the location it runs from",
		ErrTwoHomes, v.describe(), v.kept.Location, h.Location(), r)
}

// way is where records lead from the home that the agent keeps.
type way struct {
	met    bool              // to the home that was looked for
	last   smbstore.Location // the last home on it
	record smbstore.Record   // of that
	err    error             // why the record is not known
	epoch  uint64            // the least that a home may have that is beyond it
}

// noHome tells that there is no home, or none with a record, for certain.
func (w *way) noHome() bool {
	return errors.Is(w.err, smbstore.ErrNotHome) || errors.Is(w.err, smbstore.ErrNotExist)
}

// wayTo follows what records say, from the home that the agent keeps.
func (v *vm) wayTo(ctx context.Context, to smbstore.Location) (w way) {
	v.mu.Lock()
	w.last, w.epoch = v.kept.Location, v.kept.Epoch
	v.mu.Unlock()
	for range maxHops {
		if w.record, w.err = v.recordAt(ctx, w.last); w.err != nil || w.record.State != smbstore.Moved {
			return w
		}
		next := w.record.MovedTo
		next.User = w.last.User
		w.last, w.epoch = next, max(w.epoch, w.record.Epoch+1)
		if w.last.Equal(to) {
			w.met = true
			return w
		}
	}
	w.err = fmt.Errorf("%w: its records lead on and on, from %s to %s at last", smbstore.ErrMoved, v.location(), w.last)
	return w
}

// recordAt reads the record of the VM's home at a location: ErrNotHome if there lies none.
func (v *vm) recordAt(ctx context.Context, at smbstore.Location) (smbstore.Record, error) {
	h, err := smbstore.OpenHome(ctx, at, v.a.homeOptions())
	if err != nil {
		return smbstore.Record{}, err
	}
	defer h.Close() //nolint:errcheck // is only read
	if h.ID() != v.kept.ID {
		return smbstore.Record{}, fmt.Errorf("%s: %w of that VM", at, smbstore.ErrNotHome)
	}
	return h.Record()
}

// mayTakeItsPlace is nil if the home at a location, with a record r, may take the place
// of the one that the agent keeps, from where records lead that way.
func (v *vm) mayTakeItsPlace(at smbstore.Location, r smbstore.Record, w way, by authority) error {
	me := v.a.cfg.Name
	there := w.err == nil && !w.met
	switch {
	case r.State != smbstore.Owned, r.Host != me && by == byRecord:
		return refusal(r)
	case w.met:
		return nil
	case there && w.record.State == smbstore.Offered:
		return fmt.Errorf("%s: %w", w.last, refusal(w.record))
	case by == byClaim:
		return nil
	case there && (w.record.Host == me || w.record.Epoch >= r.Epoch):
		return fmt.Errorf("%w: at %s it is %s, and at %s %s: one of them is a copy or a restored backup; "+
			"go on with the first by its location, and see that nobody uses the second (`lunless vm remove %s`); "+
			"or make the second the VM: `lunless vm claim %s --yes`, after which the first is none any more",
			ErrTwoHomes, w.last, w.record, at, r, at, at)
	case w.err != nil && !w.noHome() && r.Epoch <= w.epoch:
		return fmt.Errorf("%w: it was at %s in epoch %d, which cannot be read, and at %s it is %s, which may be a copy of that; "+
			"if that is the VM from now on: `lunless vm claim %s --yes`: %w", ErrInDoubt, w.last, w.epoch, at, r, at, w.err)
	case r.Epoch < w.epoch:
		return fmt.Errorf("%w: at %s it is %s, and it was at %s in epoch %d: this is an older copy, or a restored backup; "+
			"look for a later home of the VM first; if there is none, make this the VM: `lunless vm claim %s --yes`",
			ErrOldHome, at, r, w.last, w.epoch, at)
	}
	return nil
}

// overrule makes a home the VM's by an administrator's word: the last home that records
// lead to is told, where it is there, and outdated. In between the VM has no owner.
func (v *vm) overrule(ctx context.Context, h *smbstore.Home, w way) (smbstore.Record, error) {
	epoch := w.epoch
	if w.err == nil && !w.met {
		old, err := smbstore.OpenHome(ctx, w.last, v.a.homeOptions())
		if err != nil {
			return smbstore.Record{}, err
		}
		r, err := old.ResolveMoved(ctx, "", h.Location())
		if err = errors.Join(err, old.Close()); err != nil {
			return r, fmt.Errorf("%s is to be told that it is the VM no more: %w", w.last, err)
		}
		epoch = max(epoch, r.Epoch)
	}
	return h.ResolveAfter(ctx, v.a.cfg.Name, epoch)
}
