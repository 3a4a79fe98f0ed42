package shares

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"lunless/shares/accounts"
	"lunless/shares/fs"
	"lunless/shares/fs/powerfs"
	"lunless/shares/state"
	"lunless/smbstore/block"
	"lunless/smbstore/fscc"
)

// powerServer is a server on a share that a loss of power may strike, and on a
// state file as one has left it.
type powerServer struct {
	*Server
	addr string
	dir  string // of the state file
	l    net.Listener
	done chan struct{}
}

// startPower starts a server with the shares "vms" and "ca" on one store. image is
// the state file's content, nil for none.
func startPower(t testing.TB, users *accounts.Store, store fs.FS, image []byte, around func(dir string) func(func() error) error) (*powerServer, error) {
	dir, err := os.MkdirTemp(t.TempDir(), "state")
	if err != nil {
		return nil, err
	}
	if image != nil {
		if err := os.WriteFile(filepath.Join(dir, state.FileName), image, 0o600); err != nil {
			return nil, err
		}
	}
	cfg := Config{
		Accounts: users, StateDir: dir, Logger: testLogger(t),
		Shares: []Share{{Name: "vms", FS: store}, {Name: "ca", FS: store, ContinuouslyAvailable: true}},
	}
	if around != nil {
		cfg.State.Around = around(dir)
	}
	srv, err := New(cfg)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &powerServer{Server: srv, addr: l.Addr().String(), dir: dir, l: l, done: make(chan struct{})}
	go func() { defer close(s.done); srv.Serve(context.Background(), l) }()
	return s, nil
}

// stop ends a server whose clients are of no interest any more.
func (s *powerServer) stop() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.Shutdown(ctx)
	<-s.done
	os.RemoveAll(s.dir)
}

// cut is what a loss of power has left, and the ledger at that moment.
type cut struct {
	during string
	store  *powerfs.FS
	state  []byte
	slots  []*slot
}

// power is what may fail: the share's store and the state file, at one moment.
type power struct {
	mu     sync.Mutex // guards all; taken before the locks of the store
	rnd    *rand.Rand
	store  *powerfs.FS
	state  []byte // the file as it is on stable storage
	slots  map[*slot]bool
	busy   map[string]int // what is being done
	rates  [2]float64     // cuts a change, cuts a flush
	left   int            // cuts to make
	cuts   []*cut         // made, to be looked at
	commit bool           // false: commits are skipped
	on     bool           // cuts are to be made
}

// begin has cuts made from now on, with an empty ledger.
func (p *power) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slots, p.busy, p.on = map[*slot]bool{}, map[string]int{}, true
}

// end makes no more cuts, and forgets those that nobody has looked at.
func (p *power) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left += len(p.cuts)
	p.cuts, p.on = nil, false
}

// watch is called before every change and flush of the store.
func (p *power) watch(kind block.OpKind) {
	p.mu.Lock()
	defer p.mu.Unlock()
	rate := p.rates[0]
	if kind == block.OpFlush {
		rate = p.rates[1]
	}
	if p.rnd.Float64() < rate {
		p.cut(p.state)
	}
}

func (p *power) cut(image []byte) {
	if !p.on || p.left <= 0 || len(p.cuts) >= 8 {
		return
	}
	p.left--
	c := &cut{during: p.doing(), state: image}
	c.store = p.store.Cut(p.rnd, func() {
		for s := range p.slots {
			c.slots = append(c.slots, s.clone())
		}
	})
	p.cuts = append(p.cuts, c)
}

func (p *power) doing() string {
	best := "nothing"
	for name, n := range p.busy {
		if n > 0 && powerRank(name) < powerRank(best) {
			best = name
		}
	}
	return best
}

// around cuts the power in the midst of commits. What bbolt writes to its file is
// seen afterwards, as the difference of two images. It first writes pages that no
// transaction uses, syncs the file, then writes one of the two meta pages, whose
// data fit in a sector, and syncs again: so a cut leaves any of the new pages'
// sectors, and the new meta page only with all of them.
func (p *power) around(dir string) func(func() error) error {
	return func(commit func() error) error {
		if !p.commit {
			return nil
		}
		if err := commit(); err != nil {
			return err
		}
		after, err := os.ReadFile(filepath.Join(dir, state.FileName))
		if err != nil {
			return err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		for range 2 {
			if p.rnd.Float64() < p.rates[1] {
				p.cut(p.midway(p.state, after))
			}
		}
		p.state = after
		return nil
	}
}

func (p *power) midway(before, after []byte) []byte {
	const page = 4096
	out := make([]byte, len(after))
	copy(out, before)
	pages := p.rnd.IntN(2) == 0 // all of them are there
	luck := []float64{0.1, 0.5, 0.9}[p.rnd.IntN(3)]
	for at := 0; at < len(after); at += powerSector {
		meta := at == 0 || at == page
		if meta && pages && p.rnd.IntN(2) == 0 || !meta && (pages || p.rnd.Float64() < luck) {
			copy(out[at:at+powerSector], after[at:])
		}
	}
	if !pages && len(before) < len(out) && p.rnd.IntN(2) == 0 {
		out = out[:len(before)]
	}
	return out
}

// look finds all there is on a share, by its ID.
func look(store fs.FS) (map[fs.FileID]*found, error) {
	ctx := context.Background()
	all := map[fs.FileID]*found{}
	var walk func(path string) error
	walk = func(path string) error {
		f, err := store.Open(ctx, path, fs.ReadData)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat(ctx)
		if err != nil {
			return err
		}
		if old := all[f.ID()]; old != nil {
			return fmt.Errorf("%s and %s are one", old.path, path)
		}
		n := &found{path: path, dir: info.Dir, size: info.Size, hidden: info.Attributes&fscc.FILE_ATTRIBUTE_HIDDEN != 0}
		all[f.ID()] = n
		if !info.Dir {
			n.content = make([]byte, info.Size)
			_, err := f.ReadAt(n.content, 0)
			return err
		}
		d, err := f.ReadDir(ctx)
		if err != nil {
			return err
		}
		defer d.Close()
		for {
			e, err := d.Next(nil)
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			below := e.Name
			if path != "" {
				below = path + "/" + e.Name
			}
			if err := walk(below); err != nil {
				return err
			}
		}
	}
	return all, walk("")
}
