package host

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
	"unicode/utf16"

	"lunless/migrate/qemu"
	"lunless/smbstore"
	guest "lunless/testdata/guest/vm"
)

// A guest boots through UEFI from a disk on a share, works, and sets UEFI variables.
// They are in its home when it has been told that they are: after a live move, after
// agent and QEMU were killed, and a checkpoint has those of its time.
func TestUEFIGuest(t *testing.T) {
	t.Parallel()
	h := newRig(t, "hv1", nil)
	g, err := guest.Build(h.ctx, "")
	if err != nil {
		t.Fatalf("%v (testdata/peers.sh installs what is missing)", err)
	}
	raw := filepath.Join(t.TempDir(), "boot.raw")
	h.must(g.UEFIDisk(h.ctx, raw, guest.BootOptions{Params: []string{"span=16", "mem=4"}}))
	from, to := smbstore.Location{Path: t.TempDir()}, smbstore.Location{Path: t.TempDir()}
	// With half of that, UEFI and a kernel that it starts get into each other's way.
	h.importGuest("web1", from, raw, smbstore.Config{CPUs: 1, Memory: 262136 << 10, Firmware: "uefi"})
	h.startAgent()
	began := time.Now()
	_, err = h.Start(h.ctx, from.Join("web1").String(), StartRequest{})
	h.must(err)
	c := h.console("web1")
	defer c.Close()
	t.Logf("at work %v after its start", time.Since(began).Round(time.Millisecond))
	set := func(name string) { h.must(c.SetVariable(h.ctx, name, "value-of-"+name)) }
	set("First")
	h.hasVariables(from, "First")
	_, err = h.Checkpoint(h.ctx, "web1", "then")
	h.must(err)
	set("Second")
	_, err = h.Migrate(h.ctx, "web1", MigrateRequest{To: to}, nil)
	h.must(err)
	h.hasVariables(to, "First", "Second")
	set("Third")
	pid := h.await("web1", Running).PID
	h.kill()
	h.must(syscall.Kill(pid, syscall.SIGKILL))
	h.hasVariables(to, "First", "Second", "Third")
	h.startAgent()
	h.await("web1", Crashed)
	v, err := h.Restore(h.ctx, "web1", RestoreRequest{Name: "then", Discard: true})
	h.must(err)
	h.hasVariables(to, "First")
	if v.State != SavedOff {
		t.Errorf("put back: %+v", v)
	}
	_, err = h.Start(h.ctx, "web1", StartRequest{})
	h.must(err)
	h.reattach(c, "web1")
	if _, err := c.Verify(h.ctx); err != nil {
		t.Errorf("after it was put back: %v\n%s", err, c.Tail(20))
	}
	set("Fourth")
	h.hasVariables(to, "First", "Fourth")
	h.must(c.Quit(h.ctx))
	h.await("web1", Stopped)
}

// hasVariables looks for the guest's variables in the home: those named, and no other.
func (h *rig) hasVariables(at smbstore.Location, want ...string) {
	h.t.Helper()
	b := h.variables(at.Join("web1"))
	for _, name := range []string{"First", "Second", "Third", "Fourth"} {
		wanted := false
		for _, w := range want {
			wanted = wanted || w == name
		}
		var spelt []byte
		for _, u := range utf16.Encode([]rune(name)) {
			spelt = binary.LittleEndian.AppendUint16(spelt, u)
		}
		if is := bytes.Contains(b, spelt) && bytes.Contains(b, []byte("value-of-"+name)); is != wanted {
			h.t.Errorf("the variable %s is in the home: %v; it is to be: %v", name, is, wanted)
		}
	}
}

// variables reads what lies in the home, beside a guest that runs.
func (h *rig) variables(at smbstore.Location) []byte {
	h.t.Helper()
	home, err := smbstore.OpenHome(h.ctx, at, h.options())
	h.must(err)
	defer home.Close()
	c, err := home.Config()
	h.must(err)
	b, err := smbstore.ReadFile(home.Store(), c.UEFIVariables, maxVariables)
	h.must(err)
	empty, err := qemu.UEFIVariables()
	h.must(err)
	if len(b) != len(empty) {
		h.t.Errorf("%d bytes of variables, in flash memory of %d", len(b), len(empty))
	}
	return b
}

// What QEMU's flash memory is told is in the VM's home at once: it is there after
// agent and QEMU are killed. What changes while no agent runs waits for the next one.
func TestVariablesOutliveAgentAndQEMU(t *testing.T) {
	t.Parallel()
	if !variablesOutlive(t, "") {
		t.Error("a variable that was changed is not in the home")
	}
}

func TestSabotagedVariablesAreLost(t *testing.T) {
	t.Parallel()
	if variablesOutlive(t, sabotageFlash) {
		t.Error("variables were kept in the agent, and nothing was lost")
	}
}

// variablesOutlive changes variables beside the firmware and ends everything.
func variablesOutlive(t *testing.T, sabotage string) bool {
	h := newRig(t, "hv1", nil)
	h.cfg.Sabotage = sabotage
	at := smbstore.Location{Path: t.TempDir()}
	s, err := smbstore.Open(h.ctx, at, smbstore.Options{})
	h.must(err)
	home, err := smbstore.CreateHomeWithDisk(h.ctx, s, "web1", smbstore.Config{CPUs: 1, Memory: 131064 << 10, Firmware: "uefi"}, 1<<20)
	h.must(err)
	_, err = home.Resolve(h.ctx, h.cfg.Config.Name)
	h.must(errors.Join(err, s.Close()))
	h.startAgent()
	v, err := h.Start(h.ctx, at.Join("web1").String(), StartRequest{})
	h.must(err)
	empty := len(h.variables(at.Join("web1")))
	// Firmware does not get to the end of its memory in so short a time.
	h.program(v.ID, empty-1024, 0x5a)
	h.kill()
	h.startAgent()
	h.await("web1", Running)
	h.program(v.ID, empty-512, 0xa5)
	h.kill()
	h.must(syscall.Kill(v.PID, syscall.SIGKILL))
	b := h.variables(at.Join("web1"))
	found := bytes.Count(b[empty-1024:empty-512], []byte{0x5a}) == 512 && bytes.Count(b[empty-512:], []byte{0xa5}) == 512
	h.startAgent()
	h.await("web1", Crashed)
	return found
}

// program writes a sector as QEMU's flash memory does, without a flush, on a
// connection of its own.
func (h *rig) program(id string, off int, pattern byte) {
	h.t.Helper()
	uri := "nbd+unix:///" + variablesName + "?socket=" + filepath.Join(h.cfg.Config.Data, runDir, id, nbdName)
	out, err := exec.CommandContext(h.ctx, "qemu-io", "-f", "raw", "-t", "unsafe", "-c", fmt.Sprintf("write -P %d %d 512", pattern, off), uri).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("wrote 512/512")) {
		h.t.Fatalf("%v: %s", err, out)
	}
}
