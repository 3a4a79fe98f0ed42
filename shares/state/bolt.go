package state

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	iofs "io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"lunless/shares/fs"
)

// FileName is what the file of a Bolt is called in a server's folder.
const FileName = "state.db"

// Errors of a Bolt, wrapped with what they are about.
var (
	// ErrDamaged: the file does not hold what was committed. Nothing is served from
	// it, since handles would be lost without a word.
	ErrDamaged = errors.New("the state file is damaged")
	// ErrFailed: an earlier commit failed, and nothing is committed after it.
	ErrFailed = errors.New("an earlier commit of the sharing state failed")
	// ErrStoreClosed: the store has been closed.
	ErrStoreClosed = errors.New("the sharing state is closed")

	errInUse = errors.New("in use by another process")
)

// Layout of the file: a bbolt database of one bucket for what is about the whole and
// one with a record a file (encode.go). Integers here are big endian.
const boltVersion = 1

var (
	bucketNode    = []byte("node")
	bucketRecords = []byte("records")

	keyVersion = []byte("version") // boltVersion, 32 bits
	keyGUID    = []byte("guid")    // 16 bytes
	keyTally   = []byte("tally")   // of the records
)

// BoltOptions of a Bolt. The zero value is good.
type BoltOptions struct {
	Memory *Memory      // holds the records, and may be in use already; default a new one
	Logger *slog.Logger // told of the first failed commit; default none
	// Wait is how long another process may keep the file before OpenBolt gives up; default 3 s.
	Wait time.Duration
	// Around, if there is one, is called in place of each commit, which it makes by
	// calling commit: tests cut the power there.
	Around func(commit func() error) error
}

// Bolt is the Store of one node that keeps over a restart what persistent handles
// need, in a bbolt database. Everything else in it is a Memory.
type Bolt struct {
	*Memory
	db   *bolt.DB
	path string
	log  *slog.Logger
	guid [16]byte

	commits committer
}

var _ Store = (*Bolt)(nil)

// OpenBolt opens the state file, and makes it, in a folder that is there, if it is
// missing. ErrDamaged if it cannot be trusted. The file is locked against other processes.
func OpenBolt(path string, o BoltOptions) (*Bolt, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Wait == 0 {
		o.Wait = 3 * time.Second
	}
	if err := makeBolt(path); err != nil {
		return nil, fmt.Errorf("cannot make state file: %w", err)
	}
	if o.Memory == nil {
		o.Memory = NewMemory()
	}
	b := &Bolt{Memory: o.Memory, path: path, log: o.Logger}
	if err := b.open(o.Wait); err != nil {
		return nil, err
	}
	var records map[fs.FileID]Record
	err := guarded(func() error {
		return b.db.View(func(tx *bolt.Tx) (err error) {
			records, err = b.load(tx)
			return err
		})
	})
	if err != nil {
		b.db.Close()
		return nil, b.damaged(err)
	}
	b.commits.start(b.commit, o.Around)
	b.disk.Store(b)
	b.restore(records, time.Now())
	return b, nil
}

func (b *Bolt) open(wait time.Duration) error {
	err := checkFile(b.path, wait)
	if err == nil {
		err = guarded(func() (err error) {
			b.db, err = bolt.Open(b.path, 0o600, &bolt.Options{Timeout: wait, FreelistType: bolt.FreelistMapType})
			return err
		})
	}
	var path *iofs.PathError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errInUse), errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("state file %s is in use by another process: stop that one, or give this one another folder", b.path)
	case errors.As(err, &path):
		return fmt.Errorf("cannot open state file: %w", err)
	}
	return b.damaged(err)
}

// damaged says what an administrator can do about a file that cannot be trusted.
func (b *Bolt) damaged(err error) error {
	if !errors.Is(err, ErrDamaged) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return fmt.Errorf("%s: %w (put a copy of it back from a backup made while the server was stopped; or move it away, "+
		"and with it end the persistent handles of all clients, which will see their open files closed)", b.path, err)
}

// guarded runs what reads a database that may have been damaged since it was
// checked: bbolt panics then, and a mapped page may be missing.
func guarded(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("not a database: %v", p)
		}
	}()
	return do()
}

// makeBolt makes an empty state file that is whole, on stable storage, before it has its name.
func makeBolt(path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, iofs.ErrNotExist) {
		return err
	}
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if err := tmp.Close(); err != nil {
		return err
	}
	db, err := bolt.Open(tmp.Name(), 0o600, nil)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		var guid [16]byte
		rand.Read(guid[:])
		node, err := tx.CreateBucket(bucketNode)
		if err == nil {
			err = node.Put(keyVersion, binary.BigEndian.AppendUint32(nil, boltVersion))
		}
		if err == nil {
			err = node.Put(keyGUID, guid[:])
		}
		if err == nil {
			err = node.Put(keyTally, new(tally).encode())
		}
		if err == nil {
			_, err = tx.CreateBucket(bucketRecords)
		}
		return err
	})
	if err = errors.Join(err, db.Sync(), db.Close()); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, iofs.ErrExist) { // another process was faster
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func putAll(tx *bolt.Tx, batch []*pending) error {
	node, bucket := tx.Bucket(bucketNode), tx.Bucket(bucketRecords)
	var sum tally
	if err := sum.decode(node.Get(keyTally)); err != nil {
		return err
	}
	for _, p := range batch {
		if old := bucket.Get(p.key); old != nil {
			sum.remove(p.key, old)
		}
		if p.value == nil {
			if err := bucket.Delete(p.key); err != nil {
				return err
			}
			continue
		}
		sum.add(p.key, p.value)
		if err := bucket.Put(p.key, p.value); err != nil {
			return err
		}
	}
	return node.Put(keyTally, sum.encode())
}

// load reads and checks all there is.
func (b *Bolt) load(tx *bolt.Tx) (map[fs.FileID]Record, error) {
	node, bucket := tx.Bucket(bucketNode), tx.Bucket(bucketRecords)
	if node == nil || bucket == nil {
		return nil, errors.New("a bucket is missing")
	}
	v := node.Get(keyVersion)
	if len(v) != 4 {
		return nil, errors.New("no version")
	}
	if n := binary.BigEndian.Uint32(v); n != boltVersion {
		return nil, fmt.Errorf("version %d, this program knows %d: use the newer program", n, boltVersion)
	}
	if n := copy(b.guid[:], node.Get(keyGUID)); n != len(b.guid) {
		return nil, errors.New("no GUID")
	}
	var sum tally
	records := map[fs.FileID]Record{}
	err := bucket.ForEach(func(key, value []byte) error {
		id, err := decodeKey(key)
		if err != nil {
			return fmt.Errorf("record %x: %w", key, err)
		}
		if records[id], err = decodeRecord(key, value); err != nil {
			return fmt.Errorf("record of file %x (volume %x, inode %d): %w", key, id.Volume, id.Inode, err)
		}
		sum.add(key, value)
		return nil
	})
	if err == nil && string(sum.encode()) != string(node.Get(keyTally)) {
		err = errTruncated
	}
	return records, err
}

// restore puts what was loaded into the memory, which may be in use already.
func (b *Bolt) restore(records map[fs.FileID]Record, now time.Time) {
	for id, r := range records {
		s := b.shard(id)
		e := s.take(id)
		e.mu.Lock()
		key := encodeKey(id)
		e.stored = encodeRecord(key, &r)
		r.restore(now)
		next := e.rec
		next.Opens = append(slices.Clip(r.Opens), next.Opens...)
		next.Locks = append(slices.Clip(r.Locks), next.Locks...)
		next.Leases = append(slices.Clip(r.Leases), next.Leases...)
		for _, link := range r.Deleting {
			next.Deleting = with(next.Deleting, link)
		}
		s.give(id, e, next)
		e.mu.Unlock()
	}
}

// persist puts what changes of a file's record, as far as it is to outlive the
// process, on stable storage before it returns. The caller has the entry's lock.
func (b *Bolt) persist(id fs.FileID, e *entry, next *Record) error {
	keeps := func(o Open) bool { return o.Handle.Kind == Persistent }
	if e.stored == nil && !slices.ContainsFunc(next.Opens, keeps) {
		return nil
	}
	key := encodeKey(id)
	var was Record
	if e.stored != nil && len(next.Deleting) > 0 {
		var err error
		if was, err = decodeRecord(key, e.stored); err != nil {
			return err
		}
	}
	var value []byte
	if r := next.durable(&was); len(r.Opens) > 0 {
		value = encodeRecord(key, &r)
	}
	if bytes.Equal(value, e.stored) {
		return nil
	}
	if err := b.commits.do(key, value); err != nil {
		return err
	}
	e.stored = value
	return nil
}

// commit makes changes in one transaction.
func (b *Bolt) commit(batch []*pending) error {
	err := guarded(func() error {
		return b.db.Update(func(tx *bolt.Tx) error { return putAll(tx, batch) })
	})
	if err != nil {
		b.log.Error("the sharing state cannot be kept: persistent handles will not be given, changed or closed until the server is started again",
			"file", b.path, "err", err)
	}
	return err
}

// GUID is one that the file has been made with: it names the node.
func (b *Bolt) GUID() [16]byte { return b.guid }

// Close lets go of the file. Updates that would need it fail with ErrStoreClosed.
func (b *Bolt) Close() error {
	b.commits.stop()
	return b.db.Close()
}

// tally tells whether all records are there: how many, and a sum over them.
type tally struct{ count, sum uint64 }

func (t *tally) add(key, value []byte) {
	t.count++
	t.sum += digest(key, value)
}

func (t *tally) remove(key, value []byte) {
	t.count--
	t.sum -= digest(key, value)
}

func (t *tally) encode() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, t.count), t.sum)
}

func (t *tally) decode(b []byte) error {
	if len(b) != 16 {
		return errTruncated
	}
	t.count, t.sum = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	return nil
}

func digest(key, value []byte) uint64 {
	h := fnv.New64a()
	h.Write(key)
	h.Write(value)
	return h.Sum64()
}
