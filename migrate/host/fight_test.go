package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/storetest"
	guest "lunless/testdata/guest/vm"
)

// Two hosts take one VM from each other by an administrator's word, over and over,
// while the agent of the one that has it is stopped (SIGSTOP) just before a WRITE of
// its leaves, in the middle of one, or anywhere, or its QEMU is; the taker and the
// server are stopped now and then as well. The loser is continued when the taker's
// guest has written, or has come and gone: what it had composed leaves then, and must
// not land. The guest verifies after each take-over what all its boots have flushed,
// and the server's log has the writers of each disk one after the other, by epoch.
//
// ROUNDS, SEED and SABOTAGE are the environment's.
func TestFight(t *testing.T) {
	rounds, seed := 3, uint64(time.Now().UnixNano())
	if s := os.Getenv("ROUNDS"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	if s := os.Getenv("SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d, %d rounds", seed, rounds)
	for i, share := range []string{"vms", "ca"} {
		t.Run(share, func(t *testing.T) {
			t.Parallel()
			f := newFight(t, share, startWrittenDown(t), rand.New(rand.NewPCG(seed, uint64(i))), os.Getenv("SABOTAGE"))
			f.report(f.run((rounds + i) / 2))
		})
	}
}

// A fight in which the check of the epoch is left out, or the disks' fence, is found
// out, and by the server's log.
func TestFightSabotage(t *testing.T) {
	for _, fault := range []string{sabotageEpoch, sabotageShare} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			f := newFight(t, "vms", startWrittenDown(t), rand.New(rand.NewPCG(1, 1)), fault)
			err := f.begin()
			if err == nil {
				err = f.round(fightRound{stop: "before", gone: fault == sabotageEpoch})
			}
			// The WRITE's answer may tell of it before anybody has looked at the log.
			for until := time.Now().Add(10 * time.Second); err != nil && f.judge().err() == nil && time.Now().Before(until); {
				time.Sleep(50 * time.Millisecond)
			}
			if err = errors.Join(err, f.judge().err()); err == nil || !strings.Contains(err.Error(), "the server's log") {
				t.Errorf("with %s the fight ends with %v", fault, err)
			}
		})
	}
}

// fight is two hosts, a server and what is known of the fight between them.
type fight struct {
	t       *testing.T
	ctx     context.Context
	rnd     *rand.Rand
	server  *storetest.Server
	hosts   [2]*rig
	has     int // which of them has the VM
	at      smbstore.Location
	console *guest.Console
	log     string // the server's, below its folder
	judged  func(io.Reader) *judgement

	rounds, refused, lost, halves int
	longestStop, longestTake      time.Duration
}

// fightRound is what happens in one round.
type fightRound struct {
	stop   string // the loser: "before" and "half" as for brake; "agent", "qemu", "both", "none"
	taker  bool   // the taker's agent is stopped for a while in the middle of it
	server bool   // the server is
	gone   bool   // the taker has let go of the VM when the loser is continued
}

func newFight(t *testing.T, share string, server *storetest.Server, rnd *rand.Rand, fault string) *fight {
	f := &fight{t: t, rnd: rnd, server: server, log: traceName, judged: judge}
	var cancel context.CancelFunc
	f.ctx, cancel = context.WithCancel(context.Background())
	t.Cleanup(cancel)
	for i, name := range []string{"hv1", "hv2"} {
		h := newRig(t, name, server)
		h.ctx, h.cfg.Sabotage, h.cfg.LetGoWait, h.cfg.Braked = f.ctx, fault, time.Second, true
		f.hosts[i] = h
	}
	at := server.Location("")
	at.Share = share
	f.at = f.hosts[0].makeGuest("web1", at)
	for _, h := range f.hosts {
		h.startAgent()
	}
	return f
}

// perStep bounds a step of a fight.
const perStep = 3 * time.Minute

// run fights for some rounds.
func (f *fight) run(rounds int) error {
	if err := f.begin(); err != nil {
		return err
	}
	stops := []string{"before", "half", "agent", "before", "qemu", "half", "both", "none"}
	for i := range rounds {
		q := fightRound{stop: stops[i%len(stops)], taker: f.rnd.IntN(2) == 0, server: i > 1 && f.rnd.IntN(4) == 0, gone: i%3 == 1}
		start := time.Now()
		if err := f.round(q); err != nil {
			return fmt.Errorf("round %d, %+v: %w", i+1, q, err)
		}
		f.t.Logf("round %d: %+v: %v", i+1, q, time.Since(start).Round(time.Millisecond))
	}
	return f.end()
}

// begin starts the guest on the first host.
func (f *fight) begin() error {
	ctx, cancel := context.WithTimeout(f.ctx, perStep)
	defer cancel()
	f.console = guest.NewConsole()
	f.t.Cleanup(func() { f.console.Close() })
	if _, err := f.hosts[0].Start(ctx, f.at.String(), StartRequest{}); err != nil {
		return err
	}
	return f.attach(ctx, f.hosts[0])
}

// attach connects with the guest on a host, which verifies what all its boots have
// flushed before it begins.
func (f *fight) attach(ctx context.Context, h *rig) error {
	conn, err := h.Console(ctx, "web1")
	if err != nil {
		return err
	}
	f.console.Attach(conn)
	if _, err := f.console.Await(ctx); err != nil {
		return fmt.Errorf("the guest on %s: %w", h.cfg.Config.Name, err)
	}
	return f.flushes(ctx, 2)
}

func (f *fight) flushes(ctx context.Context, n int) error {
	for range n {
		if _, err := f.console.Wait(ctx, f.console.Mark(), "FLUSHED"); err != nil {
			return err
		}
	}
	return f.console.Err()
}

// round has the other host take the VM.
func (f *fight) round(q fightRound) error {
	ctx, cancel := context.WithTimeout(f.ctx, perStep)
	defer cancel()
	loser, taker := f.hosts[f.has], f.hosts[1-f.has]
	before, err := loser.Show(ctx, "web1")
	if err != nil {
		return err
	}
	if err := f.stop(ctx, loser, before.PID, q.stop); err != nil {
		return err
	}
	stopped := time.Now()
	if err := f.take(ctx, taker, q); err != nil {
		return err
	}
	f.longestTake = max(f.longestTake, time.Since(stopped))
	if err := f.attach(ctx, taker); err != nil {
		return err
	}
	if q.gone {
		if err := f.quit(ctx, taker); err != nil {
			return err
		}
	}
	loser.send(syscall.SIGCONT)
	syscall.Kill(before.PID, syscall.SIGCONT) //nolint:errcheck // it may have ended
	f.longestStop = max(f.longestStop, time.Since(stopped))
	if err := f.lose(ctx, loser, taker, before.PID); err != nil {
		return err
	}
	if err := f.answers(ctx, loser, q.stop); err != nil {
		return err
	}
	f.has, f.rounds = 1-f.has, f.rounds+1
	if q.gone {
		if _, err := taker.Start(ctx, "web1", StartRequest{}); err != nil {
			return err
		}
		if err := f.attach(ctx, taker); err != nil {
			return err
		}
	}
	if _, err := f.console.Verify(ctx); err != nil {
		return err
	}
	return errors.Join(f.flushes(ctx, 1), f.judge().err())
}

// stop stops the loser, and waits until it stands still.
func (f *fight) stop(ctx context.Context, h *rig, qemu int, how string) error {
	time.Sleep(time.Duration(f.rnd.IntN(300)) * time.Millisecond)
	switch how {
	case "before", "half":
		h.said.forget()
		fmt.Fprintf(h.in, "arm %s %d\n", how, 1+f.rnd.IntN(60))
	case "agent", "both":
		h.send(syscall.SIGSTOP)
	}
	if how == "qemu" || how == "both" {
		if err := syscall.Kill(qemu, syscall.SIGSTOP); err != nil {
			return err
		}
	}
	if how == "qemu" || how == "none" {
		return nil
	}
	return h.standsStill(ctx)
}

// take has a host take the VM, while it and the server are stopped for moments.
func (f *fight) take(ctx context.Context, h *rig, q fightRound) error {
	taken := make(chan error, 1)
	go func() {
		_, err := h.Start(ctx, f.at.String(), StartRequest{TakeOver: true})
		taken <- err
	}()
	moment := func(most int) { time.Sleep(time.Duration(f.rnd.IntN(most)) * time.Millisecond) }
	if q.taker {
		moment(40)
		h.send(syscall.SIGSTOP)
		moment(1000)
		h.send(syscall.SIGCONT)
	}
	if q.server {
		moment(40)
		f.server.Pause()
		moment(2000)
		f.server.Continue()
	}
	select {
	case err := <-taken:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the take-over does not end: %w", ctx.Err())
	}
}

func (f *fight) quit(ctx context.Context, h *rig) error {
	if err := f.console.Quit(ctx); err != nil {
		return err
	}
	return h.becomes(ctx, Stopped, func() error { return nil })
}

// lose waits until the loser knows: it says who has the VM, and its guest is ended.
func (f *fight) lose(ctx context.Context, loser, taker *rig, qemu int) error {
	if err := loser.becomes(ctx, Lost, func() error { return f.judge().err() }); err != nil {
		return err
	}
	v, err := loser.Show(ctx, "web1")
	if err != nil {
		return err
	}
	if !strings.Contains(v.Reason, taker.cfg.Config.Name) {
		return fmt.Errorf("the loser does not say who has the VM: %q", v.Reason)
	}
	if err := syscall.Kill(qemu, 0); !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("the loser's QEMU, process %d, is there still: %v", qemu, err)
	}
	return nil
}

// answers counts what became of the WRITE that was stopped at: the server has refused
// it, or the connection was gone.
func (f *fight) answers(ctx context.Context, h *rig, how string) error {
	if how != "before" && how != "half" {
		return nil
	}
	left, err := h.said.wait(ctx, "left "+how, "unsent "+how)
	if err != nil {
		return err
	}
	if how == "half" {
		f.halves++
	}
	if strings.HasPrefix(left, "unsent") || f.log != traceName { // Samba has closed the connection
		f.lost++
		return nil
	}
	answer, err := h.said.wait(ctx, "answer ")
	if err != nil {
		return fmt.Errorf("the WRITE that was stopped has left: %w", err)
	}
	if strings.Contains(answer, "STATUS_SUCCESS") {
		return fmt.Errorf("the WRITE that was stopped was carried out: %s", answer)
	}
	f.refused++
	return nil
}

// end stops the guest, and looks at the disks from outside.
func (f *fight) end() error {
	ctx, cancel := context.WithTimeout(f.ctx, perStep)
	defer cancel()
	if err := f.quit(ctx, f.hosts[f.has]); err != nil {
		return err
	}
	if err := f.console.Err(); err != nil {
		return err
	}
	checkDisks(f.t, f.hosts[f.has], f.console, f.at)
	j := f.judge()
	if j.err() == nil && j.owners < 2*f.rounds {
		return fmt.Errorf("the server's log is of another fight: %+v", j)
	}
	return j.err()
}

// judge looks at the server's log as far as it goes.
func (f *fight) judge() *judgement {
	log, err := os.Open(filepath.Join(f.server.Dir, f.log))
	if err != nil {
		return &judgement{wrong: []string{err.Error()}}
	}
	defer log.Close()
	return f.judged(log)
}

// report ends the test with what there was, and soak.sh's count.
func (f *fight) report(err error) {
	j := f.judge()
	failed := 0
	if err != nil {
		failed = 1
		f.t.Error(err)
	}
	defer fmt.Printf("%d passed, %d failed\n", f.rounds, failed)
	f.t.Logf("%d take-overs: %d stopped WRITEs refused (%d of them half sent), %d whose connection was gone; "+
		"longest stop %v, longest take-over %v; the server's log: %d opens, %d writers one after the other, %d writes, %d of them the guest's own blocks",
		f.rounds, f.refused, f.halves, f.lost, f.longestStop.Round(time.Millisecond), f.longestTake.Round(time.Millisecond),
		j.opens, j.owners, j.writes, j.stamps)
}
