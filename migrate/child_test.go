package migrate

import (
	"context"
	"encoding/binary"
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
		return Cancel(ctx, to, o)
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

// liveChild runs the verifying writer on the VM's disk and migrates it live.
// Every acknowledged write goes to standard output as block and sequence number.
func liveChild(ctx context.Context, o Options) error {
	h, err := smbstore.OpenHome(ctx, o.Source, o.SourceOptions)
	if err != nil {
		return err
	}
	cfg, err := h.Config()
	if err != nil {
		return err
	}
	dev, _, err := smbstore.OpenDisk(ctx, h.Store(), cfg.Disks[0].Path, smbstore.DiskOptions{Format: cfg.Disks[0].Format})
	if err != nil {
		return err
	}
	slot := block.NewSlot(dev)
	w := newWriter(slot)
	var mu sync.Mutex
	w.onAck = func(lba int64, seq uint64) {
		var b [16]byte
		binary.LittleEndian.PutUint64(b[:], uint64(lba))
		binary.LittleEndian.PutUint64(b[8:], seq)
		mu.Lock()
		defer mu.Unlock()
		_, _ = os.Stdout.Write(b[:])
	}
	writing, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- w.run(writing, uint64(os.Getpid())) }()
	for w.ops.Load() < 50 {
		time.Sleep(time.Millisecond)
	}
	job, err := LiveStorage(ctx, LiveOptions{Options: o, Disks: map[string]*block.Slot{cfg.Disks[0].Path: slot}})
	if err == nil {
		err = job.Wait(ctx)
	}
	before := w.ops.Load()
	for w.ops.Load() < before+50 && len(done) == 0 {
		time.Sleep(time.Millisecond)
	}
	stop()
	return errors.Join(err, <-done, slot.Close())
}
