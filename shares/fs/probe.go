package fs

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// features are what the file system under the root turned out to do.
type features struct{ reflink, sparse, unwritten bool }

// probeBlock is what the probes write, bytes: a multiple of any block size.
const probeBlock = 64 << 10

// learn tries out on nameless files beside fd what the file system can do. a is
// one of them, empty.
func (p *POSIX) learn(fd, a int) {
	data := bytes.Repeat([]byte("lunless\n"), probeBlock/8)
	if _, err := unix.Pwrite(a, data, 0); err != nil {
		return // full: nothing to learn
	}
	if b, err := p.scratch(fd); err == nil {
		p.features.reflink = clones(b, a, data)
		unix.Close(b)
	}
	if b, err := p.scratch(fd); err == nil {
		p.features.unwritten = tracksUnwritten(b)
		unix.Close(b)
	}
	p.features.sparse = punches(a)
}

// clones says whether a range of src can be cloned to dst and comes out as it was.
func clones(dst, src int, data []byte) bool {
	const half = probeBlock / 2
	got := make([]byte, half)
	if cloneRange(dst, src, half, 0, half) != nil {
		return false
	}
	n, err := unix.Pread(dst, got, 0)
	return err == nil && n == half && bytes.Equal(got, data[half:])
}

// tracksUnwritten says whether room that was reserved is known not to have been
// written, by the block: it is no data, before written data and behind, and reads
// as zeroes. (What has been read may pass for data from then on.)
func tracksUnwritten(fd int) bool {
	if unix.Fallocate(fd, 0, 0, 3*probeBlock) != nil {
		return false
	}
	if _, err := unix.Pwrite(fd, []byte{1}, probeBlock); err != nil {
		return false
	}
	data, err := unix.Seek(fd, 0, unix.SEEK_DATA)
	if err != nil || data != probeBlock {
		return false
	}
	if hole, err := unix.Seek(fd, data, unix.SEEK_HOLE); err != nil || hole > 2*probeBlock {
		return false
	}
	var got [1]byte
	n, err := unix.Pread(fd, got[:], 0)
	return n == 1 && err == nil && got[0] == 0
}

// punches says whether a hole can be made in data, and reads as zeroes.
func punches(fd int) bool {
	if unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, probeBlock) != nil {
		return false
	}
	var got [1]byte
	n, err := unix.Pread(fd, got[:], 0)
	return n == 1 && err == nil && got[0] == 0
}
