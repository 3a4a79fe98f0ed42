package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}`

// peer is QEMU's end of a connection.
type peer struct {
	t    *testing.T
	conn *net.UnixConn
	in   *bufio.Scanner
}

type received struct {
	Execute   string
	OOB       string `json:"exec-oob"`
	Arguments json.RawMessage
	ID        uint64
}

func pair(t *testing.T) (*net.UnixConn, *peer) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	if len(path) > 100 {
		path = fmt.Sprintf("@lunless-qmp-%d-%p", os.Getpid(), t)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.UnixConn), &peer{t: t, conn: s.(*net.UnixConn), in: bufio.NewScanner(s)}
}

func (p *peer) say(format string, args ...any) {
	p.t.Helper()
	if _, err := fmt.Fprintf(p.conn, format+"\r\n", args...); err != nil {
		p.t.Error(err)
	}
}

func (p *peer) hear() received {
	p.t.Helper()
	var r received
	if !p.in.Scan() {
		p.t.Errorf("the client hung up: %v", p.in.Err())
	} else if err := json.Unmarshal(p.in.Bytes(), &r); err != nil {
		p.t.Error(err)
	}
	return r
}

func connected(t *testing.T) (*Client, *peer) {
	t.Helper()
	conn, p := pair(t)
	ready := make(chan struct{})
	go func() {
		defer close(ready)
		p.say(greeting)
		r := p.hear()
		if r.Execute != "qmp_capabilities" || string(r.Arguments) != `{"enable":["oob"]}` {
			t.Errorf("negotiation: %+v", r)
		}
		p.say(`{"return": {}, "id": %d}`, r.ID)
	}()
	c, err := New(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	<-ready
	return c, p
}

func TestNegotiationFails(t *testing.T) {
	for name, said := range map[string]string{
		"hangs up": "", "no JSON": "SSH-2.0\n", "an event": `{"event": "STOP"}` + "\n", "a long line": strings.Repeat("x", maxLine+1),
		"refuses": greeting + "\n" + `{"error": {"class": "GenericError", "desc": "no"}, "id": 1}` + "\n",
	} {
		conn, p := pair(t)
		go func() {
			io.WriteString(p.conn, said)
			p.conn.CloseWrite()
			io.Copy(io.Discard, p.conn)
		}()
		if _, err := New(t.Context(), conn); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	conn, _ := pair(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := New(ctx, conn); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a peer that says nothing: %v", err)
	}
}

func TestExecute(t *testing.T) {
	c, p := connected(t)
	if pid, err := c.PeerPID(); err != nil || pid != os.Getpid() {
		t.Errorf("peer's PID %d, %v", pid, err)
	}
	go func() {
		r := p.hear()
		p.say(`{"event": "STOP"}`)
		p.say(`{"return": {"a": %s}, "id": %d}`, r.Arguments, r.ID)
		r = p.hear()
		p.say(`{"error": {"class": "GenericError", "desc": "no"}, "id": %d}`, r.ID)
		r = p.hear()
		if r.OOB != "yank" {
			t.Errorf("out of band: %+v", r)
		}
		p.say(`{"return": 1, "id": %d}`, r.ID)
	}()
	var ret struct{ A map[string]string }
	nasty := map[string]string{"x": "<&>\" \u2028\\"}
	if err := c.Execute(t.Context(), "echo", nasty, &ret); err != nil || ret.A["x"] != nasty["x"] {
		t.Errorf("echo: %v, %v", ret, err)
	}
	var refused *Error
	if err := c.Execute(t.Context(), "refuse", nil, nil); !errors.As(err, &refused) || err.Error() != "refuse: no" {
		t.Errorf("a refusal: %v", err)
	}
	var wrong struct{}
	if err := c.ExecuteOOB(t.Context(), "yank", nil, &wrong); err == nil || errors.As(err, &refused) {
		t.Errorf("a return of another shape: %v", err)
	}
	if err := c.Execute(t.Context(), "x", map[string]any{"f": func() {}}, nil); err == nil {
		t.Error("arguments that are no JSON were sent")
	}
}

// An answer goes to who asked for it, in whatever order they come, and to nobody
// if who asked gave up.
func TestAnswersBelong(t *testing.T) {
	c, p := connected(t)
	const n = 8
	go func() {
		given := p.hear()
		var rs []received
		for range n {
			rs = append(rs, p.hear())
		}
		p.say(`{"return": "late", "id": %d}`, given.ID)
		p.say(`{"return": "never asked for", "id": 99999}`)
		for i := range rs {
			r := rs[n-1-i]
			p.say(`{"return": %q, "id": %d}`, r.Execute, r.ID)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := c.Execute(ctx, "given-up", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a command given up: %v", err)
	}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			name, got := fmt.Sprint("c", i), ""
			if err := c.Execute(t.Context(), name, nil, &got); err != nil || got != name {
				t.Errorf("%s was answered %q, %v", name, got, err)
			}
		})
	}
	wg.Wait()
	if len(c.pending) != 0 {
		t.Errorf("%d commands are remembered", len(c.pending))
	}
}

func TestConnectionEnds(t *testing.T) {
	for name, said := range map[string]string{
		"hang-up": "", "no message": "{}\r\n", "a second greeting": greeting + "\r\n", "half a message": `{"return": {}, "id`,
		"a command not read": `{"error": {"class": "GenericError", "desc": "JSON"}}` + "\r\n",
	} {
		c, p := connected(t)
		s := c.Subscribe()
		go func() {
			p.hear()
			p.say(`{"event": "STOP"}`)
			io.WriteString(p.conn, said)
			p.conn.Close()
		}()
		if err := c.Execute(t.Context(), "x", nil, nil); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: under way: %v", name, err)
		}
		<-c.Done()
		if err := c.Execute(t.Context(), "x", nil, nil); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: afterwards: %v", name, err)
		}
		if e, err := s.Next(t.Context()); err != nil || e.Name != "STOP" {
			t.Errorf("%s: the last event: %v, %v", name, e, err)
		}
		for _, s := range []*Subscription{s, s, c.Subscribe()} {
			if _, err := s.Next(t.Context()); !errors.Is(err, ErrClosed) {
				t.Errorf("%s: after the last event: %v", name, err)
			}
		}
	}
}

func TestEvents(t *testing.T) {
	c, p := connected(t)
	slow, closed := c.Subscribe(), c.Subscribe()
	closed.Close()
	if _, err := closed.Next(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed subscription: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if _, err := slow.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no event: %v", err)
	}
	const more = 7
	go func() {
		for i := range maxQueue + more {
			p.say(`{"event": "E%d"}`, i)
		}
		p.say(`{"return": {}, "id": %d}`, p.hear().ID)
	}()
	if err := c.Execute(t.Context(), "x", nil, nil); err != nil { // a slow reader of events holds nobody up
		t.Fatal(err)
	}
	for i := range maxQueue {
		if e, err := slow.Next(t.Context()); err != nil || e.Name != fmt.Sprintf("E%d", i) {
			t.Fatalf("event %d: %v, %v", i, e, err)
		}
	}
	if _, err := slow.Next(t.Context()); !errors.Is(err, ErrEventsLost) || !strings.HasPrefix(err.Error(), fmt.Sprint(more)) {
		t.Errorf("after %d events too many: %v", more, err)
	}
	p.say(`{"event": "LAST"}`)
	if e, err := slow.Next(t.Context()); err != nil || e.Name != "LAST" {
		t.Errorf("after the gap: %v, %v", e, err)
	}
}

func TestExecuteFile(t *testing.T) {
	c, p := connected(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go func() {
		buf, oob := make([]byte, 4096), make([]byte, 64)
		n, oobn, _, _, err := p.conn.ReadMsgUnix(buf, oob)
		if err != nil {
			t.Error(err)
			return
		}
		var cmd received
		if err := json.Unmarshal(buf[:n], &cmd); err != nil {
			t.Error(err)
		}
		fd := fdOf(t, oob[:oobn])
		fmt.Fprint(fd, "hello")
		fd.Close()
		p.say(`{"return": {}, "id": %d}`, cmd.ID)
	}()
	if err := c.ExecuteFile(t.Context(), w, "getfd", map[string]string{"fdname": "x"}, nil); err != nil {
		t.Error(err)
	}
	w.Close()
	if got, err := io.ReadAll(r); err != nil || string(got) != "hello" {
		t.Errorf("through the descriptor came %q, %v", got, err)
	}
}

func fdOf(t *testing.T, oob []byte) *os.File {
	t.Helper()
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d control messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("%d descriptors, %v", len(fds), err)
	}
	return os.NewFile(uintptr(fds[0]), "passed")
}
