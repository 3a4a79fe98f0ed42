package smbstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"sync"
	"time"
)

// Holder says who holds the lock on an ownership record.
type Holder struct {
	Host    string    `json:"host"`
	PID     int       `json:"pid"`
	Process string    `json:"process"` // as Process gives it
	Job     string    `json:"job"`     // "" outside a migration
	Time    time.Time `json:"time"`    // when it was taken; for people
	Nonce   string    `json:"nonce"`
}

// LockedError: the record's lock is held, perhaps by somebody who is gone.
type LockedError struct {
	Lock   Location
	Holder Holder // zero if the lock does not say
}

// Error names the holder and the ways out.
func (e *LockedError) Error() string {
	who := "somebody who did not come to leave a name"
	if e.Holder.Host != "" {
		who = fmt.Sprintf("process %d on %s since %s", e.Holder.PID, e.Holder.Host, e.Holder.Time.Format(time.RFC3339))
		if e.Holder.Job != "" {
			who += " for job " + e.Holder.Job
		}
	}
	return fmt.Sprintf("the ownership record is locked by %s (%s): resume that job, or if its process is gone for good, "+
		"decide with `lunless migrate resolve`", who, e.Lock)
}

// lockWait is how long a lock that is held is waited for: a change of a record
// takes a few round trips.
const lockWait = 2 * time.Second

// recordLock guards the change of one record: a file that exists only while it
// is held, created exclusively. The client in use cannot open a file exclusively.
//
// Beside the lock lies an intent file for each process that wants it, written
// first: should a holder die between creating the lock and writing its name
// into it, the intents tell whose it can be.
//
// A lock is never broken because time has passed. It is broken by the same
// job, when the job's holder was a process of this host that is gone, or the same
// process; by the host's agent, when the holder was any process of this host that is
// gone; and by an administrator.
type recordLock struct {
	store Store
	name  string // of the lock file
	me    Holder
	agent bool // of this host, and the only one
}

const (
	lockSuffix = ".lock" // after the record's name
	maxHolder  = 4096    // bytes of a lock file
)

func newRecordLock(s Store, record, job string) (*recordLock, error) {
	host, err := HostName()
	if err != nil {
		return nil, err
	}
	me := Holder{Host: host, PID: os.Getpid(), Process: Process(os.Getpid()), Job: job, Time: time.Now().UTC().Round(0), Nonce: nonce()}
	return &recordLock{store: s, name: record + lockSuffix, me: me}, nil
}

// HostName is this host's name as records have it.
func HostName() (string, error) {
	h, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("this host's name: %w", err)
	}
	return h, nil
}

func (l *recordLock) intent() string { return l.name + "-" + l.me.Nonce }

// acquire takes the lock. force breaks it whoever holds it: an administrator's word.
func (l *recordLock) acquire(ctx context.Context, force bool) error {
	b, err := json.Marshal(l.me)
	if err != nil {
		return err
	}
	locksInUse.Store(l.me.Nonce, true)
	if err := WriteFile(l.store, l.intent(), b); err != nil {
		locksInUse.Delete(l.me.Nonce)
		return err
	}
	until := time.Now().Add(lockWait)
	for {
		err := l.create(b)
		if err == nil {
			return nil
		}
		var locked *LockedError
		wait := false
		switch {
		case errors.Is(err, ErrExist), errors.Is(err, ErrUncertain):
			if err = l.held(force); err == nil {
				wait = true // it was released or broken: try again
			} else {
				wait = errors.As(err, &locked)
			}
		case errors.Is(err, ErrSharing), errors.Is(err, ErrNotExist):
			wait = true // it is being removed while somebody reads it
		}
		if wait && ctx.Err() == nil && (err == nil || time.Now().Before(until)) {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		held := errors.Join(err, ctx.Err())
		locksInUse.Delete(l.me.Nonce)
		return errors.Join(held, ignoreMissing(l.store.Remove(l.intent())))
	}
}

func (l *recordLock) create(b []byte) error {
	f, err := l.store.OpenFile(l.name, ReadWrite|Create|Exclusive)
	if err != nil {
		return err
	}
	err = writeSynced(f, b)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(l.store.Remove(l.name)))
	}
	return nil
}

// held looks at a lock that exists: nil if the caller may try again because it
// is gone, its own, or broken by now.
func (l *recordLock) held(force bool) error {
	h, err := l.holder()
	if errors.Is(err, ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	mine := h.Host != "" && h.Nonce == l.me.Nonce
	if !mine && !force && !l.mayBreak(h) {
		return &LockedError{Lock: l.store.Location().Join(l.name), Holder: h}
	}
	return ignoreMissing(l.store.Remove(l.name))
}

// mayBreak: the lock is of an earlier process of this job that is gone. A lock
// without a name can be of anybody who left an intent.
func (l *recordLock) mayBreak(h Holder) bool {
	if l.me.Job == "" && !l.agent {
		return false
	}
	if h.Host != "" {
		return l.predecessor(h)
	}
	intents, err := l.intents()
	if err != nil {
		return false
	}
	for _, i := range intents {
		if i.Nonce != l.me.Nonce && !l.predecessor(i) {
			return false
		}
	}
	return true
}

// predecessor is a process of the same job and host that runs no more, or this
// very one: a job changes a record at one place at a time, so it is a lock that
// could not be given back.
func (l *recordLock) predecessor(h Holder) bool {
	mine := h.PID == l.me.PID && h.Process == l.me.Process
	if l.agent && h.Host == l.me.Host {
		return gone(h)
	}
	return h.Job == l.me.Job && h.Job != "" && h.Host == l.me.Host && (mine || !running(h))
}

// locksInUse has the nonces of those locks that this process holds or waits for: one
// of its own that is not among them could not be given back.
var locksInUse sync.Map

// gone tells whether a holder on this host holds its lock no more, whatever it says.
func gone(h Holder) bool {
	if h.PID == os.Getpid() && running(h) {
		_, inUse := locksInUse.Load(h.Nonce)
		return !inUse
	}
	return !running(h)
}

// running tells whether the holder, a process of this host, still runs.
func running(h Holder) bool { return h.Process != "" && Process(h.PID) == h.Process }

func (l *recordLock) holder() (Holder, error) { return readHolder(l.store, l.name) }

// LockHolder says who holds the lock on the ownership record of the VM with that
// GUID in a home's folder: nil if nobody does, a zero Holder if the lock does
// not say. It takes nothing.
func LockHolder(home Store, id string) (*Holder, error) {
	h, err := readHolder(home, path.Join(MachinesDir, id+recordSuffix)+lockSuffix)
	if errors.Is(err, ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &h, nil
}

func readHolder(s Store, name string) (Holder, error) {
	b, err := ReadFile(s, name, maxHolder)
	if err != nil {
		return Holder{}, err
	}
	var h Holder
	if json.Unmarshal(b, &h) != nil {
		return Holder{}, nil // its holder died while writing
	}
	return h, nil
}

func (l *recordLock) intents() ([]Holder, error) {
	infos, err := l.store.ReadDir(dirOf(l.name))
	if err != nil {
		return nil, err
	}
	var found []Holder
	for _, i := range infos {
		if !strings.HasPrefix(i.Name, path.Base(l.name)+"-") {
			continue
		}
		b, err := ReadFile(l.store, path.Join(dirOf(l.name), i.Name), maxHolder)
		if errors.Is(err, ErrNotExist) {
			continue // it has given up, or is done
		}
		if err != nil {
			return nil, err
		}
		var h Holder
		if err := json.Unmarshal(b, &h); err != nil {
			return nil, err
		}
		found = append(found, h)
	}
	return found, nil
}

// stillMine makes sure that nobody broke the lock.
func (l *recordLock) stillMine() error {
	h, err := l.holder()
	if err == nil && h.Nonce == l.me.Nonce {
		return nil
	}
	return fmt.Errorf("the lock on the ownership record was taken away: %w", errors.Join(ErrNotOwner, err))
}

// release gives the lock back, unless it was broken and is another's by now, and
// clears the intents of this job's dead.
func (l *recordLock) release() error {
	locksInUse.Delete(l.me.Nonce)
	h, err := l.holder()
	if err == nil && h.Nonce == l.me.Nonce {
		err = l.store.Remove(l.name)
	}
	err = errors.Join(ignoreMissing(err), ignoreMissing(l.store.Remove(l.intent())))
	intents, lerr := l.intents()
	if lerr != nil {
		return err // the dead's intents can wait for the next
	}
	for _, i := range intents {
		if i.Host == l.me.Host && gone(i) {
			err = errors.Join(err, ignoreMissing(l.store.Remove(l.name+"-"+i.Nonce)))
		}
	}
	return err
}
