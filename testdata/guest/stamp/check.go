package stamp

import (
	"context"
	"fmt"
	"io"
	"strings"
)

// Image is a disk seen from outside: the device's bytes.
type Image struct {
	Name string
	R    io.ReaderAt
	Size int64
}

// Report is what Check found.
type Report struct {
	Stamped, Zero int64 // blocks that are right
	Wrong         int64
	Errors        []error // the first of what is wrong
	Runs          int     // boots
}

const keptErrors = 20

// Err is nil if all is right.
func (r *Report) Err() error {
	if r.Wrong == 0 {
		return nil
	}
	var b strings.Builder
	for _, e := range r.Errors {
		fmt.Fprintf(&b, "\n  %v", e)
	}
	return fmt.Errorf("%d of %d blocks are wrong:%s", r.Wrong, r.Wrong+r.Stamped+r.Zero, b.String())
}

func (r *Report) add(err error) {
	if r.Wrong++; len(r.Errors) < keptErrors {
		r.Errors = append(r.Errors, err)
	}
}

// Check verifies the disks of one guest, which is not running or is paused (a
// second of its disks may be left out; then what that one says of the first is
// not known). Records may be nil: then what the blocks themselves say of flushes
// is all that is known. The error is of what could not be read: wrong blocks are
// in the Report.
func Check(ctx context.Context, records Records, images ...Image) (*Report, error) {
	var disks []*Survey
	report := &Report{}
	for _, im := range images {
		off, n, err := Locate(im.R, im.Size)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", im.Name, err)
		}
		r := io.NewSectionReader(im.R, off, n)
		super, err := ReadSuper(r, n)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", im.Name, err)
		}
		s, err := Take(ctx, super, r, make([]byte, readBlocks*BlockSize))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", im.Name, err)
		}
		for _, other := range disks {
			if other.Set != s.Set || other.Disk == s.Disk {
				return nil, fmt.Errorf("%s is disk %d of set %x, not another disk of set %x: check one guest's disks at a time", im.Name, s.Disk, s.Set, other.Set)
			}
		}
		report.Runs = max(report.Runs, len(super.Runs))
		disks = append(disks, s)
	}
	for k, rec := range records {
		for _, d := range disks {
			if k.Disk == d.Disk && rec.Flushed > 0 && d.runOf(k.Run) < 0 {
				report.add(fmt.Errorf("disk %d: %w: its superblock does not know run %x, which flushed operation %d", d.Disk, ErrLost, k.Run, rec.Flushed))
			}
		}
	}
	Settle(records, disks...)
	for _, d := range disks {
		stamped, zero := d.Judge(report.add)
		report.Stamped += stamped
		report.Zero += zero
	}
	return report, nil
}
