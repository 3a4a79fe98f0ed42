package host

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"lunless/migrate"
	"lunless/smbstore"
)

// tellEvery bounds how long a client of a migration hears nothing.
const tellEvery = time.Second

// migrate moves a VM's storage and answers with a Migration at every change, one a
// line, the last one when it has ended. A client that hangs up changes nothing.
func (c control) migrate(w http.ResponseWriter, r *http.Request) {
	var q MigrateRequest
	if err := decode(r, &q); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	v, err := c.a.find(r.Context(), r.PathValue("vm"), byRecord)
	var mv *move
	if err == nil {
		mv, err = v.migrate(r.Context(), q)
	}
	if err != nil {
		refuse(w, err)
		return
	}
	c.follow(w, r, mv)
}

func (c control) follow(w http.ResponseWriter, r *http.Request, mv *move) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc, flush := json.NewEncoder(w), http.NewResponseController(w)
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		s := mv.show()
		if enc.Encode(s) != nil || flush.Flush() != nil || s.Ended {
			return
		}
		select {
		case <-mv.changed:
		case <-tick.C:
		case <-mv.over:
		case <-r.Context().Done():
			return
		}
	}
}

func (c control) migrations(w http.ResponseWriter, _ *http.Request) {
	c.a.mu.Lock()
	moves := append([]*move(nil), c.a.moves...)
	c.a.mu.Unlock()
	list := []Migration{}
	for _, m := range moves {
		list = append(list, m.show())
	}
	for _, v := range c.a.known() {
		list = append(list, v.leftMoves()...)
	}
	answer(w, list)
}

// SettleRequest names the destination home of an unfinished migration of this host,
// which is to be finished, or undone.
type SettleRequest struct {
	Home smbstore.Location `json:"home"`
	Undo bool              `json:"undo,omitempty"`
}

// settle finishes or undoes a migration that its process did not live to end, and one
// that is under way only if it is to be undone.
func (c control) settle(w http.ResponseWriter, r *http.Request) {
	var q SettleRequest
	if err := decode(r, &q); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx, cancel := c.a.goingOn(r.Context())
	defer cancel()
	s, err := c.a.settleByHand(ctx, q)
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, Migration{Status: s, Ended: true, Undone: q.Undo})
}

func (a *Agent) settleByHand(ctx context.Context, q SettleRequest) (migrate.Status, error) {
	a.mu.Lock()
	moves := append([]*move(nil), a.moves...)
	a.mu.Unlock()
	for _, m := range moves {
		if m.isOver() || !m.job.Status().Destination.Equal(q.Home) {
			continue
		}
		if !q.Undo {
			return m.job.Status(), fmt.Errorf("%w: the migration goes on: `lunless migrate show %s`", ErrBusy, m.job.ID())
		}
		m.job.Cancel()
		select {
		case <-m.over:
		case <-ctx.Done():
			return m.job.Status(), context.Cause(ctx)
		}
		return m.job.Status(), m.notUndone()
	}
	d, err := migrate.Show(ctx, q.Home, a.homeOptions())
	if err != nil {
		return migrate.Status{}, err
	}
	for _, v := range a.known() {
		v.mu.Lock()
		on, at := v.run != nil || v.kept.Running, v.kept.Location
		v.mu.Unlock()
		if on && !q.Undo && at.Equal(d.Source) {
			return d.Status, v.fail("resume the migration of", fmt.Errorf("%w, from its source %s: cancel it, and move the VM again", ErrRunning, at))
		}
	}
	s, err := a.settleMove(ctx, "", q.Home, q.Undo)
	if err == nil {
		for _, v := range a.known() {
			if slices.ContainsFunc(v.left(), q.Home.Equal) {
				v.sawTo(q.Home, nil)
			}
		}
	}
	return s, err
}

// notUndone is why a migration that was cancelled, and is over, is not undone; nil if
// it is.
func (m *move) notUndone() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.undone:
		return nil
	case m.err == nil:
		return migrate.ErrTooLate
	}
	return m.err
}

// onMigration is a handler that does something with a migration, and answers with
// where it stands.
func (c control) onMigration(do func(*migrate.Job)) http.HandlerFunc {
	return c.withMigration(func(w http.ResponseWriter, _ *http.Request, m *move) {
		do(m.job)
		answer(w, m.show())
	})
}

// cancelMigration has a migration undo what it did, and answers as migrate does. A
// client that hangs up changes nothing.
func (c control) cancelMigration(w http.ResponseWriter, r *http.Request, m *move) {
	m.job.Cancel()
	c.follow(w, r, m)
}

// withMigration is a handler for the migration whose id is in the path.
func (c control) withMigration(do func(http.ResponseWriter, *http.Request, *move)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c.a.mu.Lock()
		moves := append([]*move(nil), c.a.moves...)
		c.a.mu.Unlock()
		for _, m := range moves {
			if m.job.ID() == r.PathValue("id") {
				do(w, r, m)
				return
			}
		}
		refuse(w, ErrNoMigration)
	}
}
