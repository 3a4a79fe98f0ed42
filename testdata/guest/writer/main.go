// Writer is the test guest's workload. It writes stamped blocks to every disk it
// may use, reads them again at random and verifies what it reads, keeps stamped
// pages in RAM, and talks over the serial port, in lines.
//
// It uses whole disks (/dev/vd*, /dev/sd*) that are blank or bear its superblock,
// and partitions of type 0xDA. It takes parameters from the kernel's command
// line, as writer.NAME=VALUE (defaults in config.go).
//
// What it tells:
//
//	HB n                       the nth heartbeat, every writer.hb ms
//	DISK d NAME blocks=N stride=N fresh|found
//	RECOVER run=N              waits for KNOWN lines and START (at most writer.wait seconds)
//	RECOVERED blocks=N errors=N
//	READY run=ID boots=N up_ms=N
//	RUNNING                    the writers write
//	FLUSHED d seq run          all operations of the run up to seq are on disk d for good
//	PAUSED                     nothing is in flight, nothing was started behind the last FLUSHED
//	VERIFIED blocks=N pages=N errors=N
//	STATS name=value…          since start or RESET; times in ms
//	STATUS state=boot|recover|paused|running run=ID up_ms=N
//	BAD text                   a block or page that is not what it must be
//	IOERR d op seq errno…      a request failed; it is tried again
//	KMSG text                  the kernel complained
//	VARIABLE name ok|error     a UEFI variable was set, or was not
//	FATAL text                 it cannot work
//	BYE                        everything is flushed; the guest powers off
//
// What it is told, a line each: V verify all disks and the RAM now; S statistics; R
// reset them; P pause; G go on; W n writes at most n operations a second and disk
// (0: all it can); E name value sets a UEFI variable; H tell STATUS and FLUSHED again; Q flush and power off; KNOWN d
// seq run, a record of before a restart; START, there are no more of them. The power
// button is a Q.
//
// HB, FLUSHED, BAD and IOERR lines come at any time; what is lost while nobody
// listens is lost, which H makes up for.
package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"lunless/testdata/guest/stamp"
)

// guest is everything there is.
type guest struct {
	cfg     config
	con     *console
	run     uint64
	boots   int
	disks   []*disk
	ram     *ram
	stats   *stats
	flushed flushedVector
	state   stateWord
	tasks   chan string // commands that take time, in turn
	known   chan string // KNOWN and START
}

func main() {
	// More than there are processors: a thread that waits in a system call must not
	// hold up the heartbeat.
	runtime.GOMAXPROCS(32)
	debug.SetGCPercent(400)
	cfg, err := readConfig("/proc/cmdline")
	con := openConsole("/dev/ttyS0", time.Duration(cfg.hb)*time.Millisecond)
	g := &guest{cfg: cfg, con: con, stats: newStats(con), tasks: make(chan string, 64), known: make(chan string, 4096)}
	if err == nil {
		err = g.work(context.Background())
	}
	if err != nil {
		con.Say("FATAL %v", err)
	}
	con.Say("BYE")
	con.Drain()
}

func (g *guest) work(ctx context.Context) error {
	var id [8]byte
	rand.Read(id[:])
	g.run = binary.LittleEndian.Uint64(id[:])
	go watchKernel("/dev/kmsg", g.con)
	go g.listen()
	go powerButton(func() { g.tasks <- "Q" })
	if err := g.openDisks(ctx); err != nil {
		return err
	}
	ram, err := newRAM(g.cfg.mem<<20, g.con)
	if err != nil {
		return err
	}
	g.ram = ram
	go ram.work(g.cfg.dirty)
	for _, d := range g.disks {
		d.start(g.cfg.depth)
	}
	g.con.Say("READY run=%016x boots=%d up_ms=%d", g.run, g.boots, uptime().Milliseconds())
	g.state.store(paused)
	if g.cfg.auto {
		g.resume()
	}
	for line := range g.tasks {
		if g.task(ctx, line) {
			return nil
		}
	}
	return nil
}

// task does a command; done is true after Q.
func (g *guest) task(ctx context.Context, line string) (done bool) {
	switch line[0] {
	case 'V':
		ran := g.state.load() == running
		g.pause()
		g.verify(ctx)
		if ran {
			g.resume()
		}
	case 'P':
		g.pause()
		g.con.Say("PAUSED")
	case 'G':
		g.resume()
	case 'W':
		var n int
		if _, err := fmt.Sscanf(line, "W %d", &n); err != nil || n < 0 {
			g.con.Say("BAD command %q", line)
			return false
		}
		for _, d := range g.disks {
			d.setRate(n)
		}
	case 'E':
		name, value, _ := strings.Cut(strings.TrimSpace(line[1:]), " ")
		said := "ok"
		if err := setVariable(name, value); err != nil {
			said = err.Error()
		}
		g.con.Say("VARIABLE %s %s", name, said)
	case 'Q':
		g.pause()
		g.con.Say("PAUSED")
		return true
	default:
		g.con.Say("BAD command %q", line)
	}
	return false
}

// listen takes commands. What is answered at once is not held up by what takes
// time.
func (g *guest) listen() {
	for line := range g.con.Lines() {
		switch {
		case line == "S":
			g.con.Say("%s", g.stats.line())
		case line == "R":
			g.stats.reset()
			g.con.Say("RESET")
		case line == "H":
			g.con.Say("STATUS state=%s run=%016x up_ms=%d", g.state.load(), g.run, uptime().Milliseconds())
			for i := range g.flushed.of {
				if f := g.flushed.of[i].Load(); f > 0 {
					g.con.Say("FLUSHED %d %d %016x", i, f, g.run)
				}
			}
			if g.state.load() == paused {
				g.con.Say("PAUSED")
			}
		case len(line) > 5 && line[:5] == "KNOWN", line == "START":
			select {
			case g.known <- line:
			default:
			}
		case line != "":
			select {
			case g.tasks <- line:
			default:
				g.con.Say("BAD too many commands wait: %q", line)
			}
		}
	}
}

func (g *guest) pause() {
	g.state.store(paused)
	for _, d := range g.disks {
		d.setPaused(true)
	}
	for _, d := range g.disks {
		d.quiesce()
	}
}

func (g *guest) resume() {
	g.con.Say("RUNNING")
	g.state.store(running)
	for _, d := range g.disks {
		d.setPaused(false)
	}
}

// verify reads every block and page; nothing is being written.
func (g *guest) verify(ctx context.Context) {
	var blocks, wrong int64
	bad := func(err error) {
		if wrong++; wrong <= badLines {
			g.con.Say("BAD %v", err)
		}
	}
	for _, d := range g.disks {
		blocks += d.expect.Blocks
		err := stamp.Each(ctx, d.expect.Layout, d, d.big, func(i int64, b []byte) {
			if err := d.expect.Check(i, b); err != nil {
				bad(err)
			}
		})
		if err != nil {
			bad(err)
		}
	}
	pages := g.ram.verify(bad)
	g.stats.errors(wrong)
	g.con.Say("VERIFIED blocks=%d pages=%d errors=%d", blocks, pages, wrong)
}

const badLines = 20
