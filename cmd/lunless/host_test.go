package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lunless/migrate"
	"lunless/migrate/host"
	"lunless/migrate/qemu"
	"lunless/migrate/qemu/qmp"
	"lunless/testdata/guest/vm"
)

// The commands of a host, as people use them: an agent, a VM with a kernel of its
// own, its console in a pipe.
func TestHostCommands(t *testing.T) {
	t.Parallel()
	guest, err := vm.Build(t.Context(), "")
	if err != nil {
		t.Fatalf("%v (testdata/peers.sh installs what is missing)", err)
	}
	data, err := os.MkdirTemp("", "h")
	if err != nil {
		t.Fatal(err)
	}
	storage := t.TempDir()
	startHost(t, data, storage)
	must(t, "vm", "create", "web1", "--storage", storage, "--disk-size", "64M", "--disk-size", "32M", "--memory", "131064K", "--network", "user",
		"--kernel", guest.Kernel, "--initrd", guest.Initrd, "--append", guest.Append())
	setVM(t, data, storage)
	if out, _, code := lunless(t, "vm", "start", "nobody", "--data", data); code != 1 {
		t.Errorf("a VM that is not there: status %d, %s", code, out)
	}
	if out := must(t, "vm", "start", "web1", "--data", data); out != "web1 is running\n" {
		t.Errorf("vm start says %q", out)
	}
	var v host.VM
	if err := json.Unmarshal([]byte(must(t, "vm", "show", "web1", "--data", data, "--json")), &v); err != nil || v.State != host.Running || len(v.Disks) != 2 || v.Disks[1].Size != 32<<20 {
		t.Errorf("vm show: %+v, %v", v, err)
	}
	file, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	var said []byte
	for tries := 0; len(said) == 0 && tries < 60; tries++ { // it boots meanwhile
		if said, err = exec.Command(file, "vm", "console", "web1", "--data", data, "--linger", "1s").Output(); err != nil {
			t.Fatal(err)
		}
	}
	if len(said) == 0 {
		t.Error("the guest's console says nothing")
	}
	if out := must(t, "host", "list", "--data", data); !strings.Contains(out, "web1") || !strings.Contains(out, "running") {
		t.Errorf("host list says %q", out)
	}
	pause(t, data, v.ID)
	if out := must(t, "vm", "start", "web1", "--data", data); out != "web1 was paused, and goes on\n" {
		t.Errorf("vm start of a guest that is paused says %q", out)
	}
	if out := must(t, "vm", "stop", "web1", "--save", "--data", data); out != "web1 is saved\n" {
		t.Errorf("vm stop --save says %q", out)
	}
	must(t, "vm", "start", "web1", "--data", data)
	if out := must(t, "vm", "stop", "web1", "--force", "--data", data); out != "web1 is stopped\n" {
		t.Errorf("vm stop --force says %q", out)
	}
	if _, errs, code := lunless(t, "vm", "console", "web1", "--data", data); code != 1 || !strings.Contains(errs, "cannot open the console of web1") {
		t.Errorf("the console of a VM that is off: status %d, %s", code, errs)
	}
}

// pause pauses a guest on the monitor that is for people, and waits until its host knows.
func pause(t *testing.T, data, id string) {
	t.Helper()
	monitor, err := qmp.Dial(t.Context(), filepath.Join(data, "run", id, "monitor.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer monitor.Close()
	if err := monitor.Execute(t.Context(), "stop", nil, nil); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(must(t, "host", "list", "--data", data), "paused") {
		time.Sleep(20 * time.Millisecond)
	}
}

// setVM changes a VM that is off.
func setVM(t *testing.T, data, storage string) {
	t.Helper()
	must(t, "vm", "set", "web1", "--cpus", "2", "--memory", "131060K", "--storage-trouble", "report", "--storage-patience", "90s", "--data", data)
	out := must(t, "vm", "show", filepath.Join(storage, "web1"))
	for _, want := range []string{"cpus      2\n", "trouble   report after 1m30s without an answer\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("vm show says %q, which lacks %q", out, want)
		}
	}
	for _, bad := range [][]string{{}, {"--cpus", "0"}, {"--memory", "1K"}, {"--storage-trouble", "panic"}, {"--storage-patience", "1500ms"}} {
		if _, errs, code := lunless(t, append([]string{"vm", "set", "web1", "--data", data}, bad...)...); code != 2 {
			t.Errorf("vm set %q: status %d, %s", bad, code, errs)
		}
	}
	must(t, "vm", "set", "web1", "--cpus", "1", "--memory", "131064K", "--storage-trouble", "pause", "--storage-patience", "0s", "--data", data)
}

// startHost runs an agent until the test ends, with its guests. Two at a time need names
// of their own.
func startHost(t *testing.T, data, storage string, flags ...string) {
	t.Helper()
	file, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(file, append([]string{"host", "run", "--data", data, "--storage", storage, "--accel", "tcg", "--log-level", "error"}, flags...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
		if err := cmd.Wait(); err != nil {
			t.Errorf("the agent: %v", err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		dirs, _ := filepath.Glob(filepath.Join(data, "run", "*"))
		for _, dir := range dirs {
			qemu.KillAt(ctx, dir) //nolint:errcheck // of most there is none
		}
		os.RemoveAll(data)
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready "+filepath.Join(data, "host.sock")+"\n" {
		t.Fatalf("the agent says %q, %v", line, err)
	}
}

// migrateFrom runs `lunless migrate storage` in the background until its migration is in
// a phase, whose id it gives; end waits for the command and gives what it said.
func migrateFrom(t *testing.T, data string, phase migrate.Phase, args ...string) (id string, cmd *exec.Cmd, end func() (stderr string, code int)) {
	t.Helper()
	file, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.CommandContext(t.Context(), file, append([]string{"migrate", "storage", "web1", "--data", data}, args...)...)
	said := &syncBuffer{}
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait() // its status is looked at
	}()
	end = func() (string, int) {
		<-ended
		return said.String(), cmd.ProcessState.ExitCode()
	}
	for {
		var list []host.Migration
		if err := json.Unmarshal([]byte(must(t, "migrate", "list", "--data", data, "--json")), &list); err != nil {
			t.Fatal(err)
		}
		for _, m := range list {
			if m.Phase == phase && !m.Ended {
				return m.ID, cmd, end
			}
		}
		select {
		case <-ended:
			t.Fatalf("the migration has ended: %s", said)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// The migration of a running VM is cancelled by its id: the command ends when it is
// undone, and fails where it cannot be.
func TestMigrateCancelJob(t *testing.T) {
	t.Parallel()
	data, err := os.MkdirTemp("", "h")
	if err != nil {
		t.Fatal(err)
	}
	storage, to, image := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "image.raw")
	if err := os.WriteFile(image, bytes.Repeat([]byte("no boot sector. "), 4<<20/16), 0o600); err != nil {
		t.Fatal(err)
	}
	startHost(t, data, storage, "--name", "hv-"+filepath.Base(data))
	must(t, "vm", "import", "web1", "--storage", storage, "--disk", image, "--memory", "16376K", "--firmware", "bios")
	must(t, "vm", "start", "web1", "--take-over", "--data", data) // this machine's name is not the host's
	id, moving, end := migrateFrom(t, data, migrate.Copying, "--to", to, "--limit", "32K")
	if err := moving.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if said, code := end(); code != 1 || !strings.Contains(said, "the migration goes on: `lunless migrate show "+id+"`") {
		t.Errorf("interrupted, migrate storage ends with %d and says %q", code, said)
	}
	want := "web1 is at " + filepath.Join(storage, "web1") + ", as before (job " + id + "): nothing is left of its copy at " + filepath.Join(to, "web1") + "\n"
	if out := must(t, "migrate", "cancel", id, "--data", data); out != want {
		t.Errorf("migrate cancel says %q, want %q", out, want)
	}
	if _, err := os.Stat(filepath.Join(to, "web1")); err == nil {
		t.Error("it is undone, and its copy is there")
	}
	var m host.Migration
	if err := json.Unmarshal([]byte(must(t, "migrate", "cancel", id, "--data", data, "--json")), &m); err != nil || !m.Undone || m.ID != id {
		t.Errorf("migrate cancel --json: %+v, %v", m, err)
	}
	id, _, end = migrateFrom(t, data, migrate.Keeping, "--to", to, "--grace", "1h")
	out, said, code := lunless(t, "migrate", "cancel", id, "--data", data)
	if code != 1 || out != "" || !strings.Contains(said, "cannot undo the migration of web1") || !strings.Contains(said, "has moved already") {
		t.Errorf("cancelled too late: status %d, %q, %q", code, out, said)
	}
	if _, code := end(); code != 1 {
		t.Errorf("migrate storage, cancelled too late, ends with %d", code)
	}
}
