package migrate

import (
	"context"
	"errors"
	"sync"
	"time"

	"lunless/smbstore"
)

// Kind is what kind of migration a job is.
type Kind string

// Kinds of migrations.
const (
	KindStorage     Kind = "storage"
	KindLiveStorage Kind = "live-storage"
)

// Phase is how far a job is.
type Phase string

// Phases, in order. Cancelling replaces what comes before Cleaning.
const (
	Planning   Phase = "planning"
	Copying    Phase = "copying"
	Verifying  Phase = "verifying"
	Switching  Phase = "switching"
	Cleaning   Phase = "cleaning"
	Done       Phase = "done"
	Cancelling Phase = "cancelling"
	Cancelled  Phase = "cancelled"
	Failed     Phase = "failed"
)

// Status is a job at one moment.
type Status struct {
	ID          string            `json:"id"`
	Kind        Kind              `json:"kind"`
	Phase       Phase             `json:"phase"`
	Source      smbstore.Location `json:"source"`
	Destination smbstore.Location `json:"destination"`
	Started     time.Time         `json:"started"`
	// Total and Done are bytes of the phase: copied or found to need no copying
	// while copying, compared while verifying.
	Total int64 `json:"total"`
	Done  int64 `json:"done"`
	// Copied are the bytes moved by this process; Skipped were holes and zeroes.
	Copied  int64 `json:"copied"`
	Skipped int64 `json:"skipped"`
	// Rate is Done's, in bytes a second, over the last seconds; Remaining what
	// the rest of the phase takes at it, 0 if unknown.
	Rate      float64       `json:"rate"`
	Remaining time.Duration `json:"remaining"`
	// Stall is how long a live migration's switch held the writers back.
	Stall time.Duration `json:"stall,omitempty"`
	Error string        `json:"error,omitempty"`
	// Process is whose the job is or was last, of an unfinished job that Show or
	// List found; nil otherwise.
	Process *Worker `json:"process,omitempty"`
	// Next are the commands that fit, likewise.
	Next []string `json:"next,omitempty"`
}

// Options describe a migration.
type Options struct {
	// Source is the VM's home. To is the storage location the home shall lie in,
	// under the name it has.
	Source, To smbstore.Location
	// SourceOptions and ToOptions open the two ends.
	SourceOptions, ToOptions smbstore.Options
	// Parallel is how many requests are in flight (default 8).
	Parallel int
	// RateLimit bounds the copying, in bytes a second; 0 does not.
	RateLimit int64
	// Progress, if not nil, is called at every change of phase and a few times a
	// second, never concurrently.
	Progress func(Status)
}

// Job is a migration under way in this process. All methods may be called
// concurrently.
type Job struct {
	cancel context.CancelCauseFunc
	done   chan struct{}

	mu      sync.Mutex // guards what follows
	status  Status
	samples []sample // of Done, the last seconds'
	err     error
	report  func(Status)
	last    time.Time // of the last report
	release func() error

	reporting sync.Mutex // held while report runs; taken before mu
}

type sample struct {
	at   time.Time
	done int64
}

const (
	reportEvery = 200 * time.Millisecond
	rateWindow  = 5 * time.Second
)

// start runs a migration in a goroutine of its own.
func start(ctx context.Context, first Status, o *Options, run func(context.Context, *Job) error) *Job {
	ctx, cancel := context.WithCancelCause(ctx)
	j := &Job{cancel: cancel, done: make(chan struct{}), status: first, report: o.Progress}
	go func() {
		defer close(j.done)
		err := run(ctx, j)
		j.mu.Lock()
		j.err = err
		switch {
		case err == nil:
			j.status.Phase = Done
		case errors.Is(err, ErrCancelled):
			j.status.Phase = Cancelled
		default:
			j.status.Phase = Failed
		}
		if err != nil {
			j.status.Error = err.Error()
		}
		j.mu.Unlock()
		cancel(nil)
		j.tell(true)
	}()
	return j
}

// Status is where the job stands.
func (j *Job) Status() Status {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.status
}

// ID is the job's.
func (j *Job) ID() string { return j.Status().ID }

// Wait waits for the job's end and returns its error: nil, ErrCancelled, or why
// it failed. If ctx ends first, the job goes on.
func (j *Job) Wait(ctx context.Context) error {
	select {
	case <-j.done:
		j.mu.Lock()
		defer j.mu.Unlock()
		return j.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Cancel asks the job to undo what it did; Wait tells whether it came in time.
// Ending the context the job was started with interrupts it instead, to be
// resumed.
func (j *Job) Cancel() { j.cancel(ErrCancelled) }

// Release closes the connections that the disks of a live migration lie on
// after it. It is called once the slots' devices are closed.
func (j *Job) Release() error {
	j.mu.Lock()
	release := j.release
	j.release = nil
	j.mu.Unlock()
	if release == nil {
		return nil
	}
	return release()
}

func (j *Job) keep(release func() error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.release = release
}

func (j *Job) phase(p Phase, total int64) {
	j.mu.Lock()
	j.status.Phase, j.status.Total, j.status.Done = p, total, 0
	j.status.Rate, j.status.Remaining, j.samples = 0, 0, nil
	j.mu.Unlock()
	j.tell(true)
}

// advance adds to the phase's bytes.
func (j *Job) advance(copied, skipped, compared int64) {
	j.mu.Lock()
	s := &j.status
	s.Done += copied + skipped + compared
	s.Copied += copied
	s.Skipped += skipped
	j.measure()
	j.mu.Unlock()
	j.tell(false)
}

// resumed adds bytes an earlier run did, which say nothing of the rate.
func (j *Job) resumed(n int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.status.Done += n
	j.samples = nil
}

// set replaces the phase's bytes, for a live copy pass that counts itself.
func (j *Job) set(done, copied, skipped int64) {
	j.mu.Lock()
	j.status.Done, j.status.Copied, j.status.Skipped = done, copied, skipped
	j.measure()
	j.mu.Unlock()
	j.tell(false)
}

func (j *Job) stall(d time.Duration) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.status.Stall = d
}

// measure updates the rate; the caller holds mu.
func (j *Job) measure() {
	s, now := &j.status, time.Now()
	if n := len(j.samples); n == 0 || now.Sub(j.samples[n-1].at) >= reportEvery {
		j.samples = append(j.samples, sample{now, s.Done})
	}
	for len(j.samples) > 2 && now.Sub(j.samples[0].at) > rateWindow {
		j.samples = j.samples[1:]
	}
	first := j.samples[0]
	if d := now.Sub(first.at).Seconds(); d > 0 && s.Done > first.done {
		s.Rate = float64(s.Done-first.done) / d
		s.Remaining = time.Duration(float64(max(s.Total-s.Done, 0)) / s.Rate * float64(time.Second))
	}
}

// tell calls the progress function, unless it was called just now.
func (j *Job) tell(always bool) {
	if j.report == nil {
		return
	}
	j.mu.Lock()
	if !always && time.Since(j.last) < reportEvery {
		j.mu.Unlock()
		return
	}
	j.last = time.Now()
	j.mu.Unlock()
	j.reporting.Lock()
	defer j.reporting.Unlock()
	j.report(j.Status())
}
