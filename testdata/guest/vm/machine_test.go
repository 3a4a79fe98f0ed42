package vm

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// machine is a guest in QEMU.
type machine struct {
	t       *testing.T
	cmd     *exec.Cmd
	said    bytes.Buffer // by QEMU
	console *Console
	monitor string // its socket
	ctx     context.Context
}

// boot starts QEMU with extra arguments, which say what to boot and from where,
// and waits until the guest is ready. The console may be one of a former boot.
func boot(t *testing.T, console *Console, args ...string) (*machine, Ready, error) {
	t.Helper()
	dir, err := os.MkdirTemp("", "lunless-vm-*") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute+vmSeconds(t))
	t.Cleanup(cancel)
	socket := filepath.Join(dir, "console")
	m := &machine{t: t, console: console, monitor: filepath.Join(dir, "monitor"), ctx: ctx}
	m.cmd = exec.CommandContext(ctx, "qemu-system-x86_64", append([]string{"-accel", "tcg", "-machine", "pc-q35-7.2", "-cpu", "max", "-m", Memory,
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "unix:" + socket + ",server=on,wait=on",
		"-monitor", "unix:" + m.monitor + ",server=on,wait=off"}, args...)...)
	m.cmd.Stdout, m.cmd.Stderr = &m.said, &m.said
	if err := m.cmd.Start(); err != nil {
		t.Fatalf("%v (install qemu-system-x86: testdata/peers.sh does)", err)
	}
	t.Cleanup(m.kill)
	if err := console.Redial(ctx, socket); err != nil {
		m.kill()
		t.Fatalf("%v: %s", err, m.said.String())
	}
	ready, err := console.Await(ctx)
	return m, ready, err
}

// kill ends QEMU at once, if it runs.
func (m *machine) kill() {
	m.cmd.Process.Kill()
	m.cmd.Wait()
}

// quit has the guest power off.
func (m *machine) quit() {
	m.t.Helper()
	m.must(m.console.Quit(m.ctx))
	if err := m.cmd.Wait(); err != nil {
		m.t.Errorf("QEMU: %v: %s", err, m.said.String())
	}
}

func (m *machine) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatalf("%v\n%s", err, m.said.String())
	}
}

// powerButton has the guest power off as its host would.
func (m *machine) powerButton() {
	m.t.Helper()
	mark := m.console.Mark()
	conn, err := net.Dial("unix", m.monitor)
	m.must(err)
	defer conn.Close()
	_, err = fmt.Fprintln(conn, "system_powerdown")
	m.must(err)
	_, err = m.console.Wait(m.ctx, mark, "BYE")
	m.must(err)
	if err := m.cmd.Wait(); err != nil {
		m.t.Errorf("QEMU: %v: %s", err, m.said.String())
	}
}

// flushes waits until the guest has told of n more flushes.
func (m *machine) flushes(n int) {
	m.t.Helper()
	mark := m.console.Mark()
	for range n {
		_, err := m.console.Wait(m.ctx, mark, "FLUSHED")
		m.must(err)
		mark = m.console.Mark()
	}
}

func direct(g Guest, params ...string) []string {
	return []string{"-kernel", g.Kernel, "-initrd", g.Initrd, "-append", g.Append(params...)}
}

// disk is a virtio disk; how is the image's driver, with what QEMU is to put
// between it and the guest.
func disk(n int, how string) []string {
	return []string{"-blockdev", fmt.Sprintf("%s,node-name=d%d", how, n), "-device", fmt.Sprintf("virtio-blk-pci,drive=d%d", n)}
}

func rawFile(path string) string {
	return "driver=raw,discard=unmap,file.driver=file,file.filename=" + path
}
