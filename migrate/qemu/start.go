package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lunless/migrate/qemu/qmp"
	"lunless/smbstore"
)

const (
	startTime  = 60 * time.Second // until a new QEMU answers
	attachTime = 5 * time.Second  // until one that is there answers
	dialPause  = 5 * time.Millisecond
)

// Start starts a VM's QEMU, which goes on when this process ends: it has a
// session of its own, its output goes to a file in the runtime folder, and it
// inherits no open file. (Where a service manager ends what a service leaves
// behind, it must be told not to: systemd's KillMode=process.)
//
// Errors: ErrConfig, ErrRunning, ErrNoKVM, ErrNoUEFI; an *ExitError with QEMU's
// own words when it ended.
func Start(ctx context.Context, c Config) (*Machine, error) {
	c, err := Resolve(ctx, c)
	if err != nil {
		return nil, err
	}
	m, err := start(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("starting VM %q: %w", c.Name, err)
	}
	return m, nil
}

func start(ctx context.Context, c Config) (*Machine, error) {
	if err := os.MkdirAll(c.RuntimeDir, 0o700); err != nil {
		return nil, err
	}
	unlock, err := lockFolder(c.RuntimeDir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := clearFolder(c.RuntimeDir); err != nil {
		return nil, err
	}
	firmware, err := uefi(&c)
	if err != nil {
		return nil, err
	}
	binary, err := LookBinary(ctx, c.Binary)
	if err != nil {
		return nil, err
	}
	r := &record{Version: 1, Config: c, Binary: c.Binary}
	if err := r.write(); err != nil {
		return nil, err
	}
	child, err := spawn(&c, argv(&c, c.RuntimeDir, firmware, binary.Sandbox))
	if err != nil {
		return nil, err
	}
	m, err := r.adopt(ctx, child)
	if err == nil {
		return m, nil
	}
	if !errors.Is(err, ErrGone) {
		child.cmd.Process.Kill()
	}
	<-child.done
	log := lastLines(filepath.Join(c.RuntimeDir, fileLog))
	if errors.Is(err, ErrGone) {
		return nil, &ExitError{Name: c.Name, Status: child.status, Log: log}
	}
	return nil, fmt.Errorf("%w: %s", err, log)
}

// adopt writes down who the child is and waits for it to answer.
func (r *record) adopt(ctx context.Context, child *child) (*Machine, error) {
	r.PID, r.Process = child.cmd.Process.Pid, smbstore.Process(child.cmd.Process.Pid)
	if r.Process == "" {
		return nil, ErrGone
	}
	if err := r.write(); err != nil {
		return nil, err
	}
	p, err := openProcess(r.PID, r.Process)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	m, err := connect(ctx, r, p, child)
	if err != nil {
		p.close()
		return nil, err
	}
	return m, nil
}

// lockFolder keeps others from starting a VM in the folder at the same time.
func lockFolder(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: somebody starts a VM here: %w: %w", dir, ErrRunning, err)
	}
	return func() { f.Close() }, nil
}

// clearFolder removes what an earlier QEMU left: ErrRunning if it is there still.
func clearFolder(dir string) error {
	r, err := readRecord(dir)
	var p *process
	if err == nil {
		p, err = r.open()
	}
	if err == nil {
		p.close()
		return fmt.Errorf("%s: process %d: %w", dir, p.pid, ErrRunning)
	}
	if !errors.Is(err, ErrGone) {
		return err
	}
	for _, name := range []string{fileRecord, filePID, fileLog, fileLog + ".1", fileQMP, fileSpare, fileConsole} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// child is a QEMU of which this process is the parent.
type child struct {
	cmd    *exec.Cmd
	done   chan struct{} // closed when it has ended
	status string        // then: as the kernel has it
}

func spawn(c *Config, args []string) (*child, error) {
	log, err := os.OpenFile(filepath.Join(c.RuntimeDir, fileLog), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// Go's own descriptors are closed on exec; those that this process was started
	// with need not be.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("close_range", err)
	}
	cmd := exec.Command(c.Binary, args...)
	cmd.Dir, cmd.Env = "/", environment()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ch := &child{cmd: cmd, done: make(chan struct{})}
	go func() {
		cmd.Wait()
		ch.status = cmd.ProcessState.String()
		close(ch.done)
	}()
	return ch, nil
}

// Attach finds the VM that was started with a runtime folder and takes it over
// again. Whether it is the same is told by the kernel (the process that was
// written down, and which one listens on the monitor's socket) and by QEMU (the
// VM's UUID). Errors: ErrGone; ErrNotAnswering, after five seconds or when ctx
// ends; ErrOtherVM.
func Attach(ctx context.Context, runtimeDir string) (*Machine, error) {
	r, err := readRecord(runtimeDir)
	if err != nil {
		return nil, err
	}
	p, err := r.open()
	if err != nil {
		return nil, err
	}
	if r.Process == "" {
		r.PID, r.Process = p.pid, smbstore.Process(p.pid)
		if err := r.write(); err != nil {
			p.close()
			return nil, err
		}
	}
	waiting, cancel := context.WithTimeout(ctx, attachTime)
	defer cancel()
	m, err := connect(waiting, r, p, nil)
	if err != nil {
		p.close()
		return nil, fmt.Errorf("VM %q: process %d: %w", r.Config.Name, r.PID, err)
	}
	return m, nil
}

// KillAt ends the QEMU that was started with a runtime folder, also one that does
// not answer, and waits until it has ended: ErrGone when there is none.
func KillAt(ctx context.Context, runtimeDir string) error {
	r, err := readRecord(runtimeDir)
	if err != nil {
		return err
	}
	p, err := r.open()
	if err != nil {
		return err
	}
	defer p.close()
	if err := p.kill(); err != nil {
		return err
	}
	return p.wait(ctx)
}

// connect makes a Machine of a process that may be on its way still.
func connect(ctx context.Context, r *record, p *process, child *child) (*Machine, error) {
	c, err := dial(ctx, filepath.Join(r.Config.RuntimeDir, fileQMP), p)
	if err != nil {
		return nil, err
	}
	m := newMachine(r, p, child, c)
	if err := m.prove(ctx); err != nil {
		m.qmp.Close()
		if ctx.Err() != nil {
			err = errors.Join(ErrNotAnswering, err)
		}
		return nil, err
	}
	go m.watch()
	go m.tend()
	return m, nil
}

// dial connects to the monitor, which need not be there yet.
func dial(ctx context.Context, socket string, p *process) (*qmp.Client, error) {
	for {
		c, err := qmp.Dial(ctx, socket)
		if err == nil {
			return c, nil
		}
		select {
		case <-p.done:
			return nil, ErrGone
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrNotAnswering, err)
		case <-time.After(dialPause):
		}
	}
}
