package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"lunless/testdata/guest/stamp"
)

// actor plays the guest: what it is told is answered from a script, each line of
// which serves once.
type actor struct {
	conn net.Conn
	told chan string
}

func act(t *testing.T, c *Console, answers map[string]string) *actor {
	t.Helper()
	ours, theirs := net.Pipe()
	a := &actor{conn: ours, told: make(chan string, 64)}
	t.Cleanup(func() { ours.Close() })
	if err := ours.SetDeadline(time.Now().Add(time.Minute)); err != nil { // nothing waits for ever
		t.Fatal(err)
	}
	go func() {
		defer close(a.told)
		for in := bufio.NewScanner(ours); in.Scan(); {
			a.told <- in.Text()
			if text := answers[in.Text()]; text != "" {
				delete(answers, in.Text())
				fmt.Fprint(ours, text)
			}
		}
	}()
	c.Attach(theirs)
	return a
}

func (a *actor) say(t *testing.T, c *Console, lines string) {
	t.Helper()
	mark := c.Mark()
	if _, err := fmt.Fprint(a.conn, lines+"END\n"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := c.Wait(ctx, mark, "END"); err != nil {
		t.Fatal(err)
	}
}

// within bounds what is waited for.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// Records are exact while the guest is paused, and outlive connections.
func TestRecords(t *testing.T) {
	c := NewConsole()
	a := act(t, c, nil)
	k := func(disk int) stamp.Key { return stamp.Key{Run: 0xa1, Disk: disk} }
	for _, step := range []struct {
		said string
		disk int
		want stamp.Record
	}{
		{"DISK 0 vda blocks=512 stride=512 fresh\nDISK 1 vdb blocks=512 stride=512 fresh\nREADY run=00000000000000a1 boots=1 up_ms=10\nRUNNING\n", 0, stamp.Record{}},
		{"FLUSHED 0 12 00000000000000a1\n", 0, stamp.Record{Flushed: 12}},
		{"FLUSHED 0 9 00000000000000a1\n", 0, stamp.Record{Flushed: 12}},
		{"LUSHED 0 90 00000000000000a1\nFLUSHED 0\n", 0, stamp.Record{Flushed: 12}},
		{"PAUSED\n", 1, stamp.Record{Exact: true}},
		{"FLUSHED 0 12 00000000000000a1\nPAUSED\n", 0, stamp.Record{Flushed: 12, Exact: true}},
		{"RUNNING\n", 0, stamp.Record{Flushed: 12}},
		{"FLUSHED 0 20 00000000000000a1\nPAUSED\nREADY run=00000000000000b2 boots=2 up_ms=10\nRUNNING\nFLUSHED 0 1 00000000000000b2\n", 0, stamp.Record{Flushed: 20, Exact: true}},
	} {
		a.say(t, c, step.said)
		if got := c.Records()[k(step.disk)]; got != step.want {
			t.Errorf("after %q: %+v, must be %+v", step.said, got, step.want)
		}
	}
	act(t, c, nil).say(t, c, "FLUSHED 0 5 00000000000000b2\n")
	if got := c.Records()[stamp.Key{Run: 0xb2}]; got != (stamp.Record{Flushed: 5}) {
		t.Errorf("over the second connection: %+v", got)
	}
}

// Heartbeats: gaps span connections, what was lost is counted, a boot begins anew.
func TestBeats(t *testing.T) {
	var b Beats
	at := func(ms int) time.Time { return time.UnixMilli(1_000_000 + int64(ms)) }
	for _, beat := range []struct{ ms, n int }{{0, 1}, {10, 2}, {35, 3}, {45, 6}, {500, 1}, {510, 2}} {
		b.add(at(beat.ms), uint64(beat.n))
	}
	if b.Count != 6 || b.Longest != 25*time.Millisecond || !b.LongestFrom.Equal(at(10)) || b.Lost != 2 || b.Last != 2 {
		t.Errorf("%+v", b)
	}
	c := NewConsole()
	act(t, c, nil).say(t, c, "HB 7\n")
	time.Sleep(30 * time.Millisecond)
	act(t, c, nil).say(t, c, "HB 8\n")
	if b := c.Beats(); b.Count != 2 || b.Longest < 30*time.Millisecond {
		t.Errorf("over two connections: %+v", b)
	}
}

const (
	recovered = "RECOVERED blocks=512 errors=0\nREADY run=00000000000000b2 boots=2 up_ms=10\n"
	status    = "STATUS state=recover run=00000000000000b2 up_ms=5\n"
	onDisk    = "DISK 0 vda blocks=512 stride=512 "
)

// A restarted guest is given the records; what it says of its disks is judged.
func TestAwait(t *testing.T) {
	for _, c := range []struct{ name, start, want string }{
		{"all there", recovered, ""},
		{"writes lost", "BAD block 17 is old\nRECOVERED blocks=511 errors=1\nREADY run=00000000000000b2 boots=2 up_ms=10\n", "block 17 is old"},
		{"cannot work", "FATAL no disk\nBYE\n", "FATAL no disk"},
	} {
		t.Run(c.name, func(t *testing.T) {
			console := NewConsole()
			act(t, console, nil).say(t, console, onDisk+"fresh\nREADY run=00000000000000a1 boots=1 up_ms=10\nRUNNING\nFLUSHED 0 12 00000000000000a1\n")
			a := act(t, console, map[string]string{"H": onDisk + "found\nRECOVER run=1\n" + status, "START": c.start})
			ready, err := console.Await(within(t))
			if c.want == "" && (err != nil || ready.Boots != 2) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%+v, %v", ready, err)
			}
			if h, known := <-a.told, <-a.told; h != "H" || known != "KNOWN 0 12 a1 0" {
				t.Errorf("the guest was told %q, %q", h, known)
			}
		})
	}
}

func TestBlankDiskIsNoticed(t *testing.T) {
	c := NewConsole()
	act(t, c, nil).say(t, c, onDisk+"fresh\nREADY run=00000000000000a1 boots=1 up_ms=10\nRUNNING\nFLUSHED 0 12 00000000000000a1\n")
	act(t, c, map[string]string{"H": onDisk + "fresh\nREADY run=00000000000000b2 boots=1 up_ms=10\n"})
	if _, err := c.Await(within(t)); err == nil || !strings.Contains(err.Error(), "came back blank") {
		t.Error(err)
	}
}

// A connection that ends wakes who waits.
func TestClosedConsole(t *testing.T) {
	c := NewConsole()
	a := act(t, c, nil)
	time.AfterFunc(10*time.Millisecond, func() { a.conn.Close() })
	if _, err := c.Verify(within(t)); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestStatsAndComplaints(t *testing.T) {
	c := NewConsole()
	act(t, c, map[string]string{"S": "STATS ms=1500 errors=1 ioerrs=2 write=3 write_ms=1.5 read=4 read_ms=1 flush=5 flush_ms=1 zero=6 zero_ms=1 trim=7 trim_ms=2 " +
		"stall_ms=2.0 stall_op=trim stall_disk=0 stall_seq=8 stall_hb=9 hb=10 late_ms=0.5\n", "V": "BAD page 4\nVERIFIED blocks=5 pages=6 errors=1\n"})
	s, err := c.Stats(within(t))
	if err != nil || s.Since != 1500*time.Millisecond || s.Write != 1500*time.Microsecond || s.Trims != 7 || s.StallOp != "trim" || s.IOErrors != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	if v, err := c.Verify(within(t)); err == nil || !strings.Contains(err.Error(), "BAD page 4") || v.Blocks != 5 {
		t.Errorf("%+v, %v", v, err)
	}
	if err := c.Err(); err == nil || !strings.Contains(err.Error(), "BAD page 4") {
		t.Error(err)
	}
	if _, err := parseStats("STATS ms=x"); err == nil {
		t.Error("took nonsense for statistics")
	}
}
