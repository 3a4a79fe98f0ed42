package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lunless/migrate"
)

// Agent is a running host agent. Its methods may be called concurrently.
type Agent struct {
	cfg  Config
	log  *slog.Logger
	ctx  context.Context // ends when the agent lets go of its VMs
	stop context.CancelFunc
	wg   sync.WaitGroup // what runs for VMs

	jobs *migrate.Manager
	// unread are the VMs, by GUID, of which it is not known what an earlier agent did.
	unread map[string]error

	mu       sync.Mutex // guards what follows
	vms      map[string]*vm
	moves    []*move // the last ones, the oldest first
	stopping bool
}

// stopTimeout bounds an orderly stop.
const stopTimeout = 20 * time.Second

// Run runs an agent until ctx ends: it takes over the guests that an earlier one
// left running, calls ready with the API's socket, and serves. Then it lets go of
// its guests, which run on with their I/O waiting for the next agent, or ends them
// if the configuration says so. Errors: ErrConfig, ErrAgentRunning.
func Run(ctx context.Context, cfg Config, ready func(socket string)) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	unlock, err := cfg.lock()
	if err != nil {
		return err
	}
	defer unlock()
	a := &Agent{cfg: cfg, log: cfg.Logger.With("host", cfg.Name), vms: map[string]*vm{},
		jobs: migrate.NewManager(cfg.Migrations, cfg.MigrationRate)}
	a.ctx, a.stop = context.WithCancel(context.WithoutCancel(ctx))
	defer a.stop()
	list, unread, err := a.loadKept()
	if err != nil {
		return err
	}
	a.unread = unread
	for _, err := range unread {
		a.log.Error("a VM is left alone", "error", err)
	}
	for _, k := range list {
		v := newVM(a, k)
		a.vms[k.ID] = v
		v.leaveMove()
		a.wg.Go(func() {
			if k.Running {
				v.takeOver()
			}
			v.finishMoves()
			if _, err := v.running(); err != nil {
				v.clearUp()
			}
			v.mergeLater()
		})
	}
	stopAPI, failed, err := a.serveAPI()
	if err != nil {
		a.letGo(ctx)
		return err
	}
	ready(cfg.Listen)
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	a.letGo(context.WithoutCancel(ctx))
	stopAPI()
	return err
}

// letGo ends what the agent does for its VMs.
func (a *Agent) letGo(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	a.mu.Lock()
	a.stopping = true
	vms := make([]*vm, 0, len(a.vms))
	for _, v := range a.vms {
		vms = append(vms, v)
	}
	a.mu.Unlock()
	var wg sync.WaitGroup
	for _, v := range vms {
		wg.Go(func() {
			if a.cfg.StopGuests {
				if err := v.stop(ctx, StopRequest{Timeout: stopTimeout / 2}); err != nil && !errors.Is(err, ErrNotRunning) {
					a.log.Error("the guest did not stop, and runs on", "vm", v.name(), "error", err)
				}
			}
			v.detach(ctx)
		})
	}
	wg.Wait()
	a.stop()
	a.wg.Wait()
}

// goingOn is a context for what is done to its end though who asked for it has hung
// up: it ends with the agent.
func (a *Agent) goingOn(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(a.ctx, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// lock makes sure that no other agent has the data folder, or the host's name on
// this machine: records tell hosts by it.
func (c *Config) lock() (unlock func(), err error) {
	for _, d := range []string{"", vmsDir, runDir} {
		if err := os.MkdirAll(filepath.Join(c.Data, d), 0o700); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(filepath.Join(c.Data, lockName), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%w with the data folder %s: stop it first, or give another --data and --name", ErrAgentRunning, c.Data)
	}
	l, err := net.Listen("unix", "@lunless-host/"+c.Name)
	if err != nil {
		f.Close()
		if errors.Is(err, unix.EADDRINUSE) {
			err = fmt.Errorf("%w as host %q on this machine: stop it first, or give another --name", ErrAgentRunning, c.Name)
		}
		return nil, err
	}
	return func() {
		l.Close()
		f.Close()
	}, nil
}
