package host

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"lunless/shares"
	"lunless/shares/accounts"
	"lunless/shares/fs"
	"lunless/smbstore/storetest"
	"lunless/testdata/guest/stamp"
)

// A server that writes down who writes is this program again.
const (
	writtenDownVariable = "LUNLESS_TEST_SERVER" // its folder
	writtenDownAddr     = "LUNLESS_TEST_SERVER_ADDR"
	traceName           = "trace"
)

// startWrittenDown starts our server with a trace of what reaches its disks, and
// with each open for an instance of a VM as the server logs it.
func startWrittenDown(t testing.TB) *storetest.Server {
	t.Helper()
	first := true
	return storetest.StartProgram(t, "hv", func(s *storetest.Server) *exec.Cmd {
		if first {
			first = false
			users, err := accounts.Open(filepath.Join(s.Dir, "accounts"))
			if err == nil {
				err = os.Mkdir(filepath.Join(s.Dir, "state"), 0o700)
			}
			if err == nil {
				err = users.AddUser("hv", storetest.Password)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), writtenDownVariable+"="+s.Dir, fmt.Sprintf("%s=127.0.0.1:%d", writtenDownAddr, s.Port))
		return cmd
	})
}

func serveWrittenDown(dir, addr string) error {
	out, err := os.OpenFile(filepath.Join(dir, traceName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	users, err := accounts.Open(filepath.Join(dir, "accounts"))
	if err != nil {
		return err
	}
	w := &trace{out: out}
	var list []shares.Share
	for _, name := range []string{"vms", "ca"} {
		store, err := fs.NewPOSIX(filepath.Join(dir, name), fs.Options{})
		if err != nil {
			return err
		}
		list = append(list, shares.Share{Name: name, Path: name, FS: &tracedFS{store, name, w}, ContinuouslyAvailable: name == "ca"})
	}
	srv, err := shares.New(shares.Config{Accounts: users, StateDir: filepath.Join(dir, "state"), Shares: list,
		Logger: slog.New(slog.NewJSONHandler(w, nil))})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	return srv.Serve(context.Background(), l)
}

// trace is the server's log, in the order in which things happened. Beside what the
// server logs itself, it has for each File of a disk that is open for writing
//
//	use 7 vms:web1/Virtual Hard Disks/disk0.vhdx    before its first request
//	begin 7 4194304 4096 RUN SEQ                    before a change of it; RUN and SEQ
//	                                                if the guest's stamp is in it
//	end 7                                           after it
type trace struct {
	mu   sync.Mutex
	out  *os.File
	last atomic.Int64
}

// Write implements io.Writer, for the server's logger.
func (w *trace) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Write(p)
}

func (w *trace) say(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }

// tracedFS writes down the changes of disks.
type tracedFS struct {
	fs.FS
	share string
	trace *trace
}

func (s *tracedFS) Open(ctx context.Context, name string, a fs.Access) (fs.File, error) {
	f, err := s.FS.Open(ctx, name, a)
	if err != nil || a&fs.WriteData == 0 || !strings.HasSuffix(name, ".vhdx") {
		return f, err
	}
	at, err := f.Name()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &tracedFile{File: f, trace: s.trace, id: s.trace.last.Add(1), at: s.share + ":" + at}, nil
}

type tracedFile struct {
	fs.File
	trace *trace
	id    int64
	at    string
	used  sync.Once
}

func (f *tracedFile) Unwrap() fs.File { return f.File }
func (f *tracedFile) use()            { f.used.Do(func() { f.trace.say("use %d %s", f.id, f.at) }) }

// change writes down a change of n bytes at off.
func (f *tracedFile) change(off, n int64, p []byte, do func() error) error {
	f.use()
	stamped := ""
	if len(p) >= stamp.BlockSize {
		if s, zero, err := stamp.Read(p[:stamp.BlockSize]); err == nil && !zero {
			stamped = fmt.Sprintf(" %x %d", s.Run, s.Seq)
		}
	}
	f.trace.say("begin %d %d %d%s", f.id, off, n, stamped)
	defer f.trace.say("end %d", f.id)
	return do()
}

func (f *tracedFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.change(off, int64(len(p)), p, func() error {
		n, err = f.File.WriteAt(p, off)
		return err
	})
	return n, err
}

func (f *tracedFile) Truncate(ctx context.Context, size int64) error {
	return f.change(size, 0, nil, func() error { return f.File.Truncate(ctx, size) })
}

func (f *tracedFile) SetAllocation(ctx context.Context, size int64) error {
	return f.change(size, 0, nil, func() error { return f.File.SetAllocation(ctx, size) })
}

func (f *tracedFile) Zero(ctx context.Context, off, n int64) error {
	return f.change(off, n, nil, func() error { return f.File.Zero(ctx, off, n) })
}

func (f *tracedFile) CopyRange(ctx context.Context, src fs.File, srcOff, dstOff, n int64) (m int64, err error) {
	err = f.change(dstOff, n, nil, func() error {
		m, err = f.File.CopyRange(ctx, src, srcOff, dstOff, n)
		return err
	})
	return m, err
}

func (f *tracedFile) Trim(ctx context.Context, off, n int64) error {
	return f.change(off, n, nil, func() error { return fs.Trim(ctx, f.File, off, n) })
}

func (f *tracedFile) Reserve(ctx context.Context, size int64) error {
	return f.change(0, size, nil, func() error { return fs.Reserve(ctx, f.File, size) })
}

func (f *tracedFile) CloneRange(ctx context.Context, src fs.File, srcOff, dstOff, n int64) error {
	return f.change(dstOff, n, nil, func() error { return fs.CloneRange(ctx, f.File, src, srcOff, dstOff, n) })
}

func (f *tracedFile) Snapshot(ctx context.Context, off, n int64) (fs.File, error) {
	return fs.Snapshot(ctx, f.File, off, n)
}
func (f *tracedFile) Watch(off, n int64) (*fs.Watch, error)    { return fs.NewWatch(f.File, off, n) }
func (f *tracedFile) Mark(ctx context.Context) ([]byte, error) { return fs.Mark(ctx, f.File) }

func (f *tracedFile) ReadAt(p []byte, off int64) (int, error) {
	f.use()
	return f.File.ReadAt(p, off)
}

func (f *tracedFile) ReadAtCached(p []byte, off int64) (int, error) {
	f.use()
	return f.File.ReadAtCached(p, off)
}

func (f *tracedFile) Sync(ctx context.Context) error {
	f.use()
	return f.File.Sync(ctx)
}

// judgement is what the server's log shows.
type judgement struct {
	opens  int // for an instance of a VM, and for writing
	writes int
	stamps int // writes of a guest's own blocks
	owners int // of a disk, one after the other, that wrote
	wrong  []string
}

func (j *judgement) blame(format string, args ...any) {
	if len(j.wrong) < 10 {
		j.wrong = append(j.wrong, fmt.Sprintf(format, args...))
	}
}

func (j *judgement) err() error {
	if len(j.wrong) == 0 {
		return nil
	}
	return fmt.Errorf("the server's log: %s", strings.Join(j.wrong, "\n  "))
}

// judged is a disk as the log has told of it so far.
type judged struct {
	opened uint64           // epoch for which it was opened last; 0: for none
	epoch  uint64           // the latest of them
	writer int64            // File that has changed it last
	past   map[int64]bool   // Files that others have written after
	epochs map[int64]uint64 // of the Files, from when they were used first
}

// judge reads a server's log. Of each disk the writers follow one another in the
// order of their epochs: once it is open in an epoch, nothing of an earlier one
// begins or ends, and nobody writes again whom somebody else has written after. So do
// the boots of the one guest, whose stamps are in what is written.
func judge(log io.Reader) *judgement {
	j := &judgement{}
	disks, files := map[string]*judged{}, map[int64]*judged{}
	boot, boots := "", map[string]bool{} // the one that writes, and those that others have written after
	disk := func(at string) *judged {
		if disks[at] == nil {
			disks[at] = &judged{past: map[int64]bool{}, epochs: map[int64]uint64{}}
		}
		return disks[at]
	}
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		text := lines.Text()
		word, rest, _ := strings.Cut(text, " ")
		var file, off, n int64
		fmt.Sscanf(rest, "%d %d %d", &file, &off, &n) //nolint:errcheck // not every line has all
		d := files[file]
		switch {
		case strings.HasPrefix(text, "{"):
			var g struct {
				Msg, Share, File string
				Version          uint64
				Access           uint32
			}
			if json.Unmarshal(lines.Bytes(), &g) != nil || g.Msg != "opened for an application instance" || g.Access&2 == 0 {
				continue
			}
			d := disk(g.Share + ":" + g.File)
			j.opens++
			// Where the later owner has gone an earlier one may open a disk again: it
			// asks whose the VM is then, before it writes.
			d.opened, d.epoch = g.Version, max(d.epoch, g.Version)
		case word == "use":
			_, at, _ := strings.Cut(rest, " ")
			d = disk(at)
			files[file], d.epochs[file] = d, d.opened
		case d == nil:
		case word == "begin":
			j.writes++
			if d.past[file] {
				j.blame("%s of %d bytes at %d by a writer whom another has written after", text, n, off)
			}
			if d.writer != file {
				j.owners++
				d.past[d.writer], d.writer = true, file
			}
			fallthrough
		case word == "end":
			if e := d.epochs[file]; e < d.epoch {
				j.blame("%s in epoch %d, when epoch %d had the disk", text, e, d.epoch)
			}
			if f := strings.Fields(rest); word == "begin" && len(f) == 5 {
				j.stamps++
				if boots[f[3]] {
					j.blame("%s: the guest's boot %s writes after a later one has", text, f[3])
				}
				if boot != f[3] {
					boots[boot], boot = true, f[3]
				}
			}
		}
	}
	return j
}
