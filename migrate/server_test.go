package migrate

import (
	"os"
	"path/filepath"
	"testing"

	"lunless/smbstore"
	"lunless/smbstore/storetest"
)

// Both ends on one share: the server copies.
func TestStorageOnOneServer(t *testing.T) {
	for name, start := range storetest.Servers {
		share := "vms"
		for _, run := range []string{"", " killed", " killed, continuously available"} {
			killed := run != ""
			if run == " killed, continuously available" {
				if share = "ca"; name != "lunless" {
					continue
				}
			}
			t.Run(name+run, func(t *testing.T) {
				server := start(t)
				a, b := filepath.Join(server.Dir, share, "tier 1"), filepath.Join(server.Dir, share, "tier 2")
				must(t, os.Mkdir(a, 0o755))
				h := makeHome(t, storeAt(t, a), "web 1", 70<<20, 9)
				want := content(t, h.Store())
				o := Options{Source: server.Location("tier 1/web 1"), To: server.Location("tier 2"),
					SourceOptions: server.Options(), ToOptions: server.Options()}
				o.Source.Share, o.To.Share = share, share
				hits := 0
				setFailpoint(t, func(point string) {
					if killed && point == "copied-window" {
						if hits++; hits == 2 {
							server.Kill()
							server.Start(t)
						}
					}
				})
				job, err := Storage(t.Context(), o)
				must(t, err)
				// What the server copied and had not synced may be lost with it: it
				// copies that again.
				must(t, job.Wait(t.Context()))
				if s := job.Status(); s.Done != s.Total {
					t.Errorf("%d bytes of %d are done", s.Done, s.Total)
				}
				if got := content(t, storeAt(t, filepath.Join(b, "web 1"))); got != want {
					t.Error("the home differs")
				}
				if exists(a, "web 1") {
					t.Error("the source is there still")
				}
			})
		}
	}
}

func TestStorageUnreachableDestination(t *testing.T) {
	a := t.TempDir()
	h := makeHome(t, storeAt(t, a), "vm", 1<<20, 1)
	server := storetest.StartLunless(t)
	to := server.Location("x")
	server.Kill()
	o := Options{Source: at(a, "vm"), To: to, ToOptions: server.Options()}
	if _, err := Storage(t.Context(), o); err == nil {
		t.Error("a dead destination was taken")
	}
	if r, err := h.Record(); err != nil || r.State != smbstore.Owned || r.Epoch != 1 {
		t.Errorf("%v %v", r, err)
	}
}
