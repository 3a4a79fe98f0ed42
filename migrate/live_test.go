package migrate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/block"
)

// stampSize is the verifying writer's block, in bytes.
const stampSize = 4096

// writer writes stamped blocks to a device from several goroutines, each with
// block numbers of its own, and remembers the last sequence acknowledged for
// each block.
type writer struct {
	dev     block.Device
	blocks  int64
	workers int64
	acked   []atomic.Uint64 // by block: the last sequence number acknowledged
	tried   []atomic.Uint64 // by block: the last one begun
	ops     atomic.Int64
	stall   atomic.Int64 // longest operation, ns
	flush   int          // one write in so many is followed by a flush
	// onFlush is told of what a flush has made durable.
	onFlush func([]written)
}

type written struct {
	lba int64
	seq uint64
}

func newWriter(dev block.Device) *writer {
	n := dev.Size() / stampSize
	return &writer{dev: dev, blocks: n, workers: 4, flush: 32, acked: make([]atomic.Uint64, n), tried: make([]atomic.Uint64, n)}
}

// stamp fills a block with its number and sequence, and a checksum over them.
func stamp(p []byte, lba int64, seq uint64) {
	for off := 0; off < len(p); off += 512 {
		s := p[off : off+512]
		binary.LittleEndian.PutUint64(s, uint64(lba))
		binary.LittleEndian.PutUint64(s[8:], seq)
		for i := 16; i < 508; i++ {
			s[i] = byte(seq) ^ byte(i)
		}
		binary.LittleEndian.PutUint32(s[508:], crc32.ChecksumIEEE(s[:508]))
	}
}

// readStamp gives the sequence a block holds, 0 if it is all zeroes.
func readStamp(p []byte, lba int64) (uint64, error) {
	if block.IsZero(p) {
		return 0, nil
	}
	var seq uint64
	for off := 0; off < len(p); off += 512 {
		s := p[off : off+512]
		if crc32.ChecksumIEEE(s[:508]) != binary.LittleEndian.Uint32(s[508:]) {
			return 0, fmt.Errorf("block %d, sector %d: checksum", lba, off/512)
		}
		if got := int64(binary.LittleEndian.Uint64(s)); got != lba {
			return 0, fmt.Errorf("block %d holds block %d", lba, got)
		}
		if q := binary.LittleEndian.Uint64(s[8:]); off > 0 && q != seq {
			return 0, fmt.Errorf("block %d is torn: %d and %d", lba, seq, q)
		} else {
			seq = q
		}
	}
	return seq, nil
}

// run writes until ctx ends or a write fails.
func (w *writer) run(ctx context.Context, seed uint64) error {
	var wg sync.WaitGroup
	errs := make(chan error, w.workers)
	for id := range w.workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := w.worker(ctx, id, rand.New(rand.NewPCG(seed, uint64(id)))); err != nil {
				errs <- err
			}
		}()
	}
	wg.Wait()
	close(errs)
	return <-errs
}

func (w *writer) worker(ctx context.Context, id int64, rnd *rand.Rand) error {
	p := make([]byte, stampSize)
	var unsafe []written
	for ctx.Err() == nil {
		lba := rnd.Int64N(w.blocks/w.workers)*w.workers + id
		seq := w.tried[lba].Add(1)
		stamp(p, lba, seq)
		start := time.Now()
		if err := w.dev.WriteAt(context.Background(), p, lba*stampSize, 0); err != nil {
			return fmt.Errorf("write block %d: %w", lba, err)
		}
		w.acked[lba].Store(seq)
		if w.onFlush != nil {
			unsafe = append(unsafe, written{lba, seq})
		}
		if rnd.IntN(w.flush) == 0 {
			if err := w.dev.Flush(context.Background()); err != nil {
				return fmt.Errorf("flush: %w", err)
			}
			if w.onFlush != nil {
				w.onFlush(unsafe)
				unsafe = unsafe[:0]
			}
		}
		if rnd.IntN(8) == 0 {
			if err := w.check(w.dev, lba); err != nil {
				return err
			}
		}
		took := int64(time.Since(start))
		for old := w.stall.Load(); took > old && !w.stall.CompareAndSwap(old, took); old = w.stall.Load() {
		}
		w.ops.Add(1)
	}
	return nil
}

// check reads one block: it holds what was acknowledged last, or what was begun
// after that.
func (w *writer) check(dev block.Device, lba int64) error {
	p := make([]byte, stampSize)
	if err := dev.ReadAt(context.Background(), p, lba*stampSize); err != nil {
		return err
	}
	seq, err := readStamp(p, lba)
	if err != nil {
		return err
	}
	if low, high := w.acked[lba].Load(), w.tried[lba].Load(); seq < low || seq > high {
		return fmt.Errorf("block %d holds write %d; %d was acknowledged, %d the last begun", lba, seq, low, high)
	}
	return nil
}

func (w *writer) checkAll(dev block.Device) error {
	for lba := range w.blocks {
		if err := w.check(dev, lba); err != nil {
			return err
		}
	}
	return nil
}

// liveVM is a VM with one disk of size bytes in use.
func liveVM(t testing.TB, dir string, format smbstore.Format, size int64) (*smbstore.Home, *block.Slot, string) {
	t.Helper()
	name := "Virtual Hard Disks/disk0." + string(format)
	s := storeAt(t, dir)
	h, err := smbstore.CreateHome(context.Background(), s, "vm", smbstore.Config{Disks: []smbstore.Disk{{Path: name, Format: format}}})
	must(t, err)
	dev, err := smbstore.CreateDisk(context.Background(), h.Store(), name, smbstore.CreateDiskOptions{Format: format, Size: size, BlockSize: 1 << 20})
	must(t, err)
	must(t, smbstore.WriteFile(h.Store(), "Snapshots/cp.avhdx", make([]byte, 3<<20)))
	return h, block.NewSlot(dev), name
}

func TestLiveStorage(t *testing.T) {
	for _, c := range []struct {
		name     string
		from, to smbstore.Format
	}{
		{"raw", smbstore.Raw, ""}, {"vhdx", smbstore.VHDX, ""}, {"raw to vhdx", smbstore.Raw, smbstore.VHDX},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := t.TempDir(), t.TempDir()
			_, slot, name := liveVM(t, a, c.from, 16<<20)
			w := newWriter(slot)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- w.run(ctx, 1) }()
			for w.ops.Load() < 200 {
				time.Sleep(time.Millisecond)
			}
			job, err := LiveStorage(t.Context(), LiveOptions{Options: Options{Source: at(a, "vm"), To: at(b)},
				Disks: map[string]*block.Slot{name: slot}, Format: c.to})
			must(t, err)
			must(t, job.Wait(t.Context()))
			before := w.ops.Load()
			for w.ops.Load() < before+200 {
				time.Sleep(time.Millisecond)
			}
			cancel()
			must(t, <-done)
			must(t, w.checkAll(slot))
			must(t, slot.Close())
			must(t, job.Release())
			if job.Status().Stall <= 0 {
				t.Error("no stall was measured")
			}
			if exists(a, "vm") {
				t.Error("the source is there still")
			}
			h, err := smbstore.HomeIn(storeAt(t, filepath.Join(b, "vm")))
			must(t, err)
			cfg, err := h.Config()
			must(t, err)
			want := c.from
			if c.to != "" {
				want = c.to
			}
			dev, format, err := smbstore.OpenDisk(t.Context(), h.Store(), cfg.Disks[0].Path, smbstore.DiskOptions{ReadOnly: true})
			must(t, err)
			defer dev.Close()
			if format != want && want != smbstore.Raw || cfg.Disks[0].Format != want {
				t.Errorf("format %s, configured %s, want %s", format, cfg.Disks[0].Format, want)
			}
			must(t, w.checkAll(dev))
			if r, err := h.Record(); err != nil || r.State != smbstore.Owned || r.Epoch != 2 {
				t.Errorf("%v %v", r, err)
			}
		})
	}
}

// Whatever stops a live migration before its switch, the writer goes on at the
// source, and the destination is gone.
func TestLiveStorageStopped(t *testing.T) {
	for _, c := range []struct{ name, point string }{
		{"cancelled while mirroring", "mirrored"}, {"cancelled while copying", "live-copied"},
		{"cancelled before the switch", "before-switch"}, {"source taken meanwhile", "entered-switching"}, {"lock broken in the switch", "held"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := t.TempDir(), t.TempDir()
			h, slot, name := liveVM(t, a, smbstore.Raw, 8<<20)
			w := newWriter(slot)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- w.run(ctx, 2) }()
			jobs := make(chan *Job, 1)
			var once sync.Once
			setFailpoint(t, func(point string) {
				if point != c.point {
					return
				}
				once.Do(func() {
					r, err := h.Record()
					must(t, err)
					switch point {
					case "entered-switching":
						_, err = h.Change(context.Background(), "", func(r smbstore.Record) (smbstore.Record, error) { return r.Resolve(r.Host) })
					case "held":
						_, err = h.Resolve(context.Background(), r.Host)
					default:
						(<-jobs).Cancel()
					}
					must(t, err)
				})
			})
			job, err := LiveStorage(t.Context(), LiveOptions{Options: Options{Source: at(a, "vm"), To: at(b)}, Disks: map[string]*block.Slot{name: slot}})
			must(t, err)
			jobs <- job
			err = job.Wait(t.Context())
			want := map[string]error{"entered-switching": smbstore.ErrEpoch, "held": smbstore.ErrNotOwner}[c.point]
			if want == nil {
				want = ErrCancelled
			}
			if !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
			before := w.ops.Load()
			for w.ops.Load() < before+100 {
				time.Sleep(time.Millisecond)
			}
			cancel()
			must(t, <-done)
			must(t, w.checkAll(slot))
			must(t, slot.Close())
			dev, _, err := smbstore.OpenDisk(t.Context(), h.Store(), name, smbstore.DiskOptions{Format: smbstore.Raw})
			must(t, err)
			must(t, w.checkAll(dev))
			must(t, dev.Close())
			if exists(b, "vm") {
				t.Error("the destination was left")
			}
			if r, err := h.Record(); err != nil || r.State != smbstore.Owned {
				t.Errorf("%v %v", r, err)
			}
		})
	}
}

// While the source's record cannot be reached in the middle of the switch, the
// VM stands still; it goes on when the record returns, or stays in doubt.
func TestLiveStorageInDoubt(t *testing.T) {
	for _, returns := range []bool{true, false} {
		t.Run(fmt.Sprintf("record returns %v", returns), func(t *testing.T) {
			a, b := t.TempDir(), t.TempDir()
			_, slot, name := liveVM(t, a, smbstore.Raw, 4<<20)
			source := slot.Unwrap()
			w := newWriter(slot)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- w.run(ctx, 3) }()
			machines := filepath.Join(a, "vm", smbstore.MachinesDir)
			back := func() { must(t, os.Rename(machines+".away", machines)) }
			jobs := make(chan *Job, 1)
			stood := make(chan int64, 1)
			var once sync.Once
			setFailpoint(t, func(point string) {
				if point != "held" {
					return
				}
				once.Do(func() {
					must(t, os.Rename(machines, machines+".away"))
					time.AfterFunc(time.Second, func() {
						before := w.ops.Load()
						time.Sleep(200 * time.Millisecond)
						stood <- w.ops.Load() - before
						if returns {
							back()
						} else {
							(<-jobs).Cancel()
						}
					})
				})
			})
			job, err := LiveStorage(t.Context(), LiveOptions{Options: Options{Source: at(a, "vm"), To: at(b)}, Disks: map[string]*block.Slot{name: slot}})
			must(t, err)
			jobs <- job
			err = job.Wait(t.Context())
			if n := <-stood; n != 0 {
				t.Errorf("%d operations went through while in doubt", n)
			}
			if returns {
				must(t, err)
				if s := job.Status().Stall; s < time.Second {
					t.Errorf("stalled for %v", s)
				}
				cancel()
				must(t, <-done)
				must(t, w.checkAll(slot))
				return
			}
			cancel()
			if !errors.Is(err, ErrInDoubt) {
				t.Errorf("got %v, want ErrInDoubt", err)
			}
			if werr := <-done; !errors.Is(werr, ErrInDoubt) {
				t.Errorf("the writer got %v, want ErrInDoubt", werr)
			}
			must(t, slot.Close())
			if _, err := Resume(t.Context(), at(b, "vm"), Options{}); err == nil {
				t.Error("resumed without the source's record")
			}
			back()
			if _, err := Resume(t.Context(), at(b, "vm"), Options{}); !errors.Is(err, ErrInUse) {
				t.Errorf("resumed while the VM has its disk open, though shut: %v", err)
			}
			must(t, source.Close())
			job, err = Resume(t.Context(), at(b, "vm"), Options{})
			must(t, err)
			must(t, job.Wait(t.Context()))
			dev, _, err := smbstore.OpenDisk(t.Context(), storeAt(t, filepath.Join(b, "vm")), name, smbstore.DiskOptions{Format: smbstore.Raw})
			must(t, err)
			must(t, w.checkAll(dev))
			must(t, dev.Close())
			if exists(a, "vm") {
				t.Error("the source is there still")
			}
		})
	}
}
