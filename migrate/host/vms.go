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

// find gives the VM that a name, a GUID or a home's location means, for a command. One
// that the agent has not had to do with is looked for in its storage locations.
func (a *Agent) find(ctx context.Context, what string, by authority) (*vm, error) {
	v, at, err := a.named(ctx, what)
	if v != nil || err != nil {
		return v, err
	}
	return a.adopt(ctx, at, by)
}

// look is find for those who only look: nothing that the agent keeps changes.
func (a *Agent) look(ctx context.Context, what string) (*vm, error) {
	v, at, err := a.named(ctx, what)
	if v != nil || err != nil {
		return v, err
	}
	return a.lookAt(ctx, at)
}

// named gives the VM that is meant, if the agent keeps it so, else the home that is.
func (a *Agent) named(ctx context.Context, what string) (*vm, smbstore.Location, error) {
	location, isLocation := asLocation(what)
	var found []*vm
	for _, v := range a.known() {
		v.mu.Lock()
		if v.kept.ID == what || v.kept.Name == what || isLocation && v.kept.Location.Equal(location) {
			found = append(found, v)
		}
		v.mu.Unlock()
	}
	var err error
	switch {
	case len(found) == 1:
		return found[0], location, nil
	case len(found) > 1:
		err = fmt.Errorf("%w: %q: give the home's location or the VM's GUID (`lunless vm list`)", ErrAmbiguous, what)
	case !isLocation:
		location, err = a.search(ctx, what)
	}
	return nil, location, err
}

// asLocation takes what looks like a location for one: a VM's name has no slash.
func asLocation(what string) (smbstore.Location, bool) {
	if !strings.ContainsAny(what, `/\`) {
		return smbstore.Location{}, false
	}
	l, err := smbstore.ParseLocation(what)
	return l, err == nil
}

// search looks for a VM's home in the storage locations.
func (a *Agent) search(ctx context.Context, what string) (at smbstore.Location, err error) {
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
		return at, errors.Join(fmt.Errorf("%w: %q: `lunless vm list` shows them; a home elsewhere is named by its location", ErrNoVM, what), errors.Join(errs...))
	case 1:
		return found[0].Location, nil
	}
	return at, fmt.Errorf("%w: %q, at %s and %s: give the location", ErrAmbiguous, what, found[0].Location, found[1].Location)
}

// claim is an administrator's word that this host owns the VM.
func (v *vm) claim(ctx context.Context) error {
	done, err := v.begin(ctx)
	if err != nil {
		return v.fail("claim", err)
	}
	defer done()
	if v.isOn() { // its disks may be being closed
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
