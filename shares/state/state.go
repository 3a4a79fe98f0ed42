// Package state is the sharing state of files: who has them open and how, their
// byte-range locks, their pending deletes.
//
// One record a file, one operation on it: Store.Update with a Change. The rules
// of MS-SMB2 and MS-FSA are Changes, written once; a Store only commits them.
// READ and WRITE commit nothing: they ask a Token.
package state

import (
	"context"
	"errors"
	"slices"

	"lunless/shares/fs"
)

// Errors of Changes. A Change that fails leaves the record as it was.
var (
	ErrSharingViolation = errors.New("the file is open in a way that does not allow this")
	ErrDeletePending    = errors.New("the file is being deleted")
	ErrInUse            = errors.New("the file is open")
	ErrUnknownOpen      = errors.New("no such open of the file")
	ErrLockNotGranted   = errors.New("the range is locked")
	ErrRangeNotLocked   = errors.New("the range is not locked by this open")
	ErrLockRange        = errors.New("the range ends past 2^64")
	ErrTooManyLocks     = errors.New("the file has too many locks")
)

// OpenID names an open for good. Whoever adds opens to a Store keeps them unique in it.
type OpenID uint64

// Ticket names a request that waits for a lock.
type Ticket uint64

// Rights of an open that the sharing rules look at: bits of an ACCESS_MASK
// (MS-SMB2 2.2.13.1.1).
const (
	ReadData   uint32 = 0x00000001
	WriteData  uint32 = 0x00000002
	AppendData uint32 = 0x00000004
	Execute    uint32 = 0x00000020
	Delete     uint32 = 0x00010000

	reads   = ReadData | Execute
	writes  = WriteData | AppendData
	sharing = reads | writes | Delete // an open with none of them conflicts with nobody
)

// What an open lets others do: ShareAccess of MS-SMB2 2.2.13.
const (
	ShareRead   uint32 = 1
	ShareWrite  uint32 = 2
	ShareDelete uint32 = 4
)

// Open is one open of a file.
type Open struct {
	ID     OpenID
	Access uint32 // granted, generic rights mapped
	Share  uint32
	// Link is the name the file was opened by: opens of equal Link share a pending
	// delete. Its form is the caller's, who folds case and says which share.
	Link          string
	DeleteOnClose bool
}

// Lock is a byte-range lock.
type Lock struct {
	Owner     OpenID
	Offset    uint64
	Length    uint64
	Exclusive bool
}

// Waiter is a lock request that waits until nothing conflicts with it.
type Waiter struct {
	Ticket Ticket
	Lock   Lock
}

// Record is the state of one file. It holds no pointers and its zero value is
// that of a file nobody has open. A Change copies what it alters.
type Record struct {
	Opens   []Open
	Locks   []Lock
	Waiters []Waiter // in order of arrival
	// Deleting are the links that go once no open of them is left. A link stays
	// here until Deleted says its name is gone, so that nobody opens it meanwhile.
	Deleting []string
}

// Empty says that a Store need not keep the record.
func (r *Record) Empty() bool {
	return len(r.Opens) == 0 && len(r.Locks) == 0 && len(r.Waiters) == 0 && len(r.Deleting) == 0
}

func (r *Record) find(id OpenID) int {
	return slices.IndexFunc(r.Opens, func(o Open) bool { return o.ID == id })
}

// Effects are what must happen because of a Change. The Store itself wakes
// waiters; the rest is the caller's.
type Effects struct {
	Granted []Ticket // hold their locks now
	Dropped []Ticket // lost their open: they fail with ErrRangeNotLocked
	Delete  bool     // remove the name the open came by, then commit Deleted(Link)
	Link    string   // of the open that went
}

// Change makes a record's successor. It is pure and may run more than once; it
// does not alter what the slices of the record it is given hold.
type Change func(Record) (Record, Effects, error)

// Store commits Changes. All methods may be called concurrently.
type Store interface {
	// Update runs fn on the file's record and commits what it returns. Changes of
	// one file are in some total order. The error is fn's, wrapped or not, ctx's,
	// or the store's own.
	Update(ctx context.Context, id fs.FileID, fn Change) (Effects, error)
	// Token gives the lock check of READ and WRITE. It is good from the commit of
	// the caller's AddOpen until that of its RemoveOpen.
	Token(id fs.FileID) *Token
	// NewTicket makes a ticket for Lock. Its channel yields nil once the lock is
	// granted or ErrRangeNotLocked once the open is gone, and nothing else.
	NewTicket() (Ticket, <-chan error)
	// ReleaseTicket forgets a ticket that is in no record any more.
	ReleaseTicket(Ticket)
	// Walk visits records until visit returns false. It is no snapshot.
	Walk(ctx context.Context, visit func(fs.FileID, Record) bool) error
}
