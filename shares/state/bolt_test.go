package state

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lunless/shares/fs"
)

func openBolt(t testing.TB, path string, o BoltOptions) *Bolt {
	t.Helper()
	b, err := OpenBolt(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func persistent(id OpenID, link string) Open {
	return Open{
		ID: id, Access: ReadData | WriteData | Delete, Share: 7, Link: link,
		Handle: Handle{Kind: Persistent, Timeout: time.Minute, CreateGUID: [16]byte{byte(id)}, Owner: "hv", Share: "ca", Name: link},
	}
}

func commit(t testing.TB, s Store, id fs.FileID, fn Change) {
	t.Helper()
	if _, err := s.Update(context.Background(), id, fn); err != nil {
		t.Fatal(err)
	}
}

func recordOf(t testing.TB, s Store, id fs.FileID) (out Record) {
	t.Helper()
	commit(t, s, id, func(r Record) (Record, Effects, error) { out = r; return r, Effects{}, nil })
	return out
}

// What is persistent is there again after a restart, and nothing else is.
func TestBoltRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	b := openBolt(t, path, BoltOptions{})
	plain := Open{ID: 2, Access: ReadData, Share: 7, Link: "A"}
	away := fs.FileID{Inode: 99}
	commit(t, b, file, AddOpen(OpenRequest{Open: persistent(1, "A")}))
	commit(t, b, file, AddOpen(OpenRequest{Open: plain}))
	commit(t, b, away, AddOpen(OpenRequest{Open: plain}))
	commit(t, b, file, AddLocks([]Lock{{1, 0, 10, true}, {2, 20, 5, false}, {1, 30, 5, false}}))
	commit(t, b, file, SetDeletePending(1, true))
	before := time.Now()
	b.Close()

	b = openBolt(t, path, BoltOptions{})
	got := recordOf(t, b, file)
	if len(got.Opens) != 1 || got.Opens[0].ID != 1 || len(got.Deleting) != 1 || len(recordOf(t, b, away).Opens) != 0 {
		t.Fatalf("after restart: %+v", got)
	}
	if d := cmp.Diff([]Lock{{1, 0, 10, true}, {1, 30, 5, false}}, got.Locks); d != "" {
		t.Error(d)
	}
	h := got.Opens[0].Handle
	if !h.Disconnected || h.Deadline.Before(before.Add(time.Minute)) || h.Deadline.After(time.Now().Add(time.Minute)) {
		t.Errorf("handle %+v: want it to wait for its client for a minute from the start", h)
	}
	if !b.Token(file).Conflicts(2, 5, 1, false) {
		t.Error("the lock does not lock")
	}
	commit(t, b, file, Unlock(1, 0, 10))
	commit(t, b, file, SetDeletePending(1, false))
	b.Close()

	b = openBolt(t, path, BoltOptions{})
	if got := recordOf(t, b, file); len(got.Locks) != 1 || len(got.Deleting) != 0 {
		t.Fatalf("after the second restart: %+v", got)
	}
	commit(t, b, file, RemoveOpen(1, false))
	b.Close()
	b = openBolt(t, path, BoltOptions{})
	if got := recordOf(t, b, file); !got.Empty() {
		t.Fatalf("after close: %+v", got)
	}
}

// A file that is to go with a persistent open keeps the open until its name is gone.
func TestBoltKeepsWhatIsBeingDeleted(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	b := openBolt(t, path, BoltOptions{})
	commit(t, b, file, AddOpen(OpenRequest{Open: persistent(1, "A")}))
	commit(t, b, file, AddLocks([]Lock{{1, 0, 10, true}}))
	commit(t, b, file, SetDeletePending(1, true))
	commit(t, b, file, RemoveOpen(1, false))
	b.Close() // before the name is removed
	b = openBolt(t, path, BoltOptions{})
	if r := recordOf(t, b, file); len(r.Opens) != 1 || len(r.Locks) != 1 || !r.IsDeleting("A") {
		t.Fatalf("%+v: want the open, to be closed again", r)
	}
	commit(t, b, file, RemoveOpen(1, false))
	commit(t, b, file, Deleted("A"))
	b.Close()
	if r := recordOf(t, openBolt(t, path, BoltOptions{}), file); !r.Empty() {
		t.Fatalf("%+v: want nothing", r)
	}
}

// Every field of a record that a restart does not decide is kept. Who adds one has
// to add it to the encoding, and to raise its version.
func TestEncodeKeepsEveryField(t *testing.T) {
	var n uint64
	var fill func(v reflect.Value)
	fill = func(v reflect.Value) {
		n++
		switch v.Kind() {
		case reflect.Struct:
			if v.Type() == reflect.TypeFor[time.Time]() {
				v.Set(reflect.ValueOf(time.Unix(int64(n), 0)))
				return
			}
			for i := range v.NumField() {
				fill(v.Field(i))
			}
		case reflect.Array:
			for i := range v.Len() {
				fill(v.Index(i))
			}
		case reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			fill(v.Index(0))
		case reflect.Bool:
			v.SetBool(true)
		case reflect.String:
			v.SetString(fmt.Sprint("s", n))
		case reflect.Int64:
			v.SetInt(int64(n))
		default:
			v.SetUint(n%200 + 1)
		}
	}
	var r Record
	fill(reflect.ValueOf(&r).Elem())
	o := &r.Opens[0]
	o.Handle.Kind = Persistent
	r.Locks[0].Owner, r.Deleting[0], r.Leases[0].Key = o.ID, o.Link, o.Lease

	want := r
	want.Opens = []Open{r.Opens[0]}
	want.Waiters, want.Breaks = nil, nil
	h := &want.Opens[0]
	want.Leases = []Lease{r.Leases[0]}
	want.Leases[0].Unsent, h.Oplock.Unsent = false, false
	want.Leases[0].Told, h.Oplock.Told = false, false
	h.Former = ""
	h.Closing, h.Handle.Replayable, h.Handle.Disconnected, h.Handle.Deadline = false, false, false, time.Time{}
	kept := r.durable(&Record{})
	key := encodeKey(file)
	got, err := decodeRecord(key, encodeRecord(key, &kept))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// What decodes, encodes to the same bytes, and says nothing a Change trips over.
func FuzzDecodeRecord(f *testing.F) {
	key := encodeKey(file)
	full := Record{
		Opens:  []Open{persistent(1, "A"), {ID: 2, Link: "B", HasLease: true, Lease: LeaseKey{Key: [16]byte{1}}, Handle: Handle{Kind: Persistent}}},
		Locks:  []Lock{{1, 2, 3, true}},
		Leases: []Lease{{Key: LeaseKey{Key: [16]byte{1}}, HasParent: true}}, Deleting: []string{"A"},
	}
	one := Record{Opens: []Open{persistent(1, "A")}}
	for _, r := range []*Record{&full, &one} {
		b := encodeRecord(key, r)
		f.Add(b[:len(b)-4])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		w := writer{b: bytes.Clone(body)}
		w.u32(checksum(key, body)) // or no mutation would get past it
		r, err := decodeRecord(key, w.b)
		if err != nil {
			return
		}
		if again := encodeRecord(key, &r); !bytes.Equal(again, w.b) {
			t.Fatalf("%x became %x", w.b, again)
		}
		r.restore(time.Now())
		for i := range r.Opens {
			r.outlives(&r.Opens[i])
		}
		new(Token).publish(&r)
	})
}

// Every byte of a record counts.
func TestRecordChecksum(t *testing.T) {
	key := encodeKey(file)
	r := Record{Opens: []Open{persistent(1, "A")}}
	b := encodeRecord(key, &r)
	for i := range b {
		b[i] ^= 0x10
		if _, err := decodeRecord(key, b); err == nil {
			t.Fatalf("byte %d of %d changed and nobody saw it", i, len(b))
		}
		b[i] ^= 0x10
		if _, err := decodeRecord(key, b[:i]); err == nil {
			t.Fatalf("%d bytes of %d are enough", i, len(b))
		}
	}
	if _, err := decodeRecord(encodeKey(fs.FileID{}), b); err == nil {
		t.Error("another file's record")
	}
}

// Whatever happens to the file, it gives an error or what was committed, and no panic.
func TestBoltDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	b := openBolt(t, path, BoltOptions{})
	for i := range uint64(200) {
		commit(t, b, fs.FileID{Inode: i}, AddOpen(OpenRequest{Open: persistent(OpenID(i+1), strings.Repeat("x", int(i)))}))
	}
	b.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	refused := 0
	const rounds = 300
	for range rounds {
		image := bytes.Clone(whole)
		switch rnd.IntN(4) {
		case 0:
			image = image[:rnd.IntN(len(image))]
		case 1: // a sector that never got there
			at := rnd.IntN(len(image)/512) * 512
			clear(image[at : at+512])
		case 2: // one that went astray
			at, from := rnd.IntN(len(image)/512)*512, rnd.IntN(len(image)/512)*512
			copy(image[at:at+512], whole[from:])
		default:
			for range 1 + rnd.IntN(20) {
				image[rnd.IntN(len(image))] ^= 1 << rnd.IntN(8)
			}
		}
		file := filepath.Join(t.TempDir(), FileName)
		if err := os.WriteFile(file, image, 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := OpenBolt(file, BoltOptions{})
		if err != nil {
			refused++
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "move it away") {
				t.Errorf("seed %d: %v", seed, err)
			}
			continue
		}
		for i := range uint64(200) {
			r := recordOf(t, b, fs.FileID{Inode: i})
			if len(r.Opens) != 1 || r.Opens[0].ID != OpenID(i+1) || len(r.Opens[0].Link) != int(i) {
				t.Fatalf("seed %d: file %d lost its handle without a word: %+v", seed, i, r)
			}
		}
		b.Close()
	}
	if refused < rounds/4 {
		t.Errorf("seed %d: %d of %d refused", seed, refused, rounds)
	}
}

// A meta page that is not the one that was written is damage: bbolt would take the
// other one, and with it forget the last commit.
func TestBoltDamagedMeta(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	b := openBolt(t, path, BoltOptions{})
	for i := range OpenID(2) { // so that either page is the newer one in one round
		commit(t, b, fs.FileID{Inode: uint64(i)}, AddOpen(OpenRequest{Open: persistent(i+1, "A")}))
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		m, ok := readMeta(whole, 0)
		if !ok {
			t.Fatal("no first meta page")
		}
		pages := [2][]byte{whole[:512], whole[m.size:][:512]}
		for n, page := range pages {
			for what, bad := range map[string][]byte{"never written": make([]byte, 512), "written twice": pages[1-n]} {
				image := bytes.Clone(whole)
				copy(image[n*int(m.size):], bad)
				file := filepath.Join(t.TempDir(), FileName)
				if err := os.WriteFile(file, image, 0o600); err != nil {
					t.Fatal(err)
				}
				b, err := OpenBolt(file, BoltOptions{})
				if err == nil {
					b.Close()
				}
				if !errors.Is(err, ErrDamaged) {
					t.Errorf("page %d %s after %d commits: %v", n, what, i+1, err)
				}
			}
			for i := pageHeader; i < pageHeader+metaSize; i++ {
				page[i] ^= 1
				if err := checkPages(whole); err == nil {
					t.Errorf("page %d: byte %d does not count", n, i)
				}
				page[i] ^= 1
			}
		}
	}
}

func TestBoltInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	openBolt(t, path, BoltOptions{})
	if _, err := OpenBolt(path, BoltOptions{Wait: time.Millisecond}); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("%v", err)
	}
}

// A commit under way holds up its own file and no other; all that came meanwhile
// share the next.
func TestGroupCommit(t *testing.T) {
	entered, release := make(chan struct{}, 100), make(chan struct{})
	var commits atomic.Int64
	b := openBolt(t, filepath.Join(t.TempDir(), FileName), BoltOptions{Around: func(commit func() error) error {
		commits.Add(1)
		entered <- struct{}{}
		<-release
		return commit()
	}})
	var wg sync.WaitGroup
	add := func(i uint64) {
		wg.Go(func() { commit(t, b, fs.FileID{Inode: i}, AddOpen(OpenRequest{Open: persistent(OpenID(i+1), "A")})) })
	}
	add(0)
	<-entered
	const more = 50
	for i := range uint64(more) {
		add(i + 1)
	}
	// A file that needs no commit is not held up, nor is who looks at all of them.
	commit(t, b, fs.FileID{Inode: 1000}, AddOpen(OpenRequest{Open: Open{ID: 5000, Link: "A"}}))
	b.Token(fs.FileID{Inode: 0})
	if err := b.Walk(context.Background(), func(fs.FileID, Record) bool { return true }); err != nil {
		t.Fatal(err)
	}
	for { // until all wait, so that what they share is known
		b.commits.mu.Lock()
		n := len(b.commits.queue)
		b.commits.mu.Unlock()
		if n == more {
			break
		}
		time.Sleep(time.Millisecond)
	}
	close(release)
	wg.Wait()
	if n := commits.Load(); n != 2 {
		t.Errorf("%d commits, want 2", n)
	}
}

// A failed commit is everybody's: what needs the disk fails from then on, what does
// not goes on.
func TestCommitFails(t *testing.T) {
	broken := errors.New("no room")
	var fail atomic.Bool
	b := openBolt(t, filepath.Join(t.TempDir(), FileName), BoltOptions{Around: func(commit func() error) error {
		if fail.Load() {
			return broken
		}
		return commit()
	}})
	ctx := context.Background()
	commit(t, b, file, AddOpen(OpenRequest{Open: persistent(1, "A")}))
	fail.Store(true)
	if _, err := b.Update(ctx, file, AddLocks([]Lock{{1, 0, 1, true}})); !errors.Is(err, ErrFailed) || !errors.Is(err, broken) {
		t.Fatalf("first: %v", err)
	}
	if r := recordOf(t, b, file); len(r.Locks) != 0 {
		t.Error("a lock was granted that is not on the disk")
	}
	fail.Store(false)
	other := fs.FileID{Inode: 2}
	if _, err := b.Update(ctx, other, AddOpen(OpenRequest{Open: persistent(2, "B")})); !errors.Is(err, ErrFailed) {
		t.Errorf("later: %v", err)
	}
	if _, err := b.Update(ctx, file, RemoveOpen(1, false)); !errors.Is(err, ErrFailed) {
		t.Errorf("close: %v", err)
	}
	commit(t, b, other, AddOpen(OpenRequest{Open: Open{ID: 3, Link: "B"}}))
	b.Close()
	if _, err := b.Update(ctx, file, AddLocks([]Lock{{1, 0, 1, true}})); err == nil {
		t.Error("committed after Close")
	}
}

// What changes nothing that is kept costs no commit.
func TestNoCommitWithoutNeed(t *testing.T) {
	var commits atomic.Int64
	b := openBolt(t, filepath.Join(t.TempDir(), FileName), BoltOptions{Around: func(commit func() error) error {
		commits.Add(1)
		return commit()
	}})
	commit(t, b, file, AddOpen(OpenRequest{Open: persistent(1, "A")}))
	if n := commits.Load(); n != 1 {
		t.Fatalf("%d commits for an open", n)
	}
	commit(t, b, file, AddOpen(OpenRequest{Open: Open{ID: 2, Access: ReadData | WriteData, Share: 7, Link: "A"}}))
	commit(t, b, file, AddLocks([]Lock{{2, 0, 1, true}}))
	commit(t, b, file, Disconnect(1, time.Now()))
	commit(t, b, file, RemoveOpen(2, false))
	if n := commits.Load(); n != 1 {
		t.Errorf("%d commits, want 1", n)
	}
}

// What passes the check of its pages, bbolt can read.
func FuzzOpenBolt(f *testing.F) {
	path := filepath.Join(f.TempDir(), FileName)
	b := openBolt(f, path, BoltOptions{})
	for i := range uint64(30) {
		commit(f, b, fs.FileID{Inode: i}, AddOpen(OpenRequest{Open: persistent(OpenID(i+1), "A")}))
	}
	b.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{})
	f.Add(binary.LittleEndian.AppendUint32(nil, 4096<<8|7))
	f.Fuzz(func(t *testing.T, changes []byte) { // of four bytes: where, and to what
		image := bytes.Clone(whole)
		for ; len(changes) >= 4; changes = changes[4:] {
			c := binary.LittleEndian.Uint32(changes)
			image[int(c>>8)%len(image)] = byte(c)
		}
		path := filepath.Join(t.TempDir(), FileName)
		if err := os.WriteFile(path, image, 0o600); err != nil {
			t.Fatal(err)
		}
		if b, err := OpenBolt(path, BoltOptions{}); err == nil {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		} else if !errors.Is(err, ErrDamaged) {
			t.Error(err)
		}
	})
}
