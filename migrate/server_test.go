package migrate

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"lunless/smbstore"
	"lunless/smbstore/block"
	"lunless/smbstore/storetest"
)

// Both ends on one share: the server copies.
func TestStorageOnOneServer(t *testing.T) {
	for name, start := range storetest.Servers {
		for _, killed := range []bool{false, true} {
			t.Run(map[bool]string{false: name, true: name + " killed"}[killed], func(t *testing.T) {
				server := start(t)
				a, b := filepath.Join(server.Dir, "vms", "tier 1"), filepath.Join(server.Dir, "vms", "tier 2")
				must(t, os.Mkdir(a, 0o755))
				h := makeHome(t, storeAt(t, a), "web 1", 40<<20, 9)
				want := content(t, h.Store())
				o := Options{Source: server.Location("tier 1/web 1"), To: server.Location("tier 2"),
					SourceOptions: server.Options(), ToOptions: server.Options()}
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
				err = job.Wait(t.Context())
				// What the server copied and had not synced may be lost with it.
				if killed && errors.Is(err, block.ErrFailed) {
					job, err = Resume(t.Context(), server.Location("tier 2/web 1"), o)
					must(t, err)
					err = job.Wait(t.Context())
				}
				must(t, err)
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
