package qemu

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"testing"
	"time"
)

// restoreVM starts the VM again elsewhere and gives it a state.
func restoreVM(t *testing.T, v *testVM, state io.Reader) (*testVM, error) {
	t.Helper()
	c := v.Config()
	c.RuntimeDir, c.Incoming = testConfig(t).RuntimeDir, true
	r := startVM(t, c)
	r.mustBe(StateInMigrate)
	return r, r.Restore(r.ctx, state)
}

func TestSave(t *testing.T) {
	t.Parallel()
	c := testConfig(t)
	socket := c.RuntimeDir + "/nbd.sock"
	serveNBD(t, socket, "")
	c.Disks = []Disk{{Node: "disk0", Socket: socket, Serial: "one", ReconnectDelay: time.Second}}
	v := startVM(t, c)
	v.output("GUEST-UP .* one")
	v.alive()
	saveFails(v)

	// As a checkpoint does: the guest goes on.
	var state bytes.Buffer
	var progress int64
	saved, err := v.Save(v.ctx, &state, SaveOptions{Resume: true, Progress: func(n int64) { progress = n }})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes of QEMU's in %d, the guest stood for %v", saved.Raw, saved.Stored, saved.Paused)
	if saved.Stored != int64(state.Len()) || saved.Raw < saved.Stored || progress != saved.Raw {
		t.Errorf("saved %+v, %d bytes; progress %d", saved, state.Len(), progress)
	}
	v.mustBe(StateRunning)
	v.alive()
	damagedStates(t, v, state.Bytes())

	// As a stop does: it stands, and goes on from there.
	state.Reset()
	if _, err := v.Save(v.ctx, &state, SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	v.mustBe(StatePostMigrate)
	if _, err := v.Save(v.ctx, io.Discard, SaveOptions{}); err == nil {
		t.Error("a VM was saved twice")
	}
	last := v.heartbeat()
	v.do("quit", v.Quit)
	info, err := CheckState(bytes.NewReader(state.Bytes()))
	if config := v.Config(); err != nil || info.fits(&config) != nil || info.Saved.IsZero() {
		t.Errorf("state is of %+v, %v", info, err)
	}
	r, err := restoreVM(t, v, &state)
	if err != nil {
		t.Fatal(err)
	}
	r.mustBe(StatePaused)
	if r.heartbeat() != 0 {
		t.Error("the guest ran before it was told to")
	}
	r.do("cont", r.Cont)
	r.output(`HB \d+\r`)
	if first := r.output(`HB (\d+)\r`)[1]; first != strconv.Itoa(last+1) && first != strconv.Itoa(last+2) {
		t.Errorf("saved at heartbeat %d, restored at %s", last, first)
	}
	r.say("sha256sum -c /tmp/sum && echo RAM-$((40+2)); dd if=/dev/vda of=/dev/null bs=1M count=4 iflag=direct 2>/dev/null && echo DISK-$((40+2))")
	r.output(`(?s)RAM-42.*DISK-42`)
	if stats, err := r.BlockStats(r.ctx); err != nil || stats["disk0"].ReadBytes < 4<<20 || stats["disk0"].Reads == 0 {
		t.Errorf("statistics %+v, %v", stats, err)
	}
	saveIsAlone(r)
}

// damagedStates gives QEMUs states that must not run.
func damagedStates(t *testing.T, v *testVM, state []byte) {
	t.Helper()
	flip := func(at int) []byte {
		b := bytes.Clone(state)
		b[at] ^= 0x10
		return b
	}
	for name, c := range map[string]struct {
		state []byte
		want  error
	}{
		"no state":        {[]byte("QEVM, or what else QEMU would take for its own"), ErrNotState},
		"no bytes":        {nil, ErrNotState},
		"a header's byte": {flip(30), ErrStateDamaged},
		"an early byte":   {flip(1000), ErrStateDamaged},
		"a byte of RAM":   {flip(len(state) / 2), ErrStateDamaged},
		"a late byte":     {flip(len(state) - 2000), ErrStateDamaged},
		"the last byte":   {flip(len(state) - 1), ErrStateDamaged},
		"half of it":      {state[:len(state)/2], ErrStateDamaged},
		"all but a byte":  {state[:len(state)-1], ErrStateDamaged},
	} {
		r, err := restoreVM(t, v, bytes.NewReader(c.state))
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		select {
		case <-r.Ended():
		default:
			t.Errorf("%s: QEMU is there still", name)
		}
		if out, _ := os.ReadFile(r.ConsoleLog()); len(out) > 0 {
			t.Errorf("%s: the guest ran: %q", name, out)
		}
	}
	c := v.Config()
	c.RuntimeDir, c.Incoming, c.Memory = testConfig(t).RuntimeDir, true, c.Memory+1<<20
	if err := startVM(t, c).Restore(v.ctx, bytes.NewReader(state)); !errors.Is(err, ErrStateOfOther) {
		t.Errorf("with more memory: %v", err)
	}
	// Whole by our sums, and nothing that QEMU can read.
	var b bytes.Buffer
	w, err := newStateWriter(&b, v.stateInfo())
	if err == nil {
		err = errors.Join(w.chunk([]byte("no stream of QEMU's")), w.end())
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := restoreVM(t, v, &b); !errors.Is(err, ErrMigration) {
		t.Errorf("with a stream that is none: %v", err)
	}
}

var errFull = errors.New("no room")

// fullAfter is a destination with room for some bytes, or for all but the end.
type fullAfter struct{ room int }

func (f *fullAfter) Write(p []byte) (int, error) {
	if f.room < len(p) {
		return 0, errFull
	}
	f.room -= len(p)
	return len(p), nil
}

// fullAtEnd has room for all but the last frame.
type fullAtEnd struct{}

func (fullAtEnd) Write(p []byte) (int, error) {
	if len(p) == 9+32 {
		return 0, errFull
	}
	return len(p), nil
}

// cancelAt cancels when some bytes were written.
type cancelAt struct {
	room   int
	cancel context.CancelFunc
}

func (c *cancelAt) Write(p []byte) (int, error) {
	if c.room -= len(p); c.room < 0 {
		c.cancel()
	}
	return len(p), nil
}

// saveFails checks that the guest goes on as before when a save does not succeed.
func saveFails(v *testVM) {
	t := v.t
	for name, w := range map[string]io.Writer{"nothing": &fullAfter{}, "a little": &fullAfter{1000}, "some": &fullAfter{5 << 20}, "all but the end": fullAtEnd{}} {
		if _, err := v.Save(v.ctx, w, SaveOptions{}); !errors.Is(err, errFull) {
			t.Errorf("room for %s: %v", name, err)
		}
		v.mustBe(StateRunning)
		v.alive()
	}
	for _, after := range []int{0, 2 << 20} {
		ctx, cancel := context.WithCancel(v.ctx)
		if _, err := v.Save(ctx, &cancelAt{after, cancel}, SaveOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled after %d bytes: %v", after, err)
		}
		v.mustBe(StateRunning)
		v.alive()
	}
	// Paused, it stays so.
	v.do("stop", v.Stop)
	if _, err := v.Save(v.ctx, &fullAfter{5 << 20}, SaveOptions{Resume: true}); !errors.Is(err, errFull) {
		t.Error(err)
	}
	v.mustBe(StatePaused)
	if _, err := v.Save(v.ctx, io.Discard, SaveOptions{Resume: true}); err != nil {
		t.Error(err)
	}
	v.mustBe(StatePostMigrate)
	v.do("cont", v.Cont)
	v.alive()
}

// saveIsAlone leaves no QEMU.
func saveIsAlone(v *testVM) {
	t := v.t
	// One at a time, and none when QEMU has gone.
	release, err := v.claim(v.ctx)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(v.ctx, 10*time.Millisecond)
	defer cancel()
	if _, err := v.Save(ctx, io.Discard, SaveOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second save: %v", err)
	}
	release()
	die := &cancelAt{2 << 20, func() { v.proc.kill() }}
	if _, err := v.Save(v.ctx, die, SaveOptions{}); err == nil {
		t.Error("saved while QEMU was killed")
	}
	if _, err := v.Wait(v.ctx); err != nil {
		t.Error(err)
	}
}
