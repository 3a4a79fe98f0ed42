package migrate

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"lunless/smbstore"
)

// After a crash in the switch, an administrator can decide either way.
func TestResolve(t *testing.T) {
	for _, c := range []struct {
		point   string
		at      string // source or destination
		refused error
	}{
		{"copied-file", "source", nil},
		{"copied-file", "destination", ErrNotWhole},
		{"offered", "source", nil},
		{"offered", "destination", nil},
		{"offered-at-destination", "source", nil},
		{"offered-at-destination", "destination", nil},
		{"moved", "source", nil},
		{"moved", "destination", nil},
		{"taken", "destination", nil},
	} {
		t.Run(c.point+" "+c.at, func(t *testing.T) {
			v := &vm{a: t.TempDir(), b: t.TempDir()}
			v.from, v.to, v.home = filepath.Join(v.a, "vm"), v.b, filepath.Join(v.b, "vm")
			v.make(t, soakRun{kind: "offline", seed: 1})
			if out, err := v.child("storage", v.to, envKill+"="+c.point+":1:0"); !killed(err) {
				t.Fatalf("%v %s", err, out)
			}
			here, there := v.a, v.b
			if c.at == "destination" {
				here, there = v.b, v.a
			}
			res, err := Resolve(t.Context(), at(here, "vm"), Options{})
			if c.refused != nil {
				// A copy without its configuration is no home at all.
				if !errors.Is(err, c.refused) && !errors.Is(err, smbstore.ErrNotHome) {
					t.Errorf("got %v, want %v", err, c.refused)
				}
				return
			}
			must(t, err)
			must(t, res.OtherErr)
			r, err := record(here)
			must(t, err)
			other, err := record(there)
			must(t, err)
			if r.State != smbstore.Owned || other.State == smbstore.Owned || other.State == smbstore.Offered {
				t.Errorf("here %v, there %v", r, other)
			}
			must(t, v.whole(here))
			if c.at == "source" {
				if c.point != "copied-file" && exists(there, "vm", JournalName) {
					t.Error("the job can be resumed still")
				}
				return
			}
			if out, err := v.child("resume", v.home); err != nil {
				t.Fatalf("resume after resolve: %v %s", err, out)
			}
			must(t, v.at(v.b, v.a))
		})
	}
}

func TestResolveBreaksALock(t *testing.T) {
	v := &vm{a: t.TempDir(), b: t.TempDir()}
	v.make(t, soakRun{kind: "offline", seed: 1})
	h, err := smbstore.HomeIn(storeAt(t, filepath.Join(v.a, "vm")))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(v.a, "vm", h.RecordName()+".lock"), []byte(`{"host":"gone","pid":1,"job":"j"}`), 0o644))
	var locked *smbstore.LockedError
	_, err = h.Change(t.Context(), "", func(r smbstore.Record) (smbstore.Record, error) { return r.Resolve("x") })
	if !errors.As(err, &locked) || locked.Holder.Host != "gone" {
		t.Errorf("got %v", err)
	}
	r, err := Resolve(t.Context(), at(v.a, "vm"), Options{})
	if err != nil || r.Record.Epoch != 2 {
		t.Errorf("%+v %v", r, err)
	}
}
