package block_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"lunless/smbstore/block"
	"lunless/smbstore/vhdx"
)

// errLost is what requests to a handle that is gone end with.
var errLost = errors.New("the handle is lost")

func isLost(err error) bool { return errors.Is(err, errLost) }

// lossyServer has one file, loses its handles, and at times its power with them.
type lossyServer struct {
	through bool // what it acknowledges is stable

	mu    sync.RWMutex // read-held through every request
	file  *block.PowerCut
	epoch int // handles of earlier ones are gone

	plan  sync.Mutex
	rnd   *rand.Rand
	until int // requests until the next loss; 0: none to come
	away  int // openings that will fail
}

// lossyFile is a handle.
type lossyFile struct {
	s     *lossyServer
	epoch int
}

// fate says whether this request is lost with its handle, and what of it is done.
func (s *lossyServer) fate() (lose, done bool) {
	s.plan.Lock()
	defer s.plan.Unlock()
	if s.until == 0 {
		return false, true
	}
	s.until--
	return s.until == 0, s.rnd.IntN(2) == 0
}

// lose ends all handles, and may lose what is not stable.
func (s *lossyServer) lose(power bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch++
	s.plan.Lock()
	defer s.plan.Unlock()
	if power {
		s.file = block.NewPowerCut(s.file.Cut(s.rnd))
	}
	s.away = s.rnd.IntN(3)
}

func (f *lossyFile) request(changes bool, fn func(*block.PowerCut) error) error {
	lose, done := f.s.fate()
	err := func() error {
		f.s.mu.RLock()
		defer f.s.mu.RUnlock()
		if f.epoch != f.s.epoch {
			return errLost
		}
		if lose && !done {
			return nil
		}
		err := fn(f.s.file)
		if err == nil && changes && f.s.through {
			err = f.s.file.Sync()
		}
		return err
	}()
	if !lose {
		return err
	}
	f.s.plan.Lock()
	power := f.s.rnd.IntN(3) > 0
	f.s.plan.Unlock()
	f.s.lose(power)
	return errLost
}

func (f *lossyFile) ReadAt(p []byte, off int64) (n int, err error) {
	err = f.request(false, func(c *block.PowerCut) error { n, err = c.ReadAt(p, off); return err })
	return n, err
}

func (f *lossyFile) WriteAt(p []byte, off int64) (int, error) {
	return len(p), f.request(true, func(c *block.PowerCut) error { _, err := c.WriteAt(p, off); return err })
}

func (f *lossyFile) PunchHole(off, n int64) error {
	return f.request(true, func(c *block.PowerCut) error { return c.PunchHole(off, n) })
}

func (f *lossyFile) Truncate(n int64) error {
	return f.request(true, func(c *block.PowerCut) error { return c.Truncate(n) })
}

// Sync takes its time after what it does: others write meanwhile.
func (f *lossyFile) Sync() error {
	return f.request(false, func(c *block.PowerCut) error {
		err := c.Sync()
		time.Sleep(200 * time.Microsecond)
		return err
	})
}

func (f *lossyFile) Close() error { return nil }

func (f *lossyFile) Size() (n int64, err error) {
	err = f.request(false, func(c *block.PowerCut) error { n, err = c.Size(); return err })
	return n, err
}

// open gives the file a new handle.
func (s *lossyServer) open() (block.File, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	s.plan.Lock()
	defer s.plan.Unlock()
	if s.away > 0 {
		s.away--
		return nil, errLost
	}
	return &lossyFile{s, s.epoch}, nil
}

const soakSize = 12 << 20

// lossyKind is what lies on the server.
type lossyKind struct {
	format  string
	through bool
}

func (k lossyKind) device(f block.File) (block.Device, error) {
	if k.format == "vhdx" {
		return vhdx.Open(f, vhdx.OpenOptions{})
	}
	return block.NewRaw(f, block.RawOptions{})
}

func (k lossyKind) server(rnd *rand.Rand) (*lossyServer, error) {
	m := block.NewMemFile(soakSize)
	if k.format == "vhdx" {
		m = block.NewMemFile(0)
		d, err := vhdx.Create(m, vhdx.CreateOptions{Size: soakSize, BlockSize: 1 << 20})
		if err != nil {
			return nil, err
		}
		if err := d.Flush(context.Background()); err != nil {
			return nil, err
		}
	}
	return &lossyServer{through: k.through, rnd: rnd, file: block.NewPowerCut(m)}, nil
}

// soakWorker writes to its own stripes of a disk, and knows what is there.
func soakWorker(ctx context.Context, dev block.Device, want []byte, rnd *rand.Rand, base, stride, width int64, ops int) error {
	for range ops {
		at := base + rnd.Int64N(soakSize/stride)*stride
		off := at + rnd.Int64N(width/2)
		n := 1 + rnd.Int64N(width/2)
		var flags block.WriteFlags
		if rnd.IntN(12) == 0 {
			flags = block.FUA
		}
		p := bytes.Repeat([]byte{byte(1 + rnd.IntN(255))}, int(n))
		var err error
		switch c := rnd.IntN(16); {
		case c < 7:
			err = dev.WriteAt(ctx, p, off, flags)
			copy(want[off:], p)
		case c < 9:
			err = dev.WriteZeroes(ctx, off, n, flags|block.WriteFlags(rnd.IntN(2))*block.NoUnmap)
			clear(want[off : off+n])
		case c < 10: // what it leaves nobody knows
			if err = dev.Trim(ctx, off, n); err == nil {
				err = dev.WriteAt(ctx, p, off, 0)
			}
			copy(want[off:], p)
		case c < 12:
			err = dev.Flush(ctx)
		default:
			got := make([]byte, width)
			if err = dev.ReadAt(ctx, got, at); err == nil && !bytes.Equal(got, want[at:at+width]) {
				return differs(got, want[at:at+width], at)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func differs(got, want []byte, off int64) error {
	if bytes.Equal(got, want) {
		return nil
	}
	for i := range got {
		if got[i] != want[i] {
			return fmt.Errorf("byte %d is %d, was written as %d", off+int64(i), got[i], want[i])
		}
	}
	return nil
}

// soakResilient runs writers on a disk whose server loses its handles and its power,
// and has the host die in the end, after a flush. Whatever was acknowledged must be read.
func soakResilient(kind lossyKind, seed uint64) error {
	rnd := rand.New(rand.NewPCG(seed, 3))
	s, err := kind.server(rand.New(rand.NewPCG(seed, 4)))
	if err != nil {
		return err
	}
	open := func(context.Context) (block.Device, error) {
		f, err := s.open()
		if err != nil {
			return nil, err
		}
		return kind.device(f)
	}
	first, err := open(nil)
	if err != nil {
		return err
	}
	o := block.ResilientOptions{Open: open, Lost: isLost, Patience: 20 * time.Second, Keep: 1 << (17 + rnd.IntN(8))}
	if kind.through {
		o.Stable = func(block.Device) bool { return true }
	}
	dev := block.NewResilient(first, o)
	want := make([]byte, soakSize)
	ctx := context.Background()
	const workers, width = 4, 10_000
	for range 5 {
		s.plan.Lock()
		s.until = 1 + rnd.IntN(120)
		s.plan.Unlock()
		errs := make(chan error, workers)
		for w := range int64(workers) {
			wrnd := rand.New(rand.NewPCG(rnd.Uint64(), 5))
			go func() { errs <- soakWorker(ctx, dev, want, wrnd, w*width, workers*width, width, 40) }()
		}
		for range workers {
			err = errors.Join(err, <-errs)
		}
		if err != nil {
			return err
		}
	}
	got := make([]byte, soakSize)
	if err := dev.ReadAt(ctx, got, 0); err != nil {
		return err
	}
	if err := differs(got, want, 0); err != nil {
		return fmt.Errorf("at the end: %w", err)
	}
	if err := dev.Flush(ctx); err != nil {
		return err
	}
	if !kind.through && dev.Kept() != 0 {
		return fmt.Errorf("%d bytes are kept after a flush", dev.Kept())
	}
	s.lose(true)
	s.away = 0
	after, err := open(nil)
	if err != nil {
		return err
	}
	if err := after.ReadAt(ctx, got, 0); err != nil {
		return err
	}
	if err := differs(got, want, 0); err != nil {
		return fmt.Errorf("after the host died with its last flush done: %w", err)
	}
	return dev.Close()
}

var lossyKinds = map[string]lossyKind{
	"raw": {"raw", false}, "vhdx": {"vhdx", false}, "raw, stable": {"raw", true}, "vhdx, stable": {"vhdx", true},
}

func TestResilientLosses(t *testing.T) {
	for name, kind := range lossyKinds {
		t.Run(name, func(t *testing.T) {
			seed := rand.Uint64()
			for i := range uint64(4) {
				if err := soakResilient(kind, seed+i); err != nil {
					t.Fatalf("seed %d: %v", seed+i, err)
				}
			}
		})
	}
}

// Each fault is noticed.
func TestResilientSabotage(t *testing.T) {
	for name, kind := range map[string]lossyKind{
		"kept-forgotten": {"raw", false}, "uncommitted-forgotten": {"vhdx", true}, "flush-covers-later": {"raw", false},
	} {
		t.Run(name, func(t *testing.T) {
			block.Sabotage(t, name)
			for seed := range uint64(60) {
				if err := soakResilient(kind, seed); err != nil {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Error("nothing noticed it")
		})
	}
}
