package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"lunless/testdata/guest/stamp"
)

// begin verifies what an earlier run has left, and begins a new one on all disks.
func (g *guest) begin(ctx context.Context) error {
	found := slices.DeleteFunc(slices.Clone(g.disks), func(d *disk) bool { return d.fresh })
	var set uint64
	for _, d := range found {
		if set != 0 && set != d.super.Set {
			return fmt.Errorf("%s belongs to another guest: set %x, not %x", d.name, d.super.Set, set)
		}
		set = d.super.Set
	}
	if set == 0 {
		var b [8]byte
		rand.Read(b[:])
		set = binary.LittleEndian.Uint64(b[:])
	}
	if err := g.format(set, found); err != nil {
		return err
	}
	for i, d := range g.disks {
		if i > 0 && g.disks[i-1].super.Disk == d.super.Disk {
			return fmt.Errorf("%s and %s are the same disk %d of the set", g.disks[i-1].name, d.name, d.super.Disk)
		}
		kind := "found"
		if d.fresh {
			kind = "fresh"
		}
		g.con.Say("DISK %d %s blocks=%d stride=%d %s", d.super.Disk, d.name, d.super.Blocks, d.super.Stride, kind)
	}
	if len(found) > 0 {
		if err := g.recover(ctx, found); err != nil {
			return err
		}
	}
	for _, d := range g.disks {
		d.super.Runs = append(d.super.Runs, stamp.Run{ID: g.run})
		g.boots = max(g.boots, len(d.super.Runs))
		if d.fresh {
			d.expect = stamp.NewExpect(d.super)
		}
		if err := d.writeSuper(); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
	return nil
}

// format gives blank disks what is free of the numbers, in the order of their
// names, and sorts all by number.
func (g *guest) format(set uint64, found []*disk) error {
	used := map[int]bool{}
	for _, d := range found {
		used[d.super.Disk] = true
	}
	next := 0
	for _, d := range g.disks {
		if !d.fresh {
			continue
		}
		for used[next] {
			next++
		}
		used[next] = true
		l, err := stamp.NewLayout(d.size, g.cfg.span<<20, g.cfg.spread)
		if err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
		l.NoTrim = !g.cfg.trim
		d.super = &stamp.Super{Set: set, Disk: next, Layout: l}
	}
	slices.SortFunc(g.disks, func(a, b *disk) int { return a.super.Disk - b.super.Disk })
	return nil
}

// recover asks the host for its records and verifies that all of what was flushed
// is there.
func (g *guest) recover(ctx context.Context, found []*disk) error {
	records := g.askRecords()
	var surveys []*stamp.Survey
	for _, d := range found {
		s, err := stamp.Take(ctx, d.super, d, d.big)
		if err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
		surveys = append(surveys, s)
	}
	stamp.Settle(records, surveys...)
	var blocks, wrong int64
	bad := func(err error) {
		if wrong++; wrong <= badLines {
			g.con.Say("BAD %v", err)
		}
	}
	for i, s := range surveys {
		for k, r := range records {
			known := slices.ContainsFunc(s.Runs, func(run stamp.Run) bool { return run.ID == k.Run })
			if k.Disk == s.Disk && r.Flushed > 0 && !known {
				bad(fmt.Errorf("disk %d: %w: its superblock does not know run %x", s.Disk, stamp.ErrLost, k.Run))
			}
		}
		stamped, zero := s.Judge(bad)
		blocks += stamped + zero
		found[i].expect = s.Adopt()
	}
	g.stats.errors(wrong)
	g.con.Say("RECOVERED blocks=%d errors=%d", blocks, wrong)
	return nil
}

func (g *guest) askRecords() stamp.Records {
	records := stamp.Records{}
	g.state.store(recovering)
	g.con.Say("RECOVER run=%d", len(g.disks[0].super.Runs))
	over := time.After(time.Duration(g.cfg.wait) * time.Second)
	for {
		select {
		case line := <-g.known:
			if line == "START" {
				return records
			}
			var k stamp.Key
			var r stamp.Record
			exact := 0
			if _, err := fmt.Sscanf(line, "KNOWN %d %d %x %d", &k.Disk, &r.Flushed, &k.Run, &exact); err != nil {
				g.con.Say("BAD command %q", line)
				continue
			}
			r.Exact = exact == 1
			records[k] = r
		case <-over:
			return records
		}
	}
}
