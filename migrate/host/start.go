package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"lunless/migrate/qemu"
	"lunless/smbstore"
)

// StartRequest says how to start a VM.
type StartRequest struct {
	// TakeOver is an administrator's word that the host which the record names is
	// gone, or is not to have the VM any more.
	TakeOver bool `json:"takeOver,omitempty"`
	// DiscardState boots a guest that was saved, as after a loss of power.
	DiscardState bool `json:"discardState,omitempty"`
}

// start starts the VM, or has one go on that is paused. On an error it is as it was, and
// this host may be its owner.
func (v *vm) start(ctx context.Context, q StartRequest) error {
	done, err := v.begin(ctx)
	if err != nil {
		return v.fail("start", err)
	}
	defer done()
	if v.a.isStopping() {
		return v.fail("start", ErrStopping)
	}
	v.mu.Lock()
	r, left := v.run, v.kept.Running
	was, why, all := v.state, v.reason, v.describe()
	v.mu.Unlock()
	if r != nil && !q.DiscardState {
		return v.fail("start", r.unpause(ctx))
	}
	if r != nil || left {
		return v.fail("start", fmt.Errorf("%w already (%s)", ErrRunning, all))
	}
	v.set(Starting, "")
	if err := v.startNow(ctx, q); err != nil {
		if v.isForced() && was != SavedOff {
			was, why = Stopped, "its start was cut short by force"
		}
		v.set(was, why)
		return v.fail("start", err)
	}
	return nil
}

// contWait is how long a new QEMU may take until the guest runs.
const contWait = time.Minute

func (v *vm) startNow(ctx context.Context, q StartRequest) (err error) {
	r, c, err := v.prepare(ctx, q.TakeOver)
	if err != nil {
		return err
	}
	resuming := func(k *kept) {}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close(), v.remember(func(k *kept) { k.Running, k.Starting = false, false; resuming(k) }))
		}
	}()
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return err
	}
	mc, err := r.machineConfig(ctx, &c)
	if err != nil {
		return err
	}
	if err := r.serve(); err != nil {
		return err
	}
	// From here on a QEMU may be there that an agent after this one has to find.
	err = v.remember(func(k *kept) {
		k.Running, k.Starting, k.Ended, k.Saved = true, true, "", false
		if c.Saved != nil && k.Doing == "" {
			// One that has its state and does not run yet looks as if it was paused.
			k.Doing = "a start from a saved state"
			resuming = func(k *kept) { k.Doing = "" }
		}
	})
	if err != nil {
		return err
	}
	if q.DiscardState && c.Saved != nil {
		if err := r.dropState(); err != nil {
			return err
		}
		c.Saved = nil
	}
	failpoint("start-noted")
	mc.Paused, mc.Incoming = true, c.Saved != nil
	m, err := qemu.Start(ctx, mc)
	if err != nil {
		return err
	}
	r.machine.Store(m)
	failpoint("start-spawned")
	if c.Saved != nil {
		err = r.resume(ctx, m, c.Saved)
	} else {
		err = r.firstTime(&c, m.Config())
	}
	if err == nil {
		failpoint("start-ready")
		// A state that the guest was given is used up: it runs now, whoever has hung up.
		going, cancel := context.WithTimeout(context.WithoutCancel(ctx), contWait)
		err = m.Cont(going)
		cancel()
	}
	if err != nil {
		return errors.Join(err, m.Kill(context.WithoutCancel(ctx)))
	}
	v.follow(r)
	err = v.remember(func(k *kept) {
		k.Doing, k.Starting = "", false // the home is tidy, and has no state
	})
	if err != nil {
		v.a.log.Error("the host's state", "error", err) // the next agent finds a guest that runs
	}
	return nil
}

// follow shows what runs, and watches it.
func (v *vm) follow(r *run) {
	r.looked.Store(time.Now().UnixNano())
	v.mu.Lock()
	v.run = r
	v.mu.Unlock()
	if r.held {
		v.set(Paused, "it was when the agent found it")
	} else {
		v.set(Running, "")
	}
	v.a.wg.Go(r.watch)
	v.mergeLater()
}

// machineConfig is the VM for QEMU.
func (r *run) machineConfig(ctx context.Context, c *smbstore.Config) (qemu.Config, error) {
	id, err := uuid.Parse(c.ID)
	if err != nil {
		return qemu.Config{}, fmt.Errorf("%w: id %q", smbstore.ErrBadConfig, c.ID)
	}
	k := &r.v.kept
	m := qemu.Config{Name: c.Name, UUID: id, MachineType: c.MachineType, CPU: c.CPUModel, Accel: qemu.Accel(r.v.a.cfg.Accel),
		CPUs: max(c.CPUs, 1), Memory: c.Memory, Disks: r.machineDisks(k), RuntimeDir: r.dir, Binary: r.v.a.cfg.QEMU}
	for i, n := range c.Networks {
		nic, err := nicOf(id, i, n)
		if err != nil {
			return m, err
		}
		m.NICs = append(m.NICs, nic)
	}
	if b := c.Kernel; b != nil {
		m.Kernel = &qemu.KernelBoot{Kernel: filepath.Join(r.dir, "kernel"), Append: b.Append}
		if err := r.fetch(ctx, b.Path, m.Kernel.Kernel); err != nil {
			return m, err
		}
		if b.Initrd != "" {
			m.Kernel.Initrd = filepath.Join(r.dir, "initrd")
			if err := r.fetch(ctx, b.Initrd, m.Kernel.Initrd); err != nil {
				return m, err
			}
		}
		return m, nil // without firmware of its own
	}
	if c.Firmware == "uefi" {
		m.Firmware, m.UEFIStore = qemu.UEFI, r.variableStore()
	}
	return m, nil
}

// maxFetched bounds a file of the home that is copied to this host, in bytes.
const maxFetched = 1 << 30

// fetch copies a file of the home to this host.
func (r *run) fetch(ctx context.Context, name, to string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b, err := smbstore.ReadFile(r.at().home.Store(), name, maxFetched)
	if err != nil {
		return err
	}
	return replaceFile(to, b)
}

// firstTime writes down what hardware the guest has seen, for its later starts.
func (r *run) firstTime(c *smbstore.Config, m qemu.Config) error {
	if c.MachineType == m.MachineType && c.CPUModel == m.CPU {
		return nil
	}
	return r.at().home.UpdateConfig(func(c *smbstore.Config) error {
		c.MachineType, c.CPUModel = m.MachineType, m.CPU
		return nil
	})
}

// nicOf is a network adapter; without a MAC in the configuration it has one that
// follows from the VM's GUID.
func nicOf(id uuid.UUID, i int, n smbstore.Network) (qemu.NIC, error) {
	nic := qemu.NIC{Network: qemu.NetNone, MAC: qemu.MAC{0x52, 0x54, id[13], id[14], id[15], byte(i)}}
	if n.Kind == "user" {
		nic.Network = qemu.NetUser
	}
	if n.MAC == "" {
		return nic, nil
	}
	if err := nic.MAC.UnmarshalText([]byte(n.MAC)); err != nil {
		return nic, fmt.Errorf("%w: network %d: %w", smbstore.ErrBadConfig, i, err)
	}
	return nic, nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// followAgain is follow for a guest that was there before.
func (v *vm) followAgain(r *run, c *smbstore.Config, paused bool) {
	if paused && c.Saved != nil {
		r.end(ending{state: SavedOff}) // it has not run since, as below
	} else if paused {
		r.again(r.machine.Load())
	} else {
		ctx, cancel := context.WithTimeout(v.a.ctx, 5*time.Second)
		switch s, err := r.machine.Load().Status(ctx); {
		case err != nil:
		case s == qemu.StatePanicked, s == qemu.StatePaused && c.Saved == nil && !v.standing():
			r.held = true
		case s != qemu.StateRunning && c.Saved != nil:
			// Its state is in the home, and goes on from there alone: it was just saved,
			// or has not run since it was given it back.
			r.end(ending{state: SavedOff})
		case s != qemu.StateRunning:
			// The last agent ended before it let the guest run, or in its trouble.
			r.again(r.machine.Load())
		case c.Saved != nil:
			// Saving it failed, and was found in the configuration later.
			if err := r.dropState(); err != nil {
				v.a.log.Error("a guest that runs has a saved state in its configuration: discard it before the VM is started again", "vm", v.name(), "error", err)
			}
		}
		cancel()
	}
	v.follow(r)
	if v.cutShort() != "" || v.isStarting() { // the home is tidy, and the guest goes on
		if err := v.remember(func(k *kept) { k.Doing, k.Starting = "", false }); err != nil {
			v.a.log.Error("the host's state", "error", err)
		}
	}
}

// isStarting tells that a start is under way, or was cut.
func (v *vm) isStarting() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.kept.Starting
}

// off is the VM's state once nothing runs any more.
func (v *vm) off(s State, reason string) {
	if v.isForced() && s == Crashed {
		s, reason = Stopped, byForce
	}
	v.mu.Lock()
	v.run = nil
	v.mu.Unlock()
	err := v.remember(func(k *kept) {
		k.Running, k.Starting, k.Standing, k.Ended, k.Saved = false, false, false, "", s == SavedOff
		if s == Crashed {
			k.Ended = reason
		}
	})
	if err != nil {
		v.a.log.Error("the VM is off, and the next agent will look for it", "vm", v.name(), "error", err)
	}
	v.set(s, reason)
	v.mergeLater()
}

// ended says how a QEMU ended that nobody served.
func (v *vm) ended(m *qemu.Machine, also error) {
	exit, err := m.Wait(context.WithoutCancel(v.a.ctx))
	m.Close()
	s, reason := endOf(exit, err)
	if also != nil {
		reason += "; " + also.Error()
	}
	v.off(s, reason)
}

// endOf is what a QEMU's end means.
func endOf(x qemu.Exit, err error) (State, string) {
	switch {
	case err != nil:
		return Crashed, err.Error()
	case x.Reason == "guest-shutdown", x.Reason == "host-qmp-quit", x.Reason == "host-qmp-system-reset":
		return Stopped, ""
	case x.Reason == "":
		s := "QEMU ended"
		if x.Status != "" {
			s += " with " + x.Status
		}
		if x.Log != "" {
			s += ": " + x.Log
		}
		return Crashed, s
	}
	return Crashed, "QEMU ended: " + x.Reason
}
