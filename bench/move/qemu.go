package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// daemon is a qemu-storage-daemon: QEMU's block layer between the guest's export
// and ours, in both cases.
type daemon struct {
	cmd    *exec.Cmd
	conn   net.Conn
	lines  *bufio.Scanner
	socket string // of the guest's export
}

func startDaemon(dir, source string) (*daemon, error) {
	d := &daemon{socket: filepath.Join(dir, "guest.sock")}
	monitor := filepath.Join(dir, "qmp.sock")
	_, _ = os.Remove(d.socket), os.Remove(monitor)
	d.cmd = exec.Command("qemu-storage-daemon",
		"--chardev", "socket,id=q,server=on,wait=off,path="+monitor, "--monitor", "chardev=q",
		"--blockdev", "driver=nbd,node-name=source,export=source,server.type=unix,server.path="+source,
		"--nbd-server", "addr.type=unix,max-connections=0,addr.path="+d.socket,
		"--export", "type=nbd,id=guest,node-name=source,name=guest,writable=on")
	d.cmd.Stderr = os.Stderr
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w: apt-get install qemu-system-common", err)
	}
	for range 200 {
		if c, err := net.Dial("unix", monitor); err == nil {
			d.conn, d.lines = c, bufio.NewScanner(c)
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if d.conn == nil {
		d.stop()
		return nil, fmt.Errorf("%v does not answer", d.cmd)
	}
	if _, err := d.read("QMP"); err != nil {
		return nil, err
	}
	return d, d.command("qmp_capabilities", nil)
}

func (d *daemon) stop() {
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
	if d.conn != nil {
		d.conn.Close()
	}
}

// read reads messages until one has a key.
func (d *daemon) read(key string) (map[string]any, error) {
	for d.lines.Scan() {
		var m map[string]any
		if err := json.Unmarshal(d.lines.Bytes(), &m); err != nil {
			return nil, err
		}
		if e, ok := m["error"]; ok {
			return nil, fmt.Errorf("qemu: %v", e)
		}
		if _, ok := m[key]; ok {
			return m, nil
		}
	}
	return nil, fmt.Errorf("qemu closed its monitor: %v", d.lines.Err())
}

func (d *daemon) command(name string, args map[string]any) error {
	m := map[string]any{"execute": name}
	if args != nil {
		m["arguments"] = args
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if _, err := d.conn.Write(append(b, '\n')); err != nil {
		return err
	}
	_, err = d.read("return")
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return err
}

// event waits for one.
func (d *daemon) event(name string) error {
	for {
		m, err := d.read("event")
		if err != nil {
			return err
		}
		if m["event"] == name {
			return nil
		}
		if m["event"] == "BLOCK_JOB_ERROR" {
			return fmt.Errorf("qemu: %v", m)
		}
	}
}

// mirror moves the guest's disk to an export with blockdev-mirror, as a host would.
func (d *daemon) mirror(ctx context.Context, target string) error {
	stop := context.AfterFunc(ctx, func() { d.conn.Close() })
	defer stop()
	err := d.command("blockdev-add", map[string]any{"driver": "nbd", "node-name": "target", "export": "target",
		"server": map[string]any{"type": "unix", "path": target}, "discard": "unmap", "detect-zeroes": "unmap"})
	if err != nil {
		return err
	}
	if err := d.command("blockdev-mirror", map[string]any{"job-id": "move", "device": "source", "target": "target",
		"sync": "full", "copy-mode": "write-blocking"}); err != nil {
		return err
	}
	if err := d.event("BLOCK_JOB_READY"); err != nil {
		return err
	}
	if err := d.command("block-job-complete", map[string]any{"device": "move"}); err != nil {
		return err
	}
	return d.event("BLOCK_JOB_COMPLETED")
}
