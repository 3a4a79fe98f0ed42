package smbstore_test

import (
	"bytes"
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf16"

	"lunless/smbstore"
	"lunless/smbstore/storetest"
)

// gate lets a process stand still: what it does next waits until it is opened.
type gate struct {
	mu     sync.Mutex
	armed  bool
	closed chan struct{} // closed when the process stands
	opened chan struct{}
}

func newGate() *gate { return &gate{closed: make(chan struct{}), opened: make(chan struct{})} }

func (g *gate) arm() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.armed = true
}

// shut has the process stand from now on, if the gate is armed.
func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.armed {
		g.armed = false
		close(g.closed)
	}
}

// pass waits while the process stands.
func (g *gate) pass() {
	select {
	case <-g.closed:
		<-g.opened
	default:
	}
}

// standingStore stands still right before a rename.
type standingStore struct {
	smbstore.Store
	gate *gate
}

func (s standingStore) Rename(from, to string) error {
	s.gate.shut()
	s.gate.pass()
	return s.Store.Rename(from, to)
}

// standingConn stands still once it has sent a frame with a text in it.
type standingConn struct {
	net.Conn
	text []byte
	gate *gate
}

func (c *standingConn) Write(p []byte) (int, error) {
	c.gate.pass()
	n, err := c.Conn.Write(p)
	if bytes.Contains(p, c.text) {
		c.gate.shut()
	}
	return n, err
}

// A holder of a record's lock that stands still after its last look at it, before
// the rename or in the middle of it, does not make its change once an administrator
// has decided otherwise.
func TestRecordHolderStands(t *testing.T) {
	t.Parallel()
	var mark []byte
	for _, u := range utf16.Encode([]rune(".lunless-tmp-")) {
		mark = append(mark, byte(u), byte(u>>8))
	}
	lunless, samba := storetest.StartLunless(t), storetest.StartSamba(t)
	for _, c := range []struct {
		name   string
		at     smbstore.Location
		o      smbstore.Options
		within bool // the rename
	}{
		{"local", smbstore.Location{Path: t.TempDir()}, smbstore.Options{}, false},
		{"lunless", lunless.Location(""), lunless.Options(), false},
		{"lunless in the rename", lunless.Location(""), lunless.Options(), true},
		{"samba", samba.Location(""), samba.Options(), false},
		{"samba in the rename", samba.Location(""), samba.Options(), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			plain, err := smbstore.Open(t.Context(), c.at, c.o)
			if err != nil {
				t.Fatal(err)
			}
			defer plain.Close()
			name := "vm " + c.name
			if _, err := smbstore.CreateHome(t.Context(), plain, name, smbstore.Config{}); err != nil {
				t.Fatal(err)
			}
			g, o := newGate(), c.o
			if c.within {
				o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
					conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
					if err != nil {
						return nil, err
					}
					return &standingConn{conn, mark, g}, nil
				}
			}
			s, err := smbstore.Open(t.Context(), c.at, o)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			s = smbstore.Sub(s, name)
			if !c.within {
				s = standingStore{s, g}
			}
			testHolderStands(t, s, smbstore.Sub(plain, name), g)
		})
	}
}

func testHolderStands(t *testing.T, standing, plain smbstore.Store, g *gate) {
	h, err := smbstore.HomeIn(standing)
	if err != nil {
		t.Fatal(err)
	}
	held, err := h.HoldRecord(t.Context(), "job")
	if err != nil {
		t.Fatal(err)
	}
	old := held.Record()
	if err := held.Prepare(func(r smbstore.Record) (smbstore.Record, error) { return r.Renew(r.Host, r.Epoch) }); err != nil {
		t.Fatal(err)
	}
	g.arm()
	committed := make(chan error, 1)
	go func() {
		_, err := held.Commit()
		committed <- err
	}()
	select {
	case <-g.closed:
	case <-time.After(time.Minute):
		t.Fatal("it does not come to the rename")
	}
	other, err := smbstore.HomeIn(plain)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Resolve(t.Context(), "other"); err != nil {
		t.Errorf("beside a holder that stands: %v", err)
	}
	close(g.opened)
	before := uint64(0)
	if err := <-committed; err == nil {
		before = 1 // then the holder's change came before the other's
	}
	if r, err := other.Record(); err != nil || r.Host != "other" || r.Epoch != old.Epoch+before+1 {
		t.Errorf("the record says %v (%v)", r, err)
	}
	held.Release() //nolint:errcheck // it was broken
	infos, err := plain.ReadDir(smbstore.MachinesDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range infos {
		if strings.Contains(i.Name, ".lock") || smbstore.IsTemp(i.Name) {
			t.Errorf("%s was left", i.Name)
		}
	}
}
