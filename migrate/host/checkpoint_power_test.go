package host

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"lunless/smbstore"
	"lunless/smbstore/block"
	"lunless/smbstore/nbd"
)

// The disk that the power is cut under, and the sectors of it that are written to.
const (
	powerDisk    = 1 << 20
	powerSector  = 512
	powerSectors = 512
)

// versions are a disk's content: each sector's says how often it was written.
type versions []uint32

func stampPower(p []byte, sector int, version uint32) {
	clear(p)
	if version > 0 {
		for i := 0; i < powerSector; i += 8 {
			binary.LittleEndian.PutUint32(p[i:], version)
			binary.LittleEndian.PutUint32(p[i+4:], uint32(sector))
		}
	}
}

// readVersions is what a disk holds, if each of its sectors is whole.
func readVersions(ctx context.Context, dev block.Device) (versions, error) {
	p := make([]byte, powerSectors*powerSector)
	if err := dev.ReadAt(ctx, p, 0); err != nil {
		return nil, err
	}
	all, want := make(versions, powerSectors), make([]byte, powerSector)
	for i := range all {
		got := p[i*powerSector:][:powerSector]
		all[i] = binary.LittleEndian.Uint32(got)
		if stampPower(want, i, all[i]); !bytes.Equal(got, want) {
			return nil, fmt.Errorf("sector %d holds something else than what was written to it", i)
		}
	}
	return all, nil
}

// content is what a VM's disk may hold: what it had at the start, or what was written
// since, but no less than what was flushed.
type content struct {
	start, mark, flushed versions // mark: issued at the start
}

func (c content) admits(got, issued versions) error {
	for i, v := range got {
		least, untouched := c.flushed[i], v == c.start[i] && c.flushed[i] == c.start[i]
		if !untouched && (v <= c.mark[i] || v < least || v > issued[i]) {
			return fmt.Errorf("sector %d holds write %d, want %d to %d", i, v, least, issued[i])
		}
	}
	return nil
}

// powerVM is a VM without a guest, in a home that loses its power again and again.
type powerVM struct {
	ctx  context.Context
	tree *powerTree
	home *smbstore.Home
	run  *run // nil while it is off

	issued [powerSectors]atomic.Uint32
	acked  versions // the writer's

	mu     sync.Mutex // held through a cut, guards what follows
	rnd    *rand.Rand
	rare   int // one in so many flushes is a cut
	usual  int // without a writer
	now    content
	next   *content // of a restore under way: of the disk that is not at from
	from   string
	frozen map[string]versions // by checkpoints' ids
	must   map[string]bool     // checkpoints that are there for certain
	cuts   int
	err    error // the first that was found
}

func newPowerVM(t *testing.T, seed uint64) *powerVM {
	dir := t.TempDir()
	s, err := smbstore.OpenPath(t.Context(), dir, smbstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = smbstore.CreateHomeWith(t.Context(), s, "vm", smbstore.Config{CPUs: 1, Memory: 1 << 20, Firmware: "bios"},
		smbstore.NewHome{Disks: []int64{powerDisk}})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := loadPowerTree(dir + "/vm")
	if err != nil {
		t.Fatal(err)
	}
	home, err := smbstore.HomeIn(tree)
	if err != nil {
		t.Fatal(err)
	}
	zero := func() versions { return make(versions, powerSectors) }
	p := &powerVM{ctx: t.Context(), tree: tree, home: home, acked: zero(), rnd: rand.New(rand.NewPCG(seed, 21)),
		now: content{zero(), zero(), zero()}, frozen: map[string]versions{}, must: map[string]bool{}}
	tree.supply.Watch(p.watch)
	return p
}

// watch cuts the power before a flush, and sees what is left.
func (p *powerVM) watch(kind block.OpKind) {
	if kind != block.OpFlush {
		return
	}
	p.mu.Lock()
	if p.err != nil || p.rnd.IntN(p.rare) > 0 {
		p.mu.Unlock()
		return
	}
	p.cuts++
	n, rnd := p.cuts, rand.New(rand.NewPCG(p.rnd.Uint64(), 1))
	now, next, from, must := p.now, p.next, p.from, []string{}
	for id := range p.must {
		must = append(must, id)
	}
	frozen := map[string]versions{}
	for id, v := range p.frozen {
		frozen[id] = v
	}
	left := p.tree.cut(rnd)
	p.mu.Unlock()
	issued := p.written()
	see := func(what string, c *smbstore.Config, home *smbstore.Home) error {
		for _, id := range must {
			if !has(c, id) {
				return fmt.Errorf("%s: a checkpoint is gone", what)
			}
		}
		for _, k := range c.Checkpoints {
			got, err := diskVersions(p.ctx, home, k.Disks[0])
			if err == nil && !slices.Equal(got, frozen[k.ID]) {
				err = errors.New("it is not what it was")
			}
			if err != nil {
				return fmt.Errorf("%s: checkpoint %s: %w", what, k.Name, err)
			}
		}
		may := now
		if next != nil && c.Disks[0].Path != from {
			may = *next
		}
		got, err := diskVersions(p.ctx, home, c.Disks[0])
		if err == nil {
			err = may.admits(got, issued)
		}
		if err != nil {
			return fmt.Errorf("%s: the VM's disk: %w", what, err)
		}
		return nil
	}
	if err := seeAfterCut(p.ctx, left, see); err != nil {
		p.mu.Lock()
		p.err = errors.Join(p.err, fmt.Errorf("cut %d: %w", n, err))
		p.mu.Unlock()
	}
}

// seeAfterCut has a home looked at as a loss of power left it, and again after what the
// next start of its VM does about that.
func seeAfterCut(ctx context.Context, left *powerTree, see func(string, *smbstore.Config, *smbstore.Home) error) error {
	home, err := smbstore.HomeIn(left)
	if err != nil {
		return err
	}
	c, err := home.Config()
	if err == nil {
		err = see("at once", &c, home)
	}
	if err != nil {
		return err
	}
	if files, err := tidy(ctx, home); err != nil || len(files) > 0 {
		return fmt.Errorf("tidying left %v: %w", files, err)
	}
	if later, err := sweepOff(ctx, home, left).run(ctx); later != nil || err != nil {
		return fmt.Errorf("the merges: %v, %w", later, err)
	}
	if c, err = home.Config(); err == nil {
		err = see("after the next start", &c, home)
	}
	if err != nil {
		return err
	}
	return onlyNeeded(ctx, home, &c)
}

// onlyNeeded is an error if a home has files of disks that nothing needs, or more
// images than it needs.
func onlyNeeded(ctx context.Context, home *smbstore.Home, c *smbstore.Config) error {
	f, err := familyOf(ctx, home, c)
	if err != nil {
		return err
	}
	for _, dir := range []string{smbstore.SnapshotsDir, smbstore.DisksDir} {
		infos, err := home.Store().ReadDir(dir)
		if err != nil {
			return err
		}
		for _, i := range infos {
			if name := dir + "/" + i.Name; !f.there[name] {
				return fmt.Errorf("%s is left, and nothing needs it", name)
			}
		}
	}
	for name := range f.there {
		if !uses(c, name) && len(f.children[name]) < 2 {
			return fmt.Errorf("%s is not merged", name)
		}
	}
	if len(c.Unfinished) > 0 {
		return fmt.Errorf("unfinished are %v", c.Unfinished)
	}
	return nil
}

func diskVersions(ctx context.Context, home *smbstore.Home, d smbstore.Disk) (versions, error) {
	dev, _, err := smbstore.OpenDisk(ctx, home.Store(), d.Path, smbstore.DiskOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	v, err := readVersions(ctx, dev)
	return v, errors.Join(err, dev.Close())
}

// sweepOff merges the images of a VM that is off.
func sweepOff(ctx context.Context, home *smbstore.Home, on smbstore.Store) *sweep {
	return &sweep{home: home, merge: func(ctx context.Context, s step, commit func(context.Context) error) error {
		return mergeFiles(ctx, home, on, s, smbstore.MergeOptions{}, commit)
	}, commit: func(change func(*smbstore.Config) error, is func(*smbstore.Config) bool) error {
		return changeConfig(ctx, home, change, is, func(error) {})
	}}
}

func (p *powerVM) written() versions {
	all := make(versions, powerSectors)
	for i := range all {
		all[i] = p.issued[i].Load()
	}
	return all
}

// start opens the disks as a host does for a guest.
func (p *powerVM) start() error {
	record, err := p.home.Record()
	if err != nil {
		return err
	}
	a := &Agent{cfg: Config{Name: record.Host}, log: slog.New(slog.NewTextHandler(io.Discard, nil)), ctx: p.ctx}
	r := &run{v: &vm{a: a, kept: kept{Name: "vm"}}, ctx: p.ctx, stopped: make(chan struct{}), wanted: make(chan ending, 1)}
	r.place.Store(&place{home: p.home, store: p.tree})
	r.epoch.Store(record.Epoch)
	if _, err := tidy(p.ctx, p.home); err != nil {
		return err
	}
	c, err := p.home.Config()
	if err == nil {
		err = r.openDisks(p.ctx, c.Disks)
	}
	if err != nil {
		return err
	}
	server := nbd.NewServer(nbd.Options{})
	for i, d := range r.disks {
		if d.export, err = server.Add(nbd.ExportOptions{Name: exportName(i), Device: r.device(d, d.chain.Disk())}); err != nil {
			return err
		}
	}
	p.run = r
	return nil
}

// stop closes the disks; all is flushed then.
func (p *powerVM) stop() error {
	err := p.run.closeDisks()
	p.run = nil
	p.flushed()
	return err
}

func (p *powerVM) flushed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now.flushed = slices.Clone(p.acked)
}

// write writes so often, and flushes now and then, or until stop is closed.
func (p *powerVM) write(seed uint64, times int, stop <-chan struct{}) error {
	_, chain := p.run.disks[0].now()
	dev, rnd := chain.Disk(), rand.New(rand.NewPCG(seed, 22))
	for n := 0; times < 0 || n < times; n++ {
		select {
		case <-stop:
			return nil
		default:
		}
		count := 1 + rnd.IntN(32)
		at := rnd.IntN(powerSectors - count)
		b := make([]byte, count*powerSector)
		for i := range count {
			stampPower(b[i*powerSector:][:powerSector], at+i, p.issued[at+i].Add(1))
		}
		if err := dev.WriteAt(p.ctx, b, int64(at)*powerSector, 0); err != nil {
			return err
		}
		for i := range count {
			p.acked[at+i] = p.issued[at+i].Load()
		}
		if rnd.IntN(8) == 0 {
			if err := dev.Flush(p.ctx); err != nil {
				return err
			}
			p.flushed()
		}
	}
	return nil
}

// checkpoint makes one, of a guest that stands if it runs.
func (p *powerVM) checkpoint(name string) error {
	k := smbstore.Checkpoint{ID: uuid.NewString(), Name: name}
	p.mu.Lock()
	p.frozen[k.ID] = slices.Clone(p.acked)
	p.mu.Unlock()
	var err error
	if p.run == nil {
		err = checkpointOff(p.ctx, p.home, &k)
	} else {
		var c smbstore.Config
		if c, err = p.home.Config(); err == nil {
			err = announceChildren(p.home, c.Disks, k.ID, "")
		}
		if err == nil {
			_, err = p.run.branch(p.ctx, &k)
		}
	}
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.must[k.ID] = true
	p.now.flushed = slices.Clone(p.acked)
	return nil
}

// restore puts a VM that is off back.
func (p *powerVM) restore(name string) error {
	c, err := p.home.Config()
	if err != nil {
		return err
	}
	k, err := find(&c, name)
	if err != nil {
		return err
	}
	was := p.frozen[k.ID]
	p.mu.Lock()
	p.next, p.from = &content{was, p.written(), was}, c.Disks[0].Path
	p.mu.Unlock()
	if err := restoreOff(p.ctx, p.home, k.ID); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now, p.next = *p.next, nil
	copy(p.acked, was)
	return nil
}

// remove removes checkpoints and merges what can be merged, under a writer if the VM runs.
func (p *powerVM) remove(name string, subtree bool, seed uint64) error {
	c, err := p.home.Config()
	if err != nil {
		return err
	}
	k, err := find(&c, name)
	if err != nil {
		return err
	}
	p.mu.Lock()
	for id := range p.must {
		if id == k.ID || subtree {
			delete(p.must, id) // it may go
		}
	}
	p.mu.Unlock()
	var later error
	if p.run == nil {
		if err = forget(p.home, RemoveRequest{name, subtree}); err == nil {
			later, err = sweepOff(p.ctx, p.home, p.tree).run(p.ctx)
		}
	} else {
		later, err = p.removeLive(RemoveRequest{name, subtree}, seed)
	}
	if err != nil || later != nil {
		return fmt.Errorf("%v, %w", later, err)
	}
	if c, err = p.home.Config(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range c.Checkpoints {
		p.must[k.ID] = true
	}
	return onlyNeeded(p.ctx, p.home, &c)
}

func (p *powerVM) removeLive(q RemoveRequest, seed uint64) (later, err error) {
	stop, ended := make(chan struct{}), make(chan error, 1)
	p.rarely(6 * p.usual)
	defer p.rarely(p.usual)
	go func() { ended <- p.write(seed, -1, stop) }()
	if err = forget(p.home, q); err == nil {
		later, err = p.run.mergeLive(p.ctx, &merging{})
	}
	close(stop)
	return later, errors.Join(err, <-ended)
}

func (p *powerVM) rarely(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rare = n
}

// live has a VM that runs for a while, with what is done meanwhile.
func (p *powerVM) live(seed uint64, do ...func() error) error {
	err := p.start()
	for i, f := range append(do, func() error { return nil }) {
		if err == nil {
			err = p.write(seed+uint64(i), 24, nil)
		}
		if err == nil {
			err = f()
		}
	}
	if p.run != nil {
		err = errors.Join(err, p.stop())
	}
	return err
}
