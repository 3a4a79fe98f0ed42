package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lunless/bench"
	"lunless/smbstore"
	"lunless/smbstore/block"
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
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %v to end", took)
	}
	if !strings.Contains(errs.String(), "interrupted") {
		t.Errorf("it says %q", errs)
	}
	if left := leftBehind(t, temp); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestDemoNoticesDamage has the demo's own checks look at a home that lost a bit.
func TestDemoNoticesDamage(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	d := &demo{ctx: t.Context()}
	var err error
	if d.files, err = makeDemoImage(d.ctx, image, demoFS, demoDisk, "../.."); err != nil {
		t.Fatal(err)
	}
	if len(d.files) < demoBulkN+10 {
		t.Errorf("only %d files", len(d.files))
	}
	s, err := smbstore.Open(d.ctx, smbstore.Location{Path: dir}, smbstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	h, err := smbstore.ImportHome(d.ctx, s, demoVM, smbstore.ImportOptions{Image: smbstore.Location{Path: image},
		Config: smbstore.Config{CPUs: 1, Memory: 1 << 30, Firmware: "uefi"}})
	if err != nil {
		t.Fatal(err)
	}
	const disk = "Virtual Hard Disks/disk0.vhdx"
	writeDemo(t, d, h, disk)
	if err := d.verifyDisk(h, disk, d.writer); err != nil {
		t.Fatalf("an undamaged home: %v", err)
	}

	file := filepath.Join(dir, demoVM, disk)
	var start [32]byte
	if _, err := io.ReadFull(rand.NewChaCha8([32]byte{'d', 'e', 'm', 'o'}), start[:]); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(content, start[:]) // where the first file of random content begins
	if at < 0 {
		t.Fatal("the content of a file is nowhere in the image")
	}
	flip(t, file, int64(at)+12345)
	if err := d.verifyDisk(h, disk, d.writer); err == nil || !strings.Contains(err.Error(), "differs from what was put there") {
		t.Errorf("a bit of a file lost: %v", err)
	}
	flip(t, file, int64(at)+12345)
	flip(t, file, 0x30010) // the region table
	if err := d.verifyDisk(h, disk, d.writer); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a bit of the structure lost: %v", err)
	}
	flip(t, file, 0x30010)
	if err := d.verifyDisk(h, disk, d.writer); err != nil {
		t.Errorf("mended: %v", err)
	}
	zeroWriterArea(t, d, h, disk)
	if err := d.verifyDisk(h, disk, d.writer); err == nil || !strings.Contains(err.Error(), "acknowledged write") {
		t.Errorf("acknowledged writes lost: %v", err)
	}
}

func openDemoDisk(t *testing.T, d *demo, h *smbstore.Home, name string) block.Device {
	t.Helper()
	dev, _, err := smbstore.OpenDisk(d.ctx, h.Store(), name, smbstore.DiskOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	return dev
}

// writeDemo lets the demo's writer write for a moment.
func writeDemo(t *testing.T, d *demo, h *smbstore.Home, name string) {
	t.Helper()
	dev := openDemoDisk(t, d, h, name)
	var err error
	if d.writer, err = bench.NewWriter(dev, demoFS, demoDisk-demoFS, 1); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(d.ctx, 200*time.Millisecond)
	defer stop()
	if err := d.writer.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if d.writer.Writes() == 0 {
		t.Fatal("the writer did not write")
	}
	if err := dev.Flush(d.ctx); err != nil {
		t.Fatal(err)
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
}

func zeroWriterArea(t *testing.T, d *demo, h *smbstore.Home, name string) {
	t.Helper()
	dev := openDemoDisk(t, d, h, name)
	if err := dev.WriteZeroes(d.ctx, demoFS, demoDisk-demoFS, 0); err != nil {
		t.Fatal(err)
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
}

func flip(t *testing.T, name string, at int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 4
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// TestDemoImageOfAnyFolder has names and files in the folder that FAT, or the
// user, cannot take.
func TestDemoImageOfAnyFolder(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"plain.txt", "Plain.TXT", "Deep/er/one.txt", "deep/er/two.txt", "deep/ER", "a:b", "ends.", "what?.txt",
		"ünïcode.txt", "mixed", "MIXED/inside.txt", "b[1].txt", ".hidden/x", "bin/x", strings.Repeat("n", 200)} {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte("content of "+name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{
		os.WriteFile(filepath.Join(dir, "unreadable"), []byte("x"), 0),
		os.Mkdir(filepath.Join(dir, "closed"), 0),
		os.WriteFile(filepath.Join(dir, "empty"), nil, 0o644),
		syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644),
		os.Symlink("/etc/passwd", filepath.Join(dir, "link")),
		os.Truncate(filepath.Join(dir, "plain.txt"), 100<<10),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "huge"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "huge"), demoMaxBytes+1); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(dir, "image")
	want, err := makeDemoImage(t.Context(), image, demoFS, demoDisk, dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/Plain.TXT", "/Deep/er/one.txt", "/deep/er/two.txt"} {
		if _, ok := want[name]; !ok {
			t.Errorf("%s is not in the image", name)
		}
	}
	for name := range want {
		if strings.ContainsAny(name, ":?[ü") || strings.Contains(name, "hidden") || name == "/huge" || name == "/plain.txt" || name == "/image" {
			t.Errorf("%s is in the image", name)
		}
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	dev, err := block.NewRaw(block.NewLocal(f), block.RawOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if err := checkDemoFiles(t.Context(), dev, demoFS, want); err != nil {
		t.Error(err)
	}
}
