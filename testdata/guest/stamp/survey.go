package stamp

import (
	"context"
	"fmt"
	"io"
)

// Key names what a Record is about.
type Key struct {
	Run  uint64
	Disk int
}

// Record is what the guest has told about a run on a disk: all up to Flushed is
// on stable storage. Exact: nothing behind it was started.
type Record struct {
	Flushed uint64
	Exact   bool
}

// Records are what the guest told.
type Records map[Key]Record

// Survey is what was found on a disk.
type Survey struct {
	*Expect
	found  []state
	errs   map[int64]error
	newest map[uint64]uint64           // highest operation of a run, by its ID
	known  map[uint64][MaxDisks]uint64 // what a run knew flushed of all disks
}

const readBlocks = 128 // at once

// Take reads all that the writer may have written. r is the device, or the
// writer's partition of it; buf holds 512 KiB and more, aligned as r needs it. The
// error is what reading gave; what the blocks hold is for Settle to judge.
func Take(ctx context.Context, super *Super, r io.ReaderAt, buf []byte) (*Survey, error) {
	s := &Survey{Expect: NewExpect(super), found: make([]state, super.Blocks), errs: map[int64]error{},
		newest: map[uint64]uint64{}, known: map[uint64][MaxDisks]uint64{}}
	err := Each(ctx, super.Layout, r, buf, func(i int64, b []byte) {
		found, stamp, err := s.observe(i, b)
		if err != nil {
			s.errs[i] = err
			return
		}
		s.found[i] = found
		if found == zeroed {
			return
		}
		s.newest[stamp.Run] = max(s.newest[stamp.Run], stamp.Seq)
		known := s.known[stamp.Run]
		for d, f := range stamp.Flushed {
			known[d] = max(known[d], f)
		}
		s.known[stamp.Run] = known
	})
	return s, err
}

// Each reads all written blocks through buf, of 512 KiB or more.
func Each(ctx context.Context, l Layout, r io.ReaderAt, buf []byte, visit func(i int64, b []byte)) error {
	for i := int64(0); i < l.Blocks; i += readBlocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := buf[:min(readBlocks, l.Blocks-i)*BlockSize]
		if _, err := r.ReadAt(part, l.At(i)*BlockSize); err != nil && err != io.EOF {
			return fmt.Errorf("reading block %d: %w", l.At(i), err)
		}
		for j := int64(0); j*BlockSize < int64(len(part)); j++ {
			visit(i+j, part[j*BlockSize:(j+1)*BlockSize])
		}
	}
	return nil
}

// Settle decides how far each run has flushed and how far it can have come, from
// the records and from what all disks of the set say, and notes it in the
// superblocks' runs; then each Survey expects what must be there.
func Settle(records Records, disks ...*Survey) {
	for _, d := range disks {
		for i := range d.Runs {
			run := &d.Runs[i]
			rec := records[Key{Run: run.ID, Disk: d.Disk}]
			run.Flushed = max(run.Flushed, rec.Flushed)
			for _, other := range disks {
				run.Flushed = max(run.Flushed, other.known[run.ID][d.Disk])
			}
			switch {
			case rec.Exact:
				run.Last = rec.Flushed
			case i == len(d.Runs)-1 && run.Last == 0:
				run.Last = max(run.Flushed, d.newest[run.ID]) + 2*Window
			}
			d.Replay(i, run.Flushed, run.Last)
		}
	}
}

// Judge tells of each block that cannot be right, after Settle.
func (s *Survey) Judge(wrong func(error)) (stamped, zero int64) {
	for i, found := range s.found {
		err := s.errs[int64(i)]
		if err == nil {
			err = s.judge(int64(i), found)
		}
		switch {
		case err != nil:
			wrong(err)
		case found == zeroed:
			zero++
		default:
			stamped++
		}
	}
	return stamped, zero
}

// Adopt makes what was found the only thing that may be there, for a guest that
// goes on from here. A block that is wrong stays wrong.
func (s *Survey) Adopt() *Expect {
	for i, found := range s.found {
		if s.errs[int64(i)] != nil || s.judge(int64(i), found) != nil {
			continue
		}
		switch base := &s.base[i]; {
		case found == zeroed && !base.zeroOK():
			*base |= zeroed
		case found != zeroed && (*base&zeroed != 0 || base.content() != found):
			*base = found
		}
	}
	clear(s.extra)
	return s.Expect
}
