package smbstore

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"
)

// TestMain lets tests run themselves as a process that takes a lock and dies.
func TestMain(m *testing.M) {
	if at := os.Getenv("LOCK_AND_DIE"); at != "" {
		s, _ := OpenPath(context.Background(), at, Options{})
		l, err := newRecordLock(s, "r", os.Getenv("LOCK_JOB"))
		if err == nil {
			err = l.acquire(context.Background(), false)
		}
		if err == nil && os.Getenv("LOCK_EMPTY") != "" {
			err = os.Truncate(at+"/r.lock", 0)
		}
		if err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func localStoreFor(t *testing.T) Store {
	t.Helper()
	s, err := OpenPath(t.Context(), t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConfigKeepsUnknownFields(t *testing.T) {
	id, cp := uuid.NewString(), uuid.NewString()
	in := `{"version":1,"id":"` + id + `","name":"web1","cpus":2,"memory":1073741824,"firmware":"uefi","tpm":{"a":[1,2]},
	 "disks":[{"path":"Virtual Hard Disks/disk0.vhdx","format":"vhdx","slot":0,"cache":"none"}],
	 "networks":[{"mac":"52:54:00:00:00:01","vlan":7}],
	 "checkpoints":[{"id":"` + cp + `","name":"before","disks":[{"path":"Snapshots/a.avhdx","format":"vhdx","slot":0,"x":1}],"pinned":true,"saved":{"path":"Snapshots/a.state","size":5,"y":2}}],
	 "kernel":{"path":"Virtual Machines/kernel","append":"quiet","dtb":"z"},
	 "currentCheckpoint":"` + cp + `","z":null}`
	c, err := ParseConfig([]byte(in))
	if err != nil {
		t.Fatal(err)
	}
	c.CPUs = 4
	out, err := encodeFile(c)
	if err != nil {
		t.Fatal(err)
	}
	var want, got map[string]any
	_ = json.Unmarshal([]byte(in), &want)
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want["cpus"] = 4.0
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestConfigRefusals(t *testing.T) {
	id, other := uuid.NewString(), uuid.NewString()
	ok := Config{Version: 1, ID: id, Name: "a", Disks: []Disk{{Path: "d", Format: Raw}}}
	if err := ok.Check(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"version":   func(c *Config) { c.Version = 2 },
		"id":        func(c *Config) { c.ID = "x" },
		"id's case": func(c *Config) { c.ID = strings.ToUpper("aaaaaaaa" + id[8:]) },
		"escape":    func(c *Config) { c.Disks = []Disk{{Path: "../other/d", Format: Raw}} },
		"absolute":  func(c *Config) { c.Disks = []Disk{{Path: "/d", Format: Raw}} },
		"format":    func(c *Config) { c.Disks = []Disk{{Path: "d", Format: "qcow2"}} },
		"orphan":    func(c *Config) { c.Checkpoints = []Checkpoint{{ID: id, Parent: other}} },
		"current":   func(c *Config) { c.Current = other },
		"cycle": func(c *Config) {
			c.Checkpoints = []Checkpoint{{ID: id, Parent: other}, {ID: other, Parent: id}}
		},
		"kernel":   func(c *Config) { c.Kernel = &KernelBoot{Path: "/boot/vmlinuz"} },
		"initrd":   func(c *Config) { c.Kernel = &KernelBoot{Path: "k", Initrd: "../i"} },
		"trouble":  func(c *Config) { c.StorageTrouble = "ignore" },
		"patience": func(c *Config) { c.StoragePatience = -1 },
		"network":  func(c *Config) { c.Networks = []Network{{Kind: "tap"}} },
		"saved":    func(c *Config) { c.Saved = &SavedState{Path: "../s"} },
		"checkpoint's state": func(c *Config) {
			c.Checkpoints = []Checkpoint{{ID: id, Saved: &SavedState{Path: "s", Size: -1}}}
		},
		"twice": func(c *Config) { c.Checkpoints = []Checkpoint{{ID: id}, {ID: id}} },
	} {
		c := ok
		spoil(&c)
		if err := c.Check(); !errors.Is(err, ErrBadConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"version":1,"id":"6ba7b810-9dad-11d1-80b4-00c04fd430c8","name":"a","disks":[{"path":"d","format":"raw","slot":0,"y":{}}],"x":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig(b)
		if err != nil {
			return
		}
		out, err := encodeFile(c)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseConfig(out)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if out2, err := encodeFile(again); err != nil || string(out) != string(out2) {
			t.Fatalf("%v\n%s\n%s", err, out, out2)
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	b, _ := encodeFile(NewRecord("6ba7b810-9dad-11d1-80b4-00c04fd430c8", "h"))
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRecord(b)
		if err != nil {
			return
		}
		out, err := encodeFile(r)
		if err != nil {
			t.Skip() // a time no JSON can hold
		}
		if again, err := parseRecord(out); err != nil || !again.Changed.Equal(r.Changed) || again.State != r.State || again.Epoch != r.Epoch {
			t.Fatalf("%v\n%s", err, out)
		}
	})
}

// Whatever is asked of a record, it has one owner at a time, and its epoch grows
// with each.
func TestRecordTransitions(t *testing.T) {
	dst := Location{Host: "h", Share: "s", Path: "p", User: "u"}
	rapid.Check(t, func(t *rapid.T) {
		r := NewRecord(uuid.NewString(), "a")
		hosts, jobs := rapid.SampledFrom([]string{"a", "b", "c"}), rapid.SampledFrom([]string{"j1", "j2", ""})
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			old := r
			host, job, to := hosts.Draw(t, "host"), jobs.Draw(t, "job"), hosts.Draw(t, "to")
			var err error
			switch rapid.IntRange(0, 6).Draw(t, "op") {
			case 0:
				r, err = r.Offer(host, r.Epoch-uint64(rapid.IntRange(0, 1).Draw(t, "stale")), job, to)
				if err == nil && (old.State != Owned || old.Host != host || r.Epoch != old.Epoch) {
					t.Fatalf("%v offered from %v", r, old)
				}
			case 1:
				r, err = r.Take(job, to, host)
				if err == nil && (old.State != Offered || old.Job != job || old.To != to) {
					t.Fatalf("%v taken from %v", r, old)
				}
			case 2:
				r, err = r.TakeBack(job, host)
				if err == nil && (old.State != Offered || old.Host != host || old.Job != job) {
					t.Fatalf("%v taken back from %v", r, old)
				}
			case 3:
				r, err = r.Move(job, dst)
				if err == nil && (old.State != Offered || old.Job != job || r.MovedTo.User != "") {
					t.Fatalf("%v moved from %v", r, old)
				}
			case 4:
				r, err = r.Discard(job)
				if err == nil && (old.State != Moved || old.Job != job) {
					t.Fatalf("%v discarded from %v", r, old)
				}
			case 6:
				r, err = r.DiscardCopy(job)
				if err == nil && (old.State != Offered || old.Job != job) {
					t.Fatalf("%v discarded from %v", r, old)
				}
			case 5:
				r, err = r.Resolve(host)
				if err == nil && old.Removing {
					t.Fatalf("%v resolved from %v", r, old)
				}
			}
			if err != nil {
				if r != old {
					t.Fatalf("a refused step changed %v to %v", old, r)
				}
				continue
			}
			if old.Removing && (!r.Removing || r.State != old.State) {
				t.Fatalf("%v from %v, which is being removed", r, old)
			}
			if r.State == Owned && r.Epoch != old.Epoch+1 {
				t.Fatalf("a new owner in epoch %d after %d", r.Epoch, old.Epoch)
			}
			b, _ := encodeFile(r)
			if again, err := parseRecord(b); err != nil || again != r {
				t.Fatalf("%v reads back as %v, %v", r, again, err)
			}
		}
	})
}

func TestHomeLifeCycle(t *testing.T) {
	s := localStoreFor(t)
	ctx := t.Context()
	h, err := CreateHome(ctx, s, "web 1", Config{CPUs: 2, Memory: 1 << 30, Firmware: "uefi"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CreateHome(ctx, s, "web 1", Config{}); !errors.Is(err, ErrExist) {
		t.Errorf("a second home of one name: %v", err)
	}
	if err := h.UpdateConfig(func(c *Config) error { c.Notes = "n"; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := h.UpdateConfig(func(c *Config) error { c.ID = uuid.NewString(); return nil }); err == nil {
		t.Error("the id was changed")
	}
	homes, err := ListHomes(ctx, s)
	if err != nil || len(homes) != 1 || homes[0].Name != "web 1" || homes[0].Err != nil || homes[0].Config.Notes != "n" || homes[0].Record.Epoch != 1 {
		t.Fatalf("%+v, %v", homes, err)
	}
	host, _ := HostName()
	if _, err := h.Change(ctx, "j", func(r Record) (Record, error) { return r.Offer(host, 1, "j", "x") }); err != nil {
		t.Fatal(err)
	}
	if err := RemoveHome(ctx, s, "web 1"); !errors.Is(err, ErrNotOwner) {
		t.Errorf("an offered home was removed: %v", err)
	}
	if _, err := h.Change(ctx, "j", func(r Record) (Record, error) { return r.TakeBack("j", host) }); err != nil {
		t.Fatal(err)
	}
	if err := RemoveHome(ctx, s, "web 1"); err != nil {
		t.Fatal(err)
	}
	if infos, err := s.ReadDir(""); err != nil || len(infos) != 0 {
		t.Errorf("left: %v %v", infos, err)
	}
}

func TestRecordLock(t *testing.T) {
	for _, c := range []struct {
		name           string
		job, resumeJob string
		empty, breaks  bool
	}{
		{"another job's dead", "j1", "j2", false, false},
		{"the same job's dead", "j1", "j1", false, true},
		{"nobody's job", "j1", "", false, false},
		{"the same job's dead, who left no name", "j1", "j1", true, true},
		{"another job's dead, who left no name", "j1", "j2", true, false},
		{"a job's dead, for the agent", "j1", "agent", false, true},
		{"an agent's dead, for the agent", "", "agent", false, true},
		{"a job's dead, who left no name, for the agent", "j1", "agent", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := localStoreFor(t)
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "LOCK_AND_DIE="+s.Location().Path, "LOCK_JOB="+c.job)
			if c.empty {
				cmd.Env = append(cmd.Env, "LOCK_EMPTY=1")
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v %s", err, out)
			}
			l, err := newRecordLock(s, "r", c.resumeJob)
			if err != nil {
				t.Fatal(err)
			}
			if c.resumeJob == "agent" {
				l.me.Job, l.agent = "", true
			}
			start := time.Now()
			err = l.acquire(t.Context(), false)
			var locked *LockedError
			if c.breaks && err != nil || !c.breaks && !errors.As(err, &locked) {
				t.Fatalf("acquire: %v", err)
			}
			if c.breaks && time.Since(start) > lockWait {
				t.Error("a dead predecessor's lock was waited for")
			}
			if !c.breaks && !c.empty && locked.Holder.Job != c.job {
				t.Errorf("the error does not name the holder: %v", err)
			}
			if !c.breaks {
				if err := l.acquire(t.Context(), true); err != nil {
					t.Errorf("an administrator could not break it: %v", err)
				}
			}
			if err := l.release(); err != nil {
				t.Fatal(err)
			}
			if infos, _ := s.ReadDir(""); len(infos) != 0 {
				t.Errorf("left: %v", infos)
			}
		})
	}
}

// TestRecordLockOfAgent: the agent waits for what it holds itself, and breaks what it
// could not give back.
func TestRecordLockOfAgent(t *testing.T) {
	s := localStoreFor(t)
	old, err := newRecordLock(s, "r", "")
	if err == nil {
		old.agent = true
		err = old.acquire(t.Context(), false)
	}
	if err != nil {
		t.Fatal(err)
	}
	next, err := newRecordLock(s, "r", "")
	if err != nil {
		t.Fatal(err)
	}
	next.agent = true
	var locked *LockedError
	if err := next.acquire(t.Context(), false); !errors.As(err, &locked) {
		t.Errorf("a lock in use: %v", err)
	}
	old.store = failingRemove{s}
	if err := old.release(); err == nil {
		t.Error("it could be given back")
	}
	if err := next.acquire(t.Context(), false); err != nil {
		t.Errorf("a lock that could not be given back: %v", err)
	}
	if err := next.release(); err != nil {
		t.Error(err)
	}
	if infos, _ := s.ReadDir(""); len(infos) != 0 {
		t.Errorf("left: %v", infos)
	}
}

// failingRemove is a store whose server went away.
type failingRemove struct{ Store }

func (failingRemove) Remove(string) error { return ErrUnreachable }

// TestRecordLockBroken: who comes back to a lock that was broken meanwhile
// leaves the new holder's alone.
func TestRecordLockBroken(t *testing.T) {
	s := localStoreFor(t)
	old, err := newRecordLock(s, "r", "")
	if err == nil {
		err = old.acquire(t.Context(), false)
	}
	if err != nil {
		t.Fatal(err)
	}
	admin, err := newRecordLock(s, "r", "")
	if err == nil {
		err = admin.acquire(t.Context(), true)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := old.release(); err != nil {
		t.Error(err)
	}
	if err := admin.stillMine(); err != nil {
		t.Errorf("the former holder removed it: %v", err)
	}
	if err := admin.release(); err != nil {
		t.Error(err)
	}
	if infos, _ := s.ReadDir(""); len(infos) != 0 {
		t.Errorf("left: %v", infos)
	}
}

// fullStore has no room in files of one name.
type fullStore struct {
	Store
	name string
}

type fullFile struct{ File }

func (fullFile) WriteAt([]byte, int64) (int, error) { return 0, ErrNoSpace }

func (s fullStore) OpenFile(name string, flags Flags) (File, error) {
	f, err := s.Store.OpenFile(name, flags)
	if err == nil && name == s.name {
		f = fullFile{f}
	}
	return f, err
}

// TestRecordLockNoRoom: a holder that cannot leave its name leaves no lock either.
func TestRecordLockNoRoom(t *testing.T) {
	s := localStoreFor(t)
	l, err := newRecordLock(fullStore{s, "r.lock"}, "r", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.acquire(t.Context(), false); !errors.Is(err, ErrNoSpace) {
		t.Errorf("acquire = %v", err)
	}
	if infos, _ := s.ReadDir(""); len(infos) != 0 {
		t.Errorf("left: %v", infos)
	}
}

func TestRecordLockExcludes(t *testing.T) {
	s := localStoreFor(t)
	h, err := CreateHome(t.Context(), s, "h", Config{})
	if err != nil {
		t.Fatal(err)
	}
	const workers, rounds = 6, 8
	errs := make(chan error, workers)
	for range workers {
		go func() {
			var err error
			for range rounds {
				for {
					_, err = h.Change(context.Background(), "", func(r Record) (Record, error) { return r.Resolve("x") })
					var locked *LockedError
					if !errors.As(err, &locked) {
						break
					}
				}
			}
			errs <- err
		}()
	}
	for range workers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if r, err := h.Record(); err != nil || r.Epoch != 1+workers*rounds {
		t.Errorf("%v, %v: changes were lost", r, err)
	}
}

func TestWriteFileReplaces(t *testing.T) {
	s := localStoreFor(t)
	for _, text := range []string{"one", "two longer", "3"} {
		if err := WriteFile(s, "f", []byte(text)); err != nil {
			t.Fatal(err)
		}
		if b, err := ReadFile(s, "f", 100); err != nil || string(b) != text {
			t.Fatalf("%q, %v", b, err)
		}
	}
	if _, err := ReadFile(s, "f", 0); err == nil {
		t.Error("a file above the limit was read")
	}
}

// A home whose disks somebody writes to is not removed under them.
func TestRemoveHomeInUse(t *testing.T) {
	ctx := t.Context()
	s, err := OpenPath(ctx, t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	h, err := CreateHomeWith(ctx, s, "vm", Config{CPUs: 1, Memory: 1 << 20, Firmware: "bios"}, NewHome{Disks: []int64{4 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := h.Config()
	if err != nil {
		t.Fatal(err)
	}
	disk, _, err := OpenDisk(ctx, h.Store(), c.Disks[0].Path, DiskOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := RemoveHome(ctx, s, "vm"); !errors.Is(err, ErrSharing) || !strings.Contains(err.Error(), "stop the VM first") {
		t.Errorf("removed under who writes: %v", err)
	}
	if _, err := h.Config(); err != nil {
		t.Error(err)
	}
	if err := disk.Close(); err != nil {
		t.Fatal(err)
	}
	if err := RemoveHome(ctx, s, "vm"); err != nil {
		t.Error(err)
	}
}
