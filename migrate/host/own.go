package host

import (
	"context"
	"errors"
	"fmt"

	"lunless/smbstore"
)

// ownOptions say what own may do beyond what the record gives.
type ownOptions struct {
	takeOver bool   // an administrator's word that the host in the record is not to have the VM any more
	follow   bool   // a VM that this host's migration has moved is to be gone after: a *movedError says where
	job      string // the migration that the VM was gone after; its offer is this host's
}

// movedError says where this host's own migration moved a VM.
type movedError struct {
	to  smbstore.Location
	job string
}

func (e *movedError) Error() string { return fmt.Sprintf("%v to %s", smbstore.ErrMoved, e.to) }
func (e *movedError) Unwrap() error { return smbstore.ErrMoved }

// own makes this host the VM's owner in a new epoch, which outdates whatever an
// earlier agent of this host, or an earlier owner, has open. A lock that a dead
// process of this host left on the record is broken. Errors: ErrForeign,
// smbstore.ErrMoved; others if the record cannot be had.
func (a *Agent) own(ctx context.Context, h *smbstore.Home, o ownOptions) (smbstore.Record, error) {
	next := func(r smbstore.Record) (smbstore.Record, error) {
		failpoint("record-locked")
		return a.nextRecord(h, r, o)
	}
	r, err := h.ChangeByAgent(ctx, next)
	if err == nil || !o.takeOver || errors.Is(err, smbstore.ErrMoved) {
		return r, err
	}
	return h.Resolve(ctx, a.cfg.Name)
}

// nextRecord is the record that makes this host the owner.
func (a *Agent) nextRecord(h *smbstore.Home, r smbstore.Record, o ownOptions) (_ smbstore.Record, err error) {
	me := a.cfg.Name
	switch {
	case r.Host != me:
		return r, refusal(r)
	case r.State == smbstore.Owned:
	case r.State == smbstore.Moved && o.follow:
		to := r.MovedTo
		to.User = h.Location().User
		return r, &movedError{to, r.Job}
	case r.State == smbstore.Offered && o.job != "" && r.Job == o.job:
		// The old home says that the VM has moved here.
		if r, err = r.Take(r.Job, r.To, me); err != nil {
			return r, err
		}
	case r.State == smbstore.Offered && o.follow:
		// The old home still, and nobody has taken it: its maker takes the offer back.
		if r, err = r.TakeBack(r.Job, me); err != nil {
			return r, err
		}
	default:
		return r, refusal(r)
	}
	return r.Renew(me, r.Epoch)
}

// holds is the fence's question: the record is this host's, in the epoch it runs in.
// While the VM is being moved, what its migration makes of the record is so too.
func (r *run) holds() error {
	if sabotage(sabotageEpoch) {
		return nil
	}
	moving := r.moving.Load() // before it is read
	record, err := r.at().home.Record()
	if err != nil {
		return err
	}
	switch known := r.epoch.Load(); {
	case record.Host != r.v.a.cfg.Name:
		return fmt.Errorf("%w: %s", smbstore.ErrNotOwner, record)
	case moving && (record.State != smbstore.Owned || record.Epoch >= known):
	case record.State == smbstore.Moved:
		return fmt.Errorf("%w: %s", smbstore.ErrNotOwner, record)
	case record.Epoch != known:
		return fmt.Errorf("%w: epoch %d, known %d", smbstore.ErrEpoch, record.Epoch, known)
	}
	return nil
}

// refusal is why a host that is not the VM's owner does not take it.
func refusal(r smbstore.Record) error {
	switch r.State {
	case smbstore.Moved:
		return fmt.Errorf("%w to %s: start it from there", smbstore.ErrMoved, r.MovedTo)
	case smbstore.Offered:
		return fmt.Errorf("%w: %s: a migration of it is unfinished: `lunless migrate list` shows it, `lunless migrate resume|cancel` ends it", ErrForeign, r)
	}
	return fmt.Errorf("%w: %s: stop it there, or if that host is gone for good, give --take-over", ErrForeign, r)
}

// foreign tells the errors after which the VM is known to be another's.
func foreign(err error) bool {
	return errors.Is(err, ErrForeign) || errors.Is(err, smbstore.ErrMoved) || errors.Is(err, smbstore.ErrTaken) ||
		errors.Is(err, smbstore.ErrNotOwner)
}
