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

// limitedLog logs failures, a bounded number a second: a device that is gone
// fails all that it is asked.
type limitedLog struct {
	to *slog.Logger

	mu      sync.Mutex
	second  int64 // guarded by mu: of those counted
	logged  int   // guarded by mu
	omitted int   // guarded by mu
}

// failuresPerSecond is how many failures of an export are logged.
const failuresPerSecond = 10

func (l *limitedLog) failure(f Failure) {
	now := clock() / int64(time.Second)
	l.mu.Lock()
	if now != l.second {
		l.second, l.logged = now, 0
	}
	if l.logged++; l.logged > failuresPerSecond {
		l.omitted++
		l.mu.Unlock()
		return
	}
	omitted := l.omitted
	l.omitted = 0
	l.mu.Unlock()

	level := slog.LevelError
	if f.Err == nil { // the client asked for what cannot be
		level = slog.LevelWarn
	}
	attrs := []any{"export", f.Export, "client", f.Peer, "request", f.Request, "offset", f.Offset, "length", f.Length, "fua", f.FUA, "answer", f.Errno.String()}
	if f.Err != nil {
		attrs = append(attrs, "error", f.Err)
	}
	if omitted > 0 {
		attrs = append(attrs, "not_logged_before", omitted)
	}
	l.to.Log(context.Background(), level, "an NBD request failed", attrs...)
}
