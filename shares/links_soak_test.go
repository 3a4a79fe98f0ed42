package shares

import (
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// shakyNet passes connections on to a server until they are cut or stall.
type shakyNet struct {
	to    string
	l     net.Listener
	mu    sync.Mutex
	links map[*shakyLink]struct{}
}

// shakyLink is one connection, held while it stalls.
type shakyLink struct {
	client, server net.Conn
	hold           sync.RWMutex
}

func startShakyNet(t *testing.T, to string) *shakyNet {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &shakyNet{to: to, l: l, links: map[*shakyLink]struct{}{}}
	t.Cleanup(func() {
		l.Close()
		for n.cut(rand.New(rand.NewPCG(1, 1)), false) {
		}
	})
	go n.accept()
	return n
}

func (n *shakyNet) accept() {
	for {
		c, err := n.l.Accept()
		if err != nil {
			return
		}
		s, err := net.Dial("tcp", n.to)
		if err != nil {
			c.Close()
			continue
		}
		k := &shakyLink{client: c, server: s}
		n.mu.Lock()
		n.links[k] = struct{}{}
		n.mu.Unlock()
		go n.pass(k, s, c)
		go n.pass(k, c, s)
	}
}

func (n *shakyNet) pass(k *shakyLink, to, from net.Conn) {
	b := make([]byte, 64<<10)
	for {
		m, err := from.Read(b)
		if m > 0 {
			k.hold.RLock()
			_, werr := to.Write(b[:m])
			k.hold.RUnlock()
			if werr != nil {
				err = werr
			}
		}
		if err != nil {
			n.mu.Lock()
			delete(n.links, k)
			n.mu.Unlock()
			k.client.Close()
			k.server.Close()
			return
		}
	}
}

// cut ends one connection, any of them: with a reset, or so that the client alone
// notices while the server goes on with what it has. False if there is none.
func (n *shakyNet) cut(rnd *rand.Rand, half bool) bool {
	k := n.pick(rnd)
	if k == nil {
		return false
	}
	if half {
		k.client.(*net.TCPConn).SetLinger(0)
		k.client.Close()
		return true
	}
	for _, c := range []net.Conn{k.client, k.server} {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	return true
}

// stall keeps one connection from passing anything for a time.
func (n *shakyNet) stall(rnd *rand.Rand, d time.Duration) bool {
	k := n.pick(rnd)
	if k == nil {
		return false
	}
	k.hold.Lock()
	time.AfterFunc(d, func() {
		n.mu.Lock()
		n.links[k] = struct{}{} // one that has ended meanwhile can be cut once more
		n.mu.Unlock()
		k.hold.Unlock()
	})
	return true
}

func (n *shakyNet) pick(rnd *rand.Rand) *shakyLink {
	n.mu.Lock()
	defer n.mu.Unlock()
	skip := rnd.IntN(max(len(n.links), 1))
	for k := range n.links {
		if skip--; skip < 0 {
			delete(n.links, k)
			return k
		}
	}
	return nil
}

// TestSoakLinks cuts and stalls connections LINKS times, in the middle of whatever
// goes over them, lease breaks and CREATEs too: what holds of TestSoakHandles holds.
func TestSoakLinks(t *testing.T) {
	state := t.TempDir()
	srv := startServer(t, func(c *Config) {
		c.StateDir = state
		c.Shares[0].Name, c.Shares[0].ContinuouslyAvailable = "ca", true
		if name := os.Getenv("SABOTAGE"); name != "" {
			fault.Store(&name)
			t.Cleanup(func() { fault.Store(nil) })
		}
	})
	n := startShakyNet(t, srv.addr)
	s := newHandleSoak(t, n.l.Addr().String())
	if err := s.begin(); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(s.seed, 9))
	cuts, done := int(number(t, "LINKS", 20)), 0
	for done < cuts && s.running() {
		time.Sleep(time.Duration(rnd.IntN(60)) * time.Millisecond)
		ok := false
		switch rnd.IntN(20) {
		case 0:
			ok = n.stall(rnd, 4*time.Second) // longer than clients wait for an answer
		case 1, 2:
			ok = n.stall(rnd, time.Duration(rnd.IntN(500))*time.Millisecond)
		case 3, 4, 5, 6, 7:
			ok = n.cut(rnd, true)
		default:
			ok = n.cut(rnd, false)
		}
		if ok {
			done++
		}
		if done%5 == 0 {
			s.progress(holders*lanesPerDisk, 20*time.Second)
		}
	}
	s.progress(holders*lanesPerDisk, 20*time.Second)
	s.end(filepath.Join(srv.root))
	s.report(t, "cuts", done)
}
