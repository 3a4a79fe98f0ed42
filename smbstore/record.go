package smbstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// State is what an ownership record says of a VM.
type State string

const (
	// Owned: the record's host may open the disks.
	Owned State = "owned"
	// Offered: nobody may open the disks; the one it is offered to may take it,
	// or the one who offered take it back.
	Offered State = "offered"
	// Moved: the VM lives elsewhere; this home is what was left.
	Moved State = "moved"
)

// Errors of ownership.
var (
	// ErrNotOwner: the record does not give the VM to who asks.
	ErrNotOwner = errors.New("the VM is not owned here")
	// ErrEpoch: the record has gone past the epoch the caller knows.
	ErrEpoch = errors.New("the ownership record has changed since")
	// ErrBadRecord: the ownership record cannot be read.
	ErrBadRecord = errors.New("bad ownership record")
)

// Record says who owns a VM: `Virtual Machines\<GUID>.owner.json` in its home.
// It is the only thing that decides. Its epoch grows with every owner, so that
// an older owner can be told from a newer.
//
// Transitions are pure: they take a record and give the next, or an error that
// leaves everything as it is. Home.Change writes what they give.
type Record struct {
	Version int      `json:"version"` // 1
	ID      string   `json:"id"`      // the VM's GUID
	State   State    `json:"state"`
	Epoch   uint64   `json:"epoch"`
	Host    string   `json:"host"`              // owned: the owner; offered, moved: who it was
	Job     string   `json:"job,omitempty"`     // offered, moved: the migration
	To      string   `json:"to,omitempty"`      // offered: who may take it: a host, or a home's location
	MovedTo Location `json:"location,omitzero"` // moved: the home it lives in now
	// Removing: what is left here is being removed, and is nobody's to be resolved for.
	Removing bool      `json:"removing,omitempty"`
	Changed  time.Time `json:"changed"` // for people; nothing decides by it
}

// NewRecord is a new VM's: owned by host in epoch 1.
func NewRecord(id, host string) Record {
	return Record{Version: 1, ID: id, State: Owned, Epoch: 1, Host: host}
}

// Renew is the owner's own next epoch: it outdates what an earlier process of the
// host has open. The epoch is the one the caller owns the VM in.
func (r Record) Renew(host string, epoch uint64) (Record, error) {
	if err := r.ownedBy(host, epoch); err != nil {
		return r, err
	}
	return r.own(host)
}

// Offer gives the VM up for `to` to take under the job. The epoch is the one
// the caller owns it in.
func (r Record) Offer(host string, epoch uint64, job, to string) (Record, error) {
	if err := r.ownedBy(host, epoch); err != nil {
		return r, err
	}
	if job == "" || to == "" {
		return r, fmt.Errorf("an offer names a job and who may take it")
	}
	r.State, r.Job, r.To = Offered, job, to
	return r, nil
}

// Take turns an offer into ownership by host in the next epoch; only `to`, under
// the job, may.
func (r Record) Take(job, to, host string) (Record, error) {
	if err := r.offeredFor(job); err != nil {
		return r, err
	}
	if r.To != to {
		return r, fmt.Errorf("%w: it is offered to %s, not to %s", ErrNotOwner, r.To, to)
	}
	return r.own(host)
}

// TakeBack ends an offer by its maker, in the next epoch.
func (r Record) TakeBack(job, host string) (Record, error) {
	if err := r.offeredFor(job); err != nil {
		return r, err
	}
	if r.Host != host {
		return r, fmt.Errorf("%w: %s offered it, not %s", ErrNotOwner, r.Host, host)
	}
	return r.own(host)
}

// Move turns an offer into the note of where the VM lives from now on.
func (r Record) Move(job string, to Location) (Record, error) {
	if err := r.offeredFor(job); err != nil {
		return r, err
	}
	to.User = ""
	r.State, r.MovedTo = Moved, to
	return r, nil
}

// Discard gives up what is left of a home that the job has moved away from: from now
// on it may be removed.
func (r Record) Discard(job string) (Record, error) {
	if r.State != Moved || r.Job != job || job == "" {
		return r, fmt.Errorf("%w: %s", ErrNotOwner, r)
	}
	r.Removing = true
	return r, nil
}

// DiscardCopy is Discard for a home that the job was moving to: nobody may take the
// offer any more.
func (r Record) DiscardCopy(job string) (Record, error) {
	if r.State != Offered || r.Job != job || job == "" {
		return r, fmt.Errorf("%w: %s", ErrNotOwner, r)
	}
	r.Removing = true
	return r, nil
}

// Resolve is an administrator's word that host owns the VM here. It works from
// any state but that of a home that is being removed, and outdates every other claim.
func (r Record) Resolve(host string) (Record, error) {
	if r.Removing {
		return r, fmt.Errorf("%w: what is here is being removed: resolve the migration's other home", ErrMoved)
	}
	return r.own(host)
}

// ResolveMoved is an administrator's word that the VM lives elsewhere: what the
// home here says of owners is void. The epoch grows, so that a stale owner notices.
func (r Record) ResolveMoved(job string, to Location) (Record, error) {
	r, err := r.own(r.Host)
	if err != nil {
		return r, err
	}
	to.User = ""
	r.State, r.Job, r.MovedTo = Moved, job, to
	return r, nil
}

func (r Record) own(host string) (Record, error) {
	if host == "" {
		return r, fmt.Errorf("an owner has a name")
	}
	if r.Epoch == 1<<64-1 {
		return r, fmt.Errorf("%w: no epoch is left", ErrBadRecord)
	}
	r.State, r.Host, r.Job, r.To, r.MovedTo = Owned, host, "", "", Location{}
	r.Epoch++
	return r, nil
}

func (r Record) ownedBy(host string, epoch uint64) error {
	if r.State != Owned || r.Host != host {
		return fmt.Errorf("%w: %s", ErrNotOwner, r)
	}
	if r.Epoch != epoch {
		return fmt.Errorf("%w: epoch %d, known %d", ErrEpoch, r.Epoch, epoch)
	}
	return nil
}

func (r Record) offeredFor(job string) error {
	if r.State != Offered || r.Job != job || job == "" || r.Removing {
		return fmt.Errorf("%w: %s", ErrNotOwner, r)
	}
	return nil
}

// String says it for people.
func (r Record) String() string {
	switch r.State {
	case Owned:
		return fmt.Sprintf("owned by %s (epoch %d)", r.Host, r.Epoch)
	case Offered:
		return fmt.Sprintf("offered by %s to %s under job %s (epoch %d)", r.Host, r.To, r.Job, r.Epoch)
	case Moved:
		return fmt.Sprintf("moved to %s", r.MovedTo)
	}
	return fmt.Sprintf("state %q", r.State)
}

// parseRecord reads and checks a record. Errors wrap ErrBadRecord.
func parseRecord(b []byte) (Record, error) {
	if len(b) > maxConfig {
		return Record{}, fmt.Errorf("%w: larger than %d bytes", ErrBadRecord, maxConfig)
	}
	var r Record
	if err := json.Unmarshal(b, &r); err != nil {
		return Record{}, fmt.Errorf("%w: %v", ErrBadRecord, err)
	}
	switch {
	case r.Version != 1:
		return Record{}, fmt.Errorf("%w: version %d", ErrBadRecord, r.Version)
	case !isGUID(r.ID):
		return Record{}, fmt.Errorf("%w: id %q", ErrBadRecord, r.ID)
	case r.Epoch == 0:
		return Record{}, fmt.Errorf("%w: no epoch", ErrBadRecord)
	case r.Host == "":
		return Record{}, fmt.Errorf("%w: no host", ErrBadRecord)
	case r.State == Offered && (r.Job == "" || r.To == ""):
		return Record{}, fmt.Errorf("%w: an offer without job or taker", ErrBadRecord)
	case r.State == Moved && r.MovedTo == Location{}:
		return Record{}, fmt.Errorf("%w: moved nowhere", ErrBadRecord)
	case r.State != Owned && r.State != Offered && r.State != Moved:
		return Record{}, fmt.Errorf("%w: state %q", ErrBadRecord, r.State)
	}
	return r, nil
}
