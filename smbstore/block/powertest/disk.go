package powertest

import (
	"context"
	"fmt"
	"math/rand/v2"

	"lunless/smbstore/block"
)

// State is what a loss of power left an image in.
type State int

// States of an image. Each opens.
const (
	Whole  State = iota
	Replay       // its log waits for a replay
	Mend         // something the format can do without is missing, and comes back with the next open
)

// Kind is a type of disk the power is cut of.
type Kind struct {
	Name string
	// New describes one disk of this kind. A run has one.
	New func(rnd *rand.Rand) *Disk
}

// Disk says how to work with one disk. Functions get the folder as it is at the
// time: after a cut it is another one. Those that are nil the disk cannot do.
type Disk struct {
	Size      int64   // to begin with; a resize never goes below it
	BlockSize int64   // bytes
	Sector    int64   // the guest's: 512 or 4096
	Blocks    []int64 // that the workload touches: few, so that it meets the same ones often

	// Create makes the disk's files. fill writes to the device it gets and takes
	// what was written for the disk's content: parents are filled oldest first.
	Create func(dir *Folder, fill func(block.Device) error) error
	Open   func(dir *Folder, readOnly bool) (block.Device, error)
	// Check fails if anything contradicts the format.
	Check func(dir *Folder) (State, error)
	// Repair mends the files, which no one has open.
	Repair func(dir *Folder) (mended bool, err error)
	// Resize is stable when it returns. If the tail is in use it fails with what
	// InUse tells.
	Resize func(ctx context.Context, dev block.Device, size int64) error
	Huge   int64 // a size to take at times, 0 for none
	InUse  func(error) bool
	// Relink records link, any number, with the disk, stable when it returns;
	// Link returns the one recorded last, 0 if none was.
	Relink func(ctx context.Context, dev block.Device, link uint64) error
	Link   func(dev block.Device) (uint64, error)
	// Live are changes that the guest does not see, made while it works; Offline
	// are such while the disk is closed.
	Live    []Live
	Offline []Offline
}

// Live is a change of a disk in use.
type Live struct {
	Name string
	Do   func(ctx context.Context, dev block.Device) error
}

// Offline is a change of a disk that nobody has open.
type Offline struct {
	Name string
	Do   func(ctx context.Context, dir *Folder) error
}

// slotSize is what the workload writes at a time, at most, and at multiples of.
const slotSize = 4096

// slots are the places within a block that get written: at its begin and end,
// and in the middle. The rest stays zero.
func (d *Disk) slots() []int64 {
	n := d.BlockSize / slotSize
	return []int64{0, 1, 2, n / 2, n/2 + 1, n - 2, n - 1}
}

// tailBlocks is by how many blocks a resize grows a disk, at most.
const tailBlocks = 6

// fill writes to a parent, or to a new disk, what the model takes for stable.
func (r *run) fill(rnd *rand.Rand, dev block.Device) error {
	ctx := context.Background()
	r.model.forget(dev.Size()) // what a smaller disk hides of a larger parent
	for range 3 * len(r.disk.Blocks) {
		blk := r.disk.Blocks[rnd.IntN(len(r.disk.Blocks))]
		slots := r.disk.slots()
		off := blk*r.disk.BlockSize + slots[rnd.IntN(len(slots))]*slotSize
		n := (1 + rnd.Int64N(slotSize/r.disk.Sector)) * r.disk.Sector
		if n = min(n, dev.Size()-off); n <= 0 {
			continue
		}
		tag := r.model.tag()
		r.model.begin(off, n, tag, false)
		if err := dev.WriteAt(ctx, pattern(n, tag), off, 0); err != nil {
			return fmt.Errorf("fill: %w", err)
		}
	}
	if err := dev.Flush(ctx); err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	r.model.stable(func(int64) bool { return true })
	return nil
}
