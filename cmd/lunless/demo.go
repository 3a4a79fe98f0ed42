package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"lunless/bench"
	"lunless/migrate"
	"lunless/smbstore"
	"lunless/smbstore/block"
)

// The demo's disk: a file system, and behind it room for the live writer.
const (
	demoFS     = 256 << 20
	demoDisk   = 320 << 20
	demoVM     = "web1"
	demoUser   = "demo"
	demoLinger = 2 * time.Second // the writer goes on this long after the move
)

func newDemo() *cobra.Command {
	c := &cobra.Command{Use: "demo", Short: "The main job, end to end, on loopback, in a minute", Args: takes(0),
		Long: `Starts two share servers on loopback ports it picks, makes a disk image with a
file system that holds the files of the current folder, imports it as a VM onto
the first, adds a checkpoint, moves the VM's home to the second server, moves it
back while a writer is at work on its disk, and checks that every file and every
acknowledged write is there. Needs no root and no server; leaves nothing behind.

Exit status: 1 if anything differs.`,
		Example: "  lunless demo"}
	keep := c.Flags().Bool("keep", false, "keep the working folder and say where it is")
	c.RunE = func(c *cobra.Command, _ []string) (err error) {
		dir, err := os.MkdirTemp("", "lunless-demo-")
		if err != nil {
			return err
		}
		if *keep {
			fmt.Fprintln(c.ErrOrStderr(), "working folder:", dir)
		} else {
			defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		}
		d := &demo{ctx: c.Context(), out: c.OutOrStdout(), quiet: wantJSON(c), dir: dir}
		defer d.stop()
		if err := d.run(); err != nil {
			return err
		}
		return show(c, d.report, d.report.writeText)
	}
	return c
}

// demo is one run. Its steps follow each other; each leaves what the next needs.
type demo struct {
	ctx     context.Context
	out     io.Writer
	quiet   bool
	dir     string
	servers []*demoServer
	files   map[string]digest // what the disk's file system must hold
	options smbstore.Options
	writer  *bench.Writer
	report  demoReport
}

type demoReport struct {
	Files        int            `json:"files"`
	Offline      migrate.Status `json:"offline"`
	OfflineTook  time.Duration  `json:"offline_ns"`
	Live         migrate.Status `json:"live"`
	LiveTook     time.Duration  `json:"live_ns"`
	Writes       int64          `json:"writes"`
	Flushes      int64          `json:"flushes"`
	WorstStall   time.Duration  `json:"worst_stall_ns"` // of a write with its flush, as the writer saw it
	SwitchStall  time.Duration  `json:"switch_stall_ns"`
	TotalSeconds float64        `json:"seconds"`
}

func (r demoReport) writeText(w io.Writer) {
	line := func(what string, s migrate.Status, took time.Duration) {
		fmt.Fprintf(w, "  %-8s %s copied, %s of holes and zeroes skipped, in %v: %s/s of home\n", what, size(s.Copied), size(s.Skipped),
			took.Round(10*time.Millisecond), size(int64(float64(s.Copied+s.Skipped)/took.Seconds())))
	}
	fmt.Fprintln(w, "\nEverything came out identical.")
	line("offline", r.Offline, r.OfflineTook)
	line("live", r.Live, r.LiveTook)
	fmt.Fprintf(w, "  writer   %d writes of 4 KiB, %d flushes, none lost; worst stall %v, of the switch %v\n", r.Writes, r.Flushes,
		r.WorstStall.Round(100*time.Microsecond), r.SwitchStall.Round(100*time.Microsecond))
	fmt.Fprintf(w, "  files    %d on the disk and as many in its checkpoint, every one read back and compared\n", r.Files)
	fmt.Fprintf(w, "  in all   %.1f s\n", r.TotalSeconds)
}

func (d *demo) run() error {
	start := time.Now()
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"two share servers on loopback", d.startServers},
		{"a disk image with a file system and files", d.makeImage},
		{"the image becomes VM " + demoVM + " on the first server", d.importVM},
		{"a checkpoint of its disk", d.checkpoint},
		{"its home moves to the second server", d.moveOffline},
		{"its home moves back while a writer is at work", d.moveLive},
		{"every file and every acknowledged write is compared", d.verify},
	} {
		began := time.Now()
		if !d.quiet {
			fmt.Fprintf(d.out, "%-58s", step.what)
		}
		if err := step.do(); err != nil {
			if !d.quiet {
				fmt.Fprintln(d.out)
			}
			return fmt.Errorf("%s: %w", step.what, err)
		}
		if !d.quiet {
			fmt.Fprintf(d.out, "%6.1f s\n", time.Since(began).Seconds())
		}
	}
	d.report.TotalSeconds = time.Since(start).Seconds()
	return nil
}

func (d *demo) stop() {
	for _, s := range d.servers {
		s.stop()
	}
}

func (d *demo) startServers() error {
	password := uuid.NewString()
	d.options.Credentials = &smbstore.Credentials{User: demoUser, Password: password}
	for _, name := range []string{"server1", "server2"} {
		s, err := startDemoServer(d.ctx, filepath.Join(d.dir, name), password)
		if err != nil {
			return err
		}
		d.servers = append(d.servers, s)
	}
	return nil
}

func (d *demo) makeImage() (err error) {
	d.files, err = makeDemoImage(d.ctx, filepath.Join(d.dir, "image.raw"), demoFS, demoDisk, ".")
	d.report.Files = len(d.files)
	return err
}

func (d *demo) importVM() (err error) {
	s, err := smbstore.Open(d.ctx, d.servers[0].share(), d.options)
	if err != nil {
		return err
	}
	defer closing(&err, s)
	image := filepath.Join(d.dir, "image.raw")
	_, err = smbstore.ImportHome(d.ctx, s, demoVM, smbstore.ImportOptions{Image: smbstore.Location{Path: image},
		Config: smbstore.Config{CPUs: 2, Memory: 1 << 30, Firmware: "uefi", Notes: "made by lunless demo"}})
	if err == nil {
		err = os.Remove(image) // from here on the shares have the only copy
	}
	return err
}

func (d *demo) home(server int) smbstore.Location { return d.servers[server].share().Join(demoVM) }

// checkpoint keeps the disk as it is. Until disks can have parents a checkpoint
// is a whole copy.
func (d *demo) checkpoint() (err error) {
	h, err := smbstore.OpenHome(d.ctx, d.home(0), d.options)
	if err != nil {
		return err
	}
	defer closing(&err, h)
	c, err := h.Config()
	if err != nil {
		return err
	}
	id := uuid.NewString()
	name := smbstore.SnapshotsDir + "/" + id + ".vhdx"
	if err := smbstore.ConvertDisk(d.ctx, smbstore.ConvertDiskOptions{
		Source: h.Location().Join(c.Disks[0].Path), Destination: h.Location().Join(name),
		SourceOptions: d.options, DestinationOptions: d.options}); err != nil {
		return err
	}
	return h.UpdateConfig(func(c *smbstore.Config) error {
		disk := c.Disks[0]
		disk.Path = name
		c.Checkpoints = append(c.Checkpoints, smbstore.Checkpoint{ID: id, Name: "before the move", Created: time.Now().UTC(), Disks: []smbstore.Disk{disk}})
		c.Current = id
		return nil
	})
}

func (d *demo) moveOptions(from, to int) migrate.Options {
	return migrate.Options{Source: d.home(from), To: d.servers[to].share(), SourceOptions: d.options, ToOptions: d.options}
}

func (d *demo) moveOffline() error {
	start := time.Now()
	job, err := migrate.Storage(d.ctx, d.moveOptions(0, 1))
	if err != nil {
		return err
	}
	if err := job.Wait(d.ctx); err != nil {
		return err
	}
	d.report.Offline, d.report.OfflineTook = job.Status(), time.Since(start)
	return nil
}

// moveLive is what a hypervisor does, with a writer in the guest's place.
func (d *demo) moveLive() (err error) {
	h, err := smbstore.OpenHome(d.ctx, d.home(1), d.options)
	if err != nil {
		return err
	}
	defer closing(&err, h)
	c, err := h.Config()
	if err != nil {
		return err
	}
	path := c.Disks[0].Path
	dev, _, err := smbstore.OpenDisk(d.ctx, h.Store(), path, smbstore.DiskOptions{})
	if err != nil {
		return err
	}
	slot := block.NewSlot(dev)
	var job *migrate.Job
	defer func() {
		closing(&err, slot)
		if job != nil {
			err = errors.Join(err, job.Release()) // the disk's connections, now that it is closed
		}
	}()
	if d.writer, err = bench.NewWriter(slot, demoFS, demoDisk-demoFS, uint64(time.Now().UnixNano())); err != nil {
		return err
	}
	writing, stop := context.WithCancel(d.ctx)
	defer stop()
	wrote := make(chan error, 1)
	go func() { wrote <- d.writer.Run(writing) }()
	start := time.Now()
	job, err = migrate.LiveStorage(d.ctx, migrate.LiveOptions{Options: d.moveOptions(1, 0), Disks: map[string]*block.Slot{path: slot}})
	if err == nil {
		err = job.Wait(d.ctx)
	}
	d.report.LiveTook = time.Since(start)
	if err == nil {
		select { // the destination has to serve for a while
		case <-time.After(demoLinger):
		case <-d.ctx.Done():
		}
	}
	stop()
	if werr := <-wrote; err == nil {
		err = werr
	}
	if err != nil {
		return err
	}
	d.report.Live = job.Status()
	d.report.SwitchStall = d.report.Live.Stall
	d.report.Writes, d.report.Flushes, d.report.WorstStall = d.writer.Writes(), d.writer.Flushes(), d.writer.WorstStall()
	if d.report.Writes == 0 {
		return errors.New("the writer did not write")
	}
	return slot.Flush(d.ctx)
}

func (d *demo) verify() (err error) {
	if _, err := smbstore.OpenHome(d.ctx, d.home(1), d.options); err == nil {
		return fmt.Errorf("%s is still there", d.home(1))
	} else if !errors.Is(err, smbstore.ErrNotHome) && !errors.Is(err, smbstore.ErrNotExist) {
		return err
	}
	h, err := smbstore.OpenHome(d.ctx, d.home(0), d.options)
	if err != nil {
		return err
	}
	defer closing(&err, h)
	r, err := h.Record()
	if err != nil {
		return err
	}
	if r.State != smbstore.Owned {
		return fmt.Errorf("%s is %s", h.Location(), r)
	}
	c, err := h.Config()
	if err != nil {
		return err
	}
	if len(c.Checkpoints) != 1 || c.Notes != "made by lunless demo" {
		return fmt.Errorf("the configuration came out changed: %+v", c)
	}
	if err := d.verifyDisk(h, c.Disks[0].Path, d.writer); err != nil {
		return err
	}
	return d.verifyDisk(h, c.Checkpoints[0].Disks[0].Path, nil)
}

func (d *demo) verifyDisk(h *smbstore.Home, name string, w *bench.Writer) (err error) {
	_, report, err := smbstore.CheckDisk(d.ctx, h.Store(), name)
	if err != nil {
		return err
	}
	if !report.Clean() {
		return fmt.Errorf("%s is damaged: %+v", name, report.Findings)
	}
	dev, _, err := smbstore.OpenDisk(d.ctx, h.Store(), name, smbstore.DiskOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer closing(&err, dev)
	if err := checkDemoFiles(d.ctx, dev, demoFS, d.files); err != nil {
		return err
	}
	if w == nil {
		return nil
	}
	return w.Verify(d.ctx, dev)
}
