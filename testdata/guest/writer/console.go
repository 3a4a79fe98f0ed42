package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// console is the serial port. A host that does not read fills it up: then
// heartbeats are left out, and other lines once a lot wait.
type console struct {
	fd      int
	mu      sync.Mutex
	some    sync.Cond
	pending []byte
	writing bool
	beats   atomic.Uint64
	late    atomic.Int64 // ns, the longest that a heartbeat came late
}

const (
	mostBeats   = 4 << 10   // bytes that may wait when a heartbeat is added
	mostPending = 256 << 10 // when another line is
)

func openConsole(path string, every time.Duration) *console {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		fd = 1
	}
	if t, err := unix.IoctlGetTermios(fd, unix.TCGETS); err == nil {
		t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
		t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
		unix.IoctlSetTermios(fd, unix.TCSETS, t)
	}
	// The kernel's own lines would come between; they are told as KMSG.
	os.WriteFile("/proc/sys/kernel/printk", []byte("1 4 1 7\n"), 0)
	c := &console{fd: fd}
	c.some.L = &c.mu
	go c.write()
	go c.beat(every)
	return c
}

// Say sends a line.
func (c *console) Say(format string, args ...any) {
	c.add(mostPending, fmt.Appendf(nil, format+"\n", args...))
}

func (c *console) add(most int, line []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) > most {
		return
	}
	c.pending = append(c.pending, line...)
	c.some.Broadcast()
}

func (c *console) write() {
	var buf []byte
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		for len(c.pending) == 0 {
			c.some.Wait()
		}
		buf, c.pending = c.pending, buf[:0]
		c.writing = true
		c.mu.Unlock()
		for rest := buf; len(rest) > 0; {
			n, err := unix.Write(c.fd, rest)
			if err != nil && err != unix.EINTR && err != unix.EAGAIN {
				break
			}
			rest = rest[max(n, 0):]
		}
		c.mu.Lock()
		c.writing = false
		c.some.Broadcast()
	}
}

// Drain returns when all is out of the port.
func (c *console) Drain() {
	c.mu.Lock()
	for len(c.pending) > 0 || c.writing {
		c.some.Wait()
	}
	c.mu.Unlock()
	unix.IoctlSetInt(c.fd, unix.TCSBRK, 1)
}

// beat sends heartbeats. After a hold-up it does not catch up: the count tells
// beats, not time.
func (c *console) beat(every time.Duration) {
	var line []byte
	next := time.Now()
	for {
		line = fmt.Appendf(line[:0], "HB %d\n", c.beats.Add(1))
		c.add(mostBeats, line)
		next = next.Add(every)
		wait := time.Until(next)
		if wait <= 0 {
			next, wait = time.Now(), every
		}
		time.Sleep(wait)
		if late := int64(time.Since(next)); late > c.late.Load() {
			c.late.Store(late)
		}
	}
}

// Lines are the host's commands.
func (c *console) Lines() <-chan string {
	ch := make(chan string)
	go func() {
		in := bufio.NewReader(os.NewFile(uintptr(c.fd), "console"))
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				time.Sleep(100 * time.Millisecond)
				continue
			}
			ch <- strings.TrimSpace(line)
		}
	}()
	return ch
}
