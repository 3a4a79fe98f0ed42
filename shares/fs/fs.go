// Package fs is the object store behind a share: files and folders with the
// properties a Windows client expects of them, over whatever holds the bytes.
//
// It knows paths, data and metadata. It knows nothing of share modes, locks,
// leases or who is allowed to do what: shares/state and the server decide that
// before they call here.
package fs

import (
	"context"
	"errors"
	"time"
)

// Errors of lookups and creation. The server maps each to an NTSTATUS in one place.
var (
	ErrNotExist     = errors.New("no such file or folder")          // the last component is missing
	ErrPathNotExist = errors.New("a folder of the path is missing") // one before the last is
	ErrExist        = errors.New("name exists already")             //
	ErrNotDir       = errors.New("not a folder")                    //
	ErrIsDir        = errors.New("is a folder")                     //
	ErrNotEmpty     = errors.New("folder is not empty")             //
	ErrBadName      = errors.New("name is not valid on this share") //
	ErrNameTooLong  = errors.New("name is too long")                //
	ErrEscapes      = errors.New("path leaves the share")           // symbolic link or ..
)

// Errors of operations on open objects.
var (
	ErrNoSpace      = errors.New("no room on the file system")
	ErrReadOnlyFS   = errors.New("share is read-only")
	ErrPermission   = errors.New("the file system refused") // of the operating system, not of a security descriptor
	ErrClosed       = errors.New("object is closed")
	ErrFailed       = errors.New("an earlier flush of this file failed") // until it is opened again
	ErrNotSupported = errors.ErrUnsupported
	ErrWouldBlock   = errors.New("would wait for the disk") // ReadAtCached only
	ErrInvalid      = errors.New("argument out of range")   // a negative offset or size, an object of another share
)

// FileID names a file or folder for as long as it exists, through renames and
// restarts of the server.
type FileID struct {
	Volume uint64 // the file system
	Inode  uint64
	Birth  int64 // birth time in ns, or 0: tells a reused inode from its predecessor
}

// Attributes are FILE_ATTRIBUTE_* bits (MS-FSCC 2.6). Implementations store
// READONLY, HIDDEN, SYSTEM, ARCHIVE, NOT_CONTENT_INDEXED, TEMPORARY, OFFLINE and
// SPARSE_FILE (only as a client set it, never derived from the backing file:
// MS-HVRS C0008), and derive DIRECTORY.
type Attributes uint32

// Info is what a file or folder says of itself.
type Info struct {
	ID             FileID
	Dir            bool
	Size           int64 // end of file, bytes; 0 for a folder
	AllocationSize int64 // bytes taken on disk; at least what SetAllocation asked for
	Links          uint32
	Attributes     Attributes
	Created        time.Time
	Accessed       time.Time
	Written        time.Time // last change of data
	Changed        time.Time // last change of data or metadata
	EASize         uint32
}

// TimeChange says what SetTimes does with each time.
type TimeChange struct {
	Created, Accessed, Written, Changed *time.Time // nil: leave
}

// DirEntry is one name in a folder, with the Info of what it names.
type DirEntry struct {
	Name string // as stored
	Info Info
}

// Volume describes the file system under a share.
type Volume struct {
	Serial         uint64
	Label          string
	Created        time.Time
	TotalBytes     uint64
	FreeBytes      uint64 // all free
	AvailBytes     uint64 // free for this process
	BytesPerSec    uint32 // logical sector of the backing disk
	PhysicalSec    uint32 // physical sector of the backing disk
	Disk           Disk   // the backing disk
	SectorsPerUnit uint32 // allocation unit, in sectors
	MaxName        uint32 // longest component, in UTF-16 code units
	Reflink        bool   // Cloner works
	Sparse         bool   // holes work, and Trimmer
	Unwritten      bool   // what was reserved and not written is known by the block, in any order
	Streams        bool   // Files are Streamers that can
	EAs            bool   // Files are ExtendedAttributers that can
}

// Access is what an open object is to be used for; an implementation opens its
// descriptor accordingly.
type Access uint8

const (
	// ReadData and WriteData reach the bytes; an object opened with neither gives metadata only.
	ReadData Access = 1 << iota
	WriteData
)

// CreateOptions are the properties of an object that Create makes.
type CreateOptions struct {
	Dir                bool
	Access             Access
	Attributes         Attributes
	SecurityDescriptor []byte // self-relative (MS-DTYP 2.4.6), stored as it is; nil stores none
	AllocationSize     int64  // room to reserve, 0 none: ErrNoSpace if there is not that much, ignored where the store cannot
	Mark               []byte // of a file: kept with it for good, and on stable storage before its name is (Marked); nil none
}

// FS is the tree behind one share. Names are relative to the share's root,
// separated by '/', without '.' or '..', "" for the root itself; look-ups fold
// case as Windows does and keep the case of what is stored. A name never leads
// out of the share (ErrEscapes). All methods may be called concurrently.
type FS interface {
	// Open opens what exists: ErrNotExist, ErrPathNotExist, ErrNotDir (a file in
	// the middle of the path), ErrBadName, ErrPermission (also for what is neither
	// file nor folder). It changes nothing.
	Open(ctx context.Context, name string, access Access) (File, error)
	// Create makes and opens an object that does not exist under any case of its
	// name: ErrExist, ErrPathNotExist, ErrNotDir, ErrNoSpace. Two calls that race
	// for names equal but for case have one winner.
	Create(ctx context.Context, name string, opts CreateOptions) (File, error)
	// Rename gives an open object a new name. With replace an existing file there
	// is replaced in one step; a folder never is (ErrExist). ErrNotExist if the
	// object has been removed, ErrBadName for a folder into itself. Changing only
	// the case of a name is a rename.
	Rename(ctx context.Context, f File, newName string, replace bool) error
	// Link gives an open file one more name.
	Link(ctx context.Context, f File, newName string, replace bool) error
	// Remove takes the object's name away; data lives until the last File of it
	// is closed. ErrNotEmpty for a folder with entries.
	Remove(ctx context.Context, f File) error
	// SyncParent puts the folder entry of the object on stable storage: a create,
	// rename or remove made before the call survives loss of power after it.
	SyncParent(ctx context.Context, f File) error
	Volume(ctx context.Context) (Volume, error)
	Close() error
}

// File is one open object of an FS: a file or a folder. All methods may be
// called concurrently. After Close they return ErrClosed.
type File interface {
	ID() FileID
	Dir() bool
	// Name is the object's present name in the share as stored on disk, with
	// renames (of folders above it too) followed; ErrNotExist once removed.
	Name() (string, error)
	Stat(ctx context.Context) (Info, error)

	// ReadAt reads up to len(p) bytes; n < len(p) only at the end of the file,
	// with a nil error (n == 0: at or past the end).
	ReadAt(p []byte, off int64) (n int, err error)
	// ReadAtCached is ReadAt that never waits for a disk: ErrWouldBlock if all of
	// it is not in memory, or if the implementation cannot tell. It allocates nothing.
	ReadAtCached(p []byte, off int64) (n int, err error)
	// WriteAt writes all of p or fails.
	WriteAt(p []byte, off int64) (n int, err error)
	// Sync puts data and metadata of the object on stable storage. Once it has
	// failed, every later WriteAt and Sync on this ID fails with ErrFailed until
	// all its Files are closed: pages the kernel dropped cannot be written again.
	Sync(ctx context.Context) error
	Truncate(ctx context.Context, size int64) error
	// SetAllocation reserves room for size bytes without changing the end of
	// file, or cuts the file if size is below it (MS-FSA 2.1.5.15.1).
	SetAllocation(ctx context.Context, size int64) error
	// Zero makes [off, off+n) read as zeroes, giving room back where the file is
	// sparse; it never moves the end of file.
	Zero(ctx context.Context, off, n int64) error
	// Allocated calls visit for each allocated run within [off, off+n), in order.
	Allocated(ctx context.Context, off, n int64, visit func(off, n int64) error) error
	// CopyRange copies n bytes from src, in the kernel where it can
	// (copy_file_range); ranges of one file must not overlap. Returns what was copied.
	CopyRange(ctx context.Context, src File, srcOff, dstOff, n int64) (int64, error)

	SetTimes(ctx context.Context, c TimeChange) error
	SetAttributes(ctx context.Context, a Attributes) error
	// SecurityDescriptor returns what was stored, nil if nothing was.
	SecurityDescriptor(ctx context.Context) ([]byte, error)
	SetSecurityDescriptor(ctx context.Context, sd []byte) error

	// ReadDir opens a folder's listing. ErrNotDir for a file.
	ReadDir(ctx context.Context) (DirReader, error)
	Close() error
}

// DirReader walks a folder's entries once, without '.' and '..'. An entry that
// stays throughout is returned exactly once, whatever is created or removed
// meanwhile. Not for concurrent use.
type DirReader interface {
	// Next returns the next entry, or io.EOF. match, if not nil, is asked with
	// each name first, so that nothing is looked up about names nobody wants.
	Next(match func(name string) bool) (DirEntry, error)
	Close() error
}
