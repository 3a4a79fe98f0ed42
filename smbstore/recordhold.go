package smbstore

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"
)

// HeldRecord is an ownership record whose lock is held, so that its next change
// can be prepared, and made in a moment. It is used by one goroutine.
type HeldRecord struct {
	home *Home
	lock *recordLock
	old  Record
	next Record
	temp string // file with the next record, on stable storage; "" if none is prepared
}

// HoldRecord takes the lock on the record, as Change does, and keeps it. Errors:
// *LockedError, and those of reading the record.
func (h *Home) HoldRecord(ctx context.Context, job string) (*HeldRecord, error) {
	held, err := h.hold(ctx, lockAs{job: job})
	if err != nil {
		return nil, err
	}
	if held.old, err = h.Record(); err != nil {
		return nil, errors.Join(err, held.Release())
	}
	return held, nil
}

// lockAs says on whose behalf a record's lock is taken.
type lockAs struct {
	job   string
	agent bool // breaks what any dead process of this host left
	force bool // breaks it whoever holds it
}

func (h *Home) hold(ctx context.Context, as lockAs) (*HeldRecord, error) {
	lock, err := newRecordLock(h.store, h.RecordName(), as.job)
	if err != nil {
		return nil, err
	}
	lock.agent = as.agent
	if err := lock.acquire(ctx, as.force); err != nil {
		return nil, opError("change the owner of", h.Location(), err)
	}
	held := &HeldRecord{home: h, lock: lock}
	if err := h.dropPrepared(); err != nil {
		return nil, errors.Join(err, held.Release())
	}
	return held, nil
}

// dropPrepared removes the records that earlier holders of the lock prepared: one of
// them may stand still right before it makes its record the home's, with its last
// look at the lock behind it, and must find nothing to do that with. One that is
// being written still, and cannot be removed for that, has that look ahead of it.
func (h *Home) dropPrepared() error {
	dir, stem := path.Split(h.RecordName())
	infos, err := h.store.ReadDir(path.Clean(dir))
	if err != nil {
		return err
	}
	for _, i := range infos {
		if !strings.HasPrefix(i.Name, stem+tempMark) {
			continue
		}
		if err := ignoreMissing(h.store.Remove(path.Join(dir, i.Name))); err != nil && !errors.Is(err, ErrSharing) {
			return err
		}
	}
	return nil
}

// Record is what the record said when its lock was taken.
func (r *HeldRecord) Record() Record { return r.old }

// Prepare has next give the record that Commit will make the home's, and writes it
// beside the one in force.
func (r *HeldRecord) Prepare(next func(Record) (Record, error)) error {
	to, err := next(r.old)
	if err != nil {
		return opError("change the owner of", r.home.Location(), err)
	}
	return r.prepare(to)
}

func (r *HeldRecord) prepare(to Record) error {
	to.Changed = time.Now().UTC().Round(0)
	b, err := encodeFile(to)
	if err != nil {
		return err
	}
	r.next = to
	dir, stem := path.Split(r.home.RecordName())
	r.temp, err = writeTemp(r.home.store, dir, stem, b)
	return err
}

// Commit makes the prepared record the home's, unless the lock was broken
// meanwhile, and returns it: whoever broke it has removed what was prepared (see
// dropPrepared). After an error other than that the record may be the
// old one or the new.
func (r *HeldRecord) Commit() (Record, error) {
	if r.temp == "" {
		return r.old, fmt.Errorf("%s: no change of the record was prepared", r.home.Location())
	}
	if err := r.lock.stillMine(); err != nil {
		return r.old, err
	}
	temp := r.temp
	r.temp = ""
	if err := replaceWith(r.home.store, temp, r.home.RecordName()); err != nil {
		return r.old, err
	}
	r.old = r.next
	return r.next, nil
}

// Release gives the lock back, and drops what was prepared and not committed.
func (r *HeldRecord) Release() error {
	var err error
	if r.temp != "" {
		err = ignoreMissing(r.home.store.Remove(r.temp))
		r.temp = ""
	}
	return errors.Join(err, r.lock.release())
}
