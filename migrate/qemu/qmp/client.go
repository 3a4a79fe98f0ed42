package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrClosed: the connection is gone; the error it is wrapped in says why.
var ErrClosed = errors.New("QMP connection closed")

// Client is one connection to a monitor. Its methods may be called from several
// goroutines; QEMU works on commands in the order in which they were sent, but
// for those sent out of band.
type Client struct {
	conn     *net.UnixConn
	greeting Greeting
	oob      bool
	sending  chan struct{} // holds the token of who writes to conn
	done     chan struct{} // closed when the reader has ended

	mu      sync.Mutex // for what follows; never held while waiting
	lastID  uint64
	pending map[uint64]chan message // of one place each
	subs    map[*Subscription]struct{}
	closed  error
}

// Dial connects to the monitor at a unix socket and negotiates. QEMU serves one
// client a monitor at a time: until that one has gone, others wait here.
func Dial(ctx context.Context, path string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return New(ctx, conn.(*net.UnixConn))
}

// New negotiates on a connection, which it closes when that fails.
func New(ctx context.Context, conn *net.UnixConn) (*Client, error) {
	c := &Client{conn: conn, sending: make(chan struct{}, 1), done: make(chan struct{}),
		pending: map[uint64]chan message{}, subs: map[*Subscription]struct{}{}}
	lines := bufio.NewScanner(conn)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	err := c.readGreeting(lines)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("QMP greeting: %w", err)
	}
	go c.read(lines)
	args := map[string]any{}
	if slices.Contains(c.greeting.Capabilities, "oob") {
		args["enable"] = []string{"oob"}
		c.oob = true
	}
	if err := c.Execute(ctx, "qmp_capabilities", args, nil); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Client) readGreeting(lines *bufio.Scanner) error {
	if !lines.Scan() {
		return cmpErr(lines.Err(), io.ErrUnexpectedEOF)
	}
	m, err := decode(lines.Bytes())
	if err != nil {
		return err
	}
	if m.greeting == nil {
		return fmt.Errorf("%w: no greeting", errNoMessage)
	}
	c.greeting = *m.greeting
	return nil
}

func cmpErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// Greeting is what QEMU said first.
func (c *Client) Greeting() Greeting { return c.greeting }

// Done is closed when the connection is gone.
func (c *Client) Done() <-chan struct{} { return c.done }

// PeerPID is the number of the process that listens on the socket, as the kernel
// knows it.
func (c *Client) PeerPID() (int, error) {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, credErr); err != nil {
		return 0, fmt.Errorf("SO_PEERCRED: %w", err)
	}
	return int(cred.Pid), nil
}

// Close ends the connection. Commands under way end with ErrClosed.
func (c *Client) Close() {
	c.conn.Close()
	<-c.done
}

// Execute runs a command and decodes what it returns into ret unless that is
// nil. args is a JSON object or nil. Errors: *Error when QEMU refuses; ErrClosed;
// the context's, after which QEMU may still carry the command out.
func (c *Client) Execute(ctx context.Context, name string, args, ret any) error {
	return c.run(ctx, command{Execute: name, Arguments: args}, nil, ret)
}

// ExecuteOOB runs a command beside those under way, which few commands allow.
func (c *Client) ExecuteOOB(ctx context.Context, name string, args, ret any) error {
	if !c.oob {
		return fmt.Errorf("%s: this QEMU takes no commands out of band", name)
	}
	return c.run(ctx, command{OOB: name, Arguments: args}, nil, ret)
}

// ExecuteFile runs a command that a file goes along with (getfd). The caller
// keeps f and may close it afterwards.
func (c *Client) ExecuteFile(ctx context.Context, f *os.File, name string, args, ret any) error {
	return c.run(ctx, command{Execute: name, Arguments: args}, f, ret)
}

func (c *Client) run(ctx context.Context, cmd command, f *os.File, ret any) error {
	name := cmd.Execute + cmd.OOB
	answer := make(chan message, 1)
	c.mu.Lock()
	if c.closed != nil {
		defer c.mu.Unlock()
		return fmt.Errorf("%s: %w", name, c.closed)
	}
	c.lastID++
	cmd.ID = c.lastID
	c.pending[cmd.ID] = answer
	c.mu.Unlock()
	defer c.forget(cmd.ID)

	if err := c.send(ctx, cmd, f); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	select {
	case m := <-answer:
		return m.result(name, ret)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", name, ctx.Err())
	case <-c.done:
	}
	select { // the answer may have been the last thing that came
	case m := <-answer:
		return m.result(name, ret)
	default:
		return fmt.Errorf("%s: %w", name, c.cause())
	}
}

func (m message) result(name string, ret any) error {
	if m.err != nil {
		m.err.Command = name
		return m.err
	}
	if ret == nil {
		return nil
	}
	if err := json.Unmarshal(m.ret, ret); err != nil {
		return fmt.Errorf("%s: what it returned: %w", name, err)
	}
	return nil
}

// send writes a command. One that was written in part ends the connection: what
// follows would be read as the rest of it.
func (c *Client) send(ctx context.Context, cmd command, f *os.File) error {
	line, err := cmd.encode()
	if err != nil {
		return err
	}
	select {
	case c.sending <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
		return c.cause()
	}
	defer func() { <-c.sending }()
	if err := ctx.Err(); err != nil {
		return err
	}
	n, err := c.write(ctx, line, f)
	if err != nil {
		if n > 0 || ctx.Err() == nil {
			c.conn.Close()
		}
		return errors.Join(ctx.Err(), err)
	}
	return nil
}

// write writes a whole line, and a file with its first byte, or says how much
// went out before ctx ended it.
func (c *Client) write(ctx context.Context, line []byte, f *os.File) (int, error) {
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.conn.SetWriteDeadline(time.Unix(1, 0))
		close(ended)
	})
	defer func() {
		if !stop() {
			<-ended
			c.conn.SetWriteDeadline(time.Time{})
		}
	}()
	if f == nil {
		return c.conn.Write(line)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	n, sendErr := 0, error(nil)
	err = raw.Control(func(fd uintptr) {
		n, _, sendErr = c.conn.WriteMsgUnix(line, unix.UnixRights(int(fd)), nil)
	})
	if err = errors.Join(err, sendErr); err != nil || n == len(line) {
		return n, err
	}
	m, err := c.conn.Write(line[n:])
	return n + m, err
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	delete(c.pending, id)
	c.mu.Unlock()
}

// cause says why the connection is gone. It is called after done.
func (c *Client) cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// read hands out what comes until the connection ends. It waits for nobody but
// QEMU.
func (c *Client) read(lines *bufio.Scanner) {
	var err error
	for err == nil && lines.Scan() {
		var m message
		if m, err = decode(lines.Bytes()); err == nil {
			err = c.deliver(m)
		}
	}
	c.conn.Close()
	err = cmpErr(err, lines.Err())
	if err != nil && !errors.Is(err, net.ErrClosed) {
		err = fmt.Errorf("%w: %w", ErrClosed, err)
	} else {
		err = ErrClosed
	}
	c.mu.Lock()
	c.closed = err
	subs := maps.Clone(c.subs)
	clear(c.subs)
	c.mu.Unlock()
	for s := range subs {
		s.end(err)
	}
	close(c.done)
}

func (c *Client) deliver(m message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case m.event != nil:
		for s := range c.subs {
			s.put(*m.event)
		}
	case m.greeting != nil:
		return fmt.Errorf("%w: a second greeting", errNoMessage)
	case m.id == nil:
		return fmt.Errorf("%w: QEMU could not read a command: %v", errNoMessage, m.err)
	default: // nobody waits any more for a command that was given up
		if answer := c.pending[*m.id]; answer != nil {
			delete(c.pending, *m.id)
			answer <- m
		}
	}
	return nil
}
