// Program move measures how long it takes to move a VM's disk from one share to
// another under a guest: with our live storage migration, with QEMU's
// blockdev-mirror to our NBD export of the same destination, and with qemu-img
// convert through that. bench/storage-move.sh runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"lunless/migrate"
	"lunless/smbstore"
	"lunless/smbstore/block"
	"lunless/smbstore/nbd"
)

func main() {
	program := flag.String("lunless", "bin/lunless", "the program that serves the shares")
	dir := flag.String("dir", "", "folder for everything (required)")
	gib := flag.Int64("size", 4, "of the disk, in GiB; half of it has data")
	rounds := flag.Int("rounds", 3, "of each")
	depth := flag.Int("depth", 4, "the guest's requests in flight")
	only := flag.String("only", "", "the one case to measure")
	flag.Parse()
	if *dir == "" {
		log.Fatal("-dir is missing")
	}
	b := &bench{program: *program, dir: *dir, size: *gib << 30, depth: *depth}
	if err := b.run(*rounds, *only); err != nil {
		log.Fatal(err)
	}
}

const vmName, diskName = "web1", "Virtual Hard Disks/disk0.vhdx"

// bench is a measurement.
type bench struct {
	program, dir string
	size         int64
	depth        int
	at           [2]smbstore.Location // the servers' shares
	options      smbstore.Options
}

// result is what one move took.
type result struct {
	took          time.Duration
	before, while float64       // the guest's writes a second, before the move and during it
	worst         time.Duration // the guest's longest write
	atSwitch      time.Duration // of ours, the slot's longest request around the switch
}

func (b *bench) run(rounds int, only string) error {
	ctx := context.Background()
	for i := range b.at {
		stop, err := b.serve(i)
		if err != nil {
			return err
		}
		defer stop()
	}
	if err := b.makeVM(ctx); err != nil {
		return err
	}
	cases := []struct {
		name string
		do   func(context.Context) (result, error)
	}{
		{"ours, idle guest", func(ctx context.Context) (result, error) { return b.ours(ctx, 0) }},
		{"blockdev-mirror, idle guest", func(ctx context.Context) (result, error) { return b.mirror(ctx, 0) }},
		{"qemu-img convert", b.convert},
		{"ours, guest writes", func(ctx context.Context) (result, error) { return b.ours(ctx, b.depth) }},
		{"blockdev-mirror, guest writes", func(ctx context.Context) (result, error) { return b.mirror(ctx, b.depth) }},
	}
	all := make([][]result, len(cases))
	for round := range rounds {
		for i, c := range cases {
			if only != "" && c.name != only {
				continue
			}
			r, err := c.do(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			fmt.Fprintf(os.Stderr, "round %d: %-30s %.2f s, guest %.0f then %.0f writes/s, longest %v, at the switch %v\n",
				round+1, c.name, r.took.Seconds(), r.before, r.while, r.worst.Round(time.Millisecond/10), r.atSwitch.Round(time.Millisecond/10))
			all[i] = append(all[i], r)
		}
	}
	fmt.Printf("| move of %d GiB, half of it data | seconds | MiB/s of data | guest's writes/s before | during | longest write |\n|---|---|---|---|---|---|\n", b.size>>30)
	for i, c := range cases {
		if len(all[i]) == 0 {
			continue
		}
		m := func(of func(result) float64) float64 { return median(all[i], of) }
		fmt.Printf("| %s | %.2f | %.0f | %.0f | %.0f | %.1f ms |\n", c.name, m(func(r result) float64 { return r.took.Seconds() }),
			float64(b.size>>21)/m(func(r result) float64 { return r.took.Seconds() }), m(func(r result) float64 { return r.before }),
			m(func(r result) float64 { return r.while }), m(func(r result) float64 { return float64(r.worst) / 1e6 }))
	}
	return nil
}

func median(all []result, of func(result) float64) float64 {
	var v []float64
	for _, r := range all {
		v = append(v, of(r))
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// serve starts a server with a share.
func (b *bench) serve(i int) (stop func(), err error) {
	name := fmt.Sprintf("server%d", i)
	data, share := filepath.Join(b.dir, name, "data"), filepath.Join(b.dir, name, "share")
	if err := os.MkdirAll(share, 0o755); err != nil {
		return nil, err
	}
	b.options.Credentials = &smbstore.Credentials{User: "hv", Password: "Secret-1"}
	add := exec.Command(b.program, "user", "add", "hv", "--data", data)
	add.Env = append(os.Environ(), smbstore.PasswordVariable+"=Secret-1")
	if out, err := add.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%v: %w: %s", add, err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	serve := exec.Command(b.program, "serve", "--data", data, "--listen", fmt.Sprintf("127.0.0.1:%d", port), "--share", "vms="+share)
	serve.Stderr = os.Stderr
	if err := serve.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		_ = serve.Process.Kill()
		_ = serve.Wait()
	}
	b.at[i] = smbstore.Location{Host: "127.0.0.1", Port: port, User: "hv", Share: "vms"}
	for range 500 {
		if c, err := net.Dial("tcp", b.at[i].Addr()); err == nil {
			c.Close()
			return stop, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	return nil, errors.New("the server does not listen")
}

// makeVM makes a VM with a disk every other 6 MiB of which are data.
func (b *bench) makeVM(ctx context.Context) error {
	s, err := smbstore.Open(ctx, b.at[0], b.options)
	if err != nil {
		return err
	}
	defer s.Close()
	h, err := smbstore.CreateHomeWithDisk(ctx, s, vmName, smbstore.Config{}, b.size)
	if err != nil {
		return err
	}
	dev, _, err := smbstore.OpenDisk(ctx, h.Store(), diskName, smbstore.DiskOptions{})
	if err != nil {
		return err
	}
	const run = 6 << 20
	p := make([]byte, run)
	rnd := rand.NewChaCha8([32]byte{1})
	for off := int64(0); off+run <= b.size; off += 2 * run {
		_, _ = rnd.Read(p) // never fails
		if err := dev.WriteAt(ctx, p, off, 0); err != nil {
			return err
		}
	}
	return dev.Close()
}

// session is the disk in use: its chain in a slot, exported to QEMU, and the guest
// above that.
type session struct {
	b     *bench
	home  *smbstore.Home
	chain *smbstore.Chain
	slot  *block.Slot
	nbd   *nbd.Server
	path  string
	qemu  *daemon
	guest *guest
	stop  context.CancelFunc
	done  chan error
}

func (b *bench) open(ctx context.Context, depth int) (*session, error) {
	s := &session{b: b, path: filepath.Join(b.dir, "nbd.sock"), done: make(chan error, 1)}
	var err error
	if s.home, err = smbstore.OpenHome(ctx, b.at[0].Join(vmName), b.options); err != nil {
		return nil, err
	}
	if s.chain, err = smbstore.OpenChain(ctx, s.home.Store(), diskName, smbstore.DiskOptions{DenyWrite: true}); err != nil {
		return nil, err
	}
	s.slot = block.NewSlot(s.chain.Device())
	s.nbd = nbd.NewServer(nbd.Options{})
	if _, err := s.nbd.Add(nbd.ExportOptions{Name: "source", Device: s.slot, FastZero: true}); err != nil {
		return nil, err
	}
	_ = os.Remove(s.path)
	l, err := net.Listen("unix", s.path)
	if err != nil {
		return nil, err
	}
	go func() { _ = s.nbd.Serve(context.WithoutCancel(ctx), l) }() // until Shutdown
	if s.qemu, err = startDaemon(b.dir, s.path); err != nil {
		return nil, err
	}
	gctx, stop := context.WithCancel(ctx)
	s.stop = stop
	if depth == 0 {
		s.guest = &guest{}
		s.done <- nil
		return s, nil
	}
	s.guest = &guest{socket: s.qemu.socket, export: "guest", depth: depth}
	go func() { s.done <- s.guest.run(gctx) }()
	return s, nil
}

// measure runs a move and sees how the guest fares.
func (s *session) measure(move func() error) (r result, err error) {
	const warm = 2 * time.Second
	time.Sleep(warm)
	before := s.guest.written.Load()
	time.Sleep(warm)
	r.before = float64(s.guest.written.Load()-before) / warm.Seconds()
	s.guest.worst.Store(0)
	before = s.guest.written.Load()
	start := time.Now()
	err = move()
	r.took = time.Since(start)
	r.while = float64(s.guest.written.Load()-before) / r.took.Seconds()
	time.Sleep(100 * time.Millisecond)
	r.worst = time.Duration(s.guest.worst.Load())
	return r, err
}

func (s *session) end(ctx context.Context) error {
	s.stop()
	err := <-s.done
	s.qemu.stop()
	return errors.Join(err, s.nbd.Shutdown(ctx))
}

// ours moves the VM with LiveStorage, and puts everything back.
func (b *bench) ours(ctx context.Context, depth int) (result, error) {
	s, err := b.open(ctx, depth)
	if err != nil {
		return result{}, err
	}
	var job *migrate.Job
	r, err := s.measure(func() error {
		var err error
		job, err = migrate.LiveStorage(ctx, migrate.LiveOptions{
			Options: migrate.Options{Source: b.at[0].Join(vmName), To: b.at[1], SourceOptions: b.options, ToOptions: b.options, KeepSource: true},
			Disks:   map[string]*block.Slot{diskName: s.slot}})
		if err != nil {
			return err
		}
		return job.Wait(ctx)
	})
	if err != nil {
		return r, err
	}
	if g := job.Status().Guest; g != nil {
		r.atSwitch = g.AtSwitch
	}
	err = errors.Join(s.end(ctx), s.slot.Close(), job.Release())
	if err == nil {
		_, err = s.home.Resolve(ctx, must(smbstore.HostName()))
	}
	return r, errors.Join(err, s.home.Close(), b.clear(ctx))
}

func must(s string, err error) string {
	if err != nil {
		log.Fatal(err)
	}
	return s
}

// clear removes what is at the destination.
func (b *bench) clear(ctx context.Context) error {
	s, err := smbstore.Open(ctx, b.at[1], b.options)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.RemoveAll(vmName)
}

// target makes the destination's disk and exports it as "target".
func (b *bench) target(ctx context.Context, s *session) (_ block.Device, closeIt func() error, err error) {
	to, err := smbstore.Open(ctx, b.at[1], b.options)
	if err != nil {
		return nil, nil, err
	}
	if err := to.MkdirAll(vmName); err != nil {
		return nil, nil, err
	}
	dev, err := smbstore.CreateDisk(ctx, smbstore.Sub(to, vmName), "disk0.vhdx", smbstore.CreateDiskOptions{Format: smbstore.VHDX, Size: b.size})
	if err != nil {
		return nil, nil, err
	}
	if _, err := s.nbd.Add(nbd.ExportOptions{Name: "target", Device: dev, FastZero: true}); err != nil {
		return nil, nil, err
	}
	return dev, func() error { return errors.Join(dev.Close(), to.Close()) }, nil
}

// mirror moves the disk with QEMU.
func (b *bench) mirror(ctx context.Context, depth int) (result, error) {
	return b.theirs(ctx, depth, func(s *session) error { return s.qemu.mirror(ctx, s.path) })
}

// convert copies the disk with qemu-img, with no guest.
func (b *bench) convert(ctx context.Context) (result, error) {
	return b.theirs(ctx, 0, func(s *session) error {
		uri := func(export string) string { return "nbd+unix:///" + export + "?socket=" + s.path }
		c := exec.CommandContext(ctx, "qemu-img", "convert", "-n", "--target-is-zero", "-W", "-m", "16", "-f", "raw", "-O", "raw", uri("source"), uri("target"))
		out, err := c.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
		}
		return nil
	})
}

func (b *bench) theirs(ctx context.Context, depth int, move func(*session) error) (result, error) {
	s, err := b.open(ctx, depth)
	if err != nil {
		return result{}, err
	}
	target, closeIt, err := b.target(ctx, s)
	if err != nil {
		return result{}, err
	}
	// All end with what was moved on stable storage.
	r, err := s.measure(func() error { return errors.Join(move(s), target.Flush(ctx)) })
	if err != nil {
		return r, err
	}
	return r, errors.Join(s.end(ctx), closeIt(), s.slot.Close(), s.home.Close(), b.clear(ctx))
}
