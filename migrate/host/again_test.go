package host

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lunless/migrate/qemu"
	"lunless/migrate/qemu/qmp"
	"lunless/smbstore"
)

// A guest that an agent paused, and did not live to continue, goes on under the next
// one; one that people have paused stands until they let it go on.
func TestPausedGuestIsFound(t *testing.T) {
	t.Parallel()
	h := newRig(t, "hv1", nil)
	h.startIdle()
	v := h.await("web1", Running)
	h.must(h.spare(v.ID, "stop", nil))
	h.await("web1", Paused)
	h.kill()
	h.startAgent()
	if v := h.await("web1", Paused); !strings.Contains(v.Reason, "when the agent found it") {
		t.Errorf("people have paused it: %+v", v)
	}
	h.kill()
	a := &Agent{cfg: h.cfg.Config}
	list, _, err := a.loadKept()
	h.must(err)
	list[0].Standing = true // what the agent writes down before it pauses a guest
	h.must(a.keep(list[0]))
	h.startAgent()
	h.await("web1", Running)
	var s struct{ Status qemu.RunState }
	for s.Status != qemu.StateRunning {
		h.must(h.spare(v.ID, "query-status", &s))
	}
	for list[0].Standing {
		list, _, err = a.loadKept()
		h.must(err)
	}
}

// Who starts a saved guest and hangs up once its state is used up has started it.
func TestSavedStateOutlivesItsCaller(t *testing.T) {
	t.Parallel()
	h := newRig(t, "hv1", nil)
	h.cfg.Staged = true
	h.startIdle()
	_, err := h.Save(h.ctx, "web1")
	h.must(err)
	h.tellStage("stop start-ready")
	ctx, hangUp := context.WithCancel(h.ctx)
	started := make(chan error, 1)
	go func() {
		_, err := h.Start(ctx, "web1", StartRequest{})
		started <- err
	}()
	_, err = h.out.ReadString('\n')
	h.must(err)
	hangUp()
	<-started
	time.Sleep(300 * time.Millisecond) // the agent notices, most likely
	h.tellStage("go")
	h.await("web1", Running)
}

// A guest that runs has used up its saved state, whatever its configuration says: to go
// on from there would put its disks' past in their place.
func TestRunningGuestIsNotSaved(t *testing.T) {
	t.Parallel()
	h := newRig(t, "hv1", nil)
	at := h.startIdle()
	h.kill()
	home, err := smbstore.OpenHome(h.ctx, at, h.options())
	h.must(err)
	defer home.Close()
	state := smbstore.MachinesDir + "/late.state"
	h.must(os.WriteFile(filepath.Join(at.Path, state), []byte("state"), 0o600))
	h.must(home.UpdateConfig(func(c *smbstore.Config) error {
		c.Saved = &smbstore.SavedState{Path: state, Machine: "m", Size: 5, Taken: time.Now().UTC()}
		return nil
	}))
	h.startAgent()
	h.await("web1", Running)
	c, err := home.Config()
	h.must(err)
	if c.Saved != nil || exists(at.Path, state) {
		t.Errorf("the guest runs, and its state is kept: %+v", c.Saved)
	}
}

// A VM of which it cannot be read what an earlier agent did is left alone, and said to
// be; the others are taken over all the same.
func TestUnreadableVMIsLeftAlone(t *testing.T) {
	t.Parallel()
	h := newRig(t, "hv1", nil)
	at := h.startIdle()
	v := h.await("web1", Running)
	h.kill()
	other := h.makeIdle("web2", at.Dir())
	home, err := smbstore.OpenHome(h.ctx, other, h.options())
	h.must(err)
	defer home.Close()
	for _, content := range []string{"", `{"version":1,"id"`, `{"version":2,"id":"` + home.ID() + `","running":true}`} {
		file := filepath.Join(h.cfg.Config.Data, vmsDir, home.ID()+".json")
		h.must(os.WriteFile(file, []byte(content), 0o600))
		h.startAgent()
		if again := h.await("web1", Running); again.PID != v.PID {
			t.Errorf("%q: the other VM was started again", content)
		}
		if l, err := h.List(h.ctx, true); err != nil || len(l.VMs) != 1 || len(l.Problems) != 1 || !strings.Contains(l.Problems[0], file) {
			t.Errorf("%q: listed %+v, %v", content, l, err)
		}
		if _, err := h.Start(h.ctx, other.String(), StartRequest{}); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%q: it is started: %v", content, err)
		}
		if b, err := os.ReadFile(file); err != nil || string(b) != content {
			t.Errorf("%q: the file is %q, %v", content, b, err)
		}
		h.kill()
	}
}

// What an agent was at when it was told to stop is the next one's to look after.
func TestStoppingAgentLeavesItsNote(t *testing.T) {
	a := &Agent{cfg: Config{Data: t.TempDir()}, ctx: t.Context()}
	if err := os.Mkdir(filepath.Join(a.cfg.Data, vmsDir), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, stopping := range []bool{false, true} {
		v := newVM(a, &kept{Version: 1, ID: "x"})
		done, err := v.doing("a save")
		if err != nil {
			t.Fatal(err)
		}
		a.stopping = stopping
		if done(); (v.cutShort() != "") != stopping {
			t.Errorf("stopping %v: the note says %q", stopping, v.cutShort())
		}
	}
}

// spare asks the monitor that is for people.
func (h *rig) spare(id, command string, answer any) error {
	c, err := qmp.Dial(h.ctx, filepath.Join(h.cfg.Config.Data, runDir, id, "monitor.sock"))
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Execute(h.ctx, command, nil, answer)
}
