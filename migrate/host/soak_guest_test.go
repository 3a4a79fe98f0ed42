package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"testing"

	"lunless/migrate"
	"lunless/smbstore"
	"lunless/smbstore/block"
	guest "lunless/testdata/guest/vm"
)

// soakGuest is a guest whose storage a soak moves.
type soakGuest struct {
	*rig
	c       *guest.Console
	at      site
	folder  string // of the site, which the home lies in
	chained bool   // it runs on differencing disks
	lost    bool   // another host has it
}

const soakVM = "web1"

// newSoakGuest starts a guest where its first run begins.
func newSoakGuest(t *testing.T, r soakRun) *soakGuest {
	t.Helper()
	g := &soakGuest{rig: newRig(t, "hv1", nil), at: r.from, folder: fmt.Sprintf("from run %d", r.n)}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	t.Cleanup(cancel)
	g.ctx, g.sizes = ctx, []int64{40 << 20, 24 << 20}
	g.cfg.Staged, g.cfg.Sabotage = true, os.Getenv("SABOTAGE")
	g.at.makeFolder(t, g.folder)
	g.makeGuest(soakVM, smbstore.Location{Path: g.at.path(g.folder)}, "disks=2", "span=8", "mem=4")
	g.startAgent()
	_, err := g.Start(g.ctx, g.at.location(g.folder).Join(soakVM).String(), StartRequest{})
	g.must(err)
	g.c = g.console(soakVM)
	t.Cleanup(func() { g.c.Close() })
	return g
}

// home is where the VM lies past all servers.
func (g *soakGuest) home() string { return filepath.Join(g.at.path(g.folder), soakVM) }

// do does a run. What it gives is nil where the guest was not to be measured.
func (g *soakGuest) do(r soakRun) *seen {
	g.t.Helper()
	if !g.chained {
		_, err := g.Checkpoint(g.ctx, soakVM, fmt.Sprintf("before run %d", r.n))
		g.must(err)
		g.chained = true
	}
	v := g.await(soakVM, Running)
	for _, d := range v.Disks {
		if len(d.Images) < 2 || len(v.Disks) != 2 {
			g.t.Fatalf("%v: not two disks with chains: %+v", r, v.Disks)
		}
	}
	g.must(g.c.Reset(g.ctx))
	g.flushes(g.c, 2)
	time.Sleep(time.Duration(r.delay) * time.Millisecond)
	switch r.what {
	case "killed":
		g.killed(r)
		return nil
	case "taken":
		g.taken(r)
		return nil
	}
	return g.moved(r)
}

// begin begins the run's move, and waits until it has come to a point of it.
func (g *soakGuest) begin(r soakRun, point string) <-chan error {
	g.t.Helper()
	q := MigrateRequest{To: r.to.location(fmt.Sprintf("run %d", r.n)), KeepSource: true, Flatten: r.flatten, RateLimit: r.rate}
	if r.convert {
		q.Format = smbstore.VHD
		if g.await(soakVM, Running).Disks[0].Format == smbstore.VHD {
			q.Format = smbstore.VHDX
		}
	}
	if r.fixed {
		q.Type = "fixed"
	}
	g.tellStage("stop %s", point)
	ended := make(chan error, 1)
	go func() {
		m, err := g.Migrate(g.ctx, soakVM, q, nil)
		if err == nil && m.Phase != migrate.Done {
			err = fmt.Errorf("it ended in phase %s", m.Phase)
		}
		ended <- err
	}()
	said := make(chan string, 1)
	go func(h *rig) {
		line, err := h.out.ReadString('\n')
		if err != nil {
			line = err.Error()
		}
		said <- strings.TrimSpace(line)
	}(g.rig)
	select {
	case line := <-said:
		if line != "at "+point {
			g.t.Fatalf("%v: the agent says %q", r, line)
		}
	case err := <-ended:
		g.t.Fatalf("%v: it ended before it came to %s: %v", r, point, err)
	case <-g.ctx.Done():
		g.t.Fatalf("%v: it does not come to %s", r, point)
	}
	return ended
}

// arrive notes that the VM is where the run moves it, and gives the home that was
// kept.
func (g *soakGuest) arrive(r soakRun) (kept string) {
	g.t.Helper()
	kept = g.home()
	g.at, g.folder = r.to, fmt.Sprintf("run %d", r.n)
	if v := g.await(soakVM, Running); !v.Location.Equal(g.at.location(g.folder).Join(soakVM)) {
		g.t.Fatalf("%v: it runs from %s", r, v.Location)
	}
	if r.flatten {
		g.chained = false
	}
	for home, want := range map[string]smbstore.State{kept: smbstore.Moved, g.home(): smbstore.Owned} {
		if rec, err := recordAt(home); err != nil || rec.State != want {
			g.t.Errorf("%v: the record at %s says %v, %v, want %s", r, home, rec, err, want)
		}
	}
	return kept
}

// moved is a run in which nothing happens but the move.
func (g *soakGuest) moved(r soakRun) *seen {
	g.t.Helper()
	s, err := g.c.Stats(g.ctx)
	g.must(err)
	what := &seen{usual: s.Stall}
	g.must(g.c.Reset(g.ctx))
	ended := g.begin(r, "before-switch")
	s, err = g.c.Stats(g.ctx)
	g.must(err)
	what.before = s.Stall
	g.must(g.c.Reset(g.ctx))
	g.c.ResetBeats()
	g.tellStage("go")
	if err := <-ended; err != nil {
		g.t.Fatalf("%v: %v", r, err)
	}
	g.flushes(g.c, 2)
	s, err = g.c.Stats(g.ctx)
	g.must(err)
	what.stall, what.op, what.gap = s.Stall, s.StallOp, g.c.Beats().Longest
	if moves, err := g.Migrations(g.ctx); err == nil && len(moves) > 0 {
		what.held = moves[len(moves)-1].Stall
	}
	kept := g.arrive(r)
	g.verify(r)
	g.tellStage("frozen")
	line, err := g.out.ReadString('\n')
	g.must(err)
	var a frozenAnswer
	g.must(json.Unmarshal([]byte(line), &a))
	if a.Error != "" || len(a.Disks) != 2 {
		g.t.Fatalf("%v: %d disks at the switch: %s", r, len(a.Disks), a.Error)
	}
	for name, want := range a.Disks {
		g.same(r, kept, name, want)
	}
	g.must(os.RemoveAll(filepath.Dir(kept)))
	if r.from.server != nil && r.from.server != r.to.server {
		g.leaves(r.from)
	}
	return what
}

// same compares a disk that was kept with what the destination held at the switch.
func (g *soakGuest) same(r soakRun, kept, name string, want []string) {
	g.t.Helper()
	got, err := hashesAt(g.ctx, kept, name)
	g.must(err)
	if len(got) != len(want) {
		g.t.Fatalf("%v: %s, kept, has %d MiB, the destination %d", r, name, len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			g.t.Errorf("%v: %s, kept, is not what the destination was at the switch, in MiB %d", r, name, i)
			return
		}
	}
}

// killed is a run in which the agent is killed once the records are switched, and
// before the guest goes on: what is not in the destination's files by then is lost.
func (g *soakGuest) killed(r soakRun) {
	g.t.Helper()
	if r.quiet {
		g.must(g.c.Pause(g.ctx))
	}
	source := g.disks(g.home())
	ended := g.begin(r, "taken")
	g.kill()
	if err := <-ended; err == nil {
		g.t.Fatalf("%v: it ended well though its agent was killed", r)
	}
	to := filepath.Join(r.to.path(fmt.Sprintf("run %d", r.n)), soakVM)
	for i, d := range g.disks(to) {
		want, err := hashesAt(g.ctx, to, d.Path)
		g.must(err)
		g.same(r, g.home(), source[i].Path, want)
	}
	g.startAgent()
	g.await(soakVM, Running)
	g.reattach(g.c, soakVM)
	kept := g.arrive(r)
	if r.quiet {
		g.must(g.c.Resume(g.ctx))
	}
	g.flushes(g.c, 2)
	g.verify(r)
	g.settled(r, kept)
}

// settled waits until the agent has seen to what its predecessor left, and removes
// the home that was kept.
func (g *soakGuest) settled(r soakRun, kept string) {
	g.t.Helper()
	for exists(g.home(), migrate.JournalName) {
		select {
		case <-g.ctx.Done():
			g.t.Fatalf("%v: the journal is there still", r)
		case <-time.After(20 * time.Millisecond):
		}
	}
	if !exists(kept) {
		g.t.Errorf("%v: the source was to be kept", r)
	}
	g.must(os.RemoveAll(filepath.Dir(kept)))
}

// taken is a run in which another host takes the VM just before the switch: it stays
// with that one, and this host's guest ends.
func (g *soakGuest) taken(r soakRun) {
	g.t.Helper()
	ended := g.begin(r, "before-switch")
	_, err := changeAt(g.ctx, g.home(), func(r smbstore.Record) (smbstore.Record, error) { return r.Resolve("thief") })
	g.must(err)
	g.tellStage("go")
	if err := <-ended; err == nil {
		g.t.Errorf("%v: it was moved although another host had taken it", r)
	}
	if rec, err := recordAt(g.home()); err != nil || rec.State != smbstore.Owned || rec.Host != "thief" {
		g.t.Errorf("%v: another host had taken it, and the record says %v, %v", r, rec, err)
	}
	if g.t.Failed() {
		return
	}
	g.await(soakVM, Lost)
	g.lost = true
	if to := r.to.path(fmt.Sprintf("run %d", r.n)); exists(to, soakVM) {
		g.t.Errorf("%v: there is something at the destination", r)
	}
}

// verify has the guest verify all it wrote.
func (g *soakGuest) verify(r soakRun) {
	g.t.Helper()
	if found, err := g.c.Verify(g.ctx); err != nil || found.Blocks == 0 {
		g.t.Errorf("%v: %+v, %v", r, found, err)
	}
	if err := g.c.Err(); err != nil {
		g.t.Errorf("%v: %v", r, err)
	}
}

// end ends the guest, and verifies from outside what it said it had flushed.
func (g *soakGuest) end() {
	g.t.Helper()
	if !g.lost {
		g.must(g.c.Quit(g.ctx))
		g.await(soakVM, Stopped)
	}
	var disks []smbstore.Location
	for _, d := range g.disks(g.home()) {
		disks = append(disks, smbstore.Location{Path: filepath.Join(g.home(), d.Path)})
	}
	if report, err := guest.Check(g.ctx, g.c.Records(), smbstore.Options{}, disks...); err != nil {
		g.t.Errorf("from outside: %v\n%+v", err, report)
	}
	g.must(os.RemoveAll(filepath.Dir(g.home())))
}

// disks are the disks in use by a home's configuration.
func (g *soakGuest) disks(home string) []smbstore.Disk {
	g.t.Helper()
	h, err := smbstore.OpenHome(g.ctx, smbstore.Location{Path: home}, smbstore.Options{})
	g.must(err)
	defer h.Close()
	c, err := h.Config()
	g.must(err)
	return c.Disks
}

func recordAt(home string) (smbstore.Record, error) {
	h, err := smbstore.OpenHome(context.Background(), smbstore.Location{Path: home}, smbstore.Options{})
	if err != nil {
		return smbstore.Record{}, err
	}
	defer h.Close()
	return h.Record()
}

func changeAt(ctx context.Context, home string, next func(smbstore.Record) (smbstore.Record, error)) (smbstore.Record, error) {
	h, err := smbstore.OpenHome(ctx, smbstore.Location{Path: home}, smbstore.Options{})
	if err != nil {
		return smbstore.Record{}, err
	}
	r, err := h.Change(ctx, "", next)
	return r, errors.Join(err, h.Close())
}

// hashesAt are the chunkHashes of a disk that nobody writes to.
func hashesAt(ctx context.Context, home, name string) ([]string, error) {
	s, err := smbstore.OpenPath(ctx, home, smbstore.Options{})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	var dev block.Device
	if dev, _, err = smbstore.OpenDisk(ctx, s, name, smbstore.DiskOptions{ReadOnly: true}); err != nil {
		return nil, err
	}
	all, err := chunkHashes(dev.Size(), func(p []byte, off int64) error { return dev.ReadAt(ctx, p, off) })
	return all, errors.Join(err, dev.Close())
}

func exists(path ...string) bool {
	_, err := os.Stat(filepath.Join(path...))
	return err == nil
}
