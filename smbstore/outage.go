package smbstore

import (
	"sync"
	"time"
)

// In an outage that has been waited for long enough, operations make one attempt
// each: lastTry bounds it, and those that come within lastTryEvery of it share
// its failure.
const (
	lastTry      = 5 * time.Second
	lastTryEvery = time.Second
)

// outage is the time a store's server has been lost for. Operations share the
// patience with it: a job whose server is gone would else wait anew in each of
// the steps that end it. The zero value is a server that is not lost.
type outage struct {
	mu    sync.Mutex
	since time.Time
}

// bound is until when an operation waits that would wait until deadline. once:
// the outage has lasted for too long to wait at all, one attempt is made.
func (o *outage) bound(deadline time.Time, patience time.Duration) (until time.Time, once bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	if o.since.IsZero() {
		o.since = now
	}
	end := o.since.Add(patience)
	if !now.Before(end) {
		return now.Add(lastTry), true
	}
	return minTime(deadline, end), false
}

// over is called once the server has answered.
func (o *outage) over() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.since = time.Time{}
}
