package blocktest

import (
	"bytes"
	"context"
	"fmt"

	"lunless/smbstore/block"
)

// Places of a Script: slots of slotSize bytes, one every slotStep, so that
// blocks of 512 KiB and more have slots within and across their ends.
const (
	slotCount = 32
	slotStep  = 256 << 10
	slotSize  = 9000
)

// Script is a fuzzer's bytes as requests to a device, and what the device must
// hold afterwards: each request covers a slot, so that a byte a slot says it.
type Script struct {
	known map[int64]byte // by slot; not what a trim or an error left
}

func slotAt(slot int64) int64 { return max(0, slot*slotStep-4000) }

// Run sends the requests that code stands for, two bytes each. What fails is not
// known to hold anything; the error of a flush ends the run.
func (s *Script) Run(ctx context.Context, d block.Device, code []byte) error {
	if s.known == nil {
		s.known = map[int64]byte{}
	}
	for ; len(code) >= 2; code = code[2:] {
		slot := int64(code[0] >> 3)
		off := slotAt(slot)
		n := min(int64(slotSize), d.Size()-off)
		if n <= 0 {
			continue
		}
		var err error
		switch code[0] & 7 {
		case 0, 1, 2:
			err = d.WriteAt(ctx, bytes.Repeat(code[1:2], int(n)), off, 0)
			s.note(slot, code[1], err)
		case 3:
			err = d.WriteZeroes(ctx, off, n, 0)
			s.note(slot, 0, err)
		case 4:
			_ = d.Trim(ctx, off, n)
			delete(s.known, slot)
		case 5:
			err = s.slot(ctx, d, slot)
			if _, known := s.known[slot]; known && err != nil {
				return err
			}
		case 6:
			_ = d.Extents(ctx, off, min(d.Size()-off, int64(code[1])<<20), func(block.Extent) error { return nil })
		case 7:
			if err := d.Flush(ctx); err != nil {
				return err
			}
		}
	}
	return d.Flush(ctx)
}

func (s *Script) note(slot int64, b byte, err error) {
	if err != nil {
		delete(s.known, slot)
		return
	}
	s.known[slot] = b
}

// Verify reads back what the device must hold.
func (s *Script) Verify(ctx context.Context, d block.Device) error {
	for slot := range int64(slotCount) {
		if _, ok := s.known[slot]; ok {
			if err := s.slot(ctx, d, slot); err != nil {
				return err
			}
		}
	}
	return nil
}

// slot reads one slot, and compares it where its content is known.
func (s *Script) slot(ctx context.Context, d block.Device, slot int64) error {
	off := slotAt(slot)
	p := make([]byte, min(slotSize, d.Size()-off))
	if err := d.ReadAt(ctx, p, off); err != nil {
		return err
	}
	want, ok := s.known[slot]
	for i, got := range p {
		if ok && got != want {
			return fmt.Errorf("offset %d holds %#x, written was %#x", off+int64(i), got, want)
		}
	}
	return nil
}
