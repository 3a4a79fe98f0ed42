// Program move measures how long it takes to move a VM's disk from one share to
// another under a guest: with our live storage migration, with QEMU's
// blockdev-mirror to our NBD export of the same destination, and with qemu-img
// convert through that. bench/storage-move.sh runs it.
//
// What is compared: all read the disk from one server's share and write it to
// another's, dynamic VHDX to dynamic VHDX, through the same client; all begin with
// the making of the destination's disk and end when what was moved is on stable
// storage there. The guest, where there is one, reaches the disk through QEMU's
// block layer in every case, and both mirrors have its write on both sides before
// they acknowledge it (copy-mode write-blocking). It overwrites its data and takes
// no new room, so that every move finds the same disk. qemu-img gets what makes it
// fast: a target known to be zero, 16 requests in flight, writes out of order, and
// its default cache mode for a target, which flushes nothing; the flush comes after.
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
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

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
	limit := flag.Duration("limit", 7*time.Minute, "no round begins that may end later")
	depth := flag.Int("depth", 4, "the guest's requests in flight")
	guard := flag.Float64("guard", 0, "how many times slower our copy may make the guest's requests; 0 takes the default, -1 is without a guard")
	only := flag.String("only", "", "measure the cases alone whose names have this in them")
	profile := flag.String("cpuprofile", "", "file for a CPU profile of this process: guest, client and copy")
	flag.Parse()
	if *dir == "" {
		log.Fatal("-dir is missing")
	}
	b := &bench{program: *program, dir: *dir, size: *gib << 30, depth: *depth, guard: *guard}
	if err := profiled(*profile, func() error { return b.run(*rounds, *limit, *only) }); err != nil {
		log.Fatal(err)
	}
}

// profiled runs do, with a CPU profile unless file is "".
func profiled(file string, do func() error) error {
	if file == "" {
		return do()
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := pprof.StartCPUProfile(f); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	return do()
}

const vmName, diskName = "web1", "Virtual Hard Disks/disk0.vhdx"

// bench is a measurement.
type bench struct {
	program, dir string
	size         int64
	depth        int
	guard        float64
	at           [2]smbstore.Location // the servers' shares
	servers      [2]*exec.Cmd
	options      smbstore.Options
}

// result is what one move took.
type result struct {
	took          time.Duration
	cpu           time.Duration // of all processes: this one, the servers, QEMU's; the guest's part included
	before, while float64       // the guest's writes a second, before the move and during it
	worst         time.Duration // the guest's longest write
	atSwitch      time.Duration // of ours, the slot's longest request around the switch
}

// moveCase is one way to move the disk.
type moveCase struct {
	name string
	do   func(context.Context) (result, error)
	all  []result
}

func (b *bench) run(rounds int, limit time.Duration, only string) error {
	ctx, begun := context.Background(), time.Now()
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
	var cases []*moveCase
	for _, c := range []*moveCase{
		{name: "ours, guest writes", do: func(ctx context.Context) (result, error) { return b.ours(ctx, b.depth) }},
		{name: "blockdev-mirror, guest writes", do: func(ctx context.Context) (result, error) { return b.mirror(ctx, b.depth) }},
		{name: "ours, no guest", do: func(ctx context.Context) (result, error) { return b.ours(ctx, 0) }},
		{name: "blockdev-mirror, no guest", do: func(ctx context.Context) (result, error) { return b.mirror(ctx, 0) }},
		{name: "qemu-img convert, no guest", do: b.convert},
	} {
		if strings.Contains(c.name, only) {
			cases = append(cases, c)
		}
	}
	for round := range rounds {
		start := time.Now()
		for _, c := range cases {
			unix.Sync() // what others left to be written is not this one's
			r, err := c.do(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			fmt.Fprintf(os.Stderr, "round %d: %-30s %.2f s, CPU %.2f s, guest %.0f then %.0f writes/s, longest %v, at the switch %v\n", round+1, c.name,
				r.took.Seconds(), r.cpu.Seconds(), r.before, r.while, r.worst.Round(time.Millisecond/10), r.atSwitch.Round(time.Millisecond/10))
			c.all = append(c.all, r)
		}
		if one := time.Since(start); round+1 < rounds && time.Since(begun)+one > limit {
			fmt.Fprintf(os.Stderr, "%d of %d rounds, for want of time\n", round+1, rounds)
			break
		}
		slices.Reverse(cases) // none always finds what another leaves
	}
	b.print(cases)
	return nil
}

// print prints the medians.
func (b *bench) print(cases []*moveCase) {
	if len(cases) == 0 {
		return
	}
	fmt.Printf("medians of %d interleaved rounds, %d CPUs\n\n", len(cases[0].all), runtime.NumCPU())
	fmt.Printf("| move of %d GiB, half of it data | seconds | MiB/s of data | CPU seconds | guest's writes/s before | during | kept | longest write |\n|---|---|---|---|---|---|---|---|\n", b.size>>30)
	slices.SortFunc(cases, func(x, y *moveCase) int {
		return strings.Compare(y.name[strings.Index(y.name, ","):], x.name[strings.Index(x.name, ","):])
	})
	for _, c := range cases {
		m := func(of func(result) float64) float64 { return median(c.all, of) }
		took := m(func(r result) float64 { return r.took.Seconds() })
		fmt.Printf("| %s | %.2f | %.0f | %.2f |", c.name, took, float64(b.size>>21)/took, m(func(r result) float64 { return r.cpu.Seconds() }))
		if !strings.HasSuffix(c.name, "guest writes") {
			fmt.Println(" - | - | - | - |")
			continue
		}
		fmt.Printf(" %.0f | %.0f | %.0f%% | %.1f ms |\n", m(func(r result) float64 { return r.before }), m(func(r result) float64 { return r.while }),
			m(func(r result) float64 { return 100 * r.while / r.before }), m(func(r result) float64 { return float64(r.worst) / 1e6 }))
	}
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
	logs, err := os.Create(filepath.Join(b.dir, name, "log"))
	if err != nil {
		return nil, err
	}
	defer logs.Close()
	serve.Stderr = logs
	if err := serve.Start(); err != nil {
		return nil, err
	}
	b.servers[i] = serve
	stop = func() {
		_ = serve.Process.Kill()
		_ = serve.Wait()
	}
	b.at[i] = smbstore.Location{Host: "127.0.0.1", Port: port, User: "hv", Share: "vms"}
	for range 3000 {
		if c, err := net.Dial("tcp", b.at[i].Addr()); err == nil {
			c.Close()
			return stop, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	text, _ := os.ReadFile(logs.Name())
	return nil, fmt.Errorf("the server does not listen: %s", text)
}

// dataRun is how much data lies on the disk before as much of nothing.
const dataRun = 6 << 20

// makeVM makes a VM with a disk of which every other dataRun is data.
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
	p := make([]byte, dataRun)
	rnd := rand.NewChaCha8([32]byte{1})
	for off := int64(0); off+dataRun <= b.size; off += 2 * dataRun {
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
	if s.guest.depth > 0 {
		time.Sleep(warm)
		before := s.guest.written.Load()
		time.Sleep(warm)
		r.before = float64(s.guest.written.Load()-before) / warm.Seconds()
		s.guest.worst.Store(0)
	}
	before, used := s.guest.written.Load(), s.cpu()
	start := time.Now()
	err = move()
	r.took, r.cpu = time.Since(start), s.cpu()-used
	r.while = float64(s.guest.written.Load()-before) / r.took.Seconds()
	time.Sleep(100 * time.Millisecond)
	r.worst = time.Duration(s.guest.worst.Load())
	return r, err
}

// cpu is the CPU time of all that have a part in it, so far.
func (s *session) cpu() time.Duration {
	total := usage(unix.RUSAGE_SELF) + usage(unix.RUSAGE_CHILDREN)
	for _, c := range []*exec.Cmd{s.b.servers[0], s.b.servers[1], s.qemu.cmd} {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", c.Process.Pid))
		for _, t := range threads { // proc(5): ns on a CPU come first
			var ns int64
			if f, err := os.ReadFile(t); err == nil {
				_, _ = fmt.Sscan(string(f), &ns)
			}
			total += time.Duration(ns)
		}
	}
	return total
}

func usage(who int) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(who, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
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
			Disks:   map[string]*block.Slot{diskName: s.slot}, GuardFactor: b.guard})
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
	var closeIt func() error
	r, err := s.measure(func() error {
		target, closeTarget, err := b.target(ctx, s)
		if err != nil {
			return err
		}
		closeIt = closeTarget
		return errors.Join(move(s), target.Flush(ctx))
	})
	if err != nil {
		return r, err
	}
	return r, errors.Join(s.end(ctx), closeIt(), s.slot.Close(), s.home.Close(), b.clear(ctx))
}
