package shares

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// powerClient works on files of its own in a folder of its own, one request at a
// time, and keeps the ledger.
type powerClient struct {
	*rawClient
	p      *power
	rnd    *rand.Rand
	share  string
	folder string
	files  []*powerFile
	closed []*powerFile // that nobody has open
	dirs   []string
	made   int
}

// powerFile is a file the client has open.
type powerFile struct {
	*slot
	fid     smb2.FileID
	version uint32
	going   bool // marked to be deleted
}

// request is one that is under way.
type powerRequest struct {
	name string
	cmd  smb2.Command
	body body
	data []byte
	slot *slot
	done func(r response) error // with the ledger locked
}

func (c *powerClient) ca() bool { return c.share == "ca" }

// settled is called when a change has been acknowledged.
func (c *powerClient) settled(s *slot) {
	if c.ca() {
		s.must()
	}
}

// next makes up a request and enters it in the ledger.
func (c *powerClient) next() *powerRequest {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	q := c.choose()
	c.p.busy[q.name]++
	return q
}

func (c *powerClient) choose() *powerRequest {
	if len(c.files) == 0 || len(c.files) < 4 && c.rnd.IntN(4) == 0 {
		if len(c.dirs) < 3 && c.rnd.IntN(5) == 0 {
			return c.create(true)
		}
		return c.create(false)
	}
	f := c.files[c.rnd.IntN(len(c.files))]
	if f.going {
		return c.close(f)
	}
	switch c.rnd.IntN(20) {
	case 0, 1, 2, 3, 4, 5, 6:
		return c.write(f)
	case 7, 8:
		return c.flush(f)
	case 9, 10:
		return c.setSize(f)
	case 11, 12:
		return c.setHidden(f)
	case 13, 14:
		return c.rename(f)
	case 15:
		if len(c.closed) > 0 {
			return c.replace(f)
		}
		return c.rename(f)
	case 16, 17:
		if f.handle.open {
			return c.lock(f)
		}
		return c.write(f)
	case 18:
		return c.close(f)
	}
	return c.remove(f)
}

func (c *powerClient) path() string {
	c.made++
	folder := c.folder
	if n := c.rnd.IntN(len(c.dirs) + 1); n < len(c.dirs) {
		folder = c.dirs[n]
	}
	return fmt.Sprintf("%s/f%d", folder, c.made)
}

func wire(path string) string { return strings.ReplaceAll(path, "/", `\`) }

func (c *powerClient) create(dir bool) *powerRequest {
	c.made++
	s := &slot{share: c.share, dir: dir, tag: c.rnd.Uint64()}
	path := c.path()
	if dir {
		path = fmt.Sprintf("%s/d%d", c.folder, c.made)
	}
	q := createRequest(wire(path))
	q.CreateDisposition = smb2.FileCreate
	if dir {
		q.CreateOptions = smb2.FileDirectoryFile
		q.DesiredAccess = smb2.FileReadAttributes
	}
	persistent := c.ca() && !dir && c.rnd.IntN(2) == 0
	if persistent {
		for i := range s.guid {
			s.guid[i] = byte(c.rnd.Uint32())
		}
		d := smb2.DurableRequestV2{Flags: smb2.DurableFlagPersistent, CreateGUID: s.guid}
		q.Contexts = append(q.Contexts, d.Context())
		s.request = q
		s.mayHandle(handleState{open: true})
	}
	next := facts{name: path}
	s.may(&next)
	s.names[""] = true
	c.p.slots[s] = true
	return &powerRequest{name: "create", cmd: smb2.CommandCreate, body: q, slot: s, done: func(r response) error {
		var m smb2.CreateResponse
		if err := m.Decode(r.msg); err != nil {
			return err
		}
		if persistent {
			var d smb2.DurableResponseV2
			if b, ok := smb2.FindCreateContext(m.Contexts, smb2.CreateContextDurableRequestV2); !ok || d.Decode(b) != nil || d.Flags&smb2.DurableFlagPersistent == 0 {
				return fmt.Errorf("no persistent handle was given")
			}
			s.mustHandle(handleState{open: true})
		}
		f, err := c.p.store.Open(c.t.Context(), path, 0)
		if err != nil {
			return err
		}
		s.id, s.fid = f.ID(), m.FileID
		f.Close()
		s.now = next
		c.settled(s)
		if dir {
			c.dirs = append(c.dirs, path)
			return nil
		}
		c.files = append(c.files, &powerFile{slot: s, fid: m.FileID})
		return nil
	}}
}

// changing is a request that changes a file to next.
func (c *powerClient) changing(name string, f *powerFile, next facts, cmd smb2.Command, b body, data []byte) *powerRequest {
	f.may(&next)
	return &powerRequest{name: name, cmd: cmd, body: b, data: data, slot: f.slot, done: func(response) error {
		f.now = next
		c.settled(f.slot)
		return nil
	}}
}

func (c *powerClient) write(f *powerFile) *powerRequest {
	at := c.rnd.IntN(powerSectors)
	n := 1 + c.rnd.IntN(min(8, powerSectors-at))
	next := f.now
	data := make([]byte, n*powerSector)
	f.version++
	for i := range n {
		next.sectors[at+i] = f.version
		f.pattern(at+i, f.version, data[i*powerSector:][:powerSector])
	}
	next.size = max(next.size, int64(at+n)*powerSector)
	f.may(&facts{name: f.now.name, size: int64(at+n) * powerSector, hidden: f.now.hidden, sectors: f.now.sectors})
	q := &smb2.WriteRequest{FileID: f.fid, Offset: uint64(at) * powerSector, Length: uint32(len(data))}
	through := !c.ca() && c.rnd.IntN(6) == 0
	if through {
		q.Flags = smb2.WriteFlagWriteThrough | smb2.WriteFlagWriteUnbuffered
	}
	r := c.changing("write", f, next, smb2.CommandWrite, q, data)
	if through {
		r.name = "write through"
		r.done = func(response) error { f.now = next; f.must(); return nil }
	}
	return r
}

func (c *powerClient) flush(f *powerFile) *powerRequest {
	return &powerRequest{name: "flush", cmd: smb2.CommandFlush, body: &smb2.FlushRequest{FileID: f.fid}, slot: f.slot,
		done: func(response) error { f.must(); return nil }}
}

func setInfo(f *powerFile, class fscc.InfoClass, m encoder) body {
	b := make([]byte, m.Size())
	m.Encode(b)
	return &smb2.SetInfoRequest{InfoType: smb2.InfoFile, FileInfoClass: uint8(class), FileID: f.fid, Buffer: b}
}

func (c *powerClient) setSize(f *powerFile) *powerRequest {
	next := f.now
	n := c.rnd.IntN(powerSectors + 1)
	next.size = int64(n) * powerSector
	clear(next.sectors[n:])
	for i := range f.data { // zeroes, whatever of this and of later changes gets through
		if f.data[i] == nil {
			f.data[i] = map[uint32]bool{}
		}
		f.data[i][0] = f.data[i][0] || i >= n
	}
	return c.changing("set size", f, next, smb2.CommandSetInfo, setInfo(f, fscc.FileEndOfFileInformation, &fscc.EndOfFileInfo{EndOfFile: next.size}), nil)
}

func (c *powerClient) setHidden(f *powerFile) *powerRequest {
	next := f.now
	next.hidden = !next.hidden
	attributes := uint32(fscc.FILE_ATTRIBUTE_ARCHIVE)
	if next.hidden {
		attributes |= fscc.FILE_ATTRIBUTE_HIDDEN
	}
	return c.changing("set attributes", f, next, smb2.CommandSetInfo, setInfo(f, fscc.FileBasicInformation, &fscc.BasicInfo{Attributes: attributes}), nil)
}

func (c *powerClient) rename(f *powerFile) *powerRequest {
	next := f.now
	next.name = c.path()
	return c.changing("rename", f, next, smb2.CommandSetInfo, setInfo(f, fscc.FileRenameInformation, &fscc.RenameInfo{Name: wire(next.name)}), nil)
}

// replace renames a file to the name of another one, which goes with that.
func (c *powerClient) replace(f *powerFile) *powerRequest {
	victim := c.closed[c.rnd.IntN(len(c.closed))]
	c.closed = slices.DeleteFunc(c.closed, func(g *powerFile) bool { return g == victim })
	next, gone := f.now, victim.now
	next.name, gone.name = victim.now.name, ""
	victim.may(&gone)
	r := c.changing("replace", f, next, smb2.CommandSetInfo,
		setInfo(f, fscc.FileRenameInformation, &fscc.RenameInfo{Name: wire(next.name), ReplaceIfExists: true}), nil)
	done := r.done
	r.done = func(resp response) error {
		victim.now = gone
		c.settled(victim.slot)
		return done(resp)
	}
	return r
}

// remove marks a file to be deleted; what closes it deletes it.
func (c *powerClient) remove(f *powerFile) *powerRequest {
	return &powerRequest{name: "mark to delete", cmd: smb2.CommandSetInfo, slot: f.slot,
		body: setInfo(f, fscc.FileDispositionInformation, &fscc.DispositionInfo{DeletePending: true}),
		done: func(response) error { f.going = true; c.settled(f.slot); return nil }}
}

func (c *powerClient) close(f *powerFile) *powerRequest {
	name, next := "close", f.now
	if f.going {
		name, next.name = "delete", ""
		f.may(&next)
	}
	if f.handle.open {
		f.mayHandle(handleState{})
	}
	return &powerRequest{name: name, cmd: smb2.CommandClose, body: &smb2.CloseRequest{FileID: f.fid}, slot: f.slot, done: func(response) error {
		f.now = next
		c.settled(f.slot)
		if f.handle.open {
			f.mustHandle(handleState{})
		}
		c.files = slices.DeleteFunc(c.files, func(g *powerFile) bool { return g == f })
		if !f.going {
			c.closed = append(c.closed, f)
		}
		return nil
	}}
}

func (c *powerClient) lock(f *powerFile) *powerRequest {
	bit := c.rnd.IntN(powerSectors)
	flags, next := smb2.LockFlagExclusiveLock|smb2.LockFlagFailImmediately, f.handle
	next.locks ^= 1 << bit
	if next.locks&(1<<bit) == 0 {
		flags = smb2.LockFlagUnlock
	}
	f.mayHandle(next)
	return &powerRequest{name: "lock", cmd: smb2.CommandLock, slot: f.slot, body: &smb2.LockRequest{FileID: f.fid,
		Locks: []smb2.LockElement{{Offset: uint64(bit) * powerSector, Length: powerSector, Flags: flags}}},
		done: func(response) error { f.mustHandle(next); return nil }}
}

// send sends a request without waiting for the response.
func (c *powerClient) begin(q *powerRequest) { c.send(c.build(q.cmd, q.body, q.data)) }

// end waits for the response, which must be success.
func (c *powerClient) end(q *powerRequest) error {
	for {
		list := c.receive()
		if len(list) != 1 {
			return fmt.Errorf("%s: %d responses", q.name, len(list))
		}
		if st := list[0].hdr.Status; st == smb2.StatusPending {
			continue
		} else if st != smb2.StatusSuccess {
			return fmt.Errorf("%s of %s: %v", q.name, q.slot.now.name, st)
		}
		c.p.mu.Lock()
		defer c.p.mu.Unlock()
		c.p.busy[q.name]--
		return q.done(list[0])
	}
}

// newPowerClient logs on and makes the client's folder.
func newPowerClient(t testing.TB, p *power, addr, share, folder string, rnd *rand.Rand) (*powerClient, error) {
	c := &powerClient{rawClient: loginRaw(t, addr, smb2.Dialect311, share), p: p, rnd: rnd, share: share, folder: folder}
	f, err := p.store.Create(t.Context(), folder, fs.CreateOptions{Dir: true})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return c, p.store.SyncParent(t.Context(), f)
}
