package host

import (
	"encoding/json"
	"io"
	"net/http"
	"time"

	"lunless/migrate"
)

// tellEvery bounds how long a client of a migration hears nothing.
const tellEvery = time.Second

// migrate moves a VM's storage and answers with a Migration at every change, one a
// line, the last one when it has ended. A client that hangs up changes nothing.
func (c control) migrate(w http.ResponseWriter, r *http.Request) {
	var q MigrateRequest
	if err := json.NewDecoder(io.LimitReader(r.Body, maxRequest)).Decode(&q); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	v, err := c.a.find(r.Context(), r.PathValue("vm"))
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
	answer(w, list)
}

// onMigration is a handler that does something with a migration, and answers with
// where it stands.
func (c control) onMigration(do func(*migrate.Job)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c.a.mu.Lock()
		moves := append([]*move(nil), c.a.moves...)
		c.a.mu.Unlock()
		for _, m := range moves {
			if m.job.ID() == r.PathValue("id") {
				do(m.job)
				answer(w, m.show())
				return
			}
		}
		refuse(w, ErrNoMigration)
	}
}
