package shares

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"lunless/smbstore/smb2"
)

// What one server is measured against: bytes of heap and stacks.
const (
	maxIdleConn = 64 << 10
	maxIdleOpen = 4 << 10
)

// loadSize is how large TestLoad is; the environment says otherwise for the long run.
func loadSize(name string, small int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return small
}

// memory is what the process holds in heap and stacks, garbage not counted.
func memory() int64 {
	for range 3 { // pools give up what they hold in two
		runtime.GC()
	}
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// TestLoad measures what connections and opens cost, idle and after they have
// been busy, and demands that the busy ones are answered while some clients' disk
// hangs and others take no responses. CONNS, OPENS, BUSY and LOAD_SECONDS set its size.
//
// The clients are in the same process: their part counts as the server's, so that
// the figures are bounds.
func TestLoad(t *testing.T) {
	conns, opens, busy := loadSize("CONNS", 150), loadSize("OPENS", 1000), loadSize("BUSY", 20)
	seconds := time.Duration(loadSize("LOAD_SECONDS", 1)) * time.Second
	gated := &gatedFS{gate: make(chan struct{}), entered: make(chan struct{}, 1<<16)}
	srv := startServer(t, func(cfg *Config) {
		cfg.Limits.AllOpens = 1 << 20
		gated.FS = cfg.Shares[0].FS
		cfg.Shares = append(cfg.Shares, Share{Name: "stuck", FS: gated})
	})
	var once sync.Once
	free := func() { once.Do(func() { close(gated.gate) }) }
	t.Cleanup(free)

	before := memory()
	clients := make([]*rawClient, conns)
	each(conns, func(i int) { clients[i] = loginRaw(t, srv.addr, smb2.Dialect311, "vms") })
	withConns := memory()
	perConn := (withConns - before) / int64(conns)

	ids := make([]smb2.FileID, opens)
	each(conns, func(i int) {
		for k := i; k < opens; k += conns {
			ids[k] = clients[i].create(fmt.Sprintf("disk%05d.vhdx", k))
		}
	})
	perOpen := (memory() - withConns) / int64(opens)

	stuck, deaf := loginRaw(t, srv.addr, smb2.Dialect311, "stuck"), clients[0]
	clog(stuck, gated)
	go goDeaf(deaf, ids[0])
	slowest, requests := churnLoad(clients[1:1+busy], ids[1:], conns, seconds)

	free()
	deaf.nc.Close()
	afterBusy := settled(func() int64 { return (memory() - before - int64(opens)*perOpen) / int64(conns) }, maxIdleConn)
	t.Logf("%d connections: %d bytes each; %d opens: %d bytes each; after %v of load %d bytes a connection",
		conns, perConn, opens, perOpen, seconds, afterBusy)
	t.Logf("%d busy clients: %d requests, median %v, 99.9%% %v, slowest %v, beside one whose disk hangs and one that reads nothing",
		busy, requests.n, requests.median, requests.most, slowest)
	failed := 0
	check := func(what string, got, most int64) {
		if got > most {
			failed++
			t.Errorf("%s: %d bytes, at most %d", what, got, most)
		}
	}
	check("a connection", perConn, maxIdleConn)
	check("an open", perOpen, maxIdleOpen)
	check("a connection after load", afterBusy, maxIdleConn)
	if requests.n == 0 {
		failed++
		t.Error("no requests were answered")
	}
	t.Logf("%d passed, %d failed", 4-failed, failed)
}

// settled is what f says once it is at most most, or after ten seconds: how long
// the server takes to end the deaf connection and the hung writes is the machine's.
func settled(f func() int64, most int64) int64 {
	until := time.Now().Add(10 * time.Second)
	for {
		got := f()
		if got <= most || time.Now().After(until) {
			return got
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// each calls f for every index below n, a few at a time.
func each(n int, f func(i int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range 8 {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// clog sends more large writes to a disk that hangs than its connection has
// workers, and returns when they have begun.
func clog(c *rawClient, gated *gatedFS) {
	c.t.Helper()
	c.existing("hung", 0, 0)
	id := c.create("hung")
	const size = 128 << 10
	data := []byte(strings.Repeat("x", size))
	for range 20 {
		c.send(c.build(smb2.CommandWrite, &smb2.WriteRequest{FileID: id, Length: size}, data))
	}
	for range 20 {
		<-gated.entered
	}
}

// goDeaf asks for as much as it may and reads nothing.
func goDeaf(c *rawClient, id smb2.FileID) {
	c.nc.(*net.TCPConn).SetReadBuffer(4 << 10)
	for {
		msg := c.build(smb2.CommandRead, &smb2.ReadRequest{FileID: id, Length: 64 << 10}, nil)
		c.signer.Sign(msg)
		frame := append([]byte{0, 0, byte(len(msg) >> 8), byte(len(msg))}, msg...)
		if _, err := c.nc.Write(frame); err != nil || c.message > 60 {
			return
		}
	}
}

type loadResult struct {
	n            int
	median, most time.Duration // most: of 999 in 1000
}

// churnLoad has every client write, read and open for a while, each waiting for its
// answer, and returns the slowest answer.
func churnLoad(clients []*rawClient, ids []smb2.FileID, stride int, d time.Duration) (time.Duration, loadResult) {
	end := time.Now().Add(d)
	took := make([][]time.Duration, len(clients))
	var wg sync.WaitGroup
	for i, c := range clients {
		wg.Go(func() {
			id, data := ids[i], []byte(strings.Repeat("y", 4096))
			for k := 0; time.Now().Before(end); k++ {
				at := time.Now()
				switch k % 4 {
				case 0, 1:
					c.write(id, uint64(k%64)<<12, string(data))
				case 2:
					c.read(id, 4096)
				case 3:
					c.closeFile(c.create(fmt.Sprintf("busy%d", i)))
				}
				took[i] = append(took[i], time.Since(at))
			}
		})
	}
	wg.Wait()
	all := slices.Concat(took...)
	if len(all) == 0 {
		return 0, loadResult{}
	}
	slices.Sort(all)
	return all[len(all)-1], loadResult{len(all), all[len(all)/2], all[len(all)*999/1000]}
}
