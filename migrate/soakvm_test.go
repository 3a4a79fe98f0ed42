package migrate

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/storetest"
)

// whose servers the run needs, "" for none.
func (r soakRun) whose() string {
	whose := r.ends[strings.LastIndexByte(r.ends, ' ')+1:]
	if whose == "local" {
		return ""
	}
	return whose
}

// vm is the VM of one run, as the test sees it: past all servers.
type vm struct {
	a, b  string // the local folders of source and destination storage
	from  string // the source's home as the migrating process names it
	to    string // the destination storage likewise
	home  string // the destination's home likewise
	tell  string // where a live migration leaves what it held at the switch
	keep  bool   // its source is kept
	want  string // the content's hash, "" for a live run
	acked map[ack]uint64
}

// ack is a block of one of the VM's disks.
type ack struct {
	disk int // in the configuration
	lba  int64
}

func soakOne(t *testing.T, r soakRun, servers *serverPair) (*Status, error) {
	if r.kind == "power" {
		return nil, soakPower(t, r.seed)
	}
	v := &vm{acked: map[ack]uint64{}, keep: r.keep, tell: filepath.Join(t.TempDir(), "frozen")}
	if servers == nil {
		v.a, v.b = t.TempDir(), t.TempDir()
		v.from, v.to, v.home = filepath.Join(v.a, "vm"), v.b, filepath.Join(v.b, "vm")
	} else {
		servers.place(t, v, r)
	}
	defer os.RemoveAll(v.a)
	defer os.RemoveAll(v.b)
	v.make(t, r)
	err := v.run(t, r, servers)
	if err == nil {
		err = v.frozen()
	}
	var s *Status
	if b, rerr := os.ReadFile(v.tell + ".status"); rerr == nil {
		s = &Status{}
		must(t, json.Unmarshal(b, s))
	}
	return s, err
}

func (v *vm) run(t *testing.T, r soakRun, servers *serverPair) error {
	role := "storage"
	if r.kind == "live" {
		role = "live"
	}
	env := []string{envKill + "=" + r.kill, envTell + "=" + v.tell}
	if r.keep {
		env = append(env, envKeep+"=1")
	}
	if r.kind == "stolen" {
		env = append(env, envSteal+"=before-switch")
	}
	stop := func() {}
	if r.server {
		stop = servers.killOne(t, rand.New(rand.NewPCG(r.seed, 5)))
	}
	out, err := v.child(role, v.to, env...)
	stop()
	if r.server && err != nil && strings.Contains(out, smbstore.ErrUnreachable.Error()) && v.at(v.a, v.b) == nil {
		out, err = v.child(role, v.to, env...) // the server was down before anything had begun: it is up now
	}
	if r.kind == "stolen" {
		return v.checkStolen(err, out)
	}
	if r.kind == "live" && r.server && err != nil && strings.Contains(out, smbstore.ErrUncertain.Error()) {
		return v.at(v.a, v.b) // given up before the switch, which is its right
	}
	if err != nil && !killed(err) {
		return fmt.Errorf("%s: %w: %s", role, err, out)
	}
	if err := v.inOnePlace(); err != nil {
		return fmt.Errorf("after the kill: %w", err)
	}
	return v.finish(r, killed(err))
}

// frozen compares a source that was kept with what the destination held at the
// switch. A source that was not given up says nothing.
func (v *vm) frozen() error {
	b, err := os.ReadFile(v.tell)
	if err != nil || !v.keep {
		return nil
	}
	if r, err := record(v.a); err != nil || r.State != smbstore.Moved {
		return err
	}
	var hashes map[string]string
	if err := json.Unmarshal(b, &hashes); err != nil {
		return err
	}
	s, err := smbstore.OpenPath(context.Background(), filepath.Join(v.a, "vm"), smbstore.Options{})
	if err != nil {
		return err
	}
	for name, want := range hashes {
		dev, _, err := smbstore.OpenDisk(context.Background(), s, name, smbstore.DiskOptions{ReadOnly: true})
		if err != nil {
			return err
		}
		got, err := contentOf(context.Background(), dev)
		if err := errors.Join(err, dev.Close()); err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("%s, kept, is not what the destination was at the switch", name)
		}
	}
	return nil
}

// make makes the VM.
func (v *vm) make(t *testing.T, r soakRun) {
	if r.kind == "live" {
		formats := []smbstore.Format{smbstore.VHDX, smbstore.VHD}
		c := makeChainVM(t, v.a, formats[r.seed%4/3], formats[r.seed/4%4/3], 4<<20, r.seed)
		for i, name := range []string{c.leaf, c.single} {
			for lba := range c.writers[name].acked {
				if seq := c.writers[name].acked[lba].Load(); seq > 0 {
					v.acked[ack{i, int64(lba)}] = seq
				}
			}
		}
		return
	}
	h := makeHome(t, storeAt(t, v.a), "vm", 3<<20, r.seed)
	v.want = content(t, h.Store())
}

// child runs a role and takes in the writes it flushed.
func (v *vm) child(role, to string, env ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), append([]string{envChild + "=" + role, envFrom + "=" + v.from, envTo + "=" + to,
		smbstore.PasswordVariable + "=" + storetest.Password}, env...)...)
	var acks, msg bytes.Buffer
	cmd.Stdout, cmd.Stderr = &acks, &msg
	err := cmd.Run()
	if role == "live" {
		for b := acks.Bytes(); len(b) >= 24; b = b[24:] {
			at := ack{int(binary.LittleEndian.Uint64(b)), int64(binary.LittleEndian.Uint64(b[8:]))}
			v.acked[at] = max(v.acked[at], binary.LittleEndian.Uint64(b[16:]))
		}
	}
	return msg.String(), err
}

func killed(err error) bool {
	var e *exec.ExitError
	return errors.As(err, &e) && e.ExitCode() == -1
}

// record reads a home's ownership record past everything; zero if there is none.
func record(storage string) (smbstore.Record, error) {
	s, err := smbstore.OpenPath(context.Background(), filepath.Join(storage, "vm"), smbstore.Options{})
	if err != nil {
		return smbstore.Record{}, err
	}
	h, err := smbstore.HomeIn(s)
	if errors.Is(err, smbstore.ErrNotHome) {
		return recordAlone(s)
	}
	if err != nil {
		return smbstore.Record{}, err
	}
	r, err := h.Record()
	if errors.Is(err, smbstore.ErrNotExist) {
		return smbstore.Record{}, nil
	}
	return r, err
}

// recordAlone finds the record of a home whose configuration is gone already.
func recordAlone(s smbstore.Store) (smbstore.Record, error) {
	infos, err := s.ReadDir(smbstore.MachinesDir)
	if err != nil {
		return smbstore.Record{}, nil
	}
	for _, i := range infos {
		if strings.HasSuffix(i.Name, ".owner.json") {
			return smbstore.Record{State: smbstore.Moved}, nil // only a moved home is taken apart
		}
	}
	return smbstore.Record{}, nil
}

// inOnePlace: never two owners, and the place the records point to holds the
// whole VM.
func (v *vm) inOnePlace() error {
	src, err := record(v.a)
	if err != nil {
		return err
	}
	dst, err := record(v.b)
	if err != nil {
		return err
	}
	if src.State == smbstore.Owned && dst.State == smbstore.Owned {
		return fmt.Errorf("two owners: source %v, destination %v", src, dst)
	}
	switch {
	case src.State == smbstore.Owned, src.State == smbstore.Offered:
		return v.whole(v.a)
	case dst.State == smbstore.Owned, dst.State == smbstore.Offered && src.State == smbstore.Moved:
		return v.whole(v.b)
	}
	return fmt.Errorf("no owner: source %v, destination %v", src, dst)
}

// whole checks the content in one place.
func (v *vm) whole(storage string) error {
	s, err := smbstore.OpenPath(context.Background(), filepath.Join(storage, "vm"), smbstore.Options{})
	if err != nil {
		return err
	}
	if v.want != "" {
		return sameContent(s, v.want)
	}
	h, err := smbstore.HomeIn(s)
	if err != nil {
		return err
	}
	c, err := h.Config()
	if err != nil {
		return err
	}
	for i, d := range c.Disks {
		if err := v.wholeDisk(s, i, d); err != nil {
			return fmt.Errorf("%s: %w", d.Path, err)
		}
	}
	return nil
}

// wholeDisk: every write that a flush covered is there.
func (v *vm) wholeDisk(s smbstore.Store, disk int, d smbstore.Disk) error {
	dev, _, err := smbstore.OpenDisk(context.Background(), s, d.Path, smbstore.DiskOptions{ReadOnly: true, Format: d.Format})
	if err != nil {
		return err
	}
	defer dev.Close()
	p := make([]byte, stampSize)
	for at, seq := range v.acked {
		if at.disk != disk {
			continue
		}
		if err := dev.ReadAt(context.Background(), p, at.lba*stampSize); err != nil {
			return err
		}
		got, err := readStamp(p, at.lba)
		if err != nil {
			return err
		}
		if got < seq { // later ones, not flushed, may be there or not
			return fmt.Errorf("block %d holds write %d, but %d was flushed", at.lba, got, seq)
		}
	}
	return nil
}

func sameContent(s smbstore.Store, want string) (err error) {
	t := &errT{}
	defer func() {
		if r := recover(); r != nil && r != t {
			panic(r)
		}
		err = t.err
	}()
	if got := content(t, s); got != want {
		return fmt.Errorf("%s is not whole", s.Location())
	}
	return t.err
}

// errT lets a helper made for tests report an error instead.
type errT struct {
	testing.TB
	err error
}

func (t *errT) Helper() {}
func (t *errT) Fatal(args ...any) {
	t.err = fmt.Errorf("%v", args)
	panic(t)
}

// finish resumes or cancels until the job has ended, and looks at the end.
func (v *vm) finish(r soakRun, wasKilled bool) error {
	rnd := rand.New(rand.NewPCG(r.seed, 9))
	moved := false
	if wasKilled && r.cancel {
		out, err := v.child("cancel", v.home, fmt.Sprintf("%s=%s:1:0", envKill, cancelPoints[rnd.IntN(len(cancelPoints))]))
		if killed(err) {
			if err := v.inOnePlace(); err != nil {
				return fmt.Errorf("cancel killed: %w", err)
			}
			out, err = v.child("cancel", v.home)
		}
		switch {
		case err == nil:
			return v.at(v.a, v.b)
		case strings.Contains(out, ErrTooLate.Error()):
		case strings.Contains(out, ErrNoJob.Error()):
			return v.eitherEnd()
		case strings.Contains(out, "no such file"):
			return v.eitherEnd()
		default:
			return fmt.Errorf("cancel: %w: %s", err, out)
		}
	}
	for try := 0; wasKilled && !moved; try++ {
		var env []string
		if try == 0 && rnd.IntN(2) == 0 { // the resume is killed too
			points := slices.Concat(copyPoints, switchPoints, cleanPoints)
			env = append(env, fmt.Sprintf("%s=%s:1:%d", envKill, points[rnd.IntN(len(points))], rnd.IntN(2)*rnd.IntN(3000)))
		}
		out, err := v.child("resume", v.home, env...)
		switch {
		case killed(err) && try < 3:
			if err := v.inOnePlace(); err != nil {
				return fmt.Errorf("resume killed: %w", err)
			}
		case err == nil:
			moved = true
		case r.whose() == "samba" && strings.Contains(out, ErrSourceChanged.Error()) && try < 3:
			time.Sleep(time.Second) // it notes a dead client's last write when it notices that it is dead
		case strings.Contains(out, ErrNoJob.Error()), strings.Contains(out, "no such file"):
			// Killed before its journal was there, or after it was gone.
			return v.eitherEnd()
		default:
			return fmt.Errorf("resume: %w: %s", err, out)
		}
	}
	return v.at(v.b, v.a)
}

// eitherEnd: there is no job, so the VM is wholly here or wholly there.
func (v *vm) eitherEnd() error {
	src, err := record(v.a)
	if err != nil {
		return err
	}
	if src.State == smbstore.Owned {
		return v.at(v.a, "")
	}
	return v.at(v.b, v.a)
}

// at: the VM is owned and whole in one place, and the other is gone.
func (v *vm) at(here, gone string) error {
	r, err := record(here)
	if err != nil {
		return err
	}
	if r.State != smbstore.Owned {
		return fmt.Errorf("in the end %s says %v", here, r)
	}
	if v.keep && gone == v.a {
		if r, err := record(gone); err != nil || r.State != smbstore.Moved {
			return fmt.Errorf("in the end the kept source says %v, %v", r, err)
		}
	} else if gone != "" && exists(gone, "vm") {
		return fmt.Errorf("in the end %s is there still", gone)
	}
	if exists(here, "vm", JournalName) {
		return fmt.Errorf("in the end the journal is there still")
	}
	return v.whole(here)
}

// checkStolen: another host took the VM while it was copied: it keeps it.
func (v *vm) checkStolen(err error, out string) error {
	if err == nil {
		return fmt.Errorf("the VM was moved although another host had taken it")
	}
	r, rerr := record(v.a)
	if rerr != nil {
		return rerr
	}
	if r.State != smbstore.Owned || r.Host != "thief" || r.Epoch != 2 {
		return fmt.Errorf("the thief's VM: %v (%s)", r, out)
	}
	if d, err := record(v.b); err != nil || d.State == smbstore.Owned {
		return fmt.Errorf("the destination: %v, %v", d, err)
	}
	return v.whole(v.a)
}

// serverPair are two servers, one an end.
type serverPair struct{ a, b *storetest.Server }

// place puts a run's two ends on the servers, or one of them.
func (p *serverPair) place(t *testing.T, v *vm, r soakRun) {
	name := fmt.Sprintf("run %d", r.seed)
	to := p.b
	if strings.HasPrefix(r.ends, "one ") {
		to = p.a
	}
	v.b = filepath.Join(to.Dir, "vms", name+" to")
	v.to, v.home = to.Location(name+" to").String(), to.Location(name+" to/vm").String()
	if strings.HasPrefix(r.ends, "to ") {
		v.a = t.TempDir()
		v.from = filepath.Join(v.a, "vm")
	} else {
		v.a = filepath.Join(p.a.Dir, "vms", name)
		v.from = p.a.Location(name + "/vm").String()
	}
	must(t, os.MkdirAll(v.a, 0o755))
	must(t, os.MkdirAll(v.b, 0o755))
}

// killOne kills one of the servers, some time from now, and starts it again. What it returns waits
// for that.
func (p *serverPair) killOne(t *testing.T, rnd *rand.Rand) func() {
	victim := []*storetest.Server{p.a, p.b}[rnd.IntN(2)]
	when, down := time.Duration(50+rnd.IntN(950))*time.Millisecond, time.Duration(rnd.IntN(400))*time.Millisecond
	done := make(chan struct{})
	go func() {
		defer close(done)
		time.Sleep(when)
		victim.Kill()
		time.Sleep(down)
		victim.Start(t)
	}()
	return func() { <-done }
}
