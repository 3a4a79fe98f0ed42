package shares

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"lunless/shares/accounts"
	"lunless/shares/fs"
	"lunless/shares/fs/powerfs"
	"lunless/shares/state"
	"lunless/smbstore/smb2"
)

// powerOrder ranks what a cut can come into, the rarest first.
var powerOrder = []string{"lock", "delete", "replace", "mark to delete", "create", "write through", "rename", "set attributes", "set size", "close", "flush", "write", "nothing"}

func powerRank(name string) int { return slices.Index(powerOrder, name) }

// powerResult is what cuts have shown.
type powerResult struct {
	passed  int
	failed  []string
	during  map[string]int
	handles int // found as they must be

	reclaimed, replayed int
}

// powerRun does cuts of a server that four clients work on, two on a plain share
// and two on one that is continuously available. After each cut a server is started
// on what is left.
func powerRun(t *testing.T, seed uint64, cuts int, commit bool) *powerResult {
	users, err := accounts.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := users.AddUser(testUser, testPassword); err != nil {
		t.Fatal(err)
	}
	r := &powerResult{during: map[string]int{}}
	rnd := rand.New(rand.NewPCG(seed, 1))
	p := &power{rnd: rnd, left: cuts, rates: [2]float64{0.02, 0.08}, commit: commit, store: powerfs.New()}
	for generation := 0; p.left > 0 && len(r.failed) == 0; generation++ {
		p.store.Watch(p.watch)
		srv, err := startPower(t, users, p.store, p.state, p.around)
		if err != nil {
			t.Fatal(err)
		}
		p.state, err = os.ReadFile(srv.dir + "/" + state.FileName)
		if err != nil {
			t.Fatal(err)
		}
		next := r.work(t, p, srv, users, generation)
		srv.stop()
		if next != nil { // go on from what a cut has left
			p.store, p.state = next.store, next.state
		}
	}
	return r
}

// work has the clients work for some rounds, and returns a cut to go on from.
func (r *powerResult) work(t *testing.T, p *power, srv *powerServer, users *accounts.Store, generation int) *cut {
	var clients []*powerClient
	for i, share := range []string{"vms", "ca", "vms", "ca"} {
		c, err := newPowerClient(t, p, srv.addr, share, fmt.Sprintf("g%dc%d", generation, i), rand.New(rand.NewPCG(p.rnd.Uint64(), uint64(i))))
		if err != nil {
			t.Fatal(err)
		}
		defer c.nc.Close()
		clients = append(clients, c)
	}
	p.begin()
	defer p.end()
	var last *cut
	for range 150 {
		requests := make([]*powerRequest, len(clients))
		for i, c := range clients {
			requests[i] = c.next()
			c.begin(requests[i])
		}
		for i, c := range clients {
			if err := c.end(requests[i]); err != nil {
				t.Fatal(err)
			}
		}
		p.mu.Lock()
		made := p.cuts
		p.cuts = nil
		p.mu.Unlock()
		for _, c := range made {
			r.during[c.during]++
			if err := r.verify(t, users, c); err != nil {
				r.failed = append(r.failed, fmt.Sprintf("cut %d, during %s: %v", r.passed+1, c.during, err))
				return nil
			}
			r.passed++
			last = c
		}
		p.mu.Lock()
		left := p.left
		p.mu.Unlock()
		if left <= 0 {
			return nil
		}
	}
	return last
}

// verify starts a server on what a cut has left, and compares with the ledger.
func (r *powerResult) verify(t *testing.T, users *accounts.Store, c *cut) error {
	srv, err := startPower(t, users, c.store, c.state, nil)
	if err != nil {
		return fmt.Errorf("the server does not start: %w", err)
	}
	defer srv.stop()
	all, err := look(c.store)
	if err != nil {
		return err
	}
	handles, err := recordsOf(srv)
	if err != nil {
		return err
	}
	var whole []*found // of the share that is continuously available
	for _, s := range c.slots {
		if s.id == (fs.FileID{}) {
			continue // its CREATE is under way
		}
		f := all[s.id]
		if err := s.check(f); err != nil {
			return fmt.Errorf("share %s: %w", s.share, err)
		}
		if s.guid == [16]byte{} {
			if f != nil && !f.dir && s.share == "ca" {
				whole = append(whole, f)
			}
			continue
		}
		h, ok := handles[s.guid]
		if err := s.checkHandle(h.handleState); err != nil {
			return err
		}
		if ok {
			r.handles++
		}
		if ok && f != nil && (h.id != s.id || !s.linked(h.link)) {
			return fmt.Errorf("%s: its persistent handle is of %s", f.path, h.link)
		}
	}
	if err := readBack(t, srv, whole); err != nil {
		return err
	}
	return r.comeBack(t, srv, c, handles)
}

// comeBack does what the clients do that had handles: they reclaim them, and send
// again the CREATE that they had no response of (MS-SMB2 3.3.5.9.10, 3.3.5.9.12).
func (r *powerResult) comeBack(t *testing.T, srv *powerServer, c *cut, handles map[[16]byte]recordedHandle) error {
	var slots []*slot
	for _, s := range c.slots {
		if s.request == nil {
			continue
		}
		if _, kept := handles[s.guid]; kept || s.id == (fs.FileID{}) {
			slots = append(slots, s)
		}
	}
	if len(slots) == 0 {
		return nil
	}
	client, other := loginRaw(t, srv.addr, smb2.Dialect311, "ca"), loginRaw(t, srv.addr, smb2.Dialect311, "ca")
	defer client.nc.Close()
	defer other.nc.Close()
	for _, s := range slots[:min(len(slots), 4)] {
		if err := r.reclaim(client, other, s, handles[s.guid]); err != nil {
			return fmt.Errorf("%s: %w", s.request.Name, err)
		}
	}
	return nil
}

func (r *powerResult) reclaim(client, other *rawClient, s *slot, h recordedHandle) error {
	q := *s.request
	made := s.id == fs.FileID{}
	if !made {
		d := smb2.DurableReconnectV2{FileID: s.fid, CreateGUID: s.guid, Flags: smb2.DurableFlagPersistent}
		q.Contexts = []smb2.CreateContext{d.Context()}
	}
	msg := client.build(smb2.CommandCreate, &q, nil)
	flags := binary.LittleEndian.Uint32(msg[16:]) // MS-SMB2 2.2.1.2
	if made {
		flags |= uint32(smb2.FlagReplayOperation)
	}
	binary.LittleEndian.PutUint32(msg[16:], flags)
	client.send(msg)
	list := client.receive()
	if len(list) != 1 || list[0].hdr.Status != smb2.StatusSuccess {
		return fmt.Errorf("CREATE again (no response before: %v, its handle is kept: %v): %v", made, h.open, list[0].hdr.Status)
	}
	var m smb2.CreateResponse
	if err := m.Decode(list[0].msg); err != nil {
		return err
	}
	if made {
		r.replayed++
	} else {
		r.reclaimed++
	}
	// Its locks are its own, and keep others out.
	for i := range powerSectors {
		if h.locks>>i&1 == 0 {
			continue
		}
		data := make([]byte, powerSector)
		write := &smb2.WriteRequest{FileID: m.FileID, Offset: uint64(i) * powerSector, Length: powerSector}
		if st := client.call(smb2.CommandWrite, write, data).hdr.Status; st != smb2.StatusSuccess {
			return fmt.Errorf("write to the handle's own lock: %v", st)
		}
		q := createRequest(wire(strings.ToLower(strings.TrimPrefix(h.link, "CA/"))))
		q.CreateDisposition = smb2.FileOpen
		var o smb2.CreateResponse
		resp := other.call(smb2.CommandCreate, q, nil)
		if resp.hdr.Status == smb2.StatusDeletePending {
			return nil
		}
		if err := o.Decode(resp.msg); resp.hdr.Status != smb2.StatusSuccess || err != nil {
			return fmt.Errorf("another client's open: %v, %v", resp.hdr.Status, err)
		}
		write.FileID = o.FileID
		if st := other.call(smb2.CommandWrite, write, data).hdr.Status; st != smb2.StatusFileLockConflict {
			return fmt.Errorf("another client's write to the handle's lock: %v", st)
		}
		break
	}
	return nil
}

// linked says whether an open may be known by the link.
func (s *slot) linked(link string) bool {
	is := func(name string) bool { return name != "" && strings.HasSuffix(link, strings.ToUpper("/"+name)) }
	return is(s.floor.name) || slices.ContainsFunc(slices.Collect(maps.Keys(s.names)), is)
}

type recordedHandle struct {
	handleState
	id   fs.FileID
	link string
}

// recordsOf are the persistent opens a server has found in its state file.
func recordsOf(srv *powerServer) (map[[16]byte]recordedHandle, error) {
	all := map[[16]byte]recordedHandle{}
	var err error
	werr := srv.store.Walk(context.Background(), func(id fs.FileID, r state.Record) bool {
		for i := range r.Opens {
			o := &r.Opens[i]
			if o.Handle.Kind != state.Persistent || !o.Handle.Disconnected {
				err = fmt.Errorf("open of %s: %+v", o.Link, o.Handle)
			}
			h := recordedHandle{handleState{open: true}, id, o.Link}
			for _, l := range r.Locks {
				if l.Owner == o.ID {
					h.locks |= 1 << (l.Offset / powerSector)
				}
			}
			all[o.Handle.CreateGUID] = h
		}
		return true
	})
	if err == nil {
		err = werr
	}
	return all, err
}

// readBack reads a few files as a client does.
func readBack(t *testing.T, srv *powerServer, files []*found) error {
	if len(files) == 0 {
		return nil
	}
	c := loginRaw(t, srv.addr, smb2.Dialect311, "ca")
	defer c.nc.Close()
	for _, f := range files[:min(3, len(files))] {
		q := createRequest(wire(f.path))
		q.CreateDisposition = smb2.FileOpen
		r := c.call(smb2.CommandCreate, q, nil)
		var m smb2.CreateResponse
		if r.hdr.Status != smb2.StatusSuccess {
			return fmt.Errorf("open %s: %v", f.path, r.hdr.Status)
		}
		if err := m.Decode(r.msg); err != nil {
			return err
		}
		if m.EndOfFile != uint64(f.size) {
			return fmt.Errorf("%s: %d bytes over the wire, %d on the disk", f.path, m.EndOfFile, f.size)
		}
	}
	return nil
}

func (r *powerResult) print() {
	fmt.Printf("%-16s %8s\n", "  cut during  ", "cuts")
	for _, name := range powerOrder {
		if n := r.during[name]; n > 0 {
			fmt.Printf("  %-14s %8d\n", name, n)
		}
	}
	fmt.Printf("  persistent handles found after cuts: %d, of them reclaimed: %d; creates replayed: %d\n", r.handles, r.reclaimed, r.replayed)
	fmt.Printf("%d passed, %d failed\n", r.passed, len(r.failed))
}

func powerEnv(t *testing.T, name string, otherwise uint64) uint64 {
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s=%s: %v", name, s, err)
	}
	return n
}

// TestPowerCuts cuts the power of a server at work: what it acknowledged after
// FLUSH, or at all on a continuously available share, is there afterwards, names,
// sizes, attributes and persistent handles with their locks included. CUTS, SEED and
// SABOTAGE are as in the Makefile.
func TestPowerCuts(t *testing.T) {
	seed, cuts := powerEnv(t, "SEED", rand.Uint64N(1<<32)), int(powerEnv(t, "CUTS", 300))
	name := os.Getenv("SABOTAGE")
	if name != "" {
		fault.Store(&name)
		defer fault.Store(nil)
	}
	t.Logf("seed %d, %d cuts, sabotage %q", seed, cuts, name)
	r := powerRun(t, seed, cuts, name != "state-commit-skipped")
	for _, f := range r.failed {
		t.Errorf("seed %d, %s", seed, f)
	}
	if (r.handles == 0 || r.reclaimed == 0 || r.replayed == 0) && len(r.failed) == 0 {
		t.Error("no cut left a persistent handle: nothing is shown of them")
	}
	r.print()
}

// TestPowerSabotage shows that the cuts notice what is left out.
func TestPowerSabotage(t *testing.T) {
	for _, name := range []string{"fsync-skipped", "ack-early", "parent-not-synced", "state-commit-skipped"} {
		t.Run(name, func(t *testing.T) {
			fault.Store(&name)
			defer fault.Store(nil)
			r := powerRun(t, 1, 1000, name != "state-commit-skipped")
			if len(r.failed) == 0 {
				t.Fatalf("%d cuts pass without noticing", r.passed)
			}
			t.Logf("after %d cuts: %s", r.passed, r.failed[0])
		})
	}
}
