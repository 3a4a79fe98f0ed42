package host

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"lunless/smbstore/smb2"
)

// brake stops its own process, an agent in a test, at a WRITE of a disk's data: the
// request is composed and signed, its credits and message id are taken, and none of
// it has left ("before"), or half of its data has ("half"). Commands come from
// standard input, what happens is told on standard output:
//
//	arm before 17      stop at the 17th WRITE from now
//	stopped before     the process stops itself now
//	left before        it has been continued, and the WRITE has been sent
//	unsent before E    as much, but the connection had been lost
//	answer STATUS      what the server said of that WRITE
type brake struct {
	mu   sync.Mutex
	kind string // armed: "before", "half"; "" not
	n    int    // WRITEs to go
}

// brakeFrom is the least data of a WRITE that counts: of files beside disks, none is
// as large.
const brakeFrom = 4096

// listen takes commands until in ends.
func (b *brake) listen(in io.Reader) {
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var kind string
		var n int
		if _, err := fmt.Sscanf(lines.Text(), "arm %s %d", &kind, &n); err == nil {
			b.mu.Lock()
			b.kind, b.n = kind, n
			b.mu.Unlock()
		}
	}
}

// due counts a WRITE, and tells how to stop at it; "" not at all.
func (b *brake) due() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.kind == "" {
		return ""
	}
	if b.n--; b.n > 0 {
		return ""
	}
	kind := b.kind
	b.kind = ""
	return kind
}

func (b *brake) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &brakedConn{Conn: nc, brake: b}, nil
}

// brakedConn is a client's connection. One goroutine writes at a time, and one reads.
type brakedConn struct {
	net.Conn
	brake   *brake
	half    bool // the next bytes are the data of the WRITE to stop in
	watched atomic.Uint64

	skip int    // bytes of a frame whose beginning has been looked at
	head []byte // beginning of a frame that is coming in
}

// Where fields lie in a frame (MS-SMB2 2.1, 2.2.1.2, 2.2.21).
const (
	atStatus  = smb2.FrameHeaderSize + 8
	atCommand = smb2.FrameHeaderSize + 12
	atMessage = smb2.FrameHeaderSize + 24
	atLength  = smb2.FrameHeaderSize + smb2.HeaderSize + 4
)

// Write passes on a frame's beginning, or the data that follows it.
func (c *brakedConn) Write(p []byte) (int, error) {
	if c.half {
		c.half = false
		n, err := c.Conn.Write(p[:len(p)/2])
		if err != nil {
			return n, err
		}
		stopSelf("half")
		m, err := c.Conn.Write(p[len(p)/2:])
		told("half", err)
		return n + m, err
	}
	le := binary.LittleEndian
	if len(p) < atLength+4 || string(p[4:8]) != "\xfeSMB" || smb2.Command(le.Uint16(p[atCommand:])) != smb2.CommandWrite ||
		le.Uint32(p[atLength:]) < brakeFrom {
		return c.Conn.Write(p)
	}
	switch c.brake.due() {
	case "before":
		c.watched.Store(le.Uint64(p[atMessage:]))
		stopSelf("before")
		n, err := c.Conn.Write(p)
		told("before", err)
		return n, err
	case "half":
		c.watched.Store(le.Uint64(p[atMessage:]))
		c.half = true
	}
	return c.Conn.Write(p)
}

func told(kind string, err error) {
	if err != nil {
		fmt.Println("unsent", kind, err)
		return
	}
	fmt.Println("left", kind)
}

// stopSelf stops this process, before the calling thread does anything more.
func stopSelf(kind string) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fmt.Println("stopped", kind)
	unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGSTOP) //nolint:errcheck // whoever waits for it sees
}

func (c *brakedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.look(p[:n])
	return n, err
}

// look finds the answer to the WRITE that was stopped at.
func (c *brakedConn) look(b []byte) {
	const whole = smb2.FrameHeaderSize + smb2.HeaderSize
	for len(b) > 0 {
		if c.skip > 0 {
			k := min(c.skip, len(b))
			c.skip, b = c.skip-k, b[k:]
			continue
		}
		k := min(whole-len(c.head), len(b))
		c.head, b = append(c.head, b[:k]...), b[k:]
		if len(c.head) < whole {
			return
		}
		status := smb2.Status(binary.LittleEndian.Uint32(c.head[atStatus:]))
		id := binary.LittleEndian.Uint64(c.head[atMessage:])
		if id == c.watched.Load() && id != 0 && status != smb2.StatusPending {
			c.watched.Store(0)
			fmt.Println("answer", strings.ReplaceAll(status.Error(), " ", "_"))
		}
		c.skip = max(int(binary.BigEndian.Uint32(c.head)&0xffffff)-smb2.HeaderSize, 0)
		c.head = c.head[:0]
	}
}
