package vhd

import (
	"context"
	"fmt"

	"lunless/smbstore/block"
)

// ParentLink is what the disk says of its parent, nil if it has none.
func (d *Disk) ParentLink() *ParentLink {
	p := d.link.Load()
	if p == nil {
		return nil
	}
	link := *p
	return &link
}

// Relink makes a differencing disk tell of another parent, or of another place of
// the same. It is stable when Relink returns; the disk may be in use, and goes on
// reading the parent that Open was given. Locators for other systems than Windows
// go. ErrBadOptions: the disk has no parent, or no file can have such a link.
//
// The header is of two sectors, and a loss of power may leave one of them old. So
// it never changes while a footer points to it: a new one, with the locators' data,
// comes behind the file's end; then the footers, a sector each, are pointed there;
// then the header in its usual place is written, and the footers pointed back to
// it. Each step is stable before the next. At any moment either footer leads to a
// whole header, the old or the new one.
func (d *Disk) Relink(ctx context.Context, p ParentLink) error {
	if err := d.check(ctx, 0, 0); err != nil {
		return err
	}
	if d.ro {
		return block.ErrReadOnly
	}
	if !d.im.differencing() {
		return fmt.Errorf("relink a disk that has no parent: %w", ErrBadOptions)
	}
	p.Name, p.URL = p.fileName(), ""
	if err := p.check(); err != nil {
		return err
	}
	d.flushMu.Lock()
	defer d.flushMu.Unlock()
	switch {
	case d.closed.Load():
		return block.ErrClosed
	case d.failed.Load():
		return block.ErrFailed
	}
	if err := d.relink(&p); err != nil {
		return fmt.Errorf("relink: %w", err)
	}
	d.link.Store(&p)
	return nil
}

// linkData is a new header and the data of its locators.
type linkData struct {
	header   [headerSize]byte
	locators []locator
	data     [][]byte
}

// lay gives the locators' data its places from at on and returns where they end.
func (l *linkData) lay(at int64) int64 {
	for i := range l.locators {
		l.locators[i].Offset = uint64(at)
		at += int64(l.locators[i].Space) * SectorSize
	}
	return at
}

// seal puts the locators, now that they have places, into the header.
func (l *linkData) seal() {
	setLocators(l.header[:], l.locators)
	be.PutUint32(l.header[36:], sum(l.header[:], 36))
}

// write writes locators' data and the header, which is to lie at at.
func (l *linkData) write(d *Disk, at int64) error {
	l.seal()
	for i, loc := range l.locators {
		if err := d.writeFile(l.data[i], int64(loc.Offset)); err != nil {
			return fmt.Errorf("parent locator %s: %w", loc.Code, err)
		}
	}
	return d.writeFile(l.header[:], at)
}

func (d *Disk) relink(p *ParentLink) error {
	usual := int64(d.im.ft.DataOffset)
	l := linkData{header: d.im.rawHeader}
	setParent(l.header[:], p)
	l.locators, l.data = p.data()

	before, after, err := d.appendHeader(&l)
	if err != nil {
		return err
	}
	spare := before + footerSize
	if sabotaged("header-in-place") {
		return d.writeFile(l.header[:], usual)
	}
	if err := d.point(spare); err != nil {
		return d.fail(err)
	}
	moved := d.reuseRooms(&l)
	if err := l.write(d, usual); err != nil {
		return d.fail(err)
	}
	if err := d.f.Sync(); err != nil {
		return d.fail(err)
	}
	if err := d.point(usual); err != nil {
		return d.fail(err)
	}
	d.im.rawHeader = l.header
	if moved {
		return d.cutBack(before, after)
	}
	return nil
}

// appendHeader puts a new header and its locators behind the footer, and makes
// them stable. Where the room was taken, the footer was at before and is at after.
func (d *Disk) appendHeader(l *linkData) (before, after int64, err error) {
	s := &d.space
	s.mu.Lock()
	before = s.end
	at := before + footerSize
	after = l.lay(at + headerSize)
	err = d.grow(after)
	s.mu.Unlock()
	if err == nil {
		err = l.write(d, at)
	}
	if err != nil {
		return 0, 0, err
	}
	if err := d.f.Sync(); err != nil {
		return 0, 0, d.fail(err)
	}
	return before, after, nil
}

// point makes both footers point to a header and makes that stable.
func (d *Disk) point(header int64) error {
	s := &d.space
	s.mu.Lock()
	setDataOffset(d.im.raw[:], header)
	d.im.ft.DataOffset = uint64(header)
	err := d.im.writeFooter(s.end)
	if err == nil {
		err = d.im.writeFooter(0)
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return d.f.Sync()
}

// reuseRooms gives locators the rooms that those of the old header had, as far as
// they fit, and tells whether all did. Open has seen that the rooms are nobody else's.
func (d *Disk) reuseRooms(l *linkData) bool {
	all := true
	old := locators(d.im.rawHeader[:])
	for i := range l.locators {
		fits := false
		for _, o := range old {
			if o.Code == l.locators[i].Code && d.im.room(&o) >= int64(l.locators[i].Length) && o.Offset <= uint64(d.im.fileSize) {
				l.locators[i].Offset, l.locators[i].Space, fits = o.Offset, o.Space, true
				break
			}
		}
		all = all && fits
	}
	return all
}

// cutBack gives back the room behind before, if the file still ends as it did
// then: the footer there was never touched and is the right one again.
func (d *Disk) cutBack(before, after int64) error {
	s := &d.space
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end != after || d.f.Truncate(before+footerSize) != nil {
		return nil // the room is lost; the link is right and stable
	}
	s.end = before
	s.fileSize.Store(before + footerSize)
	if err := d.f.Sync(); err != nil {
		return d.fail(err)
	}
	return nil
}
