package vhd

import (
	"fmt"
	"sync"
	"sync/atomic"

	"lunless/smbstore/block"
)

const dataAlign = 4096 // of a new block's data in the file

// space hands out room at the file's end.
type space struct {
	fileSize atomic.Int64
	mu       sync.Mutex // guards all below, and the image's raw footer
	end      int64      // of what is in use, without the footer there
	align    int64      // of data
	spare    []int64    // places of blocks that could not be filled
}

func (s *space) start(im *image) {
	s.end, s.align = im.fileSize-footerSize, dataAlign
	if n := int64(len(im.table)); n*roundUp(im.mapSize+im.blockSize, dataAlign) > maxFile-s.end {
		s.align = SectorSize // a table entry could not tell the last blocks' places
	}
}

// release takes back room that nothing refers to.
func (s *space) release(at int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spare = append(s.spare, at)
}

// alloc makes room for a block, which reads as zeroes.
func (d *Disk) alloc() (at int64, err error) {
	s := &d.space
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.spare); n > 0 {
		at := s.spare[n-1]
		if err := block.ZeroFile(d.f, at, d.mapSize+d.blockSize, true); err != nil {
			return 0, &zeroError{at, d.mapSize + d.blockSize, err}
		}
		s.spare = s.spare[:n-1]
		return at, nil
	}
	at = roundUp(s.end+footerSize+d.mapSize, s.align) - d.mapSize
	return at, d.grow(at + d.mapSize + d.blockSize)
}

// grow moves the file's end to a footer at end. The footer before it stays in
// its place, and all that comes between lies past what the file had: the loss of
// any of it leaves what there was. The caller holds space.mu.
func (d *Disk) grow(end int64) error {
	s := &d.space
	if end > maxFile {
		return unsupported(s.end, "file would exceed %d bytes", int64(maxFile))
	}
	if err := d.im.writeFooter(end); err != nil {
		if size, serr := d.f.Size(); serr == nil && size > s.end+footerSize {
			if terr := d.f.Truncate(s.end + footerSize); terr != nil { // else the file ends without a footer
				return fmt.Errorf("%w; cut the file back to %d bytes: %w", err, s.end+footerSize, terr)
			}
		}
		return err
	}
	s.end = end
	s.fileSize.Store(end + footerSize)
	return nil
}
