package host

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"lunless/migrate"
	"lunless/smbstore"
	"lunless/smbstore/storetest"
	guest "lunless/testdata/guest/vm"
)

// killGuest is a guest that lives through kills.
type killGuest struct {
	*rig
	r       *rand.Rand
	sites   []site
	program string // lunless
	c       *guest.Console
	at      site
	lines   <-chan string // what the agent says
	made    int           // checkpoints

}

const killFolder = "hosts"

// newKillGuest starts a guest on a server.
func newKillGuest(t *testing.T, r *rand.Rand) *killGuest {
	t.Helper()
	g := &killGuest{rig: newRig(t, "hv1", nil), r: r, sites: makeSites(t, "one", "two", "local")}
	g.program = filepath.Join(g.sites[0].server.Dir, "lunless")
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	g.ctx = ctx
	g.cfg.Staged, g.cfg.Sabotage = true, os.Getenv("SABOTAGE")
	g.cfg.User = g.sites[0].server.User
	for _, s := range g.sites {
		s.makeFolder(t, killFolder)
	}
	g.at = g.sites[r.IntN(2)*2] // a plain share of the first, or its continuously available one
	g.makeGuest(soakVM, smbstore.Location{Path: g.at.path(killFolder)}, "disks=2", "span=8", "mem=4")
	g.start()
	_, err := g.Start(g.ctx, g.at.location(killFolder).Join(soakVM).String(), StartRequest{})
	g.must(err)
	g.c = g.console(soakVM)
	t.Cleanup(func() { g.c.Close() })
	return g
}

// start starts the agent.
func (g *killGuest) start() {
	g.t.Helper()
	g.startAgent()
	g.lines = lines(g.out)
}

// asked is a lunless that is asked for something.
type asked struct {
	cmd  *exec.Cmd
	out  bytes.Buffer
	over chan struct{}
	err  error
}

func (g *killGuest) ask(args ...string) *asked {
	g.t.Helper()
	c := &asked{cmd: exec.CommandContext(g.ctx, g.program, args...), over: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), smbstore.PasswordVariable+"="+storetest.Password)
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.out
	g.must(c.cmd.Start())
	go func() {
		c.err = c.cmd.Wait()
		close(c.over)
	}()
	return c
}

// say runs one to its end.
func (g *killGuest) say(args ...string) (string, error) {
	g.t.Helper()
	c := g.ask(args...)
	<-c.over
	return c.out.String(), c.err
}

// do does a case.
func (g *killGuest) do(k killCase) {
	g.t.Helper()
	to, args := g.prepare(k)
	before, err := g.Show(g.ctx, soakVM)
	g.must(err)
	disks := g.diskPaths()
	if k.point != "" {
		g.tellStage("stop %s %d", k.point, k.hits)
	}
	var c *asked
	if args != nil {
		c = g.ask(args...)
	}
	arrived := g.meet(k, c)
	restart := g.strike(k, c, before.PID, to)
	if k.victim != "agent" && k.victim != "host" && arrived {
		g.tellStage("go")
	}
	if c != nil && k.victim != "source" && k.victim != "destination" {
		g.over(c)
	}
	g.named(k, to)
	restart()
	if c != nil {
		g.over(c)
	}
	if !arrived && k.point != "" && k.victim != "agent" && k.victim != "host" {
		g.tellStage("stop nowhere")
	}
	g.whole(k, before, disks)
}

// over waits for a command's end, whatever it says.
func (g *killGuest) over(c *asked) {
	g.t.Helper()
	select {
	case <-c.over:
	case <-g.ctx.Done():
		g.t.Fatalf("%v does not end", c.cmd)
	}
}

// prepare brings the VM to where the case begins, and gives what is to be asked.
func (g *killGuest) prepare(k killCase) (to site, args []string) {
	g.t.Helper()
	// What a dead host has open of its disks a continuously available share keeps for it.
	kept := k.resume && g.at.share == "ca"
	if kept || k.victim == "source" && g.at.server == nil {
		_, err := g.Migrate(g.ctx, soakVM, MigrateRequest{To: g.sites[0].location(killFolder)}, nil)
		g.must(err)
		g.at = g.sites[0]
	}
	at := func(args ...string) []string { return append(args, "--data", g.Data) }
	switch k.op {
	case "start":
		g.off()
		return to, at("vm", "start", soakVM)
	case "resume":
		_, err := g.Save(g.ctx, soakVM)
		g.must(err)
		return to, at("vm", "start", soakVM)
	case "migrate":
		others := slices.DeleteFunc(slices.Clone(g.sites), func(s site) bool {
			return s.dir == g.at.dir || k.victim == "destination" && s.server == nil || k.toCA && s.share != "ca"
		})
		to = others[g.r.IntN(len(others))]
		return to, at("migrate", "storage", soakVM, "--to", to.location(killFolder).String())
	case "checkpoint":
		g.made++
		return to, at("vm", "checkpoint", soakVM, fmt.Sprintf("c%d", g.made))
	case "remove":
		g.made++
		name := fmt.Sprintf("c%d", g.made)
		_, err := g.Checkpoint(g.ctx, soakVM, name)
		g.must(err)
		g.flushes(g.c, 1)
		return to, at("vm", "checkpoint", "remove", soakVM, name)
	case "save":
		return to, at("vm", "save", soakVM)
	case "restore":
		g.made++
		name := fmt.Sprintf("c%d", g.made)
		_, err := g.Checkpoint(g.ctx, soakVM, name)
		g.must(err)
		g.flushes(g.c, 1)
		return to, at("vm", "restore", soakVM, name, "--discard")
	case "stop":
		return to, at("vm", "stop", soakVM, "--force")
	}
	return to, nil
}

// off stops the guest in order; its disks can be opened for writing then.
func (g *killGuest) off() {
	g.t.Helper()
	g.must(g.c.Quit(g.ctx))
	v := g.await(soakVM, Stopped)
	s, err := smbstore.Open(g.ctx, v.Location, g.options())
	g.must(err)
	defer s.Close()
	for _, d := range g.diskPaths() {
		dev, _, err := smbstore.OpenDisk(g.ctx, s, d, smbstore.DiskOptions{DenyWrite: true})
		if err != nil {
			g.t.Fatalf("a disk of a VM that is off is locked: %v", err)
		}
		g.must(dev.Close())
	}
}

// meet waits until the point is come to, and tells whether it was.
func (g *killGuest) meet(k killCase, c *asked) bool {
	g.t.Helper()
	if k.point == "" {
		time.Sleep(time.Duration(k.delay) * time.Millisecond)
		return false
	}
	select {
	case line := <-g.lines:
		if strings.TrimSpace(line) != "at "+k.point {
			g.t.Fatalf("the agent says %q", line)
		}
		return true
	case <-c.over: // it was not come to so often
		if c.err != nil {
			g.t.Fatalf("%v: %v %s", k, c.err, c.out.String())
		}
	case <-g.ctx.Done():
		g.t.Fatalf("it does not come to %s", k.point)
	}
	return false
}

// strike kills, and gives what starts again what was killed.
func (g *killGuest) strike(k killCase, c *asked, pid int, to site) (restart func()) {
	g.t.Helper()
	qemuOf := func() int {
		if v, err := g.Show(g.ctx, soakVM); err == nil && v.PID != 0 {
			return v.PID
		}
		return pid
	}
	switch k.victim {
	case "agent":
		g.kill()
		return g.start
	case "host":
		now := qemuOf()
		g.kill()
		killProcess(now)
		return g.start
	case "qemu":
		killProcess(qemuOf())
	case "cli":
		if c != nil {
			c.cmd.Process.Kill() //nolint:errcheck // it may have ended
		}
	default:
		server := g.at.server
		if k.victim == "destination" {
			server = to.server
		}
		server.Kill()
		return func() {
			time.Sleep(time.Duration(k.down) * time.Millisecond)
			server.Start(g.t)
		}
	}
	return func() {}
}

func processRuns(pid int) bool { return smbstore.Process(pid) != "" }

func killProcess(pid int) {
	if pid != 0 {
		syscall.Kill(pid, syscall.SIGKILL) //nolint:errcheck // it may have ended
	}
}

// named sees that a migration whose agent was killed is named, and settles it by hand
// if the case says so.
func (g *killGuest) named(k killCase, to site) {
	g.t.Helper()
	if k.op != "migrate" || g.cmd != nil || !exists(to.path(killFolder), soakVM, migrate.JournalName) {
		return
	}
	home := to.location(killFolder).Join(soakVM).String()
	out, err := g.say("migrate", "list", "--storage", to.location(killFolder).String())
	if err != nil || !strings.Contains(out, "lunless migrate resume "+home) && !strings.Contains(out, "lunless migrate cancel "+home) {
		g.t.Errorf("%v: what is left is not named: %v\n%s", k, err, out)
	}
	if !k.byHand {
		return
	}
	command := "cancel"
	if r, err := recordAt(filepath.Join(g.at.path(killFolder), soakVM)); err != nil || r.State == smbstore.Moved || k.resume {
		command = "resume"
	}
	name := g.cfg.Config.Name
	if out, err := g.say("migrate", command, home, "--data", g.Data); err == nil || !strings.Contains(out, "--name "+name) {
		g.t.Errorf("%v: without the host's name: %v\n%s", k, err, out)
	}
	if out, err := g.say("migrate", command, home, "--data", g.Data, "--name", name); err != nil {
		g.t.Errorf("%v: %s: %v\n%s", k, command, err, out)
	}
	if exists(to.path(killFolder), soakVM, migrate.JournalName) {
		g.t.Errorf("%v: after %s the journal is there still", k, command)
	}
}

// whole sees that the VM is in one place with all it flushed, and nothing else is left.
func (g *killGuest) whole(k killCase, before VM, disks []string) {
	g.t.Helper()
	v := g.settle()
	g.onePlace(v)
	if k.op == "restore" && !slices.Equal(g.diskPaths(), disks) {
		g.c.Close() // what it said of flushes since is not to be there any more
		g.c = guest.NewConsole()
	}
	if v.State != Running {
		_, err := g.Start(g.ctx, soakVM, StartRequest{})
		g.must(err)
	}
	g.reattach(g.c, soakVM)
	if _, err := g.c.Await(g.ctx); err != nil {
		g.t.Fatalf("%v\n%s", err, g.c.Tail(20))
	}
	g.flushes(g.c, 1)
	if found, err := g.c.Verify(g.ctx); err != nil || found.Blocks == 0 {
		g.t.Errorf("%+v, %v\n%s", found, err, g.c.Tail(20))
	}
	if err := g.c.Err(); err != nil {
		g.t.Errorf("%v\n%s", err, g.c.Tail(20))
	}
	g.tidy(k)
}

// settle waits until nothing is under way any more.
func (g *killGuest) settle() VM {
	g.t.Helper()
	var last VM
	since := time.Now()
	for {
		v, err := g.Show(g.ctx, soakVM)
		moves, merr := g.Migrations(g.ctx)
		under := slices.ContainsFunc(moves, func(m Migration) bool { return !m.Ended })
		if err == nil && merr == nil && !under && len(v.Unfinished) == 0 && v.Merging == nil {
			switch v.State {
			case Running, Stopped, Crashed, SavedOff:
				if v.State != last.State || v.PID != last.PID {
					since = time.Now() // what was found may be ended yet
				}
				last = v
				if time.Since(since) > 500*time.Millisecond && (v.State != Running || processRuns(v.PID)) {
					return v
				}
			case Lost:
				g.t.Fatalf("it is %s: %s", v.State, v.Reason)
			}
		}
		select {
		case <-g.ctx.Done():
			g.t.Fatalf("it does not settle: %+v, %v; %+v, %v", v, err, moves, merr)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// onePlace sees that there is one home, where the agent says, and nothing else.
func (g *killGuest) onePlace(v VM) {
	g.t.Helper()
	homes := 0
	for _, s := range g.sites {
		left, err := os.ReadDir(s.path(killFolder))
		g.must(err)
		here := v.Location.Equal(s.location(killFolder).Join(soakVM))
		for _, e := range left {
			if e.Name() != soakVM || !here {
				g.t.Errorf("stray at %v: %s", s, e.Name())
			}
		}
		if !here {
			continue
		}
		homes++
		g.at = s
		if r, err := recordAt(filepath.Join(s.path(killFolder), soakVM)); err != nil || r.State != smbstore.Owned || r.Host != g.cfg.Config.Name {
			g.t.Errorf("the record at %v says %v, %v", s, r, err)
		}
	}
	if homes != 1 {
		g.t.Errorf("%d homes, the agent says it lies at %s", homes, v.Location)
	}
}

// tidy sees that the home has nothing that nothing needs. What writes that a server cut
// left is garbage by its name until the VM is taken again.
func (g *killGuest) tidy(k killCase) {
	g.t.Helper()
	root := filepath.Join(g.at.path(killFolder), soakVM)
	h, err := smbstore.OpenHome(g.ctx, smbstore.Location{Path: root}, smbstore.Options{})
	g.must(err)
	defer h.Close()
	c, err := h.Config()
	g.must(err)
	if len(c.Unfinished) > 0 {
		g.t.Errorf("unfinished: %v", c.Unfinished)
	}
	infos, err := h.Store().ReadDir(smbstore.SnapshotsDir)
	g.must(err)
	for _, i := range infos { // whatever is there is asked for
		c.Unfinished = append(c.Unfinished, path.Join(smbstore.SnapshotsDir, i.Name))
	}
	needed, err := needs(g.ctx, h, &c)
	g.must(err)
	for _, n := range []string{h.ConfigName(), h.RecordName(), c.Kernel.Path, c.Kernel.Initrd} {
		needed[n] = true
	}
	g.must(filepath.WalkDir(root, func(p string, e os.DirEntry, err error) error {
		name, _ := filepath.Rel(root, p)
		cut := k.victim == "source" || k.victim == "destination"
		if err == nil && !e.IsDir() && !needed[name] && !(cut && (smbstore.IsTemp(name) || smbstore.IsRecord(name))) {
			g.t.Errorf("%v: stray in the home: %s", k, name)
		}
		return err
	}))
}

// diskPaths are the disks in use.
func (g *killGuest) diskPaths() []string {
	g.t.Helper()
	h, err := smbstore.OpenHome(g.ctx, smbstore.Location{Path: filepath.Join(g.at.path(killFolder), soakVM)}, smbstore.Options{})
	g.must(err)
	defer h.Close()
	c, err := h.Config()
	g.must(err)
	return paths(c.Disks)
}

// end ends the guest, and verifies from outside what it said it had flushed.
func (g *killGuest) end() {
	g.t.Helper()
	g.off()
	root := smbstore.Location{Path: filepath.Join(g.at.path(killFolder), soakVM)}
	var disks []smbstore.Location
	for _, d := range g.diskPaths() {
		disks = append(disks, root.Join(d))
	}
	if report, err := guest.Check(g.ctx, g.c.Records(), smbstore.Options{}, disks...); err != nil {
		g.t.Errorf("from outside: %v\n%+v", err, report)
	}
}
