package migrate

import (
	"context"
	"errors"
	"sync"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/block"
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

// Phases, in order. Cancelling replaces what comes before Cleaning. Queued are
// jobs that a Manager lets wait, Keeping is the time of grace.
const (
	Queued     Phase = "queued"
	Planning   Phase = "planning"
	Copying    Phase = "copying"
	Verifying  Phase = "verifying"
	Switching  Phase = "switching"
	Keeping    Phase = "keeping"
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
	// Left is what the phase is known to have left to move or to compare: without
	// holes, as far as they are known, and with what a guest's writes added.
	Left int64 `json:"left"`
	// Rate is how fast Left is worked off, in bytes a second, over the last
	// seconds; Remaining what Left takes at it, Unknown where that cannot be told:
	// at the start, while the job waits, and when nothing has moved for a while.
	Rate      float64       `json:"rate"`
	Remaining time.Duration `json:"remaining"`
	// Paused tells that the job was paused. A guest's writes are mirrored all the
	// same.
	Paused bool `json:"paused,omitempty"`
	// Limit is the rate it may copy at, in bytes a second, by its own setting and
	// by what the guard of the guest's latency allows; 0 is none.
	Limit int64 `json:"limit,omitempty"`
	// Stall is how long a live migration's switch held the writers back.
	Stall time.Duration `json:"stall,omitempty"`
	// Guest is what the guest's requests took during a live migration.
	Guest *GuestLatency `json:"guest,omitempty"`
	// KeptUntil is when the source goes, in phase Keeping.
	KeptUntil time.Time `json:"keptUntil,omitzero"`
	Error     string    `json:"error,omitempty"`
	// Process is whose the job is or was last, of an unfinished job that Show or
	// List found; nil otherwise.
	Process *Worker `json:"process,omitempty"`
	// Next are the commands that fit, likewise.
	Next []string `json:"next,omitempty"`
}

// Unknown is a Remaining that cannot be told.
const Unknown time.Duration = -1

// GuestLatency is how long requests took as who made them saw it.
type GuestLatency struct {
	Usual    time.Duration `json:"usual"`    // on average, before the copy; 0 if too few were made
	Worst    time.Duration `json:"worst"`    // the longest of the whole job
	AtSwitch time.Duration `json:"atSwitch"` // the longest around the switch
}

// Options describe a migration.
type Options struct {
	// Source is the VM's home. To is the storage location the home shall lie in,
	// under the name it has.
	Source, To smbstore.Location
	// SourceOptions and ToOptions open the two ends.
	SourceOptions, ToOptions smbstore.Options
	// Host is this host's name in the ownership records; "" takes the machine's.
	Host string
	// VM, if not "", is the GUID of the VM whose migration Resume and Cancel are to find.
	VM string
	// Parallel is how many requests are in flight; 0 leaves that to the job, which
	// takes as many as bring more.
	Parallel int
	// RateLimit bounds the copying, in bytes a second; 0 does not.
	RateLimit int64
	// KeepSource leaves the source's files where they are. Its record says that the
	// VM has moved, so that nobody starts it there.
	KeepSource bool
	// Progress, if not nil, is called at every change of phase and a few times a
	// second, never concurrently.
	Progress func(Status)

	common *block.Bandwidth                                // of a Manager's jobs
	turn   func(context.Context) (leave func(), err error) // waits for one; nil: at once
	often  bool                                            // journal progress at each chance, for tests
}

func (o *Options) host() (string, error) {
	if o.Host != "" {
		return o.Host, nil
	}
	return smbstore.HostName()
}

// Job is a migration under way in this process. All methods may be called
// concurrently.
type Job struct {
	cancel        context.CancelCauseFunc
	done          chan struct{}
	pace          *pacer
	fixedParallel bool
	leave         func() // gives a Manager's turn back

	mu      sync.Mutex // guards what follows
	status  Status
	work    int64 // bytes worked off Left, ever
	worked  time.Time
	samples []sample // of work, the last seconds'
	latency *block.Latency
	err     error
	report  func(Status)
	last    time.Time // of the last report
	lies    *ends     // what the disks of a live migration lie on after it

	reporting sync.Mutex // held while report runs; taken before mu
}

type sample struct {
	at   time.Time
	work int64
}

const (
	reportEvery = 200 * time.Millisecond
	rateWindow  = 5 * time.Second
	rateLeast   = 500 * time.Millisecond // below it no rate is told
)

// start runs a migration in a goroutine of its own.
func start(ctx context.Context, first Status, o *Options, run func(context.Context, *Job) error) *Job {
	ctx, cancel := context.WithCancelCause(ctx)
	j := &Job{cancel: cancel, done: make(chan struct{}), status: first, report: o.Progress,
		pace: newPacer(o), fixedParallel: o.Parallel > 0, leave: func() {}}
	j.status.Remaining = Unknown
	if o.turn != nil {
		j.status.Phase = Queued
	}
	go func() {
		defer close(j.done)
		j.await(ctx, o)
		err := run(ctx, j) // where ctx has ended, it undoes what was prepared
		j.leave()
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

// await waits for the job's turn, or for ctx to end.
func (j *Job) await(ctx context.Context, o *Options) {
	if o.turn == nil {
		return
	}
	j.tell(true)
	if leave, err := o.turn(ctx); err == nil {
		j.leave = leave
	}
}

// Status is where the job stands.
func (j *Job) Status() Status {
	limit := j.pace.own.Rate()
	j.mu.Lock()
	defer j.mu.Unlock()
	s := j.status
	s.Limit = limit
	s.Rate, s.Remaining = j.estimate(time.Now())
	if s.Guest != nil {
		g := *s.Guest
		g.Worst = j.latency.Worst()
		s.Guest = &g
	}
	return s
}

// Pause has the job move nothing more until Unpause, but for the requests under
// way. It has no effect on a switch.
func (j *Job) Pause() { j.pause(true) }

// Unpause ends Pause.
func (j *Job) Unpause() { j.pause(false) }

func (j *Job) pause(yes bool) {
	j.pace.pause(yes)
	j.mu.Lock()
	j.status.Paused, j.samples = yes, nil
	j.mu.Unlock()
	j.tell(true)
}

// SetRate changes the job's RateLimit.
func (j *Job) SetRate(rate int64) { j.pace.setLimit(rate) }

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
	e := j.lies
	j.lies = nil
	j.mu.Unlock()
	if e == nil {
		return nil
	}
	return e.close()
}

// Abandon has those connections cut: what the disks wait for fails.
func (j *Job) Abandon() {
	j.mu.Lock()
	e := j.lies
	j.mu.Unlock()
	if e != nil {
		e.abandon()
	}
}

func (j *Job) keep(e *ends) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lies = e
}

// phase begins a phase of total bytes.
func (j *Job) phase(p Phase, total int64) {
	j.mu.Lock()
	j.status.Phase, j.status.Total, j.status.Done, j.status.Left = p, total, 0, total
	j.samples = nil
	j.mu.Unlock()
	j.tell(true)
}

// update changes the status; work is what it worked off Left.
func (j *Job) update(work int64, change func(*Status)) {
	j.mu.Lock()
	now := time.Now()
	if n := len(j.samples); n == 0 || now.Sub(j.samples[n-1].at) >= reportEvery {
		j.samples = append(j.samples, sample{now, j.work})
	}
	if work > 0 {
		j.work, j.worked = j.work+work, now
	}
	change(&j.status)
	j.status.Left = max(j.status.Left-work, 0)
	j.mu.Unlock()
	j.tell(false)
}

// advance adds bytes copied, or found to be zeroes.
func (j *Job) advance(copied, zeroes int64) {
	j.update(copied+zeroes, func(s *Status) {
		s.Done += copied + zeroes
		s.Copied += copied
		s.Skipped += zeroes
	})
}

// hole adds bytes that were no work: whether they are in Left is told.
func (j *Job) hole(n int64, inLeft bool) {
	j.update(0, func(s *Status) {
		s.Done += n
		s.Skipped += n
		if inLeft {
			s.Left -= n
		}
	})
}

// compared adds bytes found to be the same.
func (j *Job) compared(n int64) { j.update(n, func(s *Status) { s.Done += n }) }

// resumed adds bytes an earlier run did, which say nothing of the rate.
func (j *Job) resumed(n int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.status.Done += n
	j.status.Left = max(j.status.Left-n, 0)
	j.samples = nil
}

// passed adds what a pass over a mirrored disk copied and found to be zeroes, and
// by how much what the destination lacks changed: a guest takes some of it off the
// pass, and adds some where a write of its fails.
func (j *Job) passed(copied, zeroes, left int64) {
	j.update(max(-left, 0), func(s *Status) {
		s.Done -= left
		s.Copied += copied
		s.Skipped += zeroes
		s.Left += max(left, 0)
	})
}

// stalled notes how long a switch took.
func (j *Job) stalled(d time.Duration) { j.update(0, func(s *Status) { s.Stall = d }) }

// measured has the status tell what l measures.
func (j *Job) measured(l *block.Latency, change func(*GuestLatency)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	g := GuestLatency{}
	if j.status.Guest != nil {
		g = *j.status.Guest
	}
	change(&g)
	j.latency, j.status.Guest = l, &g
}

// estimate gives the rate and how long the rest takes; the caller holds mu.
func (j *Job) estimate(now time.Time) (rate float64, remaining time.Duration) {
	for len(j.samples) > 1 && now.Sub(j.samples[0].at) > rateWindow {
		j.samples = j.samples[1:]
	}
	if s := &j.status; len(j.samples) > 0 && now.Sub(j.worked) < rateWindow {
		span := now.Sub(j.samples[0].at)
		if done := j.work - j.samples[0].work; span >= rateLeast && done > 0 {
			rate = float64(done) / span.Seconds()
		}
		if rate > 0 && !s.Paused {
			return rate, time.Duration(float64(s.Left) / rate * float64(time.Second))
		}
	}
	return rate, Unknown
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
