package shares

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

	"lunless/smbstore/client"
	"lunless/smbstore/smb2"
)

const (
	holders      = 3   // clients that hold a disk each
	lanesPerDisk = 3   // writers of a disk
	laneBlocks   = 16  // blocks of a writer
	stampSize    = 512 // bytes of a block
)

// soakLog is what went wrong: first of each kind, and how many in all.
type soakLog struct {
	mu     sync.Mutex
	first  []string
	failed int
}

func (l *soakLog) fail(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed++; len(l.first) < 10 {
		l.first = append(l.first, fmt.Sprintf(format, args...))
	}
}

func (l *soakLog) failures() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// handleSoak are clients that hold disks through persistent handles, with leases
// and locks, and write; and one that would like to have the disks too.
type handleSoak struct {
	log      soakLog
	addr     string
	seed     uint64
	ctx      context.Context
	stop     atomic.Bool
	writes   atomic.Int64 // acknowledged
	files    atomic.Int64 // created, renamed and removed
	refused  atomic.Int64 // attempts of the intruder
	breaks   atomic.Int64 // leases broken
	disks    []*heldDisk
	wg       sync.WaitGroup
	intruder sync.WaitGroup
}

// heldDisk is one disk and what has been acknowledged of it.
type heldDisk struct {
	s    *handleSoak
	name string
	cl   *client.Client
	tree *client.Tree
	f    *client.File
	seq  [lanesPerDisk][laneBlocks]uint64 // by the writer alone, until it has ended
}

func (s *handleSoak) config() client.Config {
	return client.Config{
		Addr: s.addr, Credentials: client.Credentials{User: testUser, Password: testPassword},
		RequestTimeout: 20 * time.Second, // a dead server is told of at once, a slow one is none ReconnectTimeout: time.Minute,
	}
}

const (
	diskAccess = smb2.FileReadData | smb2.FileWriteData | smb2.FileReadAttributes | smb2.FileWriteAttributes | smb2.Delete | smb2.Synchronize
)

var lockedBlocks = client.LockRange{Offset: 0, Length: stampSize * 2, Exclusive: true}

// begin opens the disks and starts everybody.
func (s *handleSoak) begin() error {
	for i := range holders {
		d := &heldDisk{s: s, name: fmt.Sprintf("disk%d.vhdx", i)}
		cfg := s.config()
		cfg.LeaseBreak = func(client.LeaseBreak) { s.breaks.Add(1) }
		var err error
		if d.cl, err = client.Dial(s.ctx, cfg); err != nil {
			return err
		}
		if d.tree, err = d.cl.TreeConnect(s.ctx, "ca"); err != nil {
			return err
		}
		d.f, err = d.tree.Create(s.ctx, d.name, client.CreateOptions{
			Access: diskAccess, Share: smb2.FileShareRead, Disposition: smb2.FileOpenIf,
			Durable: client.Persistent, Timeout: time.Minute,
			Lease: &client.LeaseRequest{State: smb2.LeaseReadCaching | smb2.LeaseHandleCaching | smb2.LeaseWriteCaching},
		})
		if err != nil {
			return err
		}
		if g := d.f.Granted(); g.Durability != client.Persistent {
			return fmt.Errorf("%s: granted %+v, no persistent handle", d.name, g)
		}
		if err := d.f.Lock(s.ctx, false, lockedBlocks); err != nil {
			return err
		}
		s.disks = append(s.disks, d)
	}
	for i, d := range s.disks {
		for lane := range lanesPerDisk {
			s.wg.Go(func() { d.write(lane, rand.New(rand.NewPCG(s.seed, uint64(i*lanesPerDisk+lane)))) })
		}
		s.wg.Go(func() { d.names(rand.New(rand.NewPCG(s.seed, uint64(100+i)))) })
	}
	s.intruder.Go(func() { s.intrude(rand.New(rand.NewPCG(s.seed, 1000))) })
	return nil
}

func (s *handleSoak) running() bool { return !s.stop.Load() && s.log.failures() == 0 }

func stampOf(b []byte, block int, seq uint64) {
	le := binary.LittleEndian
	clear(b)
	le.PutUint64(b, uint64(block))
	le.PutUint64(b[8:], seq)
	le.PutUint32(b[stampSize-4:], crc32.ChecksumIEEE(b[:stampSize-4]))
}

func checkStamp(b []byte, block int, seq uint64) error {
	le := binary.LittleEndian
	switch {
	case seq == 0:
		return nil
	case le.Uint32(b[stampSize-4:]) != crc32.ChecksumIEEE(b[:stampSize-4]), le.Uint64(b) != uint64(block):
		return fmt.Errorf("block %d is not one that was written", block)
	case le.Uint64(b[8:]) != seq:
		return fmt.Errorf("block %d has sequence %d, acknowledged was %d", block, le.Uint64(b[8:]), seq)
	}
	return nil
}

// write is one writer: it overwrites its blocks, each write after the answer to
// the one before, reads them again, and locks and unlocks ranges of its own.
func (d *heldDisk) write(lane int, rnd *rand.Rand) {
	ctx, buf := d.s.ctx, make([]byte, stampSize)
	own := client.LockRange{Offset: 1 << 40, Length: 8, Exclusive: true}
	own.Offset += uint64(lane) * 1024
	locked := false
	for n := 0; d.s.running(); n++ {
		i := rnd.IntN(laneBlocks)
		block := lane*laneBlocks + i
		at := int64(block) * stampSize
		var err error
		switch op := rnd.IntN(20); {
		case op < 12:
			stampOf(buf, block, d.seq[lane][i]+1)
			if _, err = d.f.WriteAtContext(ctx, buf, at); err == nil {
				d.seq[lane][i]++
				d.s.writes.Add(1)
			}
		case op < 17:
			if d.seq[lane][i] == 0 {
				continue
			}
			if _, err = d.f.ReadAtContext(ctx, buf, at); err == nil {
				err = checkStamp(buf, block, d.seq[lane][i])
			}
		case op < 18 && rnd.IntN(4) > 0:
			err = d.f.Flush(ctx)
		case op < 18:
			err = d.leaseAgain(ctx)
		case locked:
			locked = false
			err = d.f.Unlock(ctx, own) // fails if the lock was forgotten
		default:
			locked = true
			err = d.f.Lock(ctx, false, own) // fails if it was taken twice
		}
		if err != nil {
			d.s.log.fail("%s, writer %d, operation %d: %v", d.name, lane, n, err)
			return
		}
	}
}

// leaseAgain opens the disk once more under its lease, to have back of it what the
// intruder has broken.
func (d *heldDisk) leaseAgain(ctx context.Context) error {
	f, err := d.tree.Create(ctx, d.name, client.CreateOptions{
		Access: smb2.FileReadData, Share: shareAll, Disposition: smb2.FileOpen, Durable: client.Persistent,
		Lease: &client.LeaseRequest{State: smb2.LeaseReadCaching | smb2.LeaseHandleCaching | smb2.LeaseWriteCaching},
	})
	if err != nil {
		return err
	}
	return f.Close()
}

// names makes files under new names, renames and removes them: each once.
func (d *heldDisk) names(rnd *rand.Rand) {
	ctx := d.s.ctx
	for n := 0; d.s.running(); n++ {
		name, second := fmt.Sprintf("%s-%d.tmp", d.name, n), fmt.Sprintf("%s-%d.avhdx", d.name, n)
		f, err := d.tree.Create(ctx, name, client.CreateOptions{
			Access: diskAccess, Share: shareAll, Disposition: smb2.FileCreate, Durable: client.Persistent,
		})
		if err != nil {
			d.s.log.fail("create %s: %v", name, err)
			return
		}
		if rnd.IntN(2) == 0 {
			err = f.Truncate(ctx, 4096)
		}
		err = errors.Join(named("truncate", err), named("rename", f.Rename(ctx, second, false)), named("delete", f.Delete(ctx, true)), named("close", f.Close()))
		if err != nil {
			d.s.log.fail("%s: %v", name, err)
			return
		}
		d.s.files.Add(1)
	}
}

// intrude tries to get at the disks: nobody but the holder may write them, or
// lock or read what he has locked, with the server there or just back.
func (s *handleSoak) intrude(rnd *rand.Rand) {
	for s.running() {
		if err := s.intrudeOnce(rnd); err != nil {
			s.log.fail("the intruder: %v", err)
		}
	}
}

func (s *handleSoak) intrudeOnce(rnd *rand.Rand) error {
	cfg := s.config()
	cfg.ReconnectTimeout = time.Millisecond
	cl, err := client.Dial(s.ctx, cfg)
	if err != nil {
		time.Sleep(5 * time.Millisecond)
		return nil // the server is away
	}
	defer cl.Close()
	tree, err := cl.TreeConnect(s.ctx, "ca")
	for err == nil && s.running() {
		d := s.disks[rnd.IntN(len(s.disks))]
		o := client.CreateOptions{Access: smb2.FileReadData | smb2.FileWriteData, Share: shareAll, Disposition: smb2.FileOpen}
		if rnd.IntN(2) == 0 {
			o.Access = smb2.FileReadData
		}
		var f *client.File
		if f, err = tree.Create(s.ctx, d.name, o); err == nil {
			if o.Access&smb2.FileWriteData != 0 {
				return fmt.Errorf("%s was opened for writing beside its holder", d.name)
			}
			if err = s.intrudeReading(f); err != nil {
				return fmt.Errorf("%s: %w", d.name, err)
			}
			if s.stop.Load() {
				return nil
			}
			continue
		}
		switch st, _ := client.StatusOf(err); st {
		case smb2.StatusSharingViolation, smb2.StatusFileNotAvailable:
			s.refused.Add(1)
			err = nil
		}
	}
	return nil
}

// intrudeReading tries what is locked through an open for reading.
func (s *handleSoak) intrudeReading(f *client.File) error {
	defer f.Close()
	if s.stop.Load() {
		return nil
	}
	err := f.Lock(s.ctx, false, client.LockRange{Offset: stampSize, Length: 1})
	if err == nil {
		return errors.New("a range that its holder has locked was locked once more")
	}
	_, err = f.ReadAtContext(s.ctx, make([]byte, 16), 0)
	if err == nil {
		return errors.New("a range that its holder has locked was read")
	}
	s.refused.Add(1)
	return nil
}

// tried waits until the intruder has been refused once: a slow machine may not
// have let him get that far between two cuts.
func (s *handleSoak) tried(limit time.Duration) {
	for until := time.Now().Add(limit); s.refused.Load() == 0 && s.running() && time.Now().Before(until); {
		time.Sleep(time.Millisecond)
	}
}

// end stops everybody, and compares what is there with what was acknowledged.
func (s *handleSoak) end(root string) {
	s.tried(time.Minute)
	s.stop.Store(true)
	s.intruder.Wait()
	s.wg.Wait()
	for _, d := range s.disks {
		if s.log.failures() == 0 {
			if err := errors.Join(d.f.Unlock(s.ctx, lockedBlocks), d.f.Close()); err != nil {
				s.log.fail("%s at the end: %v", d.name, err)
			}
			d.verify(root)
		}
		d.cl.Close()
	}
	if s.log.failures() > 0 {
		return
	}
	left, err := os.ReadDir(root)
	if err != nil {
		s.log.fail("%v", err)
	}
	for _, e := range left {
		if filepath.Ext(e.Name()) != ".vhdx" && e.Name()[0] != '.' {
			s.log.fail("%s is still there", e.Name())
		}
	}
}

// verify reads the disk from below the share.
func (d *heldDisk) verify(root string) {
	b, err := os.ReadFile(filepath.Join(root, d.name))
	if err != nil {
		d.s.log.fail("%v", err)
		return
	}
	b = append(b, make([]byte, lanesPerDisk*laneBlocks*stampSize)...)
	for lane := range d.seq {
		for i, seq := range d.seq[lane] {
			block := lane*laneBlocks + i
			if err := checkStamp(b[block*stampSize:][:stampSize], block, seq); err != nil {
				d.s.log.fail("%s at the end: %v", d.name, err)
			}
		}
	}
}

// progress waits until every disk has been written to n times more.
func (s *handleSoak) progress(n int64, limit time.Duration) {
	from, until := s.writes.Load(), time.Now().Add(limit)
	for s.writes.Load() < from+n && s.running() && time.Now().Before(until) {
		time.Sleep(time.Millisecond)
	}
}

func (s *handleSoak) report(t *testing.T, what string, done int) {
	if s.refused.Load() == 0 {
		s.log.fail("nobody tried to get at the disks")
	}
	for _, f := range s.log.first {
		t.Errorf("seed %d: %s", s.seed, f)
	}
	fmt.Printf("%-14s %8s %10s %10s %10s %8s\n", "soak", what, "writes", "files", "refused", "breaks")
	fmt.Printf("%-14s %8d %10d %10d %10d %8d\n", "handles", done, s.writes.Load(), s.files.Load(), s.refused.Load(), s.breaks.Load())
	fmt.Printf("%d passed, %d failed\n", done, s.log.failures())
}

func newHandleSoak(t *testing.T, addr string) *handleSoak {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
	t.Cleanup(cancel)
	s := &handleSoak{addr: addr, ctx: ctx, seed: number(t, "SEED", uint64(rand.Uint32()))}
	t.Logf("seed %d", s.seed)
	return s
}

// killSoak has the server killed under its clients: how many times it was, and
// what came of it.
func killSoak(t *testing.T, kills int, sabotage string) (int, *handleSoak) {
	n := startProcess(t, sabotage)
	s := newHandleSoak(t, n.addr)
	if err := s.begin(); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(s.seed, 7))
	done := 0
	for ; done < kills && s.running(); done++ {
		s.progress(int64(holders*lanesPerDisk), 20*time.Second)
		time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond)
		n.kill()
		time.Sleep(time.Duration(rnd.IntN(100)) * time.Millisecond)
		if err := n.start(); err != nil {
			t.Fatal(err)
		}
	}
	s.progress(int64(holders*lanesPerDisk), 20*time.Second)
	s.end(filepath.Join(n.dir, "ca"))
	return done, s
}

// TestSoakHandles kills the server KILLS times under clients that hold persistent
// handles with leases and locks, and write (MS-SMB2 3.3.5.9.12): no error reaches
// them, nothing acknowledged is missing or older than it was, and nobody gets in
// between.
func TestSoakHandles(t *testing.T) {
	done, s := killSoak(t, int(number(t, "KILLS", 6)), os.Getenv("SABOTAGE"))
	s.report(t, "kills", done)
}

// TestSoakSabotage shows that the soak would notice.
func TestSoakSabotage(t *testing.T) {
	for _, name := range []string{"lock-forgotten-on-reclaim"} {
		t.Run(name, func(t *testing.T) {
			done, s := killSoak(t, 20, name)
			if s.log.failures() == 0 {
				t.Errorf("%d kills pass without noticing", done)
			}
			t.Logf("after %d kills: %q", done, s.log.first)
		})
	}
}

func named(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
