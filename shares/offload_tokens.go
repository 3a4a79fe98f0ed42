package shares

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"sync"
	"time"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// Bounds of the tokens that FSCTL_OFFLOAD_READ gives out.
const (
	offloadDefaultLife = time.Minute     // where the client asks for none
	offloadMaxLife     = 5 * time.Minute // whatever it asks for
	offloadMaxLength   = 1 << 30         // bytes one token stands for
	offloadOfUser      = 256             // tokens of one user: one more drops the oldest
	offloadOfServer    = 2048            // tokens of all; one more is refused
)

// offloads are the tokens a server has given out and still knows.
//
// A token names its entry by 32 random bytes, which nobody can guess or make. It is
// good on every share of the server, and only in the hands of the user it was
// given to, who was allowed to read what it stands for: one that was seen on the
// wire is of no use to another. It stands for the bytes as they were when it was made. Where
// the file system can share blocks these are kept aside; elsewhere the token is
// worth nothing any more once a byte of the range is changed.
type offloads struct {
	mu sync.Mutex // innermost
	m  map[offloadID]*offload
	n  uint64 // tokens given out
}

type offloadID [32]byte

// offload is what a token stands for. It does not change but for what mu guards.
type offload struct {
	id     offloadID
	number uint64 // by age
	owner  fscc.SID
	share  *share
	off    int64 // in file
	length int64 // bytes the token stands for; those past data are zero
	data   int64

	file  fs.File   // a snapshot, or the file of src
	src   *open     // nil if file is a snapshot
	watch *fs.Watch // of src's range

	timer *time.Timer
	uses  int  // guarded by offloads.mu
	gone  bool // guarded by offloads.mu: closed with the last use
}

// tokenType is the vendor's part of STORAGE_OFFLOAD_TOKEN (MS-FSCC 2.1.11): "LUNL".
const tokenType = 0x4C554E4C

// tokenIDLength is what TokenIdLength says of each token, bytes.
const tokenIDLength = 504

func (t *offload) token() (b fscc.OffloadToken) {
	binary.BigEndian.PutUint32(b[0:], tokenType)
	binary.BigEndian.PutUint16(b[6:], tokenIDLength)
	copy(b[8:], t.id[:])
	return b
}

// zeroToken is the well-known token of zeroes (MS-FSCC 2.1.11).
func zeroToken() (b fscc.OffloadToken) {
	binary.BigEndian.PutUint32(b[0:], fscc.STORAGE_OFFLOAD_TOKEN_TYPE_ZERO_DATA)
	binary.BigEndian.PutUint16(b[6:], tokenIDLength)
	return b
}

// add makes t's token, good for life. STATUS_INSUFFICIENT_RESOURCES where there
// are too many; t is the caller's then.
func (l *offloads) add(t *offload, life time.Duration) error {
	rand.Read(t.id[:])
	l.mu.Lock()
	var oldest *offload
	count := 0
	for _, o := range l.m {
		if o.owner == t.owner {
			if count++; oldest == nil || o.number < oldest.number {
				oldest = o
			}
		}
	}
	if count < offloadOfUser && len(l.m) >= offloadOfServer {
		l.mu.Unlock()
		return smb2.StatusInsufficientResources
	}
	if l.m == nil {
		l.m = map[offloadID]*offload{}
	}
	l.n++
	t.number = l.n
	l.m[t.id] = t
	t.timer = time.AfterFunc(life, func() { l.drop(t) })
	l.mu.Unlock()
	if count >= offloadOfUser {
		l.drop(oldest)
	}
	return nil
}

// take finds what a token of owner's stands for, which release gives back:
// STATUS_INVALID_TOKEN for one that is not, or no longer, known.
func (l *offloads) take(b *fscc.OffloadToken, owner fscc.SID) (*offload, error) {
	var id offloadID
	copy(id[:], b[8:])
	l.mu.Lock()
	t := l.m[id]
	if t == nil || t.owner != owner || t.token() != *b {
		l.mu.Unlock()
		return nil, smb2.StatusInvalidToken
	}
	t.uses++
	l.mu.Unlock()
	if !t.unchanged() {
		l.drop(t)
		l.release(t)
		return nil, smb2.StatusInvalidToken
	}
	return t, nil
}

func (l *offloads) release(t *offload) {
	l.mu.Lock()
	t.uses--
	last := t.gone && t.uses == 0
	l.mu.Unlock()
	if last {
		t.close()
	}
}

// drop makes a token unknown. What uses it goes on.
func (l *offloads) drop(t *offload) {
	l.mu.Lock()
	first := l.m[t.id] == t
	if first {
		delete(l.m, t.id)
		t.gone = true
	}
	last := first && t.uses == 0
	l.mu.Unlock()
	if !first {
		return
	}
	t.timer.Stop()
	if last {
		t.close()
	}
}

// dropOf drops the tokens of a share, or all for nil.
func (l *offloads) dropOf(s *share) {
	l.mu.Lock()
	var list []*offload
	for _, t := range l.m {
		if s == nil || t.share == s {
			list = append(list, t)
		}
	}
	l.mu.Unlock()
	for _, t := range list {
		l.drop(t)
	}
}

// unchanged says whether the token's bytes are still what they were.
func (t *offload) unchanged() bool {
	if t.src == nil || sabotaged("stale-token-taken") {
		return true
	}
	return !t.watch.Changed() && !t.src.closed.Load()
}

func (t *offload) close() {
	if t.src == nil {
		t.file.Close()
		return
	}
	t.watch.Stop()
}

// newOffload keeps what o has at [off, off+data), for a token of length bytes.
// STATUS_OFFLOAD_READ_FILE_NOT_SUPPORTED where it cannot be kept.
func newOffload(ctx context.Context, o *open, off, data, length int64) (*offload, error) {
	t := &offload{owner: o.session.token.User, share: o.tree.share, off: off, data: data, length: length}
	var err error
	if t.file, err = fs.Snapshot(ctx, o.file, off, data); err == nil {
		return t, nil
	}
	if ctx.Err() != nil {
		return nil, err
	}
	t.file, t.src = o.file, o
	if t.watch, err = fs.NewWatch(o.file, off, data); err != nil {
		return nil, smb2.StatusOffloadReadFileNotSupported
	}
	return t, nil
}
