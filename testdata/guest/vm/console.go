package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"lunless/testdata/guest/stamp"
)

// ErrClosed: the console's connection ended, and no other was attached.
var ErrClosed = errors.New("the guest's console is closed")

// Line is a line that is no heartbeat.
type Line struct {
	At   time.Time
	Text string
}

const (
	keptLines      = 4096
	keptComplaints = 256
	longestLine    = 4096
)

// Console is a conversation with the guest. It outlives connections: records,
// heartbeats and complaints go on when another is attached, that of a migration's
// destination for one. All methods may be called concurrently; one command is
// under way at a time. It is to be the only one that pauses the guest and lets it
// go on.
type Console struct {
	turn sync.Mutex // held for a command and its answer

	mu         sync.Mutex
	changed    chan struct{} // closed and replaced whenever something came
	conn       io.ReadWriteCloser
	closed     bool
	lines      []Line
	dropped    int // lines before lines[0]
	records    stamp.Records
	run        uint64
	disks      map[int]string // "fresh" or "found", as this connection has told, or ""
	state      string         // as STATUS has it; "" unknown, "off" after BYE
	ready      Ready
	recovered  string // the RECOVERED line of this boot
	beats      Beats
	complaints []Line
	complained int
}

// Ready is what the guest says when it begins.
type Ready struct {
	Run   uint64
	Boots int           // of these disks
	Up    time.Duration // since the kernel started, by its clock
}

// Dial connects to the console's socket, tried until ctx ends.
func Dial(ctx context.Context, socket string) (*Console, error) {
	c := NewConsole()
	return c, c.Redial(ctx, socket)
}

// NewConsole is one without a connection: Attach or Redial give it one.
func NewConsole() *Console {
	return &Console{changed: make(chan struct{}), records: stamp.Records{}, disks: map[int]string{}, closed: true}
}

// Redial attaches a new connection to a socket, tried until ctx ends.
func (c *Console) Redial(ctx context.Context, socket string) error {
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "unix", socket)
		if err == nil {
			c.Attach(conn)
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the guest's console: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Attach makes conn the connection; what was said on the former one after this is
// lost, and it is closed.
func (c *Console) Attach(conn io.ReadWriteCloser) {
	c.mu.Lock()
	old := c.conn
	c.conn, c.closed = conn, false
	for d := range c.disks {
		c.disks[d] = "" // of a boot whose beginning was missed it is not known
	}
	c.mu.Unlock()
	if old != nil {
		old.Close()
	}
	go c.read(conn)
}

// Close closes the connection. What was gathered stays.
func (c *Console) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return nil
	}
	err := c.conn.Close()
	c.conn, c.closed = nil, true
	c.wake()
	return err
}

func (c *Console) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Console) read(conn io.Reader) {
	in := bufio.NewReaderSize(conn, longestLine)
	for {
		b, err := in.ReadSlice('\n')
		now := time.Now()
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			break
		}
		text := strings.TrimRight(string(b), "\r\n")
		c.mu.Lock()
		if c.conn != conn {
			c.mu.Unlock()
			return
		}
		c.take(now, text)
		c.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == conn {
		c.closed = true
		c.wake()
	}
}

// take sorts a line in; c.mu is held.
func (c *Console) take(now time.Time, text string) {
	var n uint64
	if _, err := fmt.Sscanf(text, "HB %d", &n); err == nil {
		c.beats.add(now, n)
		return
	}
	c.lines = append(c.lines, Line{now, text})
	if len(c.lines) > 2*keptLines {
		c.dropped += len(c.lines) - keptLines
		c.lines = slices.Clone(c.lines[len(c.lines)-keptLines:])
	}
	c.note(Line{now, text})
	c.wake()
}

// note learns from a line.
func (c *Console) note(l Line) {
	word, rest, _ := strings.Cut(l.Text, " ")
	switch word {
	case "DISK":
		if f := strings.Fields(rest); len(f) >= 3 {
			var d int
			if _, err := fmt.Sscanf(f[0], "%d", &d); err == nil {
				c.disks[d] = f[len(f)-1]
			}
		}
	case "RECOVER":
		c.state, c.recovered = "recover", ""
	case "RECOVERED":
		c.recovered = l.Text
	case "READY":
		var r Ready
		var up int64
		if _, err := fmt.Sscanf(rest, "run=%x boots=%d up_ms=%d", &r.Run, &r.Boots, &up); err == nil {
			r.Up = time.Duration(up) * time.Millisecond
			c.ready, c.run, c.state = r, r.Run, "paused"
		}
	case "STATUS":
		var state string
		var run uint64
		if _, err := fmt.Sscanf(rest, "state=%s run=%x", &state, &run); err == nil {
			c.state, c.run = state, run
		}
	case "FLUSHED":
		var k stamp.Key
		var seq uint64
		if _, err := fmt.Sscanf(rest, "%d %d %x", &k.Disk, &seq, &k.Run); err == nil {
			c.records[k] = stamp.Record{Flushed: max(seq, c.records[k].Flushed)}
		}
	case "PAUSED", "RUNNING":
		c.state = strings.ToLower(word)
		c.exact(word == "PAUSED")
	case "BYE":
		c.state = "off"
	case "BAD", "IOERR", "KMSG", "FATAL":
		if c.complained++; len(c.complaints) < keptComplaints {
			c.complaints = append(c.complaints, l)
		}
	}
}

// exact notes whether more than what the records say may have been started.
func (c *Console) exact(yes bool) {
	for d := range c.disks {
		k := stamp.Key{Run: c.run, Disk: d}
		c.records[k] = stamp.Record{Flushed: c.records[k].Flushed, Exact: yes}
	}
}

// Records are what the guest has said of flushes: what must be on its disks,
// whatever happens to it.
func (c *Console) Records() stamp.Records {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := stamp.Records{}
	for k, v := range c.records {
		r[k] = v
	}
	return r
}

// Complaints are the BAD, IOERR, KMSG and FATAL lines so far, the first of them,
// and how many there were.
func (c *Console) Complaints() ([]Line, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.complaints), c.complained
}

// Err is nil as long as the guest has not complained.
func (c *Console) Err() error {
	lines, n := c.Complaints()
	if n == 0 {
		return nil
	}
	return fmt.Errorf("the guest complained %d times:\n%s", n, join(lines[:min(len(lines), 20)]))
}

// Tail returns the last n lines that are no heartbeats.
func (c *Console) Tail(n int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return join(c.lines[max(0, len(c.lines)-n):])
}

func join(lines []Line) string {
	var b strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&b, "  %s %s\n", l.At.Format("15:04:05.000"), l.Text)
	}
	return b.String()
}
