package host

import (
	"context"
	"errors"
	"path"
	"path/filepath"

	"lunless/migrate/qemu"
	"lunless/smbstore"
)

// A guest's UEFI variables lie in its home as its flash memory has them: a raw file
// that is open under the VM's fence, exported to QEMU and moved like a disk. A
// checkpoint has a copy; putting the VM back to it makes one of that.

// variablesName is the export with the UEFI's variables.
const variablesName = "uefi-vars"

// maxVariables bounds a file with UEFI variables, in bytes.
const maxVariables = 16 << 20

// haveVariables makes the UEFI's variables in a home whose VM needs some and has none.
func haveVariables(home *smbstore.Home, c *smbstore.Config) error {
	if c.Firmware != "uefi" || c.Kernel != nil || c.UEFIVariables != "" {
		return nil
	}
	name := path.Join(smbstore.MachinesDir, home.ID()+".nvram")
	_, err := home.Store().Stat(name) // of a start that was cut
	if errors.Is(err, smbstore.ErrNotExist) {
		var empty []byte
		if empty, err = qemu.UEFIVariables(); err == nil {
			err = smbstore.WriteFile(home.Store(), name, empty)
		}
	}
	if err != nil {
		return err
	}
	c.UEFIVariables = name
	return home.UpdateConfig(func(c *smbstore.Config) error {
		c.UEFIVariables = name
		return nil
	})
}

// openVariables opens the UEFI's variables, if the VM has any.
func (r *run) openVariables(ctx context.Context) error {
	if r.varsPath == "" {
		return nil
	}
	d := smbstore.Disk{Path: r.varsPath, Format: smbstore.Raw}
	chain, err := r.openChain(ctx, d)
	if err != nil {
		return err
	}
	if n := chain.Disk().Size(); n > maxVariables {
		return errors.Join(smbstore.ErrBadConfig, errors.New(r.varsPath+" is too large for UEFI variables"), chain.Close())
	}
	f, err := newFlash(ctx, chain.Disk(), r.variablesFail)
	if err != nil {
		return errors.Join(err, chain.Close())
	}
	r.vars, r.flash = &disk{conf: d, chain: chain, slot: chain.Disk()}, f
	return nil
}

// variablesFail is told when changes of the variables do not reach the home, and when
// they do again.
func (r *run) variablesFail(err error) {
	log, name := r.v.a.log, r.v.name()
	switch {
	case err == nil:
		log.Info("the guest's changed UEFI variables are in its home again", "vm", name)
	case errors.Is(err, smbstore.ErrTaken):
		r.end(ending{state: Lost, reason: err.Error()})
	default:
		log.Error("the guest has changed UEFI variables that could not be written: they would be lost with this agent, which tries again",
			"vm", name, "file", r.varsPath, "error", err)
	}
}

// closeVariables writes what is left to write, and closes the variables.
func (r *run) closeVariables() error {
	if r.vars == nil {
		return nil
	}
	err := r.flash.Flush(context.Background()) // the store is closed under it if that takes too long
	_, chain := r.vars.now()
	return errors.Join(err, chain.Close())
}

// variableStore is where QEMU finds the variables.
func (r *run) variableStore() *qemu.VariableStore {
	return &qemu.VariableStore{Socket: filepath.Join(r.dir, nbdName), Export: variablesName,
		Size: r.flash.Size(), ReconnectDelay: maxReconnect}
}

// exported are all that the guest uses, its variables among it.
func (r *run) exported() []*disk {
	if r.vars == nil {
		return r.disks
	}
	return append(r.disks[:len(r.disks):len(r.disks)], r.vars)
}

// variablesOf is the name of a checkpoint's or branch's copy of the variables, "" if
// the VM has none.
func variablesOf(c *smbstore.Config, branch string) string {
	if c.UEFIVariables == "" {
		return ""
	}
	return path.Join(smbstore.SnapshotsDir, branch+".nvram")
}

// copyVariables copies a file with variables in the home; it was announced.
func copyVariables(home *smbstore.Home, from, to string) error {
	if from == "" || to == "" {
		return nil
	}
	b, err := smbstore.ReadFile(home.Store(), from, maxVariables)
	if err != nil {
		return err
	}
	return smbstore.WriteFile(home.Store(), to, b)
}

// copyVariables copies those of a guest that stands.
func (r *run) copyVariables(ctx context.Context, to string) error {
	if r.flash == nil || to == "" {
		return nil
	}
	b, err := r.flash.snapshot(ctx)
	if err != nil {
		return err
	}
	return smbstore.WriteFile(r.at().home.Store(), to, b)
}

// present are those of file names that are any.
func present(files ...string) (list []string) {
	for _, f := range files {
		if f != "" {
			list = append(list, f)
		}
	}
	return list
}
