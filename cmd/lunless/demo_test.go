package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startDemo starts `lunless demo` in a folder that is no repository, as nobody
// if the test runs as root, with a temporary folder of its own.
func startDemo(t *testing.T, args ...string) (cmd *exec.Cmd, temp string, out, errs *syncBuffer) {
	t.Helper()
	file, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "lunless-demo-test-") // t.TempDir's parents are closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	temp, empty := filepath.Join(dir, "tmp"), filepath.Join(dir, "empty")
	program := filepath.Join(dir, "lunless")
	content, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(program, content, 0o755)
	}
	for _, d := range []string{temp, empty} {
		if err == nil {
			err = os.Mkdir(d, 0o777)
		}
		if err == nil {
			err = os.Chmod(d, 0o777) // whatever the umask
		}
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(program, append([]string{"demo"}, args...)...)
	cmd.Dir, cmd.Env = empty, []string{"TMPDIR=" + temp}
	out, errs = &syncBuffer{}, &syncBuffer{}
	cmd.Stdout, cmd.Stderr = out, errs
	if os.Geteuid() == 0 {
		const nobody = 65534
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd, temp, out, errs
}

// leftBehind is what a demo should have taken away: files and processes.
func leftBehind(t *testing.T, temp string) (left []string) {
	t.Helper()
	entries, err := os.ReadDir(temp)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		left = append(left, filepath.Join(temp, e.Name()))
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range lines {
		if b, err := os.ReadFile(name); err == nil && bytes.Contains(b, []byte(temp)) {
			left = append(left, name+": "+string(bytes.ReplaceAll(b, []byte{0}, []byte{' '})))
		}
	}
	return left
}

func TestDemo(t *testing.T) {
	cmd, temp, out, errs := startDemo(t, "--json")
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s%s", err, out, errs)
	}
	var report demoReport
	if err := json.Unmarshal([]byte(out.String()), &report); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if report.Files < demoBulkN || report.Writes == 0 || report.Offline.Copied == 0 || report.Live.Copied == 0 || report.Live.Phase != "done" {
		t.Errorf("the report: %+v", report)
	}
	if left := leftBehind(t, temp); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestDemoInterrupted(t *testing.T) {
	cmd, temp, out, errs := startDemo(t)
	for deadline := time.Now().Add(time.Minute); !strings.Contains(out.String(), "its home moves to"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it does not get to the move:\n%s%s", out, errs)
		}
	}
	time.Sleep(500 * time.Millisecond) // into it
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	err := cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitFailed {
		t.Errorf("exit status %d, %v", code, err)
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("it took %v to end", took)
	}
	if !strings.Contains(errs.String(), "interrupted") {
		t.Errorf("it says %q", errs)
	}
	if left := leftBehind(t, temp); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
