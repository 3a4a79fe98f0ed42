package client_test

import (
	"net"
	"sync"
	"testing"
)

// relay is a network between client and server whose connections can be cut.
type relay struct {
	addr string
	mu   sync.Mutex
	live map[*link]struct{}
	made int
	// refuse, while set, ends new connections at once.
	refuse bool
}

type link struct{ client, server net.Conn }

func startRelay(t testing.TB, server string) *relay {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{addr: ln.Addr().String(), live: map[*link]struct{}{}}
	t.Cleanup(func() {
		ln.Close()
		r.cutAll()
	})
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			r.mu.Lock()
			refuse := r.refuse
			r.mu.Unlock()
			s, err := net.Dial("tcp", server)
			if err != nil || refuse {
				c.Close()
				continue
			}
			l := &link{c, s}
			r.mu.Lock()
			r.live[l] = struct{}{}
			r.made++
			r.mu.Unlock()
			go r.pass(l, s, c)
			go r.pass(l, c, s)
		}
	}()
	return r
}

func (r *relay) pass(l *link, to, from net.Conn) {
	buf := make([]byte, 256<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				err = werr
			}
		}
		if err != nil {
			r.cut(l)
			return
		}
	}
}

func (r *relay) cut(l *link) {
	l.client.Close()
	l.server.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.live, l)
}

func (r *relay) links() []*link {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*link
	for l := range r.live {
		list = append(list, l)
	}
	return list
}

func (r *relay) cutAll() int {
	list := r.links()
	for _, l := range list {
		r.cut(l)
	}
	return len(list)
}

func (r *relay) setRefuse(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuse = on
}
