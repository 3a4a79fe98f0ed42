package host

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lunless/migrate/internal/hooks"
	"lunless/migrate/qemu"
	"lunless/smbstore"
	"lunless/smbstore/storetest"
	guest "lunless/testdata/guest/vm"
)

// An agent that a test kills is this program again.
const agentVariable = "LUNLESS_TEST_AGENT"

func TestMain(m *testing.M) {
	if b := os.Getenv(agentVariable); b != "" {
		os.Exit(childAgent([]byte(b)))
	}
	if dir := os.Getenv(writtenDownVariable); dir != "" {
		fmt.Println(serveWrittenDown(dir, os.Getenv(writtenDownAddr)))
		os.Exit(1) // it is killed, never done
	}
	os.Exit(m.Run())
}

// childConfig is an agent's configuration on its way to the child.
type childConfig struct {
	Config   Config
	User     string
	Sabotage string
	Staged   bool // does what a stage is told on its standard input
	Braked   bool // has a brake, which is told when on its standard input
	// LetGoWait is the variable of that name, if not 0.
	LetGoWait time.Duration
}

func childAgent(b []byte) int {
	var c childConfig
	if err := json.Unmarshal(b, &c); err != nil {
		fmt.Println(err)
		return 1
	}
	sabotage = func(name string) bool { return name == c.Sabotage }
	hooks.Sabotage = sabotage
	if c.Staged {
		go newStage().listen(os.Stdin)
	}
	if c.LetGoWait > 0 {
		letGoWait = c.LetGoWait
	}
	if c.Braked {
		b := &brake{}
		go b.listen(os.Stdin)
		c.Config.Options.Dial = b.dial
	}
	c.Config.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	if c.User != "" {
		c.Config.Options.Credentials = &smbstore.Credentials{User: c.User, Password: storetest.Password}
	}
	ctx, end := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer end()
	err := Run(ctx, c.Config, func(string) { fmt.Println("ready") })
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// rig is a host with an agent in a process of its own.
type rig struct {
	t   *testing.T
	ctx context.Context
	cfg childConfig
	cmd *exec.Cmd
	in  io.WriteCloser // of a staged or braked agent
	out *bufio.Reader
	// said is what a braked agent has said.
	said  *said
	races string // what the race detector tells of its agents goes to files of this name
	// sizes are the disks' that makeGuest makes, in bytes
	sizes []int64
	Client
}

// newRig makes a host; nothing runs on it yet. Its guests end with the test.
func newRig(t *testing.T, name string, server *storetest.Server) *rig {
	t.Helper()
	data, err := os.MkdirTemp("", "h")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	// Hosts of tests that run at the same time have names of their own.
	h := &rig{t: t, ctx: ctx, cfg: childConfig{Config: Config{Data: data, Name: name + "-" + filepath.Base(data), Accel: "tcg"}}, sizes: []int64{96 << 20, 64 << 20}, Client: Client{Data: data}}
	h.races = filepath.Join(t.TempDir(), "race")
	if server != nil {
		h.cfg.User = server.User
	}
	t.Cleanup(func() {
		cancel()
		h.kill()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		dirs, _ := filepath.Glob(filepath.Join(data, runDir, "*"))
		for _, dir := range dirs {
			if err := qemu.KillAt(ctx, dir); err != nil && !errors.Is(err, qemu.ErrGone) {
				t.Error(err)
			}
		}
		os.RemoveAll(data)
		reports, _ := filepath.Glob(h.races + ".*")
		for _, name := range reports { // an agent that is killed cannot fail for them
			report, err := os.ReadFile(name)
			t.Errorf("a data race in the agent: %s %v", report, err)
		}
	})
	return h
}

func (h *rig) options() smbstore.Options {
	o := smbstore.Options{}
	if h.cfg.User != "" {
		o.Credentials = &smbstore.Credentials{User: h.cfg.User, Password: storetest.Password}
	}
	return o
}

// startAgent starts the agent and waits until it is ready.
func (h *rig) startAgent() {
	h.t.Helper()
	b, err := json.Marshal(h.cfg)
	h.must(err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), agentVariable+"="+string(b), smbstore.PasswordVariable+"="+storetest.Password,
		"GORACE="+os.Getenv("GORACE")+" log_path="+h.races)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	h.must(err)
	h.in, err = cmd.StdinPipe()
	h.must(err)
	h.must(cmd.Start())
	h.cmd, h.out = cmd, bufio.NewReader(out)
	line, err := h.out.ReadString('\n')
	if strings.TrimSpace(line) != "ready" {
		h.t.Fatalf("the agent says %q, %v", line, err)
	}
	if h.cfg.Braked {
		h.said = newSaid()
		go h.said.read(h.out)
	}
}

// kill ends the agent with kill -9.
func (h *rig) kill() { h.signal(syscall.SIGKILL) }

func (h *rig) signal(s syscall.Signal) {
	if h.cmd != nil {
		h.cmd.Process.Signal(s) //nolint:errcheck // it may have ended
		h.cmd.Wait()            //nolint:errcheck // of a signal
		if end := h.cmd.ProcessState; end.Exited() && end.ExitCode() != 0 {
			h.t.Errorf("the agent ended by itself: %v", end)
		}
		h.cmd = nil
	}
}

func (h *rig) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// await waits until the VM is in a state.
func (h *rig) await(name string, want State) VM {
	h.t.Helper()
	for {
		v, err := h.Show(h.ctx, name)
		if err == nil && v.State == want {
			return v
		}
		select {
		case <-h.ctx.Done():
			h.t.Fatalf("%s is %s (%s), %v: want %s", name, v.State, v.Reason, err, want)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// makeGuest makes a home with the test guest in it, owned by the rig's host, and
// gives its location.
func (h *rig) makeGuest(name string, at smbstore.Location, params ...string) smbstore.Location {
	h.t.Helper()
	g, err := guest.Build(h.ctx, "")
	if err != nil {
		h.t.Fatalf("%v (testdata/peers.sh installs what is missing)", err)
	}
	kernel, err := os.Open(g.Kernel)
	h.must(err)
	defer kernel.Close()
	initrd, err := os.Open(g.Initrd)
	h.must(err)
	defer initrd.Close()
	s, err := smbstore.Open(h.ctx, at, h.options())
	h.must(err)
	defer s.Close()
	home, err := smbstore.CreateHomeWith(h.ctx, s, name, smbstore.Config{CPUs: 1, Memory: 131064 << 10, Firmware: "bios"},
		smbstore.NewHome{Disks: h.sizes, Kernel: kernel, Initrd: initrd, Append: g.Append(params...)})
	h.must(err)
	_, err = home.Resolve(h.ctx, h.cfg.Config.Name)
	h.must(err)
	return at.Join(name)
}

// console connects with the guest's console and waits until it is at work.
func (h *rig) console(name string) *guest.Console {
	h.t.Helper()
	conn, err := h.Console(h.ctx, name)
	h.must(err)
	c := guest.NewConsole()
	c.Attach(conn)
	if _, err := c.Await(h.ctx); err != nil {
		h.t.Fatalf("%v\n%s", err, c.Tail(20))
	}
	return c
}

// reattach gives the conversation a new connection, after the agent has gone.
func (h *rig) reattach(c *guest.Console, name string) {
	h.t.Helper()
	conn, err := h.Console(h.ctx, name)
	h.must(err)
	c.Attach(conn)
}

// flushes waits until the guest has told of n more flushes.
func (h *rig) flushes(c *guest.Console, n int) {
	h.t.Helper()
	for range n {
		if _, err := c.Wait(h.ctx, c.Mark(), "FLUSHED"); err != nil {
			h.t.Fatalf("%v\n%s", err, c.Tail(20))
		}
	}
}
