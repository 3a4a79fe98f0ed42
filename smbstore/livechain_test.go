package smbstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"lunless/smbstore/block"
)

// guest writes sectors with versions to a disk and reads them back, and knows
// which version each must have at least.
type guest struct {
	first   []byte // content before the guest: version 0
	issued  []atomic.Uint32
	acked   []atomic.Uint32
	flushed atomic.Pointer[[]uint32] // as of the last flush
	stop    chan struct{}
	wg      sync.WaitGroup
	writes  atomic.Int64
	mu      sync.Mutex
	err     error
}

const guestSector = 512

func newGuest(first []byte) *guest {
	n := len(first) / guestSector
	g := &guest{first: first, issued: make([]atomic.Uint32, n), acked: make([]atomic.Uint32, n), stop: make(chan struct{})}
	none := make([]uint32, n)
	g.flushed.Store(&none)
	return g
}

func stampSector(p []byte, sector int64, version uint32) {
	rnd := rand.New(rand.NewPCG(uint64(sector), uint64(version)))
	for i := 0; i < guestSector; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], rnd.Uint64())
	}
	binary.LittleEndian.PutUint32(p, version)
}

// check wants a version between two, and the content that goes with it.
func (g *guest) check(p []byte, sector int64, least, most uint32) error {
	want := make([]byte, guestSector)
	version := binary.LittleEndian.Uint32(p)
	if first := g.first[sector*guestSector:][:guestSector]; bytes.Equal(p, first) {
		version, want = 0, first
	} else {
		stampSector(want, sector, version)
	}
	if version < least || version > most || !bytes.Equal(p, want) {
		return fmt.Errorf("sector %d has version %d, want %d to %d", sector, version, least, most)
	}
	return nil
}

func (g *guest) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = errors.Join(g.err, err)
}

// start runs a writer, which flushes now and then, and a reader.
func (g *guest) start(dev block.Device, seed uint64) {
	work := func(n uint64, step func(rnd *rand.Rand, off, count int64) error) {
		rnd := rand.New(rand.NewPCG(seed, n))
		g.wg.Go(func() {
			for {
				select {
				case <-g.stop:
					return
				default:
				}
				count := 1 + rnd.Int64N(64)
				if err := step(rnd, rnd.Int64N(int64(len(g.issued))-count+1), count); err != nil {
					g.fail(err)
					return
				}
			}
		})
	}
	work(1, func(rnd *rand.Rand, off, count int64) error { return g.write(dev, rnd, off, count) })
	work(2, func(_ *rand.Rand, off, count int64) error { return g.read(dev, off, count) })
}

func (g *guest) write(dev block.Device, rnd *rand.Rand, off, count int64) error {
	p := make([]byte, count*guestSector)
	for i := range count {
		stampSector(p[i*guestSector:], off+i, g.issued[off+i].Add(1))
	}
	if err := dev.WriteAt(context.Background(), p, off*guestSector, 0); err != nil {
		return err
	}
	for i := range count {
		g.acked[off+i].Store(g.issued[off+i].Load())
	}
	g.writes.Add(1)
	if rnd.IntN(16) > 0 {
		return nil
	}
	now := make([]uint32, len(g.acked))
	for i := range now {
		now[i] = g.acked[i].Load()
	}
	if err := dev.Flush(context.Background()); err != nil {
		return err
	}
	g.flushed.Store(&now)
	return nil
}

func (g *guest) read(dev block.Device, off, count int64) error {
	least := make([]uint32, count)
	for i := range least {
		least[i] = g.acked[off+int64(i)].Load()
	}
	p := make([]byte, count*guestSector)
	if err := dev.ReadAt(context.Background(), p, off*guestSector); err != nil {
		return err
	}
	for i := range count {
		if err := g.check(p[i*guestSector:][:guestSector], off+i, least[i], g.issued[off+i].Load()); err != nil {
			return fmt.Errorf("read while merging: %w", err)
		}
	}
	return nil
}

func (g *guest) end() error {
	close(g.stop)
	g.wg.Wait()
	return g.err
}

// verify reads a whole disk: every sector has at least the version it had at the
// last flush.
func (g *guest) verify(ctx context.Context, s Store, name string, least []uint32) error {
	dev, _, err := OpenDisk(ctx, s, name, DiskOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer dev.Close()
	p := make([]byte, len(g.first))
	if err := dev.ReadAt(ctx, p, 0); err != nil {
		return err
	}
	for i, v := range least {
		if err := g.check(p[i*guestSector:][:guestSector], int64(i), v, g.issued[i].Load()); err != nil {
			return err
		}
	}
	return nil
}

// TestMergeLive merges two layers of the middle and then the leaf under a guest,
// with the power cut at random moments: each leaves a chain that opens by what is
// the leaf then, and has every flushed byte.
func TestMergeLive(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { mergeLive(t, seed) })
	}
}

type liveCut struct {
	store *powerStore
	leaf  string
	least []uint32
}

func mergeLive(t *testing.T, seed uint64) {
	s := newPowerStore()
	chain := newChain(t, s, seed, VHDX, "base", "a", "b", "leaf")
	mustDo(t, s.SyncDir(""))
	c, err := OpenChain(t.Context(), s, "leaf", DiskOptions{DenyWrite: true})
	mustDo(t, err)
	g := newGuest(chain.want)
	leaf := "leaf" // changes under the supply's lock
	var mu sync.Mutex
	var cuts []liveCut
	rnd := rand.New(rand.NewPCG(seed, 13))
	s.supply.Watch(func(block.OpKind) {
		mu.Lock()
		defer mu.Unlock()
		if len(cuts) < 30 && rnd.IntN(30) == 0 {
			least := *g.flushed.Load()
			cuts = append(cuts, liveCut{s.Cut(rnd), leaf, least}) // Commit waits for mu
		}
	})
	g.start(c.Disk(), seed)
	for _, i := range []int{1, 1, 0} {
		o := MergeLiveOptions{Commit: func(_ context.Context, at Location) error {
			mu.Lock()
			defer mu.Unlock()
			if i == 0 {
				leaf = at.Base()
			}
			return nil
		}}
		if err := c.Merge(t.Context(), i, o); err != nil {
			t.Fatalf("merge of image %d: %v", i, err)
		}
		waitWrites(g, 30)
	}
	if err := g.end(); err != nil {
		t.Fatal(err)
	}
	if images := c.Images(); len(images) != 1 || images[0].Base() != "base" {
		t.Errorf("left are %v", images)
	}
	mustDo(t, c.Close())
	last := make([]uint32, len(g.acked))
	for i := range last {
		last[i] = g.acked[i].Load()
	}
	if err := g.verify(t.Context(), s, "base", last); err != nil {
		t.Errorf("at last: %v", err)
	}
	if s.String() != "base" {
		t.Errorf("files left: %s", s)
	}
	for i, cut := range cuts {
		if err := g.verify(t.Context(), cut.store, cut.leaf, cut.least); err != nil {
			t.Errorf("cut %d of %d, leaf %s: %v", i, len(cuts), cut.leaf, err)
		}
	}
	t.Logf("%d writes, %d cuts", g.writes.Load(), len(cuts))
}

// waitWrites lets the guest write so many times, or fail.
func waitWrites(g *guest, n int64) {
	for until := g.writes.Load() + n; g.writes.Load() < until; {
		g.mu.Lock()
		failed := g.err != nil
		g.mu.Unlock()
		if failed {
			return
		}
	}
}

// TestMergeLiveFails: what fails leaves the guest on the chain it had, and a later
// merge goes well.
func TestMergeLiveFails(t *testing.T) {
	errCommit := errors.New("no record")
	s := newPowerStore()
	chain := newChain(t, s, 9, VHDX, "base", "mid", "leaf")
	c, err := OpenChain(t.Context(), s, "leaf", DiskOptions{DenyWrite: true})
	mustDo(t, err)
	g := newGuest(chain.want)
	g.start(c.Disk(), 9)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, i := range []int{0, 1} {
		if err := c.Merge(cancelled, i, MergeLiveOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled merge of %d: %v", i, err)
		}
		waitWrites(g, 10)
	}
	if err := c.Merge(t.Context(), 0, MergeLiveOptions{Commit: func(context.Context, Location) error { return errCommit }}); !errors.Is(err, errCommit) {
		t.Errorf("without commit: %v", err)
	}
	waitWrites(g, 10)
	if got := len(c.Images()); got != 3 {
		t.Errorf("%d images after failures", got)
	}
	if err := c.Merge(t.Context(), 2, MergeLiveOptions{}); !errors.Is(err, block.ErrOutOfRange) {
		t.Errorf("merge of the base: %v", err)
	}
	for range 2 {
		if err := c.Merge(t.Context(), 0, MergeLiveOptions{}); err != nil {
			t.Fatal(err)
		}
		waitWrites(g, 10)
	}
	mustDo(t, g.end())
	mustDo(t, c.Close())
	if s.String() != "base" {
		t.Errorf("files left: %s", s)
	}
}

// TestMergeLiveBranches: an image below the leaf and other disks is merged under a
// guest, with the power cut at random moments: each of the disks over it has its
// content whenever that happens, and a failed commit leaves the image's file.
func TestMergeLiveBranches(t *testing.T) {
	for seed := range uint64(3) {
		s := newPowerStore()
		chain := newChain(t, s, seed, VHDX, "base", "mid.vhdx")
		want := bytes.Clone(chain.want)
		disks := []string{"mid.vhdx", "one.vhdx", "two.vhdx"}
		var others []Location
		for i, name := range disks[1:] {
			dev, err := CreateDisk(t.Context(), s, name, CreateDiskOptions{Parent: s.Location().Join("mid.vhdx")})
			mustDo(t, errors.Join(err, dev.WriteAt(t.Context(), []byte(name), 0, 0), dev.Close()))
			others = append(others, s.Location().Join(disks[i+1]))
		}
		chain.add(t, seed, "leaf.vhdx", CreateDiskOptions{Parent: s.Location().Join("mid.vhdx")})
		mustDo(t, s.SyncDir(""))
		c, err := OpenChain(t.Context(), s, "leaf.vhdx", DiskOptions{DenyWrite: true})
		mustDo(t, err)
		if err := c.Merge(t.Context(), 1, MergeLiveOptions{}); !errors.Is(err, ErrHasChildren) {
			t.Errorf("without a word of the others: %v", err)
		}
		g := newGuest(chain.want)
		rnd := rand.New(rand.NewPCG(seed, 14))
		var cuts []liveCut
		var mu sync.Mutex
		s.supply.Watch(func(block.OpKind) {
			mu.Lock()
			defer mu.Unlock()
			if len(cuts) < 30 && rnd.IntN(10) == 0 {
				least := *g.flushed.Load()
				cuts = append(cuts, liveCut{s.Cut(rnd), "leaf.vhdx", least})
			}
		})
		g.start(c.Disk(), seed)
		errCommit := errors.New("no configuration")
		o := MergeLiveOptions{Children: others, Commit: func(_ context.Context, into Location) error {
			if into.Base() != "base" {
				t.Errorf("committed to %s", into)
			}
			return errCommit
		}}
		if err := c.Merge(t.Context(), 1, o); !errors.Is(err, errCommit) {
			t.Fatalf("seed %d: %v", seed, err)
		}
		waitWrites(g, 30)
		mustDo(t, g.end())
		mustDo(t, c.Close())
		cuts = append(cuts, liveCut{s.Copy(), "leaf.vhdx", *g.flushed.Load()})
		for i, cut := range cuts {
			if err := g.verify(t.Context(), cut.store, cut.leaf, cut.least); err != nil {
				t.Errorf("seed %d, cut %d of %d: %v", seed, i, len(cuts), err)
			}
			for _, name := range disks {
				text := name
				if name == "mid.vhdx" {
					text = ""
				}
				if err := diskReads(t.Context(), cut.store, name, append([]byte(text), want[len(text):]...)); err != nil {
					t.Errorf("seed %d, cut %d of %d: %s: %v", seed, i, len(cuts), name, err)
				}
			}
		}
		for _, name := range disks[1:] {
			if images, err := InspectChain(t.Context(), s, name); err != nil || len(images) != 2 {
				t.Errorf("seed %d: %s is over %d images, %v", seed, name, len(images)-1, err)
			}
		}
	}
}

// TestMergeLiveSharing: a base that another VM reads is not written to.
func TestMergeLiveSharing(t *testing.T) {
	s := newPowerStore()
	chain := newChain(t, s, 9, VHDX, "base", "one.vhdx")
	two, err := CreateDisk(t.Context(), s, "two.vhdx", CreateDiskOptions{Parent: s.Location().Join("base")})
	mustDo(t, err)
	c, err := OpenChain(t.Context(), s, "one.vhdx", DiskOptions{DenyWrite: true})
	mustDo(t, err)
	if err := c.Merge(t.Context(), 0, MergeLiveOptions{}); !errors.Is(err, ErrHasChildren) {
		t.Errorf("merge into a base with another child: %v", err)
	}
	if err := c.Merge(t.Context(), 0, MergeLiveOptions{Force: true}); !errors.Is(err, ErrSharing) {
		t.Errorf("merge into a base in use: %v", err)
	}
	if err := deviceReads(t.Context(), c.Disk(), chain.want); err != nil {
		t.Errorf("after it: %v", err)
	}
	mustDo(t, errors.Join(c.Close(), two.Close()))
	checkDisk(t, s, "one.vhdx", chain.want)
}

// TestMergeLiveRetires: the old leaf, should its file stay, is not taken for a
// disk over the parent that the guest writes to now.
func TestMergeLiveRetires(t *testing.T) {
	s := newPowerStore()
	chain := newChain(t, s, 9, VHDX, "base", "leaf")
	c, err := OpenChain(t.Context(), s, "leaf", DiskOptions{DenyWrite: true})
	mustDo(t, err)
	held, err := s.OpenFile("leaf", Read)
	mustDo(t, err)
	var me *MergeError
	if err := c.Merge(t.Context(), 0, MergeLiveOptions{}); !errors.As(err, &me) || !errors.Is(err, ErrSharing) {
		t.Fatalf("with the file held open: %v", err)
	}
	mustDo(t, errors.Join(c.Disk().WriteAt(t.Context(), []byte("news"), 0, 0), c.Close(), held.Close()))
	copy(chain.want, "news")
	checkDisk(t, s, "base", chain.want)
	if err := diskReads(t.Context(), s, "leaf", chain.want); !errors.Is(err, ErrParentChanged) {
		t.Errorf("the old leaf: %v", err)
	}
}

// lossyStore fails to open one file.
type lossyStore struct {
	*powerStore
	lost string
	left int // opens for reading that work
}

var errLost = errors.New("server is gone")

func (s *lossyStore) OpenFile(name string, flags Flags) (File, error) {
	if name == s.lost {
		if flags&Write != 0 || s.left == 0 {
			return nil, errLost
		}
		s.left--
	}
	return s.powerStore.OpenFile(name, flags)
}

// TestMergeLiveLosesImage: a merge that could not open an image again does not say
// that all is well.
func TestMergeLiveLosesImage(t *testing.T) {
	for left, want := range []string{"stop the VM", "in use as before"} {
		s := &lossyStore{powerStore: newPowerStore(), lost: "-"}
		chain := newChain(t, s, 9, VHDX, "base", "leaf")
		c, err := OpenChain(t.Context(), s, "leaf", DiskOptions{DenyWrite: true})
		mustDo(t, err)
		s.lost, s.left = "base", left
		err = c.Merge(t.Context(), 0, MergeLiveOptions{Force: true})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d opens work: %v", left, err)
		}
		err = deviceReads(t.Context(), c.Disk(), chain.want)
		if (err == nil) != (left == 1) {
			t.Errorf("%d opens work: reading then: %v", left, err)
		}
		_ = c.Close() // says again what was lost
	}
}
