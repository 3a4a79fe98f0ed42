package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"lunless/smbstore"
)

func (a *Agent) isStopping() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stopping
}

// known lists the VMs that the agent has had to do with.
func (a *Agent) known() []*vm {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := make([]*vm, 0, len(a.vms))
	for _, v := range a.vms {
		list = append(list, v)
	}
	return list
}

// List is all VMs that the agent has had to do with, and those in its storage
// locations unless only known ones are asked for. What is wrong with a location is
// said beside.
func (a *Agent) List(ctx context.Context, known bool) (list []VM, problems []string) {
	there := map[string]bool{}
	for _, v := range a.known() {
		s := v.show()
		there[s.ID] = true
		list = append(list, s)
	}
	for _, err := range a.unread {
		problems = append(problems, err.Error())
	}
	for _, at := range a.cfg.Storage {
		if known {
			break
		}
		homes, err := a.homesAt(ctx, at)
		if err != nil {
			problems = append(problems, err.Error())
		}
		for _, h := range homes {
			if h.Err != nil {
				problems = append(problems, fmt.Sprintf("%s: %v", h.Location, h.Err))
			} else if !there[h.Config.ID] && h.Record.State != smbstore.Moved {
				list = append(list, VM{Name: h.Config.Name, ID: h.Config.ID, Location: h.Location, Host: h.Record.Host, State: elsewhere(a, h.Record)})
			}
		}
	}
	slices.SortFunc(list, func(x, y VM) int { return strings.Compare(x.Name+x.ID, y.Name+y.ID) })
	return list, problems
}

// elsewhere is the state of a VM of which only its home is known.
func elsewhere(a *Agent, r smbstore.Record) State {
	if r.State == smbstore.Owned && r.Host == a.cfg.Name {
		return Stopped
	}
	return State(r.String())
}

func (a *Agent) homesAt(ctx context.Context, location string) ([]smbstore.Listed, error) {
	s, err := smbstore.OpenPath(ctx, location, a.homeOptions())
	if err != nil {
		return nil, err
	}
	list, err := smbstore.ListHomes(ctx, s)
	return list, errors.Join(err, s.Close())
}

// find gives the VM that a name, a GUID or a home's location means. One that the
// agent has not had to do with is looked for in its storage locations.
func (a *Agent) find(ctx context.Context, what string) (*vm, error) {
	location, isLocation := asLocation(what)
	var found []*vm
	for _, v := range a.known() {
		v.mu.Lock()
		if v.kept.ID == what || v.kept.Name == what || isLocation && v.kept.Location.Equal(location) {
			found = append(found, v)
		}
		v.mu.Unlock()
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, fmt.Errorf("%w: %q: give the home's location or the VM's GUID (`lunless vm list`)", ErrAmbiguous, what)
	case isLocation:
		return a.adopt(ctx, location)
	}
	return a.search(ctx, what)
}

// asLocation takes what looks like a location for one: a VM's name has no slash.
func asLocation(what string) (smbstore.Location, bool) {
	if !strings.ContainsAny(what, `/\`) {
		return smbstore.Location{}, false
	}
	l, err := smbstore.ParseLocation(what)
	return l, err == nil
}

// search looks for a VM in the storage locations.
func (a *Agent) search(ctx context.Context, what string) (*vm, error) {
	var found []smbstore.Listed
	var errs []error
	for _, at := range a.cfg.Storage {
		homes, err := a.homesAt(ctx, at)
		errs = append(errs, err)
		for _, h := range homes {
			if h.Err == nil && h.Record.State != smbstore.Moved && (h.Config.Name == what || h.Config.ID == what) {
				found = append(found, h)
			}
		}
	}
	switch len(found) {
	case 0:
		return nil, errors.Join(fmt.Errorf("%w: %q: `lunless vm list` shows them; a home elsewhere is named by its location", ErrNoVM, what), errors.Join(errs...))
	case 1:
		return a.adopt(ctx, found[0].Location)
	}
	return nil, fmt.Errorf("%w: %q, at %s and %s: give the location", ErrAmbiguous, what, found[0].Location, found[1].Location)
}

// adopt makes the VM of a home one that the agent knows.
func (a *Agent) adopt(ctx context.Context, at smbstore.Location) (*vm, error) {
	h, err := smbstore.OpenHome(ctx, at, a.homeOptions())
	if err != nil {
		return nil, err
	}
	c, err := h.Config()
	if err = errors.Join(err, h.Close()); err != nil {
		return nil, err
	}
	if err := a.unread[c.ID]; err != nil {
		return nil, err // it may run
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if v := a.vms[c.ID]; v != nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.run != nil || v.kept.Running {
			return v, nil // it runs from another location: nothing changes
		}
		v.kept.Location = at
		return v, a.keep(&v.kept)
	}
	k := &kept{Version: 1, ID: c.ID, Name: c.Name, Location: at}
	if err := a.keep(k); err != nil {
		return nil, err
	}
	v := newVM(a, k)
	a.vms[c.ID] = v
	return v, nil
}

// claim is an administrator's word that this host owns the VM.
func (v *vm) claim(ctx context.Context) error {
	done, err := v.begin(ctx)
	if err != nil {
		return v.fail("claim", err)
	}
	defer done()
	v.mu.Lock()
	on := v.run != nil || v.kept.Running // its disks may be being closed
	v.mu.Unlock()
	if on {
		return v.fail("claim", ErrRunning)
	}
	h, err := smbstore.OpenHome(ctx, v.location(), v.a.homeOptions())
	if err != nil {
		return v.fail("claim", err)
	}
	r, err := v.a.own(ctx, h, ownOptions{takeOver: true})
	if err = errors.Join(err, h.Close()); err != nil {
		return v.fail("claim", err)
	}
	v.set(Stopped, "")
	return v.remember(func(k *kept) { k.Epoch, k.Ended = r.Epoch, "" })
}
