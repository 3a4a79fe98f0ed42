package migrate

import (
	"context"
	"errors"
	"fmt"

	"lunless/smbstore"
)

// ErrNotWhole: the home is a copy that was never finished.
var ErrNotWhole = errors.New("the copy here is not finished: resolve in favour of the source, or resume the job")

// Resolution is what Resolve did.
type Resolution struct {
	Record smbstore.Record   // of the home that has the VM now
	Other  smbstore.Location // the migration's other home; zero if none is known
	// OtherErr is why the other home could not be told. It must not be used, and
	// be removed before its host starts the VM.
	OtherErr error
}

// Resolve is an administrator's word that the VM is the home's at the location,
// owned by this host: the way out when a record's lock has lost its holder, or
// one end of a migration is gone for good. The other end, where it can be
// reached, is told that the VM lives here. ErrNotWhole if the home holds a
// partial copy.
func Resolve(ctx context.Context, home smbstore.Location, o Options) (Resolution, error) {
	h, err := smbstore.OpenHome(ctx, home, o.ToOptions)
	if err != nil {
		return Resolution{}, err
	}
	defer h.Close()
	host, err := o.host()
	if err != nil {
		return Resolution{}, err
	}
	jl, err := readJournal(h.Store())
	if err != nil && !errors.Is(err, ErrNoJob) {
		return Resolution{}, err
	}
	if jl != nil && jl.running() {
		return Resolution{}, fmt.Errorf("job %s, process %d: %w", jl.Job, jl.PID, ErrJobRunning)
	}
	if jl != nil && jl.Phase != Switching && jl.Phase != Cleaning {
		return Resolution{}, fmt.Errorf("%s: %w", home, ErrNotWhole)
	}
	r := Resolution{Other: other(h, jl)}
	job, epoch := "", uint64(0)
	if jl != nil {
		job, epoch = jl.Job, jl.Epoch
	}
	// The other end first: between the two the VM has no owner rather than two.
	if r.Other != (smbstore.Location{}) {
		r.OtherErr = tellMoved(ctx, r.Other, job, home, jl == nil, o)
	}
	r.Record, err = h.ResolveAfter(ctx, host, epoch)
	return r, err
}

// other is the migration's other home as far as the one here knows.
func other(h *smbstore.Home, jl *Journal) smbstore.Location {
	if jl != nil {
		return jl.Source
	}
	r, err := h.Record()
	if err != nil {
		return smbstore.Location{}
	}
	switch r.State {
	case smbstore.Moved:
		return r.MovedTo
	case smbstore.Offered:
		if l, err := smbstore.ParseLocation(r.To); err == nil && (!l.IsLocal() || l.Path == r.To) {
			return l // an offer to a host, of a live migration, names no location
		}
	}
	return smbstore.Location{}
}

// tellMoved marks the other home as moved. endJob ends the job whose
// destination it is, since the VM goes nowhere.
func tellMoved(ctx context.Context, at smbstore.Location, job string, to smbstore.Location, endJob bool, o Options) error {
	if at.User == "" {
		at.User = to.User
	}
	h, err := smbstore.OpenHome(ctx, at, o.SourceOptions)
	if errors.Is(err, smbstore.ErrNotHome) || errors.Is(err, smbstore.ErrNotExist) {
		return nil // nothing there can be started
	}
	if err != nil {
		return err
	}
	defer h.Close()
	if endJob {
		jl, err := readJournal(h.Store())
		if err == nil && jl.running() {
			return fmt.Errorf("job %s, process %d: %w", jl.Job, jl.PID, ErrJobRunning)
		}
		if err == nil {
			err = h.Store().Remove(JournalName)
		}
		if err != nil && !errors.Is(err, ErrNoJob) {
			return err
		}
	}
	_, err = h.ResolveMoved(ctx, job, to)
	return err
}
