package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"lunless/migrate/qemu"
	"lunless/smbstore"
	"lunless/smbstore/block"
	"lunless/smbstore/nbd"
)

// disk is a disk in use: its chain, which is in a slot, and what QEMU connects to.
type disk struct {
	export *nbd.Export

	mu    sync.Mutex // guards what follows, which checkpoints exchange
	conf  smbstore.Disk
	chain *smbstore.Chain // nil when it could not be opened again
	slot  *block.Slot     // what the guest's requests come to first; moves exchange what is in it
	late  *overdue        // what the guest sees, where it is to be told of trouble; else nil
}

// now is the disk's place in the configuration and its chain.
func (d *disk) now() (smbstore.Disk, *smbstore.Chain) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conf, d.chain
}

// first is the slot that the guest's requests come to.
func (d *disk) first() *block.Slot {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.slot
}

func (d *disk) become(conf smbstore.Disk, chain *smbstore.Chain) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conf, d.chain = conf, chain
}

// durable is what a guest sees of its disk: what it is told was written outlives
// this process. Where a write gave the disk room that is in memory alone until a
// flush, there is one before the answer.
type durable struct{ *block.Slot }

func (d durable) commit(ctx context.Context, err error) error {
	if err != nil || !d.Slot.Uncommitted() || sabotage(sabotageRoom) {
		return err
	}
	return d.Slot.Flush(ctx)
}

// WriteAt implements block.Device.
func (d durable) WriteAt(ctx context.Context, p []byte, off int64, flags block.WriteFlags) error {
	return d.commit(ctx, d.Slot.WriteAt(ctx, p, off, flags))
}

// WriteZeroes implements block.Device.
func (d durable) WriteZeroes(ctx context.Context, off, n int64, flags block.WriteFlags) error {
	return d.commit(ctx, d.Slot.WriteZeroes(ctx, off, n, flags))
}

// device is what the guest sees of a disk that lies on a slot.
func (r *run) device(d *disk, on *block.Slot) block.Device {
	var dev block.Device = durable{on}
	r.v.mu.Lock()
	limit, report := patience(&r.v.kept), r.v.kept.Report
	r.v.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.slot = on
	if d.late = nil; report {
		d.late = newOverdue(dev, limit)
		dev = d.late
	}
	return dev
}

// isLate tells whether the guest is told of errors because the disk does not answer.
func (d *disk) isLate() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.late != nil && d.late.late()
}

// forever is how long a disk's files wait for their server, whatever the guest is
// told meanwhile: what they were given is not lost by an outage.
const forever = 10 * 365 * 24 * time.Hour

// maxReconnect is how long QEMU's requests wait for the agent at most.
const maxReconnect = 7 * 24 * time.Hour

// diskOptions open the store that a VM's disks lie on.
func (a *Agent) diskOptions() smbstore.Options {
	o := a.cfg.Options
	o.ReconnectTimeout = forever
	return o
}

func patience(k *kept) time.Duration {
	if k.Patience <= 0 {
		return smbstore.DefaultStoragePatience * time.Second
	}
	return time.Duration(k.Patience) * time.Second
}

// letGoWait is how long a take-over waits where the server does not close the last
// owner's disks for the next one: that owner's agent asks every askEvery whose the
// VM is, and closes them itself. Tests change it.
var letGoWait = 2 * askEvery

// openTaken is openDisks for a start. After a take-over it waits for the last owner.
func (r *run) openTaken(ctx context.Context, disks []smbstore.Disk, takeOver bool) error {
	for until := time.Now().Add(letGoWait); ; {
		err := r.openDisks(ctx, disks)
		switch {
		case !errors.Is(err, smbstore.ErrSharing):
			return err
		case !takeOver || time.Now().After(until):
			return fmt.Errorf("%w: this server keeps the last owner's disks open until that lets go of them: "+
				"the VM can be started when its agent there has noticed or ended, or when the server has been made to end its connection", err)
		}
		select {
		case <-time.After(lookEvery):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// openDisks opens the VM's disks under the fence. On an error none stays open.
func (r *run) openDisks(ctx context.Context, disks []smbstore.Disk) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, r.closeDisks())
			r.disks, r.vars = nil, nil
		}
	}()
	for _, d := range disks {
		if len(r.disks) == qemu.MaxDisks {
			return fmt.Errorf("%w: more than %d disks", smbstore.ErrBadConfig, qemu.MaxDisks)
		}
		c, err := r.openChain(ctx, d)
		if err != nil {
			return err
		}
		r.disks = append(r.disks, &disk{conf: d, chain: c})
	}
	return r.openVariables(ctx)
}

// openChain opens a disk of the VM under its fence.
func (r *run) openChain(ctx context.Context, d smbstore.Disk) (*smbstore.Chain, error) {
	r.mu.Lock()
	fence := r.fence
	r.mu.Unlock()
	return smbstore.OpenChain(ctx, r.at().store, d.Path, smbstore.DiskOptions{DenyWrite: !sabotage(sabotageShare), Format: d.Format, Fence: fence})
}

// closeDisks flushes and closes the disks.
func (r *run) closeDisks() error {
	errs := []error{r.closeVariables()}
	for _, d := range r.disks {
		if _, c := d.now(); c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// serve offers the disks on the VM's NBD socket.
func (r *run) serve() error {
	path := filepath.Join(r.dir, nbdName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	r.nbd = nbd.NewServer(nbd.Options{Log: r.v.a.log})
	for i, d := range r.disks {
		var err error
		d.export, err = r.nbd.Add(nbd.ExportOptions{Name: exportName(i), Description: d.conf.Path, Device: r.device(d, d.chain.Disk()),
			Errno: errnoOf, OnFailure: r.requestFailed})
		if err != nil {
			return err
		}
	}
	if r.vars != nil {
		var err error
		r.vars.export, err = r.nbd.Add(nbd.ExportOptions{Name: variablesName, Description: r.varsPath, Device: r.flash, Errno: errnoOf})
		if err != nil {
			return err
		}
		r.v.a.wg.Go(func() { r.flash.keep(r.ctx) })
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return err
	}
	r.v.a.wg.Go(func() {
		if err := r.nbd.Serve(context.WithoutCancel(r.v.a.ctx), l); err != nil {
			r.v.a.log.Error("the VM's disks are not served any more", "vm", r.v.name(), "error", err)
		}
	})
	return nil
}

func exportName(i int) string { return fmt.Sprintf("disk%d", i) }

// errnoOf has QEMU know that a share is full.
func errnoOf(err error) nbd.Errno {
	if errors.Is(err, smbstore.ErrNoSpace) {
		return nbd.ENOSPC
	}
	return 0
}

// machineDisks are the disks as QEMU is to have them.
func (r *run) machineDisks(k *kept) []qemu.Disk {
	var list []qemu.Disk
	for i, d := range r.disks {
		g := d.chain.Disk().Geometry()
		q := qemu.Disk{Node: exportName(i), Socket: filepath.Join(r.dir, nbdName), Export: exportName(i), ReconnectDelay: maxReconnect,
			LogicalSector: g.LogicalSectorSize, PhysicalSector: g.PhysicalSectorSize}
		if k.Report {
			q.ReconnectDelay, q.OnWriteError, q.OnReadError = patience(k), qemu.ErrorENOSPC, qemu.ErrorReport
		}
		list = append(list, q)
	}
	return list
}
