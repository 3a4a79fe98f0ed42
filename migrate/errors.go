package migrate

import (
	"errors"
	"fmt"
)

// Errors of starting a migration.
var (
	// ErrSamePlace: source and destination are one, or one lies in the other.
	ErrSamePlace = errors.New("source and destination are not apart")
	// ErrUnfinished: a home is part of a migration that was interrupted.
	ErrUnfinished = errors.New("the home is part of an unfinished migration: resume or cancel that")
	// ErrJobRunning: the job's process is still at work.
	ErrJobRunning = errors.New("the job is running")
	// ErrNoJob: there is no journal of a migration.
	ErrNoJob = errors.New("no migration here")
	// ErrInUse: a VM that runs is moved by its host, live.
	ErrInUse = errors.New("the disk is open for writing: stop the VM, or have the agent of its host move it while it runs")
	// ErrOtherHost: the job belongs to another host.
	ErrOtherHost = errors.New("the job was started on another host: resume it there, or decide with `lunless migrate resolve`")
)

// OtherHostError: a job is another host's. It wraps ErrOtherHost.
type OtherHostError struct {
	Job        string
	Host, Here string // whose it is, and who asks
}

func (e *OtherHostError) Error() string {
	return fmt.Sprintf("job %s is of host %q, and this is %q: %v; if that is this machine's name as a host of VMs, say `--name %s`",
		e.Job, e.Host, e.Here, ErrOtherHost, e.Host)
}

// Unwrap returns ErrOtherHost.
func (e *OtherHostError) Unwrap() error { return ErrOtherHost }

// Errors of a migration under way.
var (
	// ErrSourceChanged: somebody wrote to the source while it was copied.
	ErrSourceChanged = errors.New("the source changed while it was copied: stop what uses the VM and resume")
	// ErrVerify: what the destination holds is not what the source holds.
	ErrVerify = errors.New("destination differs from the source")
	// ErrParentLeft: a disk's parent lies outside the home and cannot be opened from
	// the destination.
	ErrParentLeft = errors.New("a disk's parent does not move with the VM: merge or convert the disk, or rebase it onto a parent that the " +
		"destination reaches, then resume")
	// ErrCancelled: the job was cancelled; the VM is where it was.
	ErrCancelled = errors.New("the migration was cancelled")
	// ErrNotUndone: the migration failed, and what it copied could not be removed.
	ErrNotUndone = errors.New("what was copied could not be removed")
	// ErrTooLate: the VM is on the destination already, so that the job can only be finished.
	ErrTooLate = errors.New("the VM has moved already: resume to finish")
	// ErrInDoubt: an ownership record cannot be reached, so that nobody may run
	// the VM until it is: resume, or resolve.
	ErrInDoubt = errors.New("in doubt: the ownership record cannot be reached: resume when it can, or decide with `lunless migrate resolve`")
	// ErrDestination: the destination failed during a live migration.
	ErrDestination = errors.New("the destination failed")
	// ErrBadJournal: a journal cannot be used.
	ErrBadJournal = errors.New("bad migration journal")
)
