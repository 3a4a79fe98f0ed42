package migrate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/block"
)

// chainVM is a VM with two disks in use: one over a base image that a checkpoint
// tree has another branch of, and one of its own.
type chainVM struct {
	home    *smbstore.Home
	leaf    string // of the chain, in the home
	single  string
	slots   map[string]*block.Slot
	writers map[string]*writer
	chains  map[string]*smbstore.Chain
}

const (
	chainBase   = "Virtual Hard Disks/disk0"
	chainBranch = "Snapshots/branch"
	chainLeaf   = "Snapshots/disk0-live"
	chainSingle = "Virtual Hard Disks/disk1"
)

// makeChainVM makes the VM "vm" in a storage folder.
func makeChainVM(t testing.TB, dir string, chain, single smbstore.Format, size int64, seed uint64) *chainVM {
	t.Helper()
	ctx := context.Background()
	diff := ".a" + string(chain)
	base := chainBase + "." + string(chain)
	v := &chainVM{leaf: chainLeaf + diff, single: chainSingle + "." + string(single),
		slots: map[string]*block.Slot{}, writers: map[string]*writer{}, chains: map[string]*smbstore.Chain{}}
	const id = "0c7dd5c0-5d25-4b6a-8b5e-1f6a0e1f0b11"
	h, err := smbstore.CreateHome(ctx, storeAt(t, dir), "vm", smbstore.Config{
		Disks:       []smbstore.Disk{{Path: v.leaf, Format: chain}, {Path: v.single, Format: single, Slot: 1}},
		Checkpoints: []smbstore.Checkpoint{{ID: id, Name: "before", Disks: []smbstore.Disk{{Path: base, Format: chain}}}}, Current: id})
	must(t, err)
	v.home = h
	s := h.Store()
	create := func(name string, o smbstore.CreateDiskOptions) block.Device {
		dev, err := smbstore.CreateDisk(ctx, s, name, o)
		must(t, err)
		return dev
	}
	block := int64(2 << 20)
	dev := create(base, smbstore.CreateDiskOptions{Format: chain, Size: size, BlockSize: block})
	w := newWriter(dev)
	must(t, w.some(seed, 100))
	must(t, dev.Close())
	for _, name := range []string{chainBranch + diff, v.leaf} { // the branch nothing runs from, then the leaf
		dev := create(name, smbstore.CreateDiskOptions{Parent: s.Location().Join(base), BlockSize: block})
		over := w.on(dev)
		must(t, over.some(seed+1, 50))
		must(t, dev.Close())
		if name == v.leaf {
			w = over
		}
	}
	v.writers[v.leaf] = w
	dev = create(v.single, smbstore.CreateDiskOptions{Format: single, Size: size})
	v.writers[v.single] = newWriter(dev)
	must(t, v.writers[v.single].some(seed+2, 50))
	must(t, dev.Close())
	must(t, smbstore.WriteFile(s, "Snapshots/saved.bin", bytes.Repeat([]byte("state"), 100_000)))
	return v
}

// open opens the disks and puts them into slots.
func (v *chainVM) open(t testing.TB) {
	t.Helper()
	before := v.writers
	v.writers = map[string]*writer{}
	must(t, v.openAll(context.Background(), newWriter))
	for name, w := range before {
		v.writers[name] = w.on(v.slots[name])
	}
}

func (v *chainVM) openAll(ctx context.Context, over func(block.Device) *writer) error {
	c, err := v.home.Config()
	if err != nil {
		return err
	}
	for _, d := range c.Disks {
		chain, err := smbstore.OpenChain(ctx, v.home.Store(), d.Path, smbstore.DiskOptions{Format: d.Format, DenyWrite: true})
		if err != nil {
			return err
		}
		v.chains[d.Path], v.slots[d.Path] = chain, block.NewSlot(chain.Device())
		v.writers[d.Path] = over(v.slots[d.Path])
	}
	return nil
}

// wait waits until every writer has done so many operations more, or one has failed.
func (v *chainVM) wait(done chan error, n int64) {
	for _, w := range v.writers {
		for from := w.ops.Load(); w.ops.Load() < from+n && len(done) == 0; {
			time.Sleep(time.Millisecond)
		}
	}
}

// learn has the writer go on from what its disk holds.
func (w *writer) learn() error {
	p := make([]byte, 1<<20)
	for off := int64(0); off < w.blocks*stampSize; off += int64(len(p)) {
		p = p[:min(int64(len(p)), w.blocks*stampSize-off)]
		if err := w.dev.ReadAt(context.Background(), p, off); err != nil {
			return err
		}
		for at := 0; at < len(p); at += stampSize {
			lba := (off + int64(at)) / stampSize
			seq, err := readStamp(p[at:at+stampSize], lba)
			if err != nil {
				return err
			}
			w.acked[lba].Store(seq)
			w.tried[lba].Store(seq)
		}
	}
	return nil
}

// on is a writer that goes on with another's disk.
func (w *writer) on(dev block.Device) *writer {
	n := newWriter(dev)
	for i := range w.acked {
		n.acked[i].Store(w.acked[i].Load())
		n.tried[i].Store(w.tried[i].Load())
	}
	return n
}

// some writes about so many blocks.
func (w *writer) some(seed uint64, n int64) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- w.run(ctx, seed) }()
	for w.ops.Load() < n && len(done) == 0 {
		time.Sleep(time.Millisecond)
	}
	stop()
	return errors.Join(<-done, w.dev.Flush(context.Background()))
}

// content is a hash of all that a device holds.
func contentOf(ctx context.Context, dev block.Device) (string, error) {
	h := sha256.New()
	p := make([]byte, 1<<20)
	for off := int64(0); off < dev.Size(); off += int64(len(p)) {
		p = p[:min(int64(len(p)), dev.Size()-off)]
		if err := dev.ReadAt(ctx, p, off); err != nil {
			return "", err
		}
		h.Write(p)
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

// frozen has a hook take the content of both sides at the switch, and compare it.
// It gives the hashes by the disks' names at the source.
func frozen(hashes map[string]string) func(*liveDisks) error {
	return func(l *liveDisks) error {
		for _, d := range l.disks {
			a, err := contentOf(context.Background(), d.src)
			if err != nil {
				return err
			}
			b, err := contentOf(context.Background(), d.dst)
			if err != nil {
				return err
			}
			if a != b {
				return fmt.Errorf("%s: the ends differ at the switch", d.name)
			}
			hashes[d.name] = a
		}
		return nil
	}
}

// Chains are kept or flattened, all disks switch at once, and formats change, under
// writers. The source that is kept holds what the destination held at the switch.
func TestLiveChains(t *testing.T) {
	for _, c := range []struct {
		name          string
		chain, single smbstore.Format
		o             LiveOptions
		leaf, other   string // what they are at the destination
		wantFormat    smbstore.Format
		wantType      string // of the other
		left          bool   // the branch's parents stay needed, so nothing is left behind
	}{
		{name: "kept", chain: smbstore.VHDX, single: smbstore.VHDX, leaf: chainLeaf + ".avhdx", other: chainSingle + ".vhdx", wantFormat: smbstore.VHDX, wantType: "dynamic"},
		{name: "kept, of VHD", chain: smbstore.VHD, single: smbstore.VHD, leaf: chainLeaf + ".avhd", other: chainSingle + ".vhd", wantFormat: smbstore.VHD, wantType: "dynamic"},
		{name: "kept, fixed", chain: smbstore.VHDX, single: smbstore.VHDX, o: LiveOptions{Type: "fixed"},
			leaf: chainLeaf + ".avhdx", other: chainSingle + ".vhdx", wantFormat: smbstore.VHDX, wantType: "fixed"},
		{name: "flattened", chain: smbstore.VHDX, single: smbstore.Raw, o: LiveOptions{Flatten: true},
			leaf: "Virtual Hard Disks/disk0-live.vhdx", other: chainSingle + ".raw", wantFormat: smbstore.VHDX, wantType: "fixed"},
		{name: "VHD to VHDX", chain: smbstore.VHD, single: smbstore.VHD, o: LiveOptions{Flatten: true, Format: smbstore.VHDX},
			leaf: "Virtual Hard Disks/disk0-live.vhdx", other: chainSingle + ".vhdx", wantFormat: smbstore.VHDX, wantType: "dynamic"},
		{name: "VHDX to VHD", chain: smbstore.VHDX, single: smbstore.Raw, o: LiveOptions{Flatten: true, Format: smbstore.VHD},
			leaf: "Virtual Hard Disks/disk0-live.vhd", other: chainSingle + ".vhd", wantFormat: smbstore.VHD, wantType: "dynamic"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := t.TempDir(), t.TempDir()
			v := makeChainVM(t, a, c.chain, c.single, 8<<20, rand.Uint64())
			v.open(t)
			hashes := map[string]string{}
			setAtSwitch(t, frozen(hashes))
			var switched []MovedDisk
			c.o.Options = Options{Source: at(a, "vm"), To: at(b), KeepSource: true}
			c.o.Disks, c.o.Verify = v.slots, true
			c.o.CloseSource = func(path string) error { return v.chains[path].Close() }
			c.o.Switched = func(_ smbstore.Location, disks []MovedDisk) { switched = disks }
			job := v.migrate(t, c.o)
			must(t, job.Release())
			if s := job.Status(); s.Guest == nil || s.Guest.Worst <= 0 || s.Guest.AtSwitch <= 0 || s.Stall <= 0 || s.Left != 0 {
				t.Errorf("%+v %+v", s, s.Guest)
			}
			src, dst := storeAt(t, filepath.Join(a, "vm")), storeAt(t, filepath.Join(b, "vm"))
			for name, want := range hashes {
				dev, _, err := smbstore.OpenDisk(t.Context(), src, name, smbstore.DiskOptions{ReadOnly: true, Format: map[bool]smbstore.Format{true: c.chain, false: c.single}[name == v.leaf]})
				must(t, err)
				if got, err := contentOf(t.Context(), dev); err != nil || got != want {
					t.Errorf("%s, kept, is not what it was at the switch: %v", name, err)
				}
				must(t, dev.Close())
			}
			h, err := smbstore.HomeIn(dst)
			must(t, err)
			cfg, err := h.Config()
			must(t, err)
			if got := []string{cfg.Disks[0].Path, cfg.Disks[1].Path}; !slices.Equal(got, []string{c.leaf, c.other}) {
				t.Errorf("disks %q", got)
			}
			if len(switched) != 2 || switched[0].Path != c.leaf || switched[1].Source != v.single {
				t.Errorf("switched %+v", switched)
			}
			for i, d := range cfg.Disks {
				dev, format, err := smbstore.OpenDisk(t.Context(), dst, d.Path, smbstore.DiskOptions{ReadOnly: true, Format: d.Format})
				must(t, err)
				must(t, v.writers[[]string{v.leaf, v.single}[i]].checkAll(dev))
				must(t, dev.Close())
				if d.Format != format || i == 0 && format != c.wantFormat {
					t.Errorf("%s is %s, configured %s", d.Path, format, d.Format)
				}
				if format == smbstore.Raw {
					continue
				}
				if _, r, err := smbstore.CheckDisk(t.Context(), dst, d.Path); err != nil || r.ChainError != "" || slices.ContainsFunc(r.Findings, func(f block.Finding) bool { return f.Severity == block.Damage }) {
					t.Errorf("%s: %v %+v", d.Path, err, r)
				}
			}
			if info, err := smbstore.InspectDisk(t.Context(), dst, c.other); err != nil || info.Type != c.wantType {
				t.Errorf("%s is %+v, %v", c.other, info, err)
			}
			images, err := smbstore.InspectChain(t.Context(), dst, c.leaf)
			must(t, err)
			if n := len(images); n != 2 && !c.o.Flatten || n != 1 && c.o.Flatten {
				t.Errorf("a chain of %d images", n)
			}
			for _, i := range images {
				if !at(b, "vm").Contains(i.Location) {
					t.Errorf("the chain leads to %s", i.Location)
				}
			}
			// The branch that nothing runs from came along, whole.
			branch := chainBranch + ".a" + string(c.chain)
			if images, err := smbstore.InspectChain(t.Context(), dst, branch); err != nil || len(images) != 2 {
				t.Errorf("%s: %v %v", branch, images, err)
			}
			if r, err := v.home.Record(); err != nil || r.State != smbstore.Moved {
				t.Errorf("the kept source says %v, %v", r, err)
			}
			if exists(b, "vm", JournalName) {
				t.Error("the journal is there still")
			}
		})
	}
}

// migrate runs writers on all disks while the VM is migrated, and a while after
// that, and closes the disks.
func (v *chainVM) migrate(t testing.TB, o LiveOptions) *Job {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	done := make(chan error, len(v.writers))
	for _, w := range v.writers {
		go func() { done <- w.run(ctx, rand.Uint64()) }()
	}
	v.wait(done, 50)
	job, err := LiveStorage(t.Context(), o)
	must(t, err)
	must(t, job.Wait(t.Context()))
	v.wait(done, 50)
	stop()
	for name, w := range v.writers {
		must(t, <-done)
		must(t, w.checkAll(v.slots[name]))
	}
	for _, s := range v.slots {
		must(t, s.Close())
	}
	return job
}

func setAtSwitch(t *testing.T, hook func(*liveDisks) error) {
	t.Helper()
	old := atSwitch
	atSwitch = hook
	t.Cleanup(func() { atSwitch = old })
}

// What flattening leaves without a use stays behind; what cannot be is refused
// before anything is done.
func TestLiveFlattenLeaves(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	v := makeChainVM(t, a, smbstore.VHDX, smbstore.VHDX, 8<<20, 1)
	must(t, v.home.UpdateConfig(func(c *smbstore.Config) error { c.Checkpoints, c.Current = nil, ""; return nil }))
	must(t, v.home.Store().Remove(chainBranch+".avhdx"))
	v.open(t)
	o := LiveOptions{Options: Options{Source: at(a, "vm"), To: at(b)}, Disks: v.slots, Format: smbstore.Raw,
		CloseSource: func(path string) error { return v.chains[path].Close() }}
	if _, err := LiveStorage(t.Context(), o); err == nil || !strings.Contains(err.Error(), "flatten it") {
		t.Errorf("a chain was made raw: %v", err)
	}
	if exists(b, "vm") {
		t.Error("what was refused left something")
	}
	o.Flatten, o.Format = true, ""
	must(t, v.migrate(t, o).Release())
	if exists(b, "vm", chainBase+".vhdx") {
		t.Error("the base image came along though nothing needs it")
	}
	if exists(a, "vm") {
		t.Error("the source is there still")
	}
}
