package host

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"lunless/migrate/qemu"
	"lunless/smbstore"
	"lunless/smbstore/nbd"
)

// run is a VM in use: its home and disks, open under its fence, and its QEMU. What
// is in it does not change once the vm shows it, but for what the disks' slots hold.
type run struct {
	v       *vm
	dir     string         // runtime folder
	home    *smbstore.Home // with a connection of its own, that gives up soon
	store   smbstore.Store // what the disks lie on
	fence   smbstore.Fence
	epoch   atomic.Uint64 // of the record, as this host knows it
	asking  atomic.Bool   // whether it is so still
	disks   []*disk
	nbd     *nbd.Server
	machine atomic.Pointer[qemu.Machine]
	stopped chan struct{} // closed when nothing is open any more
	// release has watch end and leave QEMU as it is.
	release context.CancelFunc
	ctx     context.Context
	// wanted is why QEMU is being ended, nil if nobody wants that.
	wanted chan ending
	failed chan error // the last request of the guest that failed
	held   bool       // the guest was paused when it was found
}

// ending is what is to be said of a QEMU's end.
type ending struct {
	state  State
	reason string
}

// closeWait is how long disks are waited for whose server does not answer, when
// QEMU has ended already.
const closeWait = 10 * time.Second

// prepare opens the home, makes this host its owner and opens the disks. On an
// error nothing stays open.
func (v *vm) prepare(ctx context.Context, takeOver bool) (_ *run, _ smbstore.Config, err error) {
	r := &run{v: v, dir: v.a.runtimeDir(v.kept.ID), stopped: make(chan struct{}), wanted: make(chan ending, 1), failed: make(chan error, 1)}
	at := v.location()
	if r.home, err = smbstore.OpenHome(ctx, at, v.a.homeOptions()); err != nil {
		return nil, smbstore.Config{}, err
	}
	r.ctx, r.release = context.WithCancel(v.a.ctx)
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	c, err := r.home.Config()
	if err != nil {
		return nil, c, err
	}
	if c.ID != v.kept.ID {
		return nil, c, fmt.Errorf("%w: at %s lies the VM %s, not %s", ErrNoVM, at, c.ID, v.kept.ID)
	}
	record, err := v.a.own(ctx, r.home, takeOver)
	if err != nil {
		return nil, c, err
	}
	if r.fence, err = r.home.Fence(v.a.cfg.Name, record.Epoch); err != nil {
		return nil, c, err
	}
	r.epoch.Store(record.Epoch)
	r.fence.Holds = r.holds
	err = v.remember(func(k *kept) {
		k.Name, k.Epoch, k.Patience, k.Report = c.Name, record.Epoch, c.StoragePatience, c.StorageTrouble == smbstore.TroubleReport
	})
	if err != nil {
		return nil, c, err
	}
	if r.store, err = smbstore.Open(ctx, at, v.a.diskOptions(&v.kept)); err != nil {
		return nil, c, err
	}
	if err := r.openDisks(ctx, c.Disks); err != nil {
		return nil, c, err
	}
	return r, c, nil
}

// homeOptions open homes: what asks for a record is to hear soon that nobody answers.
func (a *Agent) homeOptions() smbstore.Options {
	o := a.cfg.Options
	o.ReconnectTimeout = 5 * time.Second
	o.RequestTimeout = 10 * time.Second
	return o
}

// close closes the disks and their stores. What a server keeps waiting for is
// given up after closeWait.
func (r *run) close() error {
	r.release()
	var errs []error
	if r.nbd != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeWait)
		errs = append(errs, r.nbd.Shutdown(ctx))
		cancel()
	}
	if r.store != nil {
		giveUp := time.AfterFunc(closeWait, func() { r.store.Close() }) //nolint:errcheck // said by closeDisks
		errs = append(errs, r.closeDisks())
		if giveUp.Stop() {
			errs = append(errs, r.store.Close())
		}
	}
	return errors.Join(append(errs, r.home.Close())...)
}

// requestFailed is told of every request of the guest that failed.
func (r *run) requestFailed(f nbd.Failure) {
	err := f.Err
	if err == nil {
		return
	}
	if errors.Is(err, smbstore.ErrTaken) {
		r.end(ending{Lost, err.Error()})
		return
	}
	select {
	case <-r.failed: // of interest is the last one
	default:
	}
	select {
	case r.failed <- err:
	default:
	}
}

// end has QEMU ended at once, for a reason; the first one counts.
func (r *run) end(e ending) {
	select {
	case r.wanted <- e:
	default:
	}
}
