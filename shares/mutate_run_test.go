package shares

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	sharefs "lunless/shares/fs"
	"lunless/shares/state"
	"lunless/smbstore/smb2"
)

// pduRun replays mutated messages against a server of its own, and watches it.
type pduRun struct {
	pdus, clients int
	seed          uint64
	answer        time.Duration // that the server may take, for one request
	mostFailures  int           // after which the run gives up

	srv     *testServer
	outside string // the folder that holds the share's, and what must stay as it is
	before  map[string]string
	reg     *prometheus.Registry
	log     panicLog
	base    levels

	mu       sync.Mutex // guards what follows
	rows     map[row]*tally
	statuses map[smb2.Status]int // of first answers
	peak     uint64              // bytes of heap in use
	sent     int
	failed   int
	failures []string
}

const (
	perRound = 500           // mutated messages between two checks with a good client
	perReset = 20 * perRound // and between two checks that nothing is left behind
	heapRoom = 32 << 20      // bytes in use above the start, with all connections gone
	peakRoom = 512 << 20     // bytes in use above the start at any time
	fileRoom = 4 << 20       // bytes a request may take on disk, about
)

func (run *pduRun) fail(format string, args ...any) {
	run.mu.Lock()
	defer run.mu.Unlock()
	run.failed++
	if len(run.failures) < run.mostFailures {
		run.failures = append(run.failures, fmt.Sprintf(format, args...))
	}
}

func (run *pduRun) givesUp() bool {
	run.mu.Lock()
	defer run.mu.Unlock()
	return run.failed >= run.mostFailures
}

// start makes the server: a share with links that lead out of it, the same one
// for encrypted clients alone, one that is read-only, and one for the good client.
func (run *pduRun) start(t *testing.T) {
	t.Helper()
	run.rows, run.statuses = map[row]*tally{}, map[smb2.Status]int{}
	run.outside = t.TempDir()
	root, other := filepath.Join(run.outside, "share"), t.TempDir()
	for _, dir := range []string{root, filepath.Join(run.outside, "beside")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"sentinel", "beside/sentinel"} {
		if err := os.WriteFile(filepath.Join(run.outside, name), []byte("not shared"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run.reg = prometheus.NewRegistry()
	run.srv = startServer(t, func(c *Config) {
		f := smallFiles{openFS(t, root)}
		c.Shares = []Share{{Name: "vms", Path: root, FS: f}, {Name: "sealed", Path: root, FS: f, Encrypt: true},
			{Name: "ro", FS: openFS(t, t.TempDir()), ReadOnly: true}, {Name: "good", FS: openFS(t, other)}}
		c.Registerer, c.Logger = run.reg, slog.New(&run.log)
		c.Limits.Break, c.Limits.Durable = 50*time.Millisecond, 50*time.Millisecond
	})
	run.srv.root = root
	if err := run.empty(); err != nil {
		t.Fatal(err)
	}
	run.before = run.beside(t)
}

// empty makes the share what it was at first.
func (run *pduRun) empty() error {
	root := run.srv.root
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(root, e.Name())); err != nil {
			return err
		}
	}
	for name, to := range map[string]string{"link": "../sentinel", "out": "..", "dangling": "../nothing"} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			return err
		}
	}
	return nil
}

// beside describes everything next to the share.
func (run *pduRun) beside(t *testing.T) map[string]string {
	t.Helper()
	list := map[string]string{}
	err := filepath.WalkDir(run.outside, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == run.outside {
			return err
		}
		if path == run.srv.root {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		data := []byte(nil)
		if !d.IsDir() {
			if data, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		list[path] = fmt.Sprintf("%v %v %q", info.Mode(), info.ModTime(), data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// panicLog notes the server's own errors, and drops the rest.
type panicLog struct {
	panics atomic.Int64
	mu     sync.Mutex // guards stack
	stack  string     // of the first
}

func (*panicLog) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelError }
func (l *panicLog) WithAttrs([]slog.Attr) slog.Handler         { return l }
func (l *panicLog) WithGroup(string) slog.Handler              { return l }

func (l *panicLog) Handle(_ context.Context, r slog.Record) error {
	if r.Message != "internal error" {
		return nil
	}
	var b bytes.Buffer
	r.Attrs(func(a slog.Attr) bool { fmt.Fprintf(&b, "%s: %v\n", a.Key, a.Value); return true })
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.panics.Add(1) == 1 {
		l.stack = b.String()
	}
	return nil
}

// levels are what must not grow.
type levels struct {
	goroutines, descriptors int
	heap                    uint64
	buffers                 int64
}

func measure() levels {
	for range 3 { // pools keep things for two collections
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fds, _ := os.ReadDir("/proc/self/fd")
	return levels{runtime.NumGoroutine(), len(fds), m.HeapAlloc, buffersOut.Load()}
}

// run sends all messages, a round at a time.
func (run *pduRun) run(t *testing.T) {
	t.Helper()
	run.start(t)
	if err := run.good(); err != nil {
		t.Fatalf("before anything was sent: %v", err)
	}
	run.settled(t)
	run.base = measure()
	list := make([]*pduSender, run.clients)
	for i := range list {
		list[i] = &pduSender{run: run, id: i, m: mutator{rand.New(rand.NewPCG(run.seed, uint64(i)))}}
	}
	for run.sent < run.pdus && !run.givesUp() {
		n := min(perRound, run.pdus-run.sent)
		var wg sync.WaitGroup
		for i, s := range list {
			wg.Go(func() { s.round(n/run.clients + (i+n%run.clients)/run.clients) })
		}
		wg.Wait()
		if err := run.good(); err != nil {
			run.fail("after %d messages a good client: %v", run.sent, err)
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		if run.peak = max(run.peak, m.HeapAlloc); m.HeapAlloc > run.base.heap+peakRoom {
			run.fail("after %d messages %d MiB of heap", run.sent, m.HeapAlloc>>20)
		}
		if run.sent%perReset < perRound || run.sent >= run.pdus {
			for _, s := range list {
				s.drop()
			}
			run.leftovers(t)
		}
	}
	for _, s := range list {
		s.drop()
	}
}

// leftovers checks that nothing is left once all clients are gone.
func (run *pduRun) leftovers(t *testing.T) {
	t.Helper()
	run.settled(t)
	now := measure()
	if now.heap > run.base.heap+heapRoom {
		run.fail("heap grew from %d to %d KiB", run.base.heap>>10, now.heap>>10)
	}
	if now.goroutines > run.base.goroutines+4 {
		run.fail("goroutines grew from %d to %d", run.base.goroutines, now.goroutines)
	}
	if now.buffers != run.base.buffers {
		run.fail("%d buffers in use, %d at first", now.buffers, run.base.buffers)
	}
	if now.descriptors > run.base.descriptors+8 {
		run.fail("descriptors grew from %d to %d", run.base.descriptors, now.descriptors)
	}
	if n := run.metric("lunless_panics_total"); n != 0 || run.log.panics.Load() != 0 {
		run.fail("%v panics; the first:\n%s", n, run.log.stack)
	}
	for path, was := range run.before {
		if is := run.beside(t)[path]; is != was {
			run.fail("%s, which is not shared, was %s and is %s", path, was, is)
		}
	}
	if n := len(run.beside(t)); n != len(run.before) {
		run.fail("%d files beside the share, %d at first", n, len(run.before))
	}
	if err := run.empty(); err != nil {
		run.fail("emptying the share: %v", err)
	}
}

// settled waits until the server has no connection, session, tree connect, open,
// lock or buffer left, and reports what it still has.
func (run *pduRun) settled(t *testing.T) {
	t.Helper()
	left := ""
	for end := time.Now().Add(2 * run.answer); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		left = ""
		run.srv.closeParked(context.Background(), errServerStops, func(*open) bool { return true })
		for _, name := range []string{"connections", "sessions", "tree_connects", "opens"} {
			if n := run.metric("lunless_" + name); n != 0 {
				left += fmt.Sprintf(" %v %s", n, name)
			}
		}
		run.srv.store.Walk(context.Background(), func(id sharefs.FileID, r state.Record) bool {
			left += fmt.Sprintf(" record %v %+v", id, r)
			return len(left) < 1000
		})
		run.srv.mu.Lock()
		if n := len(run.srv.sessions); n > 0 {
			left += fmt.Sprintf(" %d in the session table", n)
		}
		run.srv.mu.Unlock()
		if left == "" {
			return
		}
	}
	run.fail("left after all clients are gone:%s", left)
}

// metric is the value of a counter or gauge.
func (run *pduRun) metric(name string) float64 {
	all, err := run.reg.Gather()
	if err != nil {
		return -1
	}
	for _, f := range all {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return -1
}

// good is a client that does nothing wrong: it writes, reads back and lists.
func (run *pduRun) good() error {
	m := mutator{rand.New(rand.NewPCG(run.seed, uint64(1000+run.sent)))}
	c, err := dialPDU(run.srv.addr, m, 2*run.answer)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.negotiate(pick(m, dialects...)); err != nil {
		return fmt.Errorf("negotiate: %w", err)
	}
	if err := c.login(testUser); err != nil {
		return fmt.Errorf("logon: %w", err)
	}
	c.sign = true
	if err := c.furnish("good", "file"); err != nil {
		return err
	}
	w, data := &c.world, m.bytes(50000)
	if err := c.demand(c.write(w.disk, w.file, 0, data), &smb2.WriteResponse{}); err != nil {
		return err
	}
	var got smb2.ReadResponse
	q := &smb2.ReadRequest{Length: uint32(len(data)), FileID: w.file}
	if err := c.demand(c.pdu(smb2.CommandRead, w.disk, q, nil, len(data)), &got); err != nil {
		return err
	}
	if !bytes.Equal(got.Data, data) {
		return errors.New("read back something else")
	}
	var entries smb2.QueryDirectoryResponse
	d := &smb2.QueryDirectoryRequest{FileInformationClass: 12, FileID: w.folder, FileName: "*", OutputBufferLength: 4096}
	if err := c.demand(c.pdu(smb2.CommandQueryDirectory, w.disk, d, nil, 4096), &entries); err != nil {
		return err
	}
	if len(entries.Output) < 20 || binary.LittleEndian.Uint32(entries.Output[8:]) == 0 {
		return errors.New("listing is empty")
	}
	return nil
}

// allow takes the access control off the share's root, which clients may have set.
func (run *pduRun) allow() error {
	run.mu.Lock()
	defer run.mu.Unlock()
	list := make([]byte, 4096)
	n, err := syscall.Listxattr(run.srv.root, list)
	if err != nil {
		return err
	}
	for name := range bytes.SplitSeq(bytes.TrimSuffix(list[:n], []byte{0}), []byte{0}) {
		if len(name) == 0 {
			continue
		}
		if err := syscall.Removexattr(run.srv.root, string(name)); err != nil {
			return err
		}
	}
	return nil
}
