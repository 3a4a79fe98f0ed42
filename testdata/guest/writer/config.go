package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"lunless/testdata/guest/stamp"
)

// config is what the kernel's command line says.
type config struct {
	hb     int64 // ms between heartbeats
	rate   int64 // operations a second and disk; 0: all it can
	disks  int64 // to wait for
	depth  int64 // requests in flight a disk
	span   int64 // MiB written to a disk
	spread bool  // over the whole disk, or at its start
	trim   bool  // trims and write-zeroes
	mem    int64 // MiB of stamped RAM
	dirty  int64 // pages of it written a second
	wait   int64 // seconds to wait for records after a restart
	auto   bool  // begin to write without being told
}

// readConfig's defaults leave an emulated processor some room on a busy host: what
// stalls are then the disks.
func readConfig(path string) (config, error) {
	c := config{hb: 10, rate: 100, disks: 1, depth: 4, span: 64, spread: true, trim: true, mem: 16, dirty: 200, wait: 30, auto: true}
	b, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	numbers := map[string]struct {
		to       *int64
		min, max int64
	}{"hb": {&c.hb, 1, 10000}, "rate": {&c.rate, 0, 1e6}, "disks": {&c.disks, 1, stamp.MaxDisks}, "depth": {&c.depth, 1, 32}, "span": {&c.span, 2, stamp.MaxBlocks * stamp.BlockSize >> 20},
		"mem": {&c.mem, 1, 1 << 16}, "dirty": {&c.dirty, 0, 1e6}, "wait": {&c.wait, 0, 3600}}
	flags := map[string]*bool{"spread": &c.spread, "trim": &c.trim, "auto": &c.auto}
	for _, word := range strings.Fields(string(b)) {
		name, value, _ := strings.Cut(word, "=")
		name, ours := strings.CutPrefix(name, "writer.")
		if !ours {
			continue
		}
		if n, ok := numbers[name]; ok {
			v, err := strconv.ParseInt(value, 10, 64)
			if err != nil || v < n.min || v > n.max {
				return c, fmt.Errorf("%s: a number from %d to %d", word, n.min, n.max)
			}
			*n.to = v
		} else if f, ok := flags[name]; ok {
			if *f, err = strconv.ParseBool(value); err != nil {
				return c, fmt.Errorf("%s: 0 or 1", word)
			}
		} else {
			return c, fmt.Errorf("%s: there is no such parameter", word)
		}
	}
	return c, nil
}

// flushedVector is how far each disk is flushed.
type flushedVector struct {
	of [stamp.MaxDisks]atomic.Uint64
}

func (v *flushedVector) load() (f [stamp.MaxDisks]uint64) {
	for i := range f {
		f[i] = v.of[i].Load()
	}
	return f
}

// state is what the guest is doing.
type state int32

const (
	booting state = iota
	recovering
	paused
	running
)

func (s state) String() string { return [...]string{"boot", "recover", "paused", "running"}[s] }

type stateWord struct{ v atomic.Int32 }

func (w *stateWord) load() state   { return state(w.v.Load()) }
func (w *stateWord) store(s state) { w.v.Store(int32(s)) }

// uptime is the kernel's.
func uptime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}
