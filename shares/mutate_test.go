package shares

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lunless/smbstore/smb2"
)

// number is the environment's, or the default.
func number(t *testing.T, name string, def uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return def
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func newPDURun(pdus int, seed uint64) *pduRun {
	run := &pduRun{pdus: pdus, clients: 4, seed: seed, answer: 5 * time.Second, mostFailures: 10}
	if raceEnabled {
		run.answer *= 4
	}
	return run
}

// TestMutatedPDUs sends valid requests with random changes, PDUS of them, before
// and after authentication, and demands that the server stays right throughout:
// it answers or ends the connection, serves a good client, keeps nothing, and
// touches nothing that is not shared. SEED repeats what was sent; SABOTAGE puts a
// fault in that the run has to notice.
func TestMutatedPDUs(t *testing.T) {
	def := uint64(15000)
	if raceEnabled {
		def = 6000
	}
	run := newPDURun(int(number(t, "PDUS", def)), number(t, "SEED", uint64(time.Now().UnixNano())))
	if name := os.Getenv("SABOTAGE"); name != "" {
		sabotage(t, name)
	}
	started := time.Now()
	run.run(t)
	fmt.Printf("%s\nseed %d, %d clients, %v, %d MiB of heap at most (%d at first, %d at last)\n", run.table(), run.seed, run.clients,
		time.Since(started).Round(time.Millisecond), run.peak>>20, run.base.heap>>20, measure().heap>>20)
	for _, f := range run.failures {
		t.Error(f)
	}
	fmt.Printf("%d passed, %d failed\n", max(0, run.sent-run.failed), run.failed)
}

// TestMutatedPDUsNotices shows that the run fails when the server is not right.
func TestMutatedPDUsNotices(t *testing.T) {
	for name, want := range map[string]string{
		"panic":   "panic",
		"leak":    "buffers in use",
		"hang":    errSilent.Error(),
		"garble":  "wrong answer",
		"escape":  "which is not shared",
		"forget":  "left after all clients are gone",
		"refuse":  "a good client",
		"deny":    "cannot start",
		"routine": "goroutines grew",
	} {
		t.Run(name, func(t *testing.T) {
			run := newPDURun(perRound, 1)
			run.answer, run.mostFailures = 3*time.Second, 3
			sabotage(t, name)
			run.run(t)
			if run.failed == 0 || !strings.Contains(strings.Join(run.failures, "\n"), want) {
				t.Errorf("%d failures, want one about %q: %q", run.failed, want, run.failures)
			}
		})
	}
}

// sabotage makes one handler wrong until the test ends. It must be called before
// the server starts.
func sabotage(t *testing.T, name string) {
	t.Helper()
	var undo []func()
	wrap := func(code smb2.Command, before func(ctx context.Context, r *request) error) {
		was := commands[code]
		commands[code].handle = func(ctx context.Context, r *request) error {
			if err := before(ctx, r); err != nil {
				return err
			}
			return was.handle(ctx, r)
		}
		t.Cleanup(func() { commands[code] = was })
	}
	switch name {
	case "panic":
		wrap(smb2.CommandSetInfo, func(context.Context, *request) error { panic("sabotage") })
	case "leak":
		before := buffersOut.Load()
		undo = append(undo, func() { buffersOut.Store(before) })
		wrap(smb2.CommandSetInfo, func(context.Context, *request) error { getBuffer(1); return nil })
	case "hang":
		wrap(smb2.CommandQueryInfo, func(ctx context.Context, _ *request) error { <-ctx.Done(); return ctx.Err() })
	case "garble":
		wrap(smb2.CommandQueryInfo, func(_ context.Context, r *request) error { r.hdr.MessageID++; return nil })
	case "escape":
		wrap(smb2.CommandSetInfo, func(_ context.Context, r *request) error {
			return os.WriteFile(filepath.Join(r.open.tree.share.Path, "..", "sentinel"), []byte("shared"), 0o644)
		})
	case "forget": // what was opened, as far as others can see
		wrap(smb2.CommandSetInfo, func(_ context.Context, r *request) error {
			if r.open.pipe == nil {
				r.open.closed.Store(true)
			}
			return nil
		})
	case "refuse": // a client that reads what it wrote, after the first
		var n atomic.Int64
		wrap(smb2.CommandRead, func(_ context.Context, r *request) error {
			if r.open.tree.share.Name == "good" && n.Add(1) > 1 {
				return smb2.StatusAccessDenied
			}
			return nil
		})
	case "deny": // tree connects, after some
		var n atomic.Int64
		wrap(smb2.CommandTreeConnect, func(context.Context, *request) error {
			if n.Add(1) > 10 {
				return smb2.StatusBadNetworkName
			}
			return nil
		})
	case "routine":
		stop := make(chan struct{})
		undo = append(undo, func() { close(stop) })
		wrap(smb2.CommandSetInfo, func(context.Context, *request) error { go func() { <-stop }(); return nil })
	default:
		t.Fatal(errors.New("no sabotage is called " + name))
	}
	t.Cleanup(func() {
		for _, f := range undo {
			f()
		}
	})
}
