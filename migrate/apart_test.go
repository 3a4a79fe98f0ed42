package migrate

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"lunless/smbstore"
)

// cutJob makes a VM, and has its migration killed at a point.
func cutJob(t *testing.T, point string) *vm {
	t.Helper()
	v := &vm{a: t.TempDir(), b: t.TempDir()}
	v.from, v.to, v.home = filepath.Join(v.a, "vm"), v.b, filepath.Join(v.b, "vm")
	v.make(t, soakRun{kind: "offline", seed: 7})
	if out, err := v.child("storage", v.to, envKill+"="+point+":1:0"); !killed(err) {
		t.Fatalf("%v %s", err, out)
	}
	return v
}

// refused is an error unless a process was told that this one is at the job.
func refused(out string, err error) error {
	if err == nil || !strings.Contains(out, ErrJobRunning.Error()) || !strings.Contains(out, fmt.Sprintf("process %d", os.Getpid())) {
		return fmt.Errorf("another process got %v, and said %q: want ErrJobRunning and process %d", err, out, os.Getpid())
	}
	return nil
}

// Of two processes that take up a cut job at the same time one gets it, wherever the
// other comes in between: not even one that undoes what a process that goes on with it
// has looked at already.
func TestOneProcessTakesAJobUp(t *testing.T) {
	for _, mine := range []string{"resume", "cancel"} {
		for _, other := range []string{"resume", "cancel"} {
			t.Run(mine+" and "+other, func(t *testing.T) {
				v := cutJob(t, "copied-file")
				var once sync.Once
				var second error
				setFailpoint(t, func(point string) {
					if point == "job-looked-at" {
						once.Do(func() {
							out, err := v.child(other, v.home)
							second = refused(out, err)
						})
					}
				})
				if mine == "cancel" {
					must(t, undo(t.Context(), at(v.b, "vm"), Options{}))
				} else {
					job, err := Resume(t.Context(), at(v.b, "vm"), Options{})
					must(t, err)
					must(t, job.Wait(t.Context()))
				}
				must(t, second)
				if mine == "cancel" {
					must(t, v.at(v.a, v.b))
				} else {
					must(t, v.at(v.b, v.a))
				}
				must(t, nothingClaimed(v.b))
			})
		}
	}
}

// nothingClaimed is an error if a home at a storage location has a claim left in it.
func nothingClaimed(storage string) error {
	left, err := filepath.Glob(filepath.Join(storage, "vm", "*tmp*"))
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("left over: %v", left)
	}
	return err
}

// While a job is undone on a full file system, where its journal cannot tell by whom,
// nobody goes on with it.
func TestUndoneWithoutRoomByOne(t *testing.T) {
	for _, other := range []string{"resume", "cancel"} {
		t.Run(other, func(t *testing.T) {
			v := cutJob(t, "offered-at-destination")
			disk := setSmallDisk(t, v.b, 0)
			var once sync.Once
			var second error
			setFailpoint(t, func(point string) {
				if point == "made-room" {
					once.Do(func() {
						out, err := v.child(other, v.home) // which finds room
						second = refused(out, err)
					})
				}
			})
			must(t, undo(t.Context(), at(v.b, "vm"), Options{}))
			must(t, second)
			must(t, v.at(v.a, v.b))
			disk.limit.Store(math.MaxInt64)
		})
	}
}

// A process that is killed while it takes a job up leaves it to whoever comes next, at
// once.
func TestKilledWhileTakingUp(t *testing.T) {
	for _, point := range []string{"job-claimed", "job-looked-at", "job-taken-up"} {
		for _, role := range []string{"resume", "cancel"} {
			v := cutJob(t, "copied-file")
			for range 2 {
				if out, err := v.child(role, v.home, envKill+"="+point+":1:0"); !killed(err) {
					t.Fatalf("%s %s: %v %s", role, point, err, out)
				}
			}
			if role == "resume" {
				job, err := Resume(t.Context(), at(v.b, "vm"), Options{})
				must(t, err)
				must(t, job.Wait(t.Context()))
				must(t, v.at(v.b, v.a))
				must(t, nothingClaimed(v.b))
				continue
			}
			must(t, undo(t.Context(), at(v.b, "vm"), Options{}))
			must(t, v.at(v.a, v.b))
		}
	}
}

// Whatever number of processes go on with a job, or undo it, together: one does it all,
// or the job is there for the next.
func TestManyTakeAJobUp(t *testing.T) {
	for i := range 3 {
		v := cutJob(t, "copied-file")
		outs, errs := make([]string, 6), make([]error, 6)
		var all sync.WaitGroup
		for k := range errs {
			all.Go(func() {
				one := *v // its own
				outs[k], errs[k] = one.child([]string{"resume", "cancel"}[(i+k)%2], v.home)
			})
		}
		all.Wait()
		done := 0
		for k, err := range errs {
			switch {
			case err == nil:
				done++
			case !strings.Contains(outs[k], ErrJobRunning.Error()) && !strings.Contains(outs[k], ErrNoJob.Error()):
				t.Errorf("round %d: %v %s", i, err, outs[k])
			}
		}
		if done > 1 {
			t.Errorf("round %d: %d processes have done it", i, done)
		}
		if done == 0 {
			err := undo(t.Context(), at(v.b, "vm"), Options{})
			if err != nil && !errors.Is(err, ErrNoJob) {
				t.Errorf("round %d: %v", i, err)
			}
		}
		if err := v.at(v.a, v.b); err != nil {
			must(t, v.at(v.b, v.a))
		}
	}
}

// What claims a job is garbage by its name, which names the process.
func TestClaimName(t *testing.T) {
	if name := claimName(); !smbstore.IsTemp(name) || claimant(name) != os.Getpid() {
		t.Errorf("%s: %d", name, claimant(name))
	}
	for _, name := range []string{JournalName, claimMark, claimMark + "x", claimMark + "b_1_0", claimMark + "b_1_" + fmt.Sprint(os.Getpid())} {
		if pid := claimant(name); pid != 0 {
			t.Errorf("%s: process %d", name, pid)
		}
	}
}
