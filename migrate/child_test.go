package migrate

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/block"
)

// The test binary runs itself as the process that migrates, so that it can be
// killed with kill -9. What it shall do is in these variables.
const (
	envChild = "MIGRATE_CHILD" // storage, resume, cancel or live
	envFrom  = "MIGRATE_FROM"  // the source's home
	envTo    = "MIGRATE_TO"    // the storage location; for resume and cancel the destination's home
	envKill  = "MIGRATE_KILL"  // failpoint:hits:microseconds after: when it kills itself
	envSteal = "MIGRATE_STEAL" // failpoint: where another host takes the VM
	envRoom  = "MIGRATE_ROOM"  // bytes:folder: the folder lies on a file system of that size
	envKeep  = "MIGRATE_KEEP"  // not empty: a live migration keeps its source
	envTell  = "MIGRATE_TELL"  // file: a live migration's content at the switch goes there, and with .status how it went
)

func TestMain(m *testing.M) {
	if name := os.Getenv("SABOTAGE"); name != "" {
		sabotage = func(n string) bool { return n == name }
	}
	if role := os.Getenv(envChild); role != "" {
		if err := child(role); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(role string) error {
	from, err := smbstore.ParseLocation(os.Getenv(envFrom))
	if err != nil && role != "resume" && role != "cancel" {
		return err
	}
	to, err := smbstore.ParseLocation(os.Getenv(envTo))
	if err != nil {
		return err
	}
	armKill(from)
	if room, dir, ok := strings.Cut(os.Getenv(envRoom), ":"); ok {
		limit, err := strconv.ParseInt(room, 10, 64)
		if err != nil {
			return err
		}
		newSmallDisk(dir, limit)
	}
	ctx := context.Background()
	open := smbstore.Options{ReconnectTimeout: 20 * time.Second, RequestTimeout: 5 * time.Second}
	o := Options{Source: from, To: to, SourceOptions: open, ToOptions: open}
	var job *Job
	switch role {
	case "storage":
		job, err = Storage(ctx, o)
	case "resume":
		job, err = Resume(ctx, to, o)
	case "cancel":
		return undo(ctx, to, o)
	case "live":
		return liveChild(ctx, o)
	default:
		return fmt.Errorf("no role %q", role)
	}
	if err != nil {
		return err
	}
	return job.Wait(ctx)
}

// armKill sets the failpoint at which the process kills itself or has another
// host take the VM.
func armKill(from smbstore.Location) {
	point, rest, _ := strings.Cut(os.Getenv(envKill), ":")
	hitsText, usText, _ := strings.Cut(rest, ":")
	hits, _ := strconv.ParseInt(hitsText, 10, 64)
	us, _ := strconv.ParseInt(usText, 10, 64)
	steal := os.Getenv(envSteal)
	var n atomic.Int64
	var once sync.Once
	failpoint = func(name string) {
		if name == steal && steal != "" {
			once.Do(func() { stealVM(from) })
		}
		if name != point || n.Add(1) != hits {
			return
		}
		die := func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL); select {} }
		if us > 0 {
			time.AfterFunc(time.Duration(us)*time.Microsecond, die)
			return
		}
		die()
	}
}

// stealVM has a host named thief own the VM at the source.
func stealVM(from smbstore.Location) {
	h, err := smbstore.OpenHome(context.Background(), from, smbstore.Options{})
	if err == nil {
		_, err = h.Change(context.Background(), "", func(r smbstore.Record) (smbstore.Record, error) { return r.Resolve("thief") })
		err = errors.Join(err, h.Close())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "steal:", err)
		os.Exit(3)
	}
}

// liveChild runs verifying writers on the VM's disks and migrates it live. Every
// write that a flush covers goes to standard output as disk, block and sequence
// number.
func liveChild(ctx context.Context, o Options) error {
	h, err := smbstore.OpenHome(ctx, o.Source, o.SourceOptions)
	if err != nil {
		return err
	}
	v := &chainVM{home: h, slots: map[string]*block.Slot{}, writers: map[string]*writer{}, chains: map[string]*smbstore.Chain{}}
	if err := v.openAll(ctx, func(dev block.Device) *writer { return newWriter(dev) }); err != nil {
		return err
	}
	writing, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, len(v.writers))
	var mu sync.Mutex
	cfg, err := h.Config()
	if err != nil {
		return err
	}
	for i, d := range cfg.Disks {
		w := v.writers[d.Path]
		w.flush = 8
		w.onFlush = func(all []written) {
			var b []byte
			for _, one := range all {
				b = binary.LittleEndian.AppendUint64(b, uint64(i))
				b = binary.LittleEndian.AppendUint64(b, uint64(one.lba))
				b = binary.LittleEndian.AppendUint64(b, one.seq)
			}
			mu.Lock()
			defer mu.Unlock()
			_, _ = os.Stdout.Write(b)
		}
		// What the disk holds is gone on from.
		if err := w.learn(); err != nil {
			return err
		}
		go func() { done <- w.run(writing, uint64(os.Getpid())) }()
	}
	v.wait(done, 50)
	o.KeepSource = os.Getenv(envKeep) != ""
	if o.KeepSource {
		atSwitch = tellFrozen // which takes its time: others tell how long a switch is
	}
	job, err := LiveStorage(ctx, LiveOptions{Options: o, Disks: v.slots,
		CloseSource: func(path string) error { return v.chains[path].Close() }})
	if err == nil {
		err = job.Wait(ctx)
		tellStatus(job.Status())
	}
	v.wait(done, 50)
	stop()
	for range v.writers {
		err = errors.Join(err, <-done)
	}
	for _, s := range v.slots {
		err = errors.Join(err, s.Close())
	}
	return err
}

// tellFrozen compares the ends at the switch, and writes down what they hold.
func tellFrozen(l *liveDisks) error {
	hashes := map[string]string{}
	if err := frozen(hashes)(l); err != nil {
		return err
	}
	b, err := json.Marshal(hashes)
	if name := os.Getenv(envTell); err == nil && name != "" {
		err = os.WriteFile(name, b, 0o644)
	}
	return err
}

func tellStatus(s Status) {
	if b, err := json.Marshal(s); err == nil && os.Getenv(envTell) != "" {
		_ = os.WriteFile(os.Getenv(envTell)+".status", b, 0o644)
	}
}
