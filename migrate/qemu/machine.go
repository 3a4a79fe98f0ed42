package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/google/uuid"

	"lunless/migrate/qemu/qmp"
)

// Machine is a running QEMU. Its methods may be called from several goroutines.
// All take a context and end with it; what QEMU was told already it does still.
// They fail with qmp.ErrClosed when the connection is gone: then Attach tells
// whether QEMU is, too.
type Machine struct {
	dir    string
	config Config
	proc   *process
	child  *child // nil after Attach
	qmp    *qmp.Client
	events *qmp.Subscription // watch's

	ended  chan struct{} // closed when QEMU has ended and exit is set
	exit   Exit
	letGo  chan struct{} // closed by Close
	closed sync.Once

	migrating chan struct{} // holds the token of who saves, restores or migrates

	mu     sync.Mutex
	reason string // of the first SHUTDOWN: a guest's is followed by that of our quit
}

// RunState is what the guest is doing (QEMU's RunState).
type RunState string

// Those that a driver meets; QEMU has some more.
const (
	StateRunning     RunState = "running"
	StatePaused      RunState = "paused"
	StatePrelaunch   RunState = "prelaunch" // started with Paused, or reset while it stood, and not run since
	StateIOError     RunState = "io-error"  // paused by a disk's error policy
	StateInMigrate   RunState = "inmigrate" // waits for a state
	StatePostMigrate RunState = "postmigrate"
	StateFinish      RunState = "finish-migrate"
	StateSave        RunState = "save-vm"
	StateInternal    RunState = "internal-error" // the processor is in a state that cannot be run
	StateShutdown    RunState = "shutdown"
	StatePanicked    RunState = "guest-panicked"
)

// Exit is how a QEMU ended.
type Exit struct {
	// Reason is QEMU's for a shutdown in order (guest-shutdown, host-qmp-quit,
	// host-signal, …), "" when it ended without one: crashed or killed.
	Reason string
	Status string // as the kernel has it; "" when another process was its parent
	Log    string // the last lines of what it wrote
}

func newMachine(r *record, p *process, child *child, c *qmp.Client) *Machine {
	return &Machine{dir: r.Config.RuntimeDir, config: r.Config, proc: p, child: child, qmp: c, events: c.Subscribe(),
		ended: make(chan struct{}), letGo: make(chan struct{}), migrating: make(chan struct{}, 1)}
}

// prove checks that what answers is the VM that the record tells of.
func (m *Machine) prove(ctx context.Context) error {
	pid, err := m.qmp.PeerPID()
	if err != nil {
		return err
	}
	if pid != m.proc.pid {
		return fmt.Errorf("%w: process %d listens on its monitor", ErrOtherVM, pid)
	}
	if b, err := os.ReadFile(filepath.Join(m.dir, filePID)); err == nil {
		if filed, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && filed != pid {
			return fmt.Errorf("%w: its pidfile says %.20q", ErrOtherVM, b)
		}
	}
	var answer struct {
		UUID uuid.UUID `json:"UUID"`
	}
	if err := m.qmp.Execute(ctx, "query-uuid", nil, &answer); err != nil {
		return err
	}
	if answer.UUID != m.config.UUID {
		return fmt.Errorf("%w: its UUID is %v", ErrOtherVM, answer.UUID)
	}
	return nil
}

// watch remembers why the guest went down, ends a QEMU whose guest has powered
// off, and notes when it has ended.
func (m *Machine) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if st, err := m.Status(ctx); err == nil && st == StateShutdown {
		m.shutDown(ctx, "guest-shutdown", true)
	}
	for {
		raw, err := m.events.Next(ctx)
		if errors.Is(err, qmp.ErrEventsLost) {
			continue
		}
		if err != nil {
			break
		}
		if e := newEvent(raw); e.Kind == EventShutdown {
			m.shutDown(ctx, e.Reason, e.Guest)
		}
	}
	// All that QEMU had to say was read: it has ended, or is about to, or it is only
	// the connection.
	select {
	case <-m.proc.done:
		m.end()
	case <-m.letGo:
	}
}

func (m *Machine) end() {
	m.proc.close()
	m.qmp.Close()
	m.exit = Exit{Log: lastLines(filepath.Join(m.dir, fileLog))}
	if m.child != nil {
		<-m.child.done
		m.exit.Status = m.child.status
	}
	m.mu.Lock()
	m.exit.Reason = m.reason
	m.mu.Unlock()
	close(m.ended)
}

func (m *Machine) shutDown(ctx context.Context, reason string, guest bool) {
	m.mu.Lock()
	if m.reason == "" {
		m.reason = reason
	}
	m.mu.Unlock()
	if guest { // QEMU waits: -action shutdown=pause
		go m.qmp.Execute(ctx, "quit", nil, nil)
	}
}

// Config is the VM's, resolved.
func (m *Machine) Config() Config { return m.config }

// PID is QEMU's process.
func (m *Machine) PID() int { return m.proc.pid }

// Version is QEMU's.
func (m *Machine) Version() qmp.Version { return m.qmp.Greeting().Version.QEMU }

// ConsoleSocket is the unix socket of the guest's first serial port. One at a
// time may connect with it.
func (m *Machine) ConsoleSocket() string { return filepath.Join(m.dir, fileConsole) }

// ConsoleLog is the file with what came from there, also from earlier runs in the
// same folder. Past 8 MiB it begins anew; what it had is in the file of the same
// name and ".1".
func (m *Machine) ConsoleLog() string { return filepath.Join(m.dir, fileOutput) }

// SpareMonitor is the unix socket of a second QMP monitor, for people.
func (m *Machine) SpareMonitor() string { return filepath.Join(m.dir, fileSpare) }

// Execute runs any command of QMP (qmp.Client.Execute).
func (m *Machine) Execute(ctx context.Context, command string, args, ret any) error {
	if err := m.qmp.Execute(ctx, command, args, ret); err != nil {
		return fmt.Errorf("VM %q: %w", m.config.Name, err)
	}
	return nil
}

// Status is what the guest does now.
func (m *Machine) Status(ctx context.Context) (RunState, error) {
	var s struct {
		Status RunState `json:"status"`
	}
	err := m.Execute(ctx, "query-status", nil, &s)
	return s.Status, err
}

// Stop pauses the guest and waits until its disks' requests under way were
// answered. The guest stands at once; but while a disk's server holds a request
// (which it may for ReconnectDelay after it went away, and as long as it likes
// while it is there), QEMU answers no other command either and tells no events.
func (m *Machine) Stop(ctx context.Context) error { return m.Execute(ctx, "stop", nil, nil) }

// Cont lets a paused guest run; requests that failed under ErrorStop are tried
// again. QEMU looks for a disk's server that was away for longer than ReconnectDelay
// at growing intervals: until it has found it, requests fail at once,
// which stops the guest again.
func (m *Machine) Cont(ctx context.Context) error { return m.Execute(ctx, "cont", nil, nil) }

// Reset is the reset button.
func (m *Machine) Reset(ctx context.Context) error { return m.Execute(ctx, "system_reset", nil, nil) }

// Powerdown is the power button: a guest that listens to ACPI powers itself off,
// and then QEMU ends (Wait).
func (m *Machine) Powerdown(ctx context.Context) error {
	return m.Execute(ctx, "system_powerdown", nil, nil)
}

// Quit has QEMU write out what it holds for the disks and end, whatever the guest
// does, and waits for that.
func (m *Machine) Quit(ctx context.Context) error {
	// QEMU may hang up before it has answered.
	if err := m.Execute(ctx, "quit", nil, nil); err != nil && !errors.Is(err, qmp.ErrClosed) {
		return err
	}
	return m.waitEnded(ctx)
}

// Kill ends QEMU at once, as a loss of power would, and waits until it has ended.
func (m *Machine) Kill(ctx context.Context) error {
	if err := m.proc.kill(); err != nil {
		return err
	}
	return m.waitEnded(ctx)
}

func (m *Machine) waitEnded(ctx context.Context) error {
	if _, err := m.Wait(ctx); err != nil {
		return fmt.Errorf("VM %q: waiting for QEMU (process %d) to end: %w", m.config.Name, m.proc.pid, err)
	}
	return nil
}

// Ended is closed when QEMU has ended.
func (m *Machine) Ended() <-chan struct{} { return m.ended }

// Wait waits until QEMU has ended. Close ends it with qmp.ErrClosed.
func (m *Machine) Wait(ctx context.Context) (Exit, error) {
	var err error
	select {
	case <-m.ended:
	case <-m.letGo:
		err = fmt.Errorf("VM %q: %w", m.config.Name, qmp.ErrClosed)
	case <-ctx.Done():
		err = ctx.Err()
	}
	select { // it may have ended as well
	case <-m.ended:
		return m.exit, nil
	default:
		return Exit{}, err
	}
}

// Close lets go of the VM, which goes on: Attach takes it over again.
func (m *Machine) Close() {
	m.closed.Do(func() {
		close(m.letGo)
		m.qmp.Close()
		m.proc.close()
	})
}
