package nbd

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// failed tells who wants to know of a request that is answered with an error.
func (e *Export) failed(f Failure) {
	if e.opts.OnFailure != nil {
		e.opts.OnFailure(f)
	}
	e.log.failure(f)
}

// limitedLog logs an export's failures: the first of a kind at once, those after it
// as a count now and then. A device that is gone, or full, fails all that it is asked.
type limitedLog struct {
	to    *slog.Logger
	every time.Duration // between two lines of a kind

	mu    sync.Mutex
	kinds map[failureKind]*tally // guarded by mu: of those that were logged not long ago
}

// failureKind is what failures of an export are told apart by: few, whatever a client
// asks for.
type failureKind struct {
	request  string
	answer   Errno
	asDevice bool // the device said so
}

// tally is what was not logged of a kind, and the last of it.
type tally struct {
	n    int
	last Failure
}

// tallyEvery is how often failures of a kind are logged at most.
const tallyEvery = 10 * time.Second

func (l *limitedLog) failure(f Failure) {
	k := failureKind{f.Request, f.Errno, f.Err != nil}
	l.mu.Lock()
	t := l.kinds[k]
	if t != nil {
		t.n, t.last = t.n+1, f
		l.mu.Unlock()
		return
	}
	if l.kinds == nil {
		l.kinds = map[failureKind]*tally{}
	}
	l.kinds[k] = &tally{}
	l.mu.Unlock()
	time.AfterFunc(l.every, func() { l.look(k) })
	l.say(f, 1)
}

// look logs what there was of a kind since it was logged last, until that is nothing.
func (l *limitedLog) look(k failureKind) {
	l.mu.Lock()
	t := *l.kinds[k]
	if t.n == 0 {
		delete(l.kinds, k)
		l.mu.Unlock()
		return
	}
	*l.kinds[k] = tally{}
	l.mu.Unlock()
	time.AfterFunc(l.every, func() { l.look(k) })
	l.say(t.last, t.n)
}

// say logs the last of n failures.
func (l *limitedLog) say(f Failure, n int) {
	level := slog.LevelError
	if f.Err == nil { // the client asked for what cannot be
		level = slog.LevelWarn
	}
	attrs := []any{"export", f.Export, "client", f.Peer, "request", f.Request, "offset", f.Offset, "length", f.Length, "fua", f.FUA, "answer", f.Errno.String()}
	if f.Err != nil {
		attrs = append(attrs, "error", f.Err)
	}
	text := "an NBD request failed"
	if n > 1 {
		text = "NBD requests failed: this is the last"
		attrs = append(attrs, "failed", n)
	}
	l.to.Log(context.Background(), level, text, attrs...)
}
