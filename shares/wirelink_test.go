package shares

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"lunless/shares/state/statetest"
	"lunless/smbstore/smb2"
)

// wireTB is a test of which one goroutine of several may fail for itself: that ends
// with a panic of wireFailed.
type wireTB struct{ testing.TB }

type wireFailed string

func (wireTB) Fatal(args ...any)                 { panic(wireFailed(fmt.Sprint(args...))) }
func (wireTB) Fatalf(format string, args ...any) { panic(wireFailed(fmt.Sprintf(format, args...))) }
func (wireTB) Cleanup(func())                    {} // whose connections are many, and closed one by one

// arrival is a frame that a client has received, or nil when its connection has ended.
type arrival struct {
	client int
	of     *rawClient
	msg    []byte
}

// dial makes a connection of a client, with a session and a tree connect.
func (d *wireDriver) dial(client int, user string) *rawClient {
	c := dialRaw(d.t, d.srv.addr)
	c.guid, c.caps = d.guid(client), smb2.CapLeasing|smb2.CapDirectoryLeasing|smb2.CapPersistentHandles|smb2.CapMultiChannel
	c.negotiate(smb2.Dialect311)
	c.login(user, testPassword)
	if st := c.treeConnect("ca"); st != smb2.StatusSuccess {
		d.t.Fatal(st)
	}
	return c
}

// connect gives a client a new connection.
func (d *wireDriver) connect(client int) {
	c := d.dial(client, testUser)
	c.nc.SetDeadline(time.Time{})
	d.clients[client] = c
	for _, r := range c.notices {
		d.message(client, r)
	}
	go d.listen(client, c)
}

// listen passes on what arrives at a client, until its connection ends.
func (d *wireDriver) listen(client int, c *rawClient) {
	r := bufio.NewReader(c.nc)
	for {
		var h [4]byte
		_, err := io.ReadFull(r, h[:])
		msg := make([]byte, binary.BigEndian.Uint32(h[:]))
		if err == nil {
			_, err = io.ReadFull(r, msg)
		}
		if err != nil {
			msg = nil
		}
		select {
		case d.arrivals <- arrival{client, c, msg}:
		case <-d.ended:
			return
		}
		if err != nil {
			return
		}
	}
}

// disconnect ends a client's connection, in one of two ways, waits until the server
// has taken down what belonged to it, and connects the client again.
func (d *wireDriver) disconnect(client int) {
	for k := range d.waiting {
		if k>>56 == uint64(client) {
			delete(d.waiting, k)
		}
	}
	c := d.clients[client]
	d.clients[client] = nil
	if d.cuts++; d.cuts%2 == 0 {
		c.nc.(*net.TCPConn).CloseWrite() // the server closes its end when it is done
		d.await("the end of a connection", func(a *arrival) bool { return a.of == c && a.msg == nil })
		c.nc.Close()
	} else {
		c.nc.(*net.TCPConn).SetLinger(0) // reset
		c.nc.Close()
		d.until("the server has taken down a client that has gone", func() bool {
			d.srv.mu.Lock()
			n := len(d.srv.sessions)
			d.srv.mu.Unlock()
			d.srv.ending.mu.Lock()
			defer d.srv.ending.mu.Unlock()
			return n < len(d.clients)-1 && len(d.srv.ending.m) == 0
		})
	}
	d.connect(client)
}

// until waits for something of which nothing arrives.
func (d *wireDriver) until(what string, so func() bool) {
	for deadline := time.Now().Add(d.patience); !so(); time.Sleep(20 * time.Microsecond) {
		if time.Now().After(deadline) {
			d.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// await takes what arrives until the last of it is what was waited for.
func (d *wireDriver) await(what string, it func(*arrival) bool) {
	for {
		a, ok := d.next()
		if !ok {
			d.t.Fatalf("waited in vain for %s", what)
		}
		if d.take(a); it(a) {
			return
		}
	}
}

// next is what arrives next, at whichever client, unless it takes too long.
func (d *wireDriver) next() (*arrival, bool) {
	select {
	case a := <-d.arrivals:
		return &a, true
	default:
	}
	d.timer.Reset(d.patience)
	select {
	case a := <-d.arrivals:
		d.timer.Stop()
		return &a, true
	case <-d.timer.C:
		return nil, false
	}
}

// take takes a frame that has arrived.
func (d *wireDriver) take(a *arrival) {
	switch {
	case d.clients[a.client] != a.of: // of a connection that the client has ended
	case a.msg == nil:
		d.out = append(d.out, fmt.Sprintf("client %d has been disconnected", a.client))
		d.connect(a.client)
	default:
		for _, r := range a.of.responses(a.msg) {
			d.message(a.client, r)
		}
	}
}

// fence takes all that the server has sent to anybody before it answers an ECHO of
// each client.
func (d *wireDriver) fence() {
	for i := 1; i < len(d.clients); i++ {
		d.send(&statetest.Op{Kind: "echo", Client: i}, smb2.CommandEcho, &smb2.EchoRequest{}, nil)
	}
	d.echoes = len(d.clients) - 1
	for d.echoes > 0 {
		a, ok := d.next()
		if !ok {
			d.t.Fatal("the server does not answer")
		}
		d.take(a)
	}
}

func (d *wireDriver) message(client int, r response) {
	if isNotice(r.msg) {
		d.notice(client, r.msg)
		return
	}
	k := key(client, r.hdr.MessageID)
	op := d.waiting[k]
	switch {
	case op == nil:
		d.out = append(d.out, fmt.Sprintf("an answer to nothing: %v %v", r.hdr.Command, r.hdr.Status))
	case r.hdr.Status == smb2.StatusPending:
	case op.Kind == "echo":
		delete(d.waiting, k)
		d.echoes--
	default:
		delete(d.waiting, k)
		d.out = append(d.out, fmt.Sprintf("%d %s: %s", op.ID, op.Kind, d.result(op, r)))
	}
}

func (d *wireDriver) notice(client int, msg []byte) {
	if !smb2.IsLeaseBreak(msg) {
		var m smb2.OplockBreakNotification
		if err := m.Decode(msg); err != nil {
			d.t.Fatal(err)
		}
		for id, f := range d.ids {
			if f == m.FileID && d.opens[id].Client == client {
				// What an oplock was is not on the wire, nor whether it wants an answer.
				d.out = append(d.out, fmt.Sprintf("break open%d >%s", id, statetest.Letters(map[smb2.OplockLevel]string{smb2.OplockII: "2"}[m.OplockLevel])))
				return
			}
		}
		d.out = append(d.out, fmt.Sprintf("break of nothing: %v", m.FileID))
		return
	}
	var m smb2.LeaseBreakNotification
	if err := m.Decode(msg); err != nil {
		d.t.Fatal(err)
	}
	mark := ""
	if m.Flags&smb2.LeaseFlagBreakAckRequired != 0 {
		mark = "!"
	}
	d.out = append(d.out, fmt.Sprintf("break client%d.lease%d %s>%s%s", client, m.LeaseKey[1], letters(m.CurrentLeaseState), letters(m.NewLeaseState), mark))
}
