// Package block is the block layer between a virtual machine's I/O and the
// files that hold its disks: the Device contract, raw devices over a File, the
// dirty bitmap, the mirror, and the wrappers that break things for tests.
//
// It knows nothing of SMB. Local alone makes system calls: it is the File over
// an *os.File, here because every disk format and the store need one.
package block

import (
	"context"
	"errors"
	"io"
)

// Errors every Device and File may return, wrapped with what was being done.
var (
	// ErrOutOfRange: an offset or length lies outside the device.
	ErrOutOfRange = errors.New("range lies outside the device")
	// ErrReadOnly: the device was opened for reading.
	ErrReadOnly = errors.New("device is read-only")
	// ErrClosed: the device was closed.
	ErrClosed = errors.New("device is closed")
	// ErrFailed: an earlier flush failed; nothing written since the last good one
	// may be trusted, and the device stays failed until it is opened again.
	ErrFailed = errors.New("device failed an earlier flush")
	// ErrNoSpace: the file system below a File is full. What was refused may be
	// written again when there is room.
	ErrNoSpace = errors.New("no room on the file system")
	// ErrNotSupported: a File lacks an optional ability (Puncher, Extenter…).
	ErrNotSupported = errors.ErrUnsupported
)

// WriteFlags modify one write.
type WriteFlags uint32

const (
	// FUA: the write is on stable storage, with all metadata needed to read it
	// back, before the call returns. It says nothing of earlier writes.
	FUA WriteFlags = 1 << iota
	// NoUnmap: zeroes written by WriteZeroes must stay allocated.
	NoUnmap
)

// ExtentState says what a range of a device holds.
type ExtentState uint8

const (
	// Data: allocated; the content is whatever a read returns.
	Data ExtentState = iota
	// Zero: reads as zeroes and takes no room, or is known to be zero.
	Zero
	// Unallocated: this layer has nothing; reads as zeroes here, or as the
	// parent's content in a differencing disk's own extents.
	Unallocated
)

// Extent is a run of bytes of one state.
type Extent struct {
	Offset, Length int64 // bytes
	State          ExtentState
}

// Geometry is what a guest is told of a device. All values are bytes.
type Geometry struct {
	LogicalSectorSize  int // smallest addressable unit: 512 or 4096
	PhysicalSectorSize int // smallest unit written without read-modify-write
	OptimalIO          int // preferred alignment of allocations (block size); 0 if none
}

// Device is a virtual disk. All methods may be called concurrently; writes to
// overlapping ranges that are in flight together land in an unspecified order,
// others are seen by every read that starts after they returned.
//
// Offsets and lengths are bytes and need no alignment: an implementation over
// sectors reads, modifies and writes. A range outside [0, Size()) gives
// ErrOutOfRange and changes nothing. A zero length does nothing.
type Device interface {
	// Size is the virtual size in bytes.
	Size() int64
	Geometry() Geometry
	// ReadAt fills p or fails; there are no short reads.
	ReadAt(ctx context.Context, p []byte, off int64) error
	// WriteAt writes all of p or fails; after a failure the range's content is
	// unspecified, as on a real disk.
	WriteAt(ctx context.Context, p []byte, off int64, flags WriteFlags) error
	// WriteZeroes makes the range read as zeroes.
	WriteZeroes(ctx context.Context, off, n int64, flags WriteFlags) error
	// Trim tells that the range's content is no longer needed. What it reads as
	// afterwards is zeroes or the old content, a sector at a time.
	Trim(ctx context.Context, off, n int64) error
	// Flush returns when every write that returned before Flush was called is on
	// stable storage. After a failed Flush the device stays failed (ErrFailed), but for
	// one that had no room for what it wrote (ErrNoSpace): that can be tried again.
	Flush(ctx context.Context) error
	// Extents calls visit with consecutive extents that cover [off, off+n)
	// exactly; neighbours differ in state. An error from visit ends the walk and
	// is returned.
	Extents(ctx context.Context, off, n int64, visit func(Extent) error) error
	// Close releases the device after flushing it.
	Close() error
}

// Layered is a Device that is one image of a chain of differencing disks. Its
// reads, writes and Extents are of the whole chain, from this image on down.
type Layered interface {
	Device
	// LayerExtents is Extents of this image alone: what it lacks, and its parent
	// has to tell, is Unallocated.
	LayerExtents(ctx context.Context, off, n int64, visit func(Extent) error) error
}

// Committer is a Device that keeps some of what it was told in memory until a flush:
// where the content of a newly written range lies. That would be lost with the
// process, though all that was written is in the file. What outlives the process,
// a guest that is to find its disk as it left it, flushes while this is so.
type Committer interface {
	Uncommitted() bool
}

// Uncommitted tells whether what was written to a device so far would be lost with
// the process, as far as the device says so. It waits for nothing.
func Uncommitted(d Device) bool {
	c, ok := d.(Committer)
	return ok && c.Uncommitted()
}

// File is what a disk format lies in: a file on a share or a local one. Methods
// may be called concurrently. *os.File fits but for Size; Local adapts one.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Sync returns when all that was written is on stable storage, the file's
	// size included.
	Sync() error
	Truncate(size int64) error
	Size() (int64, error)
}

// Puncher is a File that can give back the room of a range and have it read as
// zeroes.
type Puncher interface {
	PunchHole(off, n int64) error
}

// Reserver is a File that can take room for all of [0, size) ahead of writing it,
// at once, without a byte being written: fixed disks want that.
type Reserver interface {
	Reserve(size int64) error
}

// Extenter is a File that knows which of its ranges hold data.
type Extenter interface {
	// FileExtents is Device.Extents for the file's own bytes; states are Data or Zero.
	FileExtents(off, n int64, visit func(Extent) error) error
}

// RangeCopier is a File that can copy from another without the bytes passing
// through this process (copy_file_range, SRV_COPYCHUNK). It returns
// ErrNotSupported when it cannot for this pair; the caller then copies itself.
type RangeCopier interface {
	CopyFrom(src File, srcOff, dstOff, n int64) (int64, error)
}
