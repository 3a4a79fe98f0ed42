package migrate

import (
	"context"
	"fmt"
	"time"

	"lunless/smbstore"
)

// Worker is the process that runs a job, or ran it last.
type Worker struct {
	Host string `json:"host"`
	PID  int    `json:"pid"` // 0: it gave the job up in order
	// State is "running", "gone", "stopped" (gave up in order), or "unknown" where
	// the host is another.
	State   string    `json:"state"`
	Updated time.Time `json:"updated"` // when it last wrote the journal
}

// Side is one end of an unfinished migration.
type Side struct {
	Home   smbstore.Location `json:"home"`
	Record string            `json:"record"` // what it says, or why that is not known
	// Lock is who holds the record's lock; nil if nobody does or it is not known.
	Lock *smbstore.Holder `json:"lock,omitempty"`
}

// Details are an unfinished migration with what both ends' records say.
type Details struct {
	Status
	Ends []Side `json:"ends"` // source, destination
}

// found is the job as somebody finds it who did not start it.
func (j *Journal) found() Status {
	s := j.status()
	w := &Worker{Host: j.Host, PID: j.PID, Updated: j.Updated, State: "gone"}
	host, err := smbstore.HostName()
	switch {
	case j.PID == 0:
		w.State = "stopped"
	case err != nil || host != j.Host:
		w.State = "unknown"
	case smbstore.Process(j.PID) == j.Process && j.Process != "":
		w.State = "running"
	}
	s.Process = w
	resume, undo := fmt.Sprintf("lunless migrate resume %s", j.Destination), fmt.Sprintf("lunless migrate cancel %s", j.Destination)
	switch {
	case w.State == "running" && j.Kind == KindLiveStorage:
		if j.Phase != Cleaning {
			s.Next = []string{undo} // else wait; it is its agent's, which is to go on
		}
		return s
	case w.State == "running":
		s.Next = []string{fmt.Sprintf("kill -INT %d", j.PID)} // else wait
		return s
	case j.Phase == Cleaning:
		s.Next = []string{resume}
	case j.Phase == Cancelling:
		s.Next = []string{undo}
	default:
		s.Next = []string{resume, undo}
	}
	if err != nil || host != j.Host {
		for i := range s.Next {
			s.Next[i] += " # on " + j.Host
		}
	}
	return s
}

// sideTimeout bounds how long Show asks the source.
const sideTimeout = 10 * time.Second

// Show gives the unfinished migration whose destination home is at the location.
// Both ends are opened with o; a source that cannot be asked is no error.
func Show(ctx context.Context, destination smbstore.Location, o smbstore.Options) (Details, error) {
	jl, err := loadJournal(ctx, destination, o)
	if err != nil {
		return Details{}, err
	}
	d := Details{Status: jl.found()}
	for _, at := range []smbstore.Location{jl.Source, destination} {
		d.Ends = append(d.Ends, lookAt(ctx, at, jl.VM, o))
	}
	for _, e := range d.Ends {
		if d.Process.State != "running" && e.Lock != nil && e.Lock.Job != jl.Job {
			d.Next = append(d.Next, fmt.Sprintf("lunless migrate resolve %s # if the lock's holder is gone: see its --help", jl.Source))
			break
		}
	}
	return d, nil
}

func lookAt(ctx context.Context, at smbstore.Location, vm string, o smbstore.Options) Side {
	side := Side{Home: at}
	ctx, cancel := context.WithTimeout(ctx, sideTimeout)
	defer cancel()
	o.ReconnectTimeout = sideTimeout
	s, err := openStore(ctx, at, o)
	if err != nil {
		side.Record = "cannot be read: " + err.Error()
		return side
	}
	defer s.Close()
	lock, lerr := smbstore.LockHolder(s, vm)
	side.Lock = lock
	switch h, err := smbstore.HomeIn(s); {
	case err != nil:
		side.Record = err.Error()
	default:
		r, err := h.Record()
		if side.Record = r.String(); err != nil {
			side.Record = err.Error()
		}
	}
	if lerr != nil {
		side.Record += fmt.Sprintf("; its lock cannot be read: %v", lerr)
	}
	return side
}
