package host

import (
	"context"
	"errors"
	"fmt"

	"lunless/smbstore"
)

// own makes this host the VM's owner in a new epoch, which outdates whatever an
// earlier agent of this host, or an earlier owner, has open. takeOver is an
// administrator's word that the host the record names is not to have it any more.
// Errors: ErrForeign, smbstore.ErrMoved; others if the record cannot be had.
func (a *Agent) own(ctx context.Context, h *smbstore.Home, takeOver bool) (smbstore.Record, error) {
	r, err := h.Change(ctx, "", func(r smbstore.Record) (smbstore.Record, error) {
		if r.State == smbstore.Owned && r.Host == a.cfg.Name {
			return r.Renew(a.cfg.Name, r.Epoch)
		}
		return r, refusal(r)
	})
	if err == nil || !takeOver || errors.Is(err, smbstore.ErrMoved) {
		return r, err
	}
	return h.Resolve(ctx, a.cfg.Name)
}

// holds is the fence's question: the record is this host's, in the epoch it runs in.
// An offer that a migration of this host made is its own still.
func (r *run) holds() error {
	record, err := r.home.Record()
	if err != nil {
		return err
	}
	name := r.v.a.cfg.Name
	switch {
	case record.Host != name || record.State == smbstore.Moved:
		return fmt.Errorf("%w: %s", smbstore.ErrNotOwner, record)
	case record.Epoch != r.epoch.Load():
		return fmt.Errorf("%w: epoch %d, known %d", smbstore.ErrEpoch, record.Epoch, r.epoch.Load())
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
