package shares

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"lunless/shares/fs"
	"lunless/shares/state"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// churner does whatever comes to its mind with a few names that others use too.
type churner struct {
	*rawClient
	rng   *rand.Rand
	opens []smb2.FileID
}

func oneOf[T any](rng *rand.Rand, list ...T) T { return list[rng.IntN(len(list))] }

func (c *churner) name() string {
	return oneOf(c.rng, "", `d\`, `e\`) + fmt.Sprint("f", c.rng.IntN(3))
}

func (c *churner) step() {
	c.t.Helper()
	if len(c.opens) == 0 || c.rng.IntN(3) == 0 {
		c.tryOpen()
		return
	}
	i := c.rng.IntN(len(c.opens))
	id := c.opens[i]
	switch c.rng.IntN(8) {
	case 0, 1:
		c.opens = append(c.opens[:i], c.opens[i+1:]...)
		c.ask(smb2.CommandClose, &smb2.CloseRequest{FileID: id}, nil)
	case 2:
		c.setInfo(id, fscc.FileDispositionInformation, &fscc.DispositionInfo{DeletePending: c.rng.IntN(3) > 0})
	case 3, 4:
		c.setInfo(id, fscc.FileRenameInformation, &fscc.RenameInfo{Name: c.name(), ReplaceIfExists: c.rng.IntN(2) == 0})
	case 5:
		c.setInfo(id, fscc.FileLinkInformation, &fscc.LinkInfo{Name: c.name(), ReplaceIfExists: c.rng.IntN(2) == 0})
	case 6:
		c.lock(id)
	case 7:
		c.ask(smb2.CommandWrite, &smb2.WriteRequest{Length: 100, Offset: c.rng.Uint64N(100), FileID: id}, make([]byte, 100))
	}
}

func (c *churner) tryOpen() {
	q := &smb2.CreateRequest{
		Name: c.name(), DesiredAccess: oneOf(c.rng, rightsAll, smb2.GenericRead|smb2.Delete, smb2.GenericWrite, smb2.FileReadAttributes),
		ShareAccess:       oneOf(c.rng, shareAll, shareAll, smb2.FileShareRead, 0),
		CreateDisposition: smb2.CreateDisposition(c.rng.IntN(6)),
	}
	if c.rng.IntN(8) == 0 {
		q.Name, q.CreateOptions, q.CreateDisposition = oneOf(c.rng, "d", "e"), smb2.FileDirectoryFile, smb2.FileOpenIf
	}
	if q.DesiredAccess&smb2.Delete != 0 && c.rng.IntN(4) == 0 {
		q.CreateOptions |= smb2.FileDeleteOnClose
	}
	if m, st := c.tryCreate(q); st == smb2.StatusSuccess {
		c.opens = append(c.opens, m.FileID)
	}
}

// lock takes a lock or gives up waiting for it in one of several ways.
func (c *churner) lock(id smb2.FileID) {
	c.send(c.build(smb2.CommandLock, lockRequest(id, smb2.LockElement{Offset: c.rng.Uint64N(4), Length: 2, Flags: smb2.LockFlagExclusiveLock}), nil))
	list := c.receive()
	if list == nil || list[0].hdr.Status != smb2.StatusPending {
		return
	}
	time.Sleep(time.Duration(c.rng.IntN(3)) * time.Millisecond)
	msg := c.build(smb2.CommandCancel, &smb2.CancelRequest{}, nil)
	c.message--
	h := smb2.Header{Command: smb2.CommandCancel, Flags: smb2.FlagAsyncCommand, MessageID: list[0].hdr.MessageID,
		AsyncID: list[0].hdr.AsyncID, SessionID: c.session}
	h.Encode(msg)
	c.send(msg)
	c.receive()
}

// ask sends a request whose outcome does not matter.
func (c *churner) ask(cmd smb2.Command, m body, payload []byte) {
	c.send(c.build(cmd, m, payload))
	c.receive()
}

// TestChurn: opens, renames, links, deletes, locks and connections that end at any
// time leave nothing behind: no record, no open, no buffer, and nobody waiting.
func TestChurn(t *testing.T) {
	srv := startServer(t, nil)
	before := buffersOut.Load()
	const clients, rounds, steps = 6, 4, 60
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			for round := range rounds {
				c := &churner{rawClient: loginRaw(t, srv.addr, smb2.Dialect311, "vms"), rng: rand.New(rand.NewPCG(uint64(i), uint64(round)))}
				c.existingFolders()
				for range steps {
					if c.step(); t.Failed() {
						return
					}
				}
				if round%2 == 0 && len(c.opens) > 0 { // gone, with requests under way
					for _, id := range c.opens {
						c.send(c.build(smb2.CommandLock, lockRequest(id, smb2.LockElement{Length: 9, Flags: smb2.LockFlagExclusiveLock}), nil))
						c.send(c.build(smb2.CommandClose, &smb2.CloseRequest{FileID: id}, nil))
					}
				}
				c.nc.Close()
			}
		})
	}
	wg.Wait()
	var left []string
	for range 2000 {
		left = left[:0]
		if err := srv.store.Walk(context.Background(), func(id fs.FileID, r state.Record) bool {
			left = append(left, fmt.Sprintf("%v: %+v", id, r))
			return true
		}); err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 && buffersOut.Load() == before {
			break
		}
		sleepBriefly()
	}
	if n := buffersOut.Load(); len(left) > 0 || n != before {
		t.Errorf("%d buffers out, %d before; records left: %v", n, before, left)
	}
	for _, sample := range []string{"lunless_opens", "lunless_tree_connects", "lunless_sessions", "lunless_panics_total"} {
		if n := srv.scrape(t, sample); n != "0" {
			t.Errorf("%s %s", sample, n)
		}
	}
}

func (c *churner) existingFolders() {
	for _, name := range []string{"d", "e"} {
		if m, st := c.tryCreate(&smb2.CreateRequest{Name: name, DesiredAccess: smb2.GenericRead, ShareAccess: shareAll,
			CreateDisposition: smb2.FileOpenIf, CreateOptions: smb2.FileDirectoryFile}); st == smb2.StatusSuccess {
			c.ask(smb2.CommandClose, &smb2.CloseRequest{FileID: m.FileID}, nil)
		}
	}
}
