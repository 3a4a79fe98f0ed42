package state

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
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
)

// Layout of the file: a bbolt database of one bucket for what is about the whole and
// one with a record a file.
const boltVersion = 1

var (
	bucketNode = []byte("node")

	keyVersion = []byte("version") // boltVersion, 32 bits big endian
	keyGUID    = []byte("guid")    // 16 bytes
)

// BoltOptions of a Bolt. The zero value is good.
type BoltOptions struct {
	Memory *Memory      // holds the records, and may be in use already; default a new one
	Logger *slog.Logger // told of a failed commit, once; default none
	// Wait is how long another process may keep the file before OpenBolt gives up; default 3 s.
	Wait time.Duration
}

// Bolt is the Store of one node that keeps over a restart what persistent handles
// need, in a bbolt database. Everything else in it is a Memory.
type Bolt struct {
	*Memory
	db   *bolt.DB
	path string
	log  *slog.Logger
	guid [16]byte

	closeOnce sync.Once
	closed    error
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
	if err := guarded(func() error { return b.db.View(b.load) }); err != nil {
		b.db.Close()
		return nil, b.damaged(err)
	}
	return b, nil
}

func (b *Bolt) open(wait time.Duration) error {
	err := guarded(func() (err error) {
		b.db, err = bolt.Open(b.path, 0o600, &bolt.Options{Timeout: wait, FreelistType: bolt.FreelistMapType})
		return err
	})
	var path *fs.PathError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("state file %s is in use by another process: stop that one, or give this one another folder", b.path)
	case errors.As(err, &path):
		return fmt.Errorf("cannot open state file: %w", err)
	}
	return b.damaged(err)
}

// damaged says what an administrator can do about a file that cannot be trusted.
func (b *Bolt) damaged(err error) error {
	return fmt.Errorf("%w: %s: %w (put a copy of it back from a backup made while the server was stopped; or move it away, "+
		"and with it end the persistent handles of all clients, which will see their open files closed)", ErrDamaged, b.path, err)
}

// guarded runs what reads a database that may be damaged, where bbolt panics and a
// mapped page may be missing.
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
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
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
		return err
	})
	if err = errors.Join(err, db.Sync(), db.Close()); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) { // another process was faster
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// load reads and checks all there is.
func (b *Bolt) load(tx *bolt.Tx) error {
	if err := checkPages(tx, b.path); err != nil {
		return err
	}
	node := tx.Bucket(bucketNode)
	if node == nil {
		return errors.New("no bucket of the node")
	}
	v := node.Get(keyVersion)
	if len(v) != 4 {
		return errors.New("no version")
	}
	if n := binary.BigEndian.Uint32(v); n != boltVersion {
		return fmt.Errorf("version %d, this program knows %d: use the newer program", n, boltVersion)
	}
	if n := copy(b.guid[:], node.Get(keyGUID)); n != len(b.guid) {
		return errors.New("no GUID")
	}
	return nil
}

// checkPages walks every page: what is not reachable, or reachable twice, is an error.
func checkPages(tx *bolt.Tx, path string) (err error) {
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if tx.Size() > st.Size() {
		return fmt.Errorf("%d bytes of %d are there", st.Size(), tx.Size())
	}
	for e := range tx.Check() {
		err = errors.Join(err, e)
	}
	return err
}

// GUID is one that the file has been made with: it names the node.
func (b *Bolt) GUID() [16]byte { return b.guid }

// Close lets go of the file. Updates fail after it where they would need it.
func (b *Bolt) Close() error {
	b.closeOnce.Do(func() { b.closed = b.db.Close() })
	return b.closed
}
