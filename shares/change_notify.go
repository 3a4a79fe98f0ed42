package shares

import (
	"context"
	"errors"
	"sync"

	"lunless/shares/fs"
	"lunless/shares/state"
	"lunless/smbstore/smb2"
)

// watch is what an open of a folder has to watch it with.
type watch struct {
	mu      sync.Mutex // guards the others; outside of the notifier's
	watcher *watcher   // nil: never asked for
	doomed  bool       // the folder has been marked to be deleted through this open
	closed  bool
}

// of is the open's watcher, made by the first request.
func (h *watch) of(r *request, req *smb2.ChangeNotifyRequest) (*watcher, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return nil, smb2.StatusFileClosed
	case h.doomed:
		return nil, smb2.StatusDeletePending
	case h.watcher != nil:
		return h.watcher, nil
	}
	h.watcher = &watcher{
		notifier: &r.conn.srv.notifier,
		folder:   r.open.fileID,
		tree:     req.Flags&smb2.ChangeNotifyWatchTree != 0,
		filter:   req.CompletionFilter,
		limit:    min(int(req.OutputBufferLength), maxNotifyEvents),
	}
	h.watcher.notifier.add(h.watcher)
	return h.watcher, nil
}

// doom notes that the folder has been marked to be deleted, which is not taken
// back with the mark (MS-FSA 2.1.1.6, ChangeNotifyDirectoryMarkedDeleted).
func (h *watch) doom() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.doomed = true
}

// close answers the requests that wait (MS-FSA 2.1.5.5 phase 5).
func (h *watch) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	if h.watcher != nil {
		h.watcher.end(smb2.StatusNotifyCleanup)
	}
}

// handleChangeNotify waits for changes in a folder (MS-SMB2 3.3.5.19, MS-FSA 2.1.5.11).
func handleChangeNotify(ctx context.Context, r *request) error {
	var req smb2.ChangeNotifyRequest
	if err := req.Decode(r.msg); err != nil {
		return err
	}
	switch {
	case !r.mayWait:
		return errWouldWait
	case !r.open.dir:
		return smb2.StatusInvalidParameter
	case r.open.access&smb2.FileListDirectory == 0:
		return smb2.StatusAccessDenied
	}
	w, err := r.open.watch.of(r, &req)
	if err != nil {
		return err
	}
	// The folder may have been marked before the watcher was there to be told.
	if _, err := r.deleting(ctx, r.open.file); errors.Is(err, state.ErrDeletePending) || errors.Is(err, fs.ErrNotExist) {
		w.end(smb2.StatusDeletePending)
	}
	// Requests of an open are answered in the order in which they came.
	p := w.wait(int(req.OutputBufferLength))
	select {
	case a := <-p.done:
		return r.notified(a)
	default:
	}
	if err := r.goAsync(func(ctx context.Context) error { return r.waitForChange(ctx, w, p) }); err != nil {
		w.cancel(p)
		return err
	}
	return nil
}

// waitForChange waits until there is something to tell, the client cancels, or
// the open is gone with its tree connect, session or connection.
func (r *request) waitForChange(ctx context.Context, w *watcher, p *notifyWait) error {
	r.leaveOpen() // it may be closed meanwhile, which ends the wait
	select {
	case a := <-p.done:
		return r.notified(a)
	case <-ctx.Done():
	}
	if !w.cancel(p) {
		return r.notified(<-p.done)
	}
	if errors.Is(context.Cause(ctx), errCancelled) {
		return ctx.Err()
	}
	return smb2.StatusNotifyCleanup
}

func (r *request) notified(a notified) error {
	switch a.status {
	case smb2.StatusSuccess, smb2.StatusNotifyEnumDir:
		return r.respondStatus(a.status, &smb2.ChangeNotifyResponse{Output: a.output})
	}
	return a.status
}
