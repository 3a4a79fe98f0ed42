package vm

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Send sends a line.
func (c *Console) Send(format string, args ...any) error {
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if conn == nil {
		return ErrClosed
	}
	if _, err := fmt.Fprintf(conn, format+"\n", args...); err != nil {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return nil
}

// Mark is a place behind all lines that came so far.
func (c *Console) Mark() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dropped + len(c.lines)
}

// Wait returns the first line behind mark that begins with one of the words. The
// error is the context's, or ErrClosed, with the last lines.
func (c *Console) Wait(ctx context.Context, mark int, words ...string) (Line, error) {
	var found Line
	err := c.until(ctx, func() bool {
		for i := max(mark-c.dropped, 0); i < len(c.lines); i++ {
			for _, w := range words {
				if text := c.lines[i].Text; text == w || strings.HasPrefix(text, w+" ") {
					found = c.lines[i]
					return true
				}
			}
		}
		mark = c.dropped + len(c.lines)
		return false
	})
	if err != nil {
		return Line{}, fmt.Errorf("waiting for %s: %w; it said\n%s", strings.Join(words, " or "), err, c.Tail(10))
	}
	return found, nil
}

// until waits for a condition, which is asked under c.mu.
func (c *Console) until(ctx context.Context, ok func() bool) error {
	for {
		c.mu.Lock()
		done, closed, changed := ok(), c.closed, c.changed
		c.mu.Unlock()
		switch {
		case done:
			return nil
		case closed:
			return ErrClosed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ask sends a command and waits for its answer.
func (c *Console) ask(ctx context.Context, command, answer string) (Line, int, error) {
	c.turn.Lock()
	defer c.turn.Unlock()
	mark := c.Mark()
	if err := c.Send("%s", command); err != nil {
		return Line{}, mark, err
	}
	l, err := c.Wait(ctx, mark, answer)
	return l, mark, err
}

// Await waits until the guest is at work, or paused. One that has been restarted
// is given the records, and verifies its disks: the error tells what was wrong.
// For a guest that was at work before the console was attached, Boots and Up are
// not known.
func (c *Console) Await(ctx context.Context) (Ready, error) {
	c.turn.Lock()
	defer c.turn.Unlock()
	c.mu.Lock()
	c.state = "" // whatever a former boot has said
	c.mu.Unlock()
	given := false
	for {
		if err := c.Send("H"); err != nil {
			return Ready{}, err
		}
		short, cancel := context.WithTimeout(ctx, 2*time.Second)
		var state string
		err := c.until(short, func() bool {
			state = c.state
			return state == "running" || state == "paused" || state == "off" || state == "recover" && !given
		})
		cancel()
		switch {
		case state == "recover" && !given:
			if given, err = true, c.giveRecords(); err != nil {
				return Ready{}, err
			}
		case state == "off":
			return Ready{}, fmt.Errorf("the guest ended; it said\n%s", c.Tail(20))
		case err == nil:
			return c.begun()
		case ctx.Err() != nil || c.isClosed():
			return Ready{}, fmt.Errorf("waiting for the guest to be ready: %w; it said\n%s", err, c.Tail(10))
		}
	}
}

func (c *Console) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

func (c *Console) giveRecords() error {
	for k, r := range c.Records() {
		exact := 0
		if r.Exact {
			exact = 1
		}
		if err := c.Send("KNOWN %d %d %x %d", k.Disk, r.Flushed, k.Run, exact); err != nil {
			return err
		}
	}
	return c.Send("START")
}

// begun judges what the guest said of its disks before it began.
func (c *Console) begun() (Ready, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ready := c.ready
	if ready.Run != c.run {
		ready = Ready{Run: c.run}
	}
	if c.recovered != "" && !strings.HasSuffix(c.recovered, " errors=0") {
		return ready, fmt.Errorf("the guest found its disks damaged after its restart: %s\n%s", c.recovered, join(c.complaints[:min(len(c.complaints), 20)]))
	}
	for k, r := range c.records {
		if k.Run != c.run && r.Flushed > 0 && c.disks[k.Disk] == "fresh" {
			return ready, fmt.Errorf("disk %d came back blank: operation %d of run %x was flushed to it", k.Disk, r.Flushed, k.Run)
		}
	}
	return ready, nil
}

// Verified is what the guest found.
type Verified struct{ Blocks, Pages, Errors int64 }

// Verify has the guest verify all its disks and its RAM; writing pauses meanwhile.
// The error tells what was wrong.
func (c *Console) Verify(ctx context.Context) (v Verified, err error) {
	l, mark, err := c.ask(ctx, "V", "VERIFIED")
	if err != nil {
		return v, err
	}
	if _, err := fmt.Sscanf(l.Text, "VERIFIED blocks=%d pages=%d errors=%d", &v.Blocks, &v.Pages, &v.Errors); err != nil {
		return v, fmt.Errorf("%q: %w", l.Text, err)
	}
	if v.Errors > 0 {
		err = fmt.Errorf("the guest found %d errors:\n%s", v.Errors, join(c.bad(mark)))
	}
	return v, err
}

func (c *Console) bad(mark int) (lines []Line) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.lines[max(mark-c.dropped, 0):] {
		if strings.HasPrefix(l.Text, "BAD ") {
			lines = append(lines, l)
		}
	}
	return lines
}

// Stats are the guest's, since it began or since Reset.
type Stats struct {
	Since                             time.Duration
	Errors, IOErrors                  int64 // blocks and pages found wrong; failed requests
	Writes, Reads, Flushes, Trims     int64
	Zeroes                            int64
	Stall                             time.Duration // the longest request, one in flight included
	StallOp                           string
	StallBeat                         uint64 // heartbeat at which that began
	Write, Read, Flush, Zero, TrimMax time.Duration
	Late                              time.Duration // the longest that a heartbeat came late, by the guest's clock
}

// Stats asks for the statistics.
func (c *Console) Stats(ctx context.Context) (Stats, error) {
	l, _, err := c.ask(ctx, "S", "STATS")
	if err != nil {
		return Stats{}, err
	}
	return parseStats(l.Text)
}

func parseStats(text string) (s Stats, err error) {
	v := map[string]string{}
	for _, f := range strings.Fields(text) {
		name, value, _ := strings.Cut(f, "=")
		v[name] = value
	}
	num := func(name string) float64 {
		x, bad := strconv.ParseFloat(v[name], 64)
		if bad != nil && err == nil {
			err = fmt.Errorf("%q: %s: %w", text, name, bad)
		}
		return x
	}
	ms := func(name string) time.Duration { return time.Duration(num(name) * float64(time.Millisecond)) }
	s = Stats{Since: ms("ms"), Errors: int64(num("errors")), IOErrors: int64(num("ioerrs")),
		Writes: int64(num("write")), Reads: int64(num("read")), Flushes: int64(num("flush")), Trims: int64(num("trim")), Zeroes: int64(num("zero")),
		Stall: ms("stall_ms"), StallOp: v["stall_op"], StallBeat: uint64(num("stall_hb")),
		Write: ms("write_ms"), Read: ms("read_ms"), Flush: ms("flush_ms"), Zero: ms("zero_ms"), TrimMax: ms("trim_ms"), Late: ms("late_ms")}
	return s, err
}

// Reset begins new statistics.
func (c *Console) Reset(ctx context.Context) error {
	_, _, err := c.ask(ctx, "R", "RESET")
	return err
}

// Pause stops the writing: all that was started is done and flushed then, and the
// records are exact.
func (c *Console) Pause(ctx context.Context) error {
	_, _, err := c.ask(ctx, "P", "PAUSED")
	return err
}

// Resume lets the guest write again.
func (c *Console) Resume(ctx context.Context) error {
	_, _, err := c.ask(ctx, "G", "RUNNING")
	return err
}

// Rate sets the operations a second and disk; 0: all it can.
func (c *Console) Rate(perSecond int) error { return c.Send("W %d", perSecond) }

// SetVariable sets a new UEFI variable: it is in the flash memory when that returns.
func (c *Console) SetVariable(ctx context.Context, name, value string) error {
	l, _, err := c.ask(ctx, "E "+name+" "+value, "VARIABLE "+name)
	if err == nil && !strings.HasSuffix(l.Text, " ok") {
		err = errors.New(l.Text)
	}
	return err
}

// Quit flushes all and powers the guest off.
func (c *Console) Quit(ctx context.Context) error {
	_, _, err := c.ask(ctx, "Q", "BYE")
	return err
}
