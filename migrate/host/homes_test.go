package host

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lunless/migrate"
	"lunless/smbstore"
)

// bench is an agent in this process, without guests, and a VM's home at a location.
type bench struct {
	t   *testing.T
	ctx context.Context
	a   *Agent
	dir string
	id  string
	Client
}

// newBench makes both; the agent has not had to do with the VM.
func newBench(t *testing.T) *bench {
	t.Helper()
	data, err := os.MkdirTemp("", "h")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(data) })
	b := &bench{t: t, ctx: t.Context(), dir: t.TempDir(), Client: Client{Data: data}}
	b.must(os.Mkdir(filepath.Join(data, vmsDir), 0o700))
	b.a = &Agent{log: slog.New(slog.DiscardHandler), ctx: t.Context(), vms: map[string]*vm{}, jobs: migrate.NewManager(0, 0)}
	b.a.cfg, err = Config{Data: data, Name: "hv1", Storage: []string{b.dir}}.withDefaults()
	b.must(err)
	stop, _, err := b.a.serveAPI()
	b.must(err)
	t.Cleanup(stop)
	s, err := smbstore.OpenPath(b.ctx, b.dir, smbstore.Options{})
	b.must(err)
	home, err := smbstore.CreateHomeWith(b.ctx, s, "web1", smbstore.Config{CPUs: 1, Memory: 1 << 20, Firmware: "bios"}, smbstore.NewHome{Disks: []int64{1 << 20}})
	b.must(err)
	_, err = home.Resolve(b.ctx, "hv1")
	b.must(err)
	b.id = home.ID()
	return b
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// at is a home's location.
func (b *bench) at(name string) string { return filepath.Join(b.dir, name) }

// copy makes a copy of a home, as cp does.
func (b *bench) copy(from, to string) { b.must(os.CopyFS(b.at(to), os.DirFS(b.at(from)))) }

func (b *bench) home(name string) *smbstore.Home {
	b.t.Helper()
	h, err := smbstore.OpenHome(b.ctx, smbstore.Location{Path: b.at(name)}, smbstore.Options{})
	b.must(err)
	return h
}

func (b *bench) record(name string) smbstore.Record {
	b.t.Helper()
	r, err := b.home(name).Record()
	b.must(err)
	return r
}

// change makes a command of the VM that is meant, and gives its error.
func (b *bench) change(what string) error {
	notes := "changed as " + what
	_, err := b.Set(b.ctx, what, SetRequest{Notes: &notes})
	return err
}

// isAt looks where the agent has the VM, and that a command finds it there.
func (b *bench) isAt(name string) {
	b.t.Helper()
	list, _, err := b.a.loadKept()
	b.must(err)
	if len(list) != 1 || list[0].ID != b.id || list[0].Location.Path != b.at(name) {
		b.t.Fatalf("the agent keeps %+v, want the VM at %s", list[0], name)
	}
	b.must(b.change(b.id))
	c, err := b.home(name).Config()
	b.must(err)
	if c.Notes != "changed as "+b.id {
		b.t.Errorf("%s: a command has had no effect there: %q", name, c.Notes)
	}
}

// content is all the files of all the homes, and what the agent keeps.
func (b *bench) content() string {
	b.t.Helper()
	var s strings.Builder
	for _, dir := range []string{b.dir, filepath.Join(b.Data, vmsDir)} {
		b.must(filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			content, err := os.ReadFile(path)
			s.WriteString(path + "\n" + string(content) + "\n")
			return err
		}))
	}
	return s.String()
}

// refuses wants a command of a home to be refused, with an error that says certain
// things, and all to stay as it is.
func (b *bench) refuses(name string, want error, says ...string) {
	b.t.Helper()
	before := b.content()
	err := b.change(b.at(name))
	if err == nil || named(kindOf(want).name) != nil && !errors.Is(err, want) {
		b.t.Errorf("%s: got %v, want %v", name, err, want)
	}
	for _, s := range says {
		if err != nil && !strings.Contains(err.Error(), s) {
			b.t.Errorf("%s: %q does not say %q", name, err, s)
		}
	}
	if after := b.content(); after != before {
		b.t.Errorf("%s: something has changed:\n%s\nwas\n%s", name, after, before)
	}
}

// A copy of a VM's home that somebody made is not the VM, whatever its record says.
func TestCopyIsNotTheVM(t *testing.T) {
	b := newBench(t)
	b.must(b.change(b.at("web1")))
	b.copy("web1", "copy")
	b.refuses("copy", ErrTwoHomes, b.at("web1")+" it is owned by hv1", b.at("copy")+" owned by hv1", "lunless vm claim "+b.at("copy"), "lunless vm remove "+b.at("copy"))
	b.isAt("web1") // in a later epoch
	b.refuses("copy", ErrTwoHomes)
	// One that was used elsewhere, under this host's name, is one no more for that.
	_, err := b.home("copy").ResolveAfter(b.ctx, "hv1", 100)
	b.must(err)
	b.refuses("copy", ErrTwoHomes)
	b.isAt("web1")
	// And not while the VM is on either.
	v := b.a.known()[0]
	b.must(v.remember(func(k *kept) { k.Running, k.Epoch = true, 100 }))
	_, err = b.home("copy").ResolveAfter(b.ctx, "hv1", 99)
	b.must(err)
	b.must(v.remember(func(k *kept) { k.Epoch = b.record("copy").Epoch }))
	b.refuses("copy", ErrTwoHomes, b.at("web1"), b.at("copy"))
}

// One folder by two names is no copy.
func TestHomeByAnotherName(t *testing.T) {
	b := newBench(t)
	b.must(b.change(b.at("web1")))
	b.must(os.Symlink(b.at("web1"), b.at("alias")))
	b.must(b.change(b.at("alias")))
	c, err := b.home("web1").Config()
	b.must(err)
	if c.Notes != "changed as "+b.at("alias") {
		t.Errorf("the command has had no effect: %q", c.Notes)
	}
	_, err = b.Claim(b.ctx, b.at("alias"))
	b.must(err)
	if r := b.record("web1"); r.State != smbstore.Owned || r.Host != "hv1" {
		t.Errorf("the claim made it %v", r)
	}
	b.isAt("web1")
	infos, err := os.ReadDir(b.at("web1"))
	b.must(err)
	for _, i := range infos {
		if smbstore.IsTemp(i.Name()) {
			t.Errorf("left: %s", i.Name())
		}
	}
}

// Looking at homes changes nothing, and says of a copy what it is.
func TestLookingChangesNothing(t *testing.T) {
	b := newBench(t)
	look := func() (seen VM) {
		t.Helper()
		before := b.content()
		for _, entry := range []string{"web1", "copy"} {
			if _, err := os.Stat(b.at(entry)); err != nil {
				continue
			}
			v, err := b.Show(b.ctx, b.at(entry))
			b.must(err)
			if v.Location.Path != b.at(entry) || v.ID != b.id || v.Host != "hv1" || v.State != Stopped {
				t.Errorf("%s is shown as %+v", entry, v)
			}
			if _, err := b.Checkpoints(b.ctx, b.at(entry)); err != nil {
				t.Error(err)
			}
			seen = v
		}
		_, err := b.List(b.ctx, false)
		b.must(err)
		if b.content() != before {
			t.Error("something has changed")
		}
		return seen
	}
	look()
	if n := len(b.a.known()); n != 0 {
		t.Errorf("the agent has %d VMs", n)
	}
	b.must(b.change(b.at("web1")))
	b.copy("web1", "copy")
	if v := look(); !strings.Contains(v.Reason, "this host has the VM at "+b.at("web1")) {
		t.Errorf("the copy is shown as %+v", v)
	}
	b.isAt("web1")
	_, err := b.home("copy").Resolve(b.ctx, "hv2")
	b.must(err)
	if v, err := b.Show(b.ctx, b.at("copy")); err != nil || v.Host != "hv2" || !strings.HasPrefix(string(v.State), "owned by hv2") {
		t.Errorf("another's is shown as %+v, %v", v, err)
	}
}

// A home that was renamed is the VM's; a backup from before is not, though it is the
// only one, before an administrator says so.
func TestOnlyHomeThatIsLeft(t *testing.T) {
	b := newBench(t)
	b.must(b.change(b.at("web1")))
	b.copy("web1", "backup")
	b.must(b.change("web1"))
	b.must(os.Rename(b.at("web1"), b.at("renamed")))
	b.refuses("backup", ErrOldHome, b.at("web1"), b.at("backup"), "lunless vm claim "+b.at("backup"))
	b.must(b.change(b.at("renamed")))
	b.isAt("renamed")
	known := b.record("renamed").Epoch
	b.must(os.RemoveAll(b.at("renamed")))
	b.refuses("backup", ErrOldHome)
	_, err := b.Claim(b.ctx, b.at("backup"))
	b.must(err)
	b.isAt("backup")
	if r := b.record("backup"); r.Epoch <= known {
		t.Errorf("%s, and there was epoch %d", r, known)
	}
}

// Of two homes the one that an administrator claims is the VM from then on, and the
// other none, whoever had it; until that is claimed again.
func TestClaimOfACopy(t *testing.T) {
	for _, host := range []string{"hv1", "hv2"} {
		b := newBench(t)
		b.must(b.change(b.at("web1")))
		b.copy("web1", "copy")
		was, err := b.home("web1").ResolveAfter(b.ctx, host, 20)
		b.must(err)
		b.refuses("copy", ErrTwoHomes)
		_, err = b.Claim(b.ctx, b.at("copy"))
		b.must(err)
		if r := b.record("web1"); r.State != smbstore.Moved || r.MovedTo.Path != b.at("copy") {
			t.Errorf("the original is %s", r)
		}
		if r := b.record("copy"); r.Epoch <= was.Epoch || r.Host != "hv1" {
			t.Errorf("the copy is %s", r)
		}
		b.isAt("copy")
		b.refuses("web1", smbstore.ErrMoved)
	}
}

// A move that was made by hand, with the agent or without, is followed when the VM is
// named by where it lies now; by way of homes that say where it has gone, too.
func TestMovedByHand(t *testing.T) {
	for _, keep := range []bool{false, true} {
		b := newBench(t)
		b.must(b.change(b.at("web1")))
		b.copy("web1", "copy")
		from := b.at("web1")
		for _, to := range []string{"one", "two"} {
			o := migrate.Options{Host: "hv1", KeepSource: keep, Source: smbstore.Location{Path: from}, To: smbstore.Location{Path: b.at(to)}}
			job, err := migrate.Storage(b.ctx, o)
			b.must(err)
			b.must(job.Wait(b.ctx))
			from = filepath.Join(b.at(to), "web1")
		}
		if keep {
			b.refuses("copy", ErrTwoHomes, from)
			b.refuses("web1", smbstore.ErrMoved)
			b.refuses("one/web1", smbstore.ErrMoved)
		}
		b.must(b.change(from))
		b.isAt("two/web1")
		if keep {
			b.refuses("copy", ErrTwoHomes)
			continue
		}
		b.refuses("copy", ErrTwoHomes)
		// In its absence the copy is too old.
		b.must(os.RemoveAll(from))
		b.refuses("copy", ErrOldHome)
	}
}

// The end of a move that was cut does not take the VM from a home that was claimed since.
func TestClaimOutlivesAMove(t *testing.T) {
	b := newBench(t)
	b.must(b.change(b.at("web1")))
	b.copy("web1", "copy")
	b.must(os.RemoveAll(b.at("web1")))
	_, err := b.Claim(b.ctx, b.at("copy"))
	b.must(err)
	v := b.a.known()[0]
	b.must(v.moved(smbstore.Location{Path: b.at("web1")}, smbstore.Location{Path: b.at("there")}))
	b.isAt("copy")
	b.must(v.moved(smbstore.Location{Path: b.at("copy")}, smbstore.Location{Path: b.at("there")}))
	if at := v.location(); at.Path != b.at("there") {
		t.Errorf("its own move: it is at %s", at)
	}
}

// Another host's home takes the place of this one's only if that one is none any more.
func TestHomeOfAnotherHost(t *testing.T) {
	b := newBench(t)
	b.must(b.change(b.at("web1")))
	b.copy("web1", "copy")
	_, err := b.home("copy").Resolve(b.ctx, "hv2")
	b.must(err)
	b.refuses("copy", ErrForeign)
	find := func(by authority) error {
		_, err := b.a.find(b.ctx, b.at("copy"), by)
		return err
	}
	if err := find(byTakeOver); !errors.Is(err, ErrTwoHomes) {
		t.Errorf("taken over beside the original: %v", err)
	}
	b.isAt("web1")
	b.isAt("web1") // in a later epoch than the copy's
	b.must(os.RemoveAll(b.at("web1")))
	if err := find(byTakeOver); !errors.Is(err, ErrOldHome) {
		t.Errorf("an older copy is taken over: %v", err)
	}
	_, err = b.home("copy").ResolveAfter(b.ctx, "hv2", 50)
	b.must(err)
	b.refuses("copy", ErrForeign)
	b.must(find(byTakeOver))
	if at := b.a.known()[0].location(); at.Path != b.at("copy") {
		t.Errorf("taken over, it is at %s", at)
	}
}

// A home that cannot be read may be the VM still: one in the same epoch is not taken for it.
func TestHomeThatCannotBeRead(t *testing.T) {
	b := newBench(t)
	b.must(b.change(b.at("web1")))
	b.copy("web1", "copy")
	b.must(os.WriteFile(filepath.Join(b.at("web1"), b.home("web1").RecordName()), []byte("{"), 0o600))
	b.refuses("copy", ErrInDoubt, b.at("web1"), b.at("copy"))
	_, err := b.home("copy").Resolve(b.ctx, "hv1")
	b.must(err)
	b.must(b.change(b.at("copy")))
	b.isAt("copy")
}

// A destination that a cut move left is not the VM, whoever names it.
func TestPartialCopyIsNotTheVM(t *testing.T) {
	b := newBench(t)
	b.must(b.change(b.at("web1")))
	b.copy("web1", "partial")
	record := filepath.Join(b.at("partial"), b.home("partial").RecordName())
	b.must(os.Remove(record))
	b.refuses("partial", smbstore.ErrNotExist, "no ownership record")
	if _, err := b.Claim(b.ctx, b.at("partial")); err == nil {
		t.Error("a copy without a record is claimed")
	}
	_, err := b.home("partial").CreateRecord(b.ctx, "j", smbstore.Record{Version: 1, ID: b.id, State: smbstore.Offered, Epoch: 9, Host: "hv1", Job: "j", To: b.at("partial")}, nil)
	b.must(err)
	b.refuses("partial", ErrForeign, "unfinished")
	if _, err := b.Claim(b.ctx, b.at("partial")); !errors.Is(err, ErrForeign) {
		t.Errorf("a copy that is offered is claimed: %v", err)
	}
	b.isAt("web1")
}
