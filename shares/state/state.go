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
	ErrTooManyOpens     = errors.New("the file has too many opens")
	ErrTooManyWaiters   = errors.New("too many requests wait for the file")

	ErrNotAvailable   = errors.New("the file is kept for a client that is away") // STATUS_FILE_NOT_AVAILABLE
	ErrForcedClosed   = errors.New("a newer instance of the application has the file open")
	ErrUnknownLease   = errors.New("no such lease of the file")
	ErrNotBreaking    = errors.New("no break waits for an acknowledgment")
	ErrNotAccepted    = errors.New("the acknowledgment keeps more than the break leaves") // STATUS_REQUEST_NOT_ACCEPTED
	ErrOplockProtocol = errors.New("the acknowledgment does not fit the oplock")          // STATUS_INVALID_OPLOCK_PROTOCOL
	ErrCannotWait     = errors.New("others have to give up their caching first")
	ErrNotReclaimable = errors.New("no such open to reclaim")                  // STATUS_OBJECT_NAME_NOT_FOUND
	ErrNotOwner       = errors.New("the open is another user's")               // STATUS_ACCESS_DENIED
	ErrBadReclaim     = errors.New("the open was not made as it is reclaimed") // STATUS_INVALID_PARAMETER
)

// OpenID names an open for good. Whoever adds opens to a Store keeps them unique in it.
type OpenID uint64

// Ticket names a request that waits, for a lock or for others to give up their
// caching. The zero one is of a request that cannot wait.
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
	// An open has a lease, which is in Record.Leases, or an oplock, or neither.
	HasLease bool
	Lease    LeaseKey
	Oplock   Cache
	Handle   Handle
	// Former is a Link by which the client may know the file still: a rename of which
	// it had no answer was under way when the server stopped. "": none.
	Former string
	// Closing says that somebody has been told in Effects.Close to end the open.
	Closing bool
	// OfStream marks an open of one of the file's alternate data streams. Those are files of
	// their own here, with records of their own; this one is in the file's record because
	// opens of streams and the delete of the file have to do with each other.
	OfStream bool
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
	Ticket   Ticket
	Lock     Lock
	Sequence LockSequence // of the request
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
	Leases   []Lease
	// Breaks are requests that wait until others have given up caching, or an open
	// is gone, or a delete is done. They are woken all together and try again.
	Breaks []Ticket
}

// Empty says that a Store need not keep the record.
func (r *Record) Empty() bool {
	return len(r.Opens) == 0 && len(r.Locks) == 0 && len(r.Waiters) == 0 && len(r.Deleting) == 0 &&
		len(r.Leases) == 0 && len(r.Breaks) == 0
}

func (r *Record) find(id OpenID) int {
	return slices.IndexFunc(r.Opens, func(o Open) bool { return o.ID == id })
}

// Effects are what must happen because of a Change. The Store itself wakes
// waiters; the rest is the caller's, in this order: send Breaks, end the opens of
// Close, and with Wait, wait on the ticket the Change was given and commit the
// same Change again with a new ticket.
type Effects struct {
	// Breaks are to be sent, whatever else is so. What cannot be sent, because no
	// connection is there any more, is to be committed as BreakUnsent.
	Breaks []Break
	// Close are opens to end, in the way CLOSE does: drain them, then RemoveOpen.
	// They are still in the record, so that nobody gets in before that.
	Close []OpenID
	// Wait says that nothing but that has been done yet: the ticket is in the
	// record, and is woken with nil when it is worth trying again.
	Wait bool
	// Err is what Update returns although the Change is committed.
	Err error

	Granted []Ticket // hold their locks now
	Dropped []Ticket // lost their open: they fail with ErrRangeNotLocked
	Retry   []Ticket // waited as Wait says
	Delete  bool     // remove the name the open came by, then commit Deleted(Link)
	Link    string   // of the open that went

	Open     Open  // AddOpen, Reconnect: as it is in the record
	Lease    Lease // AddOpen, Reconnect, AckLease: that of the open
	Replayed bool  // Once: the lock request has been done before
}

// Change makes a record's successor. It is pure and may run more than once; it
// does not alter what the slices of the record it is given hold.
type Change func(Record) (Record, Effects, error)

// Store commits Changes. All methods may be called concurrently.
type Store interface {
	// Update runs fn on the file's record and commits what it returns. Changes of
	// one file are in some total order. The error is fn's, wrapped or not, that of
	// its Effects, ctx's, or the store's own. Without an error of Effects, one
	// means that nothing was committed.
	Update(ctx context.Context, id fs.FileID, fn Change) (Effects, error)
	// Token gives the lock check of READ and WRITE. It is good from the commit of
	// the caller's AddOpen until that of its RemoveOpen.
	Token(id fs.FileID) *Token
	// NewTicket makes a ticket. Its channel yields one answer: nil once the lock is
	// granted or it is time to try again, ErrRangeNotLocked once the open is gone.
	NewTicket() (Ticket, <-chan error)
	// ReleaseTicket forgets a ticket that is in no record any more.
	ReleaseTicket(Ticket)
	// Walk visits records until visit returns false. It is no snapshot.
	Walk(ctx context.Context, visit func(fs.FileID, Record) bool) error
}
