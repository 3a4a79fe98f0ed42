package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// bbolt trusts the pages it maps: one that is damaged can crash the process in ways
// no recover catches. So the file is looked through before bbolt opens it. What the
// pages look like is in bbolt's internal/common; integers are little endian here,
// as on every machine this is built for.
const (
	pageHeader   = 16 // id 64, flags 16, count 16, overflow 32
	pageElement  = 16
	bucketHeader = 16 // root page 64 (0: the page follows), sequence 64

	flagBranch, flagLeaf, flagFreelist = 0x01, 0x02, 0x10

	metaMagic   = 0xED0CDAED
	metaVersion = 2
	metaSize    = 64 // magic, version, page size, flags: 32 each; root, sequence, freelist, pages, tx, checksum: 64 each
	maxDepth    = 64
)

var errPages = errors.New("its pages do not fit together")

// checkFile waits until no other process has the file, and checks all of its pages.
func checkFile(path string, wait time.Duration) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for until := time.Now().Add(wait); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if err != unix.EWOULDBLOCK || time.Now().After(until) {
			return errInUse
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := checkPages(b); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}

// pages is a file while it is checked.
type pages struct {
	b        []byte
	size     uint64 // of a page
	count    uint64 // of pages in use or free
	freelist uint64
	root     uint64
	seen     map[uint64]bool
}

// checkPages says whether bbolt can open a file of content b.
func checkPages(b []byte) error {
	p := pages{b: b, seen: map[uint64]bool{0: true, 1: true}}
	if !p.findMeta() {
		return errors.New("it is no database, or not all of one")
	}
	if p.count > uint64(len(b))/p.size {
		return fmt.Errorf("it ends after %d of %d bytes", len(b), p.count*p.size)
	}
	if err := p.checkFree(); err != nil {
		return err
	}
	if err := p.checkBucket(p.root, 0); err != nil {
		return err
	}
	if uint64(len(p.seen)) != p.count {
		return fmt.Errorf("%w: %d pages of %d are used or free", errPages, len(p.seen), p.count)
	}
	return nil
}

// meta is one of the two pages that say where all the others are.
type meta struct {
	size, root, freelist, count, tx uint64
}

func readMeta(b []byte, at uint64) (m meta, ok bool) {
	if at+pageHeader+metaSize > uint64(len(b)) {
		return meta{}, false
	}
	p := b[at+pageHeader:]
	h := fnv.New64a()
	h.Write(p[:metaSize-8])
	m = meta{
		size: uint64(binary.LittleEndian.Uint32(p[8:])), root: binary.LittleEndian.Uint64(p[16:]),
		freelist: binary.LittleEndian.Uint64(p[32:]), count: binary.LittleEndian.Uint64(p[40:]), tx: binary.LittleEndian.Uint64(p[48:]),
	}
	ok = binary.LittleEndian.Uint32(p) == metaMagic && binary.LittleEndian.Uint32(p[4:]) == metaVersion &&
		binary.LittleEndian.Uint64(p[metaSize-8:]) == h.Sum64() && m.size >= 1024 && m.size <= 64<<10 && m.size&(m.size-1) == 0
	return m, ok
}

// findMeta takes the newer one of the two meta pages. bbolt would make do with the
// other one, and forget the last commit: but a meta page is less than a sector, which
// no loss of power tears, so that one that is not whole, or not of the commit before
// the other's, is damage.
func (p *pages) findMeta() bool {
	a, ok := readMeta(p.b, 0)
	if !ok {
		return false
	}
	b, ok := readMeta(p.b, a.size)
	if !ok || b.size != a.size || a.tx != b.tx+1 && b.tx != a.tx+1 {
		return false
	}
	if b.tx > a.tx {
		a = b
	}
	p.size, p.root, p.freelist, p.count = a.size, a.root, a.freelist, a.count
	return true
}

// page takes a page that nobody has taken: its flags, its count and what follows
// its header.
func (p *pages) page(id uint64) (flags, count uint16, body []byte, err error) {
	if id < 2 || id >= p.count {
		return 0, 0, nil, fmt.Errorf("%w: page %d of %d", errPages, id, p.count)
	}
	b := p.b[id*p.size:]
	over := uint64(binary.LittleEndian.Uint32(b[12:]))
	if binary.LittleEndian.Uint64(b) != id || over >= p.count-id {
		return 0, 0, nil, fmt.Errorf("%w: page %d is not where it should be", errPages, id)
	}
	for i := id; i <= id+over; i++ {
		if p.seen[i] {
			return 0, 0, nil, fmt.Errorf("%w: page %d is used twice", errPages, i)
		}
		p.seen[i] = true
	}
	return binary.LittleEndian.Uint16(b[8:]), binary.LittleEndian.Uint16(b[10:]), b[pageHeader : (over+1)*p.size], nil
}

func (p *pages) checkFree() error {
	flags, short, body, err := p.page(p.freelist)
	if err != nil {
		return err
	}
	n, ids := uint64(short), body
	if short == 0xFFFF {
		n, ids = binary.LittleEndian.Uint64(body), body[8:]
	}
	if flags != flagFreelist || n > uint64(len(ids))/8 {
		return fmt.Errorf("%w: page %d lists no free pages", errPages, p.freelist)
	}
	for i := range n {
		id := binary.LittleEndian.Uint64(ids[i*8:])
		if id < 2 || id >= p.count || p.seen[id] {
			return fmt.Errorf("%w: page %d is free and is not", errPages, id)
		}
		p.seen[id] = true
	}
	return nil
}

func (p *pages) checkBucket(root uint64, depth int) error {
	_, err := p.checkTree(root, nil, depth)
	return err
}

// checkTree checks the page and those below it. Its keys, from low on, ascend; it
// returns the last of them.
func (p *pages) checkTree(id uint64, low []byte, depth int) (last []byte, err error) {
	flags, count, body, err := p.page(id)
	if err != nil {
		return nil, err
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("%w: too deep", errPages)
	}
	return p.checkElements(flags, count, body, low, depth)
}

func (p *pages) checkElements(flags, count uint16, body, low []byte, depth int) (last []byte, err error) {
	if int(count)*pageElement > len(body) || flags != flagLeaf && (flags != flagBranch || count == 0) {
		return nil, fmt.Errorf("%w: no page of keys", errPages)
	}
	last = low
	for i := range int(count) {
		e := body[i*pageElement:]
		var pos, keyLen, valueLen uint32
		if flags == flagLeaf { // flags, pos, key size, value size: 32 each
			pos, keyLen, valueLen = binary.LittleEndian.Uint32(e[4:]), binary.LittleEndian.Uint32(e[8:]), binary.LittleEndian.Uint32(e[12:])
		} else { // pos, key size: 32 each, page: 64
			pos, keyLen = binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[4:])
		}
		if uint64(pos) < uint64(pageElement)*uint64(int(count)-i) || uint64(pos)+uint64(keyLen)+uint64(valueLen) > uint64(len(e)) {
			return nil, fmt.Errorf("%w: an element lies outside of its page", errPages)
		}
		key, value := e[pos:pos+keyLen], e[pos+keyLen:pos+keyLen+valueLen]
		order := bytes.Compare(key, last)
		first := i == 0 && (flags == flagBranch || low != nil) // may be the bound itself
		if last != nil && (order < 0 || order == 0 && !first) {
			return nil, fmt.Errorf("%w: keys are not in order", errPages)
		}
		last = key
		switch {
		case flags == flagBranch:
			last, err = p.checkTree(binary.LittleEndian.Uint64(e[8:]), key, depth+1)
		case binary.LittleEndian.Uint32(e) == 1:
			err = p.checkNested(value, depth+1)
		case binary.LittleEndian.Uint32(e) != 0:
			err = fmt.Errorf("%w: an element of unknown kind", errPages)
		}
		if err != nil {
			return nil, err
		}
	}
	return last, nil
}

// checkNested checks a bucket that is the value of a key.
func (p *pages) checkNested(value []byte, depth int) error {
	if len(value) < bucketHeader {
		return fmt.Errorf("%w: a bucket is too short", errPages)
	}
	if root := binary.LittleEndian.Uint64(value); root != 0 {
		return p.checkBucket(root, depth)
	}
	inline := value[bucketHeader:]
	if len(inline) < pageHeader || depth > maxDepth || binary.LittleEndian.Uint16(inline[8:]) != flagLeaf {
		return fmt.Errorf("%w: a bucket is too short", errPages)
	}
	_, err := p.checkElements(flagLeaf, binary.LittleEndian.Uint16(inline[10:]), inline[pageHeader:], nil, depth)
	return err
}
