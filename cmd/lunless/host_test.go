package main

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lunless/migrate/host"
	"lunless/migrate/qemu"
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

// startHost runs an agent until the test ends, with its guests.
func startHost(t *testing.T, data, storage string) {
	t.Helper()
	file, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(file, "host", "run", "--data", data, "--storage", storage, "--accel", "tcg", "--log-level", "error")
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
