package vhdx

import (
	"context"
	"fmt"
	"slices"

	"lunless/smbstore/block"
)

// link returns a copy of what a locator says.
func (l *parentLocator) link() *ParentLink {
	if l == nil {
		return nil
	}
	c := l.Link
	return &c
}

// ParentLink returns what a differencing disk says of its parent, nil if the
// disk has none.
func (d *Disk) ParentLink() *ParentLink { return d.link.Load().link() }

// Relink makes link what a differencing disk says of its parent, and stable.
// Entries of the parent locator that are not known stay. What the disk reads from
// is not changed, nor is its DataWriteGUID. Errors: ErrBadOptions of a disk
// without parent or a link that cannot be written, ErrReadOnly, and what the file
// returned.
func (d *Disk) Relink(ctx context.Context, link ParentLink) error {
	d.linkMu.Lock()
	defer d.linkMu.Unlock()
	old := d.link.Load()
	switch {
	case d.closed.Load():
		return block.ErrClosed
	case old == nil:
		return fmt.Errorf("link to a parent of a disk that has none: %w", ErrBadOptions)
	case d.ro:
		return block.ErrReadOnly
	case d.failed.Load():
		return block.ErrFailed
	}
	next := &parentLocator{Link: link, Other: old.Other}
	raw, err := next.encode()
	if err != nil {
		return err
	}
	if err := d.beginLayout(false); err != nil {
		return err
	}
	if err := d.writeLocator(ctx, raw); err != nil {
		return fmt.Errorf("parent locator: %w", err)
	}
	d.link.Store(next)
	return d.flush(ctx)
}

// writeLocator puts the item where there is room for it in the metadata region,
// and its new place and length into the table, in one edit.
func (d *Disk) writeLocator(ctx context.Context, raw []byte) error {
	region, items := int64(d.im.metadata.Offset), d.im.items.Items
	i := d.im.items.locatorItem()
	at, err := d.im.items.roomFor(int64(len(raw)), int64(d.im.metadata.Length), i)
	if err != nil {
		return err
	}
	var entry [8]byte
	le.PutUint32(entry[:], uint32(at))
	le.PutUint32(entry[4:], uint32(len(raw)))
	place, tableAt := region+at, region+int64(i+1)*metadataEntrySize+16
	pages := len(raw)/metaPageSize + 2 + 1
	if pages > d.meta.limit {
		return fmt.Errorf("%d bytes are more than the log takes: %w", len(raw), ErrBadOptions)
	}
	err = d.edit(ctx, pages, func(m metaEdit) error {
		if err := m.own(place, int64(len(raw))); err != nil {
			return err
		}
		if err := m.own(tableAt, int64(len(entry))); err != nil {
			return err
		}
		m.write(place, raw)
		m.write(tableAt, entry[:])
		return nil
	})
	if err == nil {
		items[i].Offset, items[i].Length = uint32(at), uint32(len(raw))
	}
	return err
}

// roomFor returns where n bytes fit into a region of length bytes, beside all
// items but item i, whose room they may take.
func (t *metadataTable) roomFor(n, length int64, i int) (int64, error) {
	taken := []span{{0, metadataTableSize, ""}}
	for k, it := range t.Items {
		if k != i && it.Length > 0 {
			taken = append(taken, span{int64(it.Offset), int64(it.Length), ""})
		}
	}
	slices.SortFunc(taken, func(a, b span) int { return cmpInt(a.off, b.off) })
	for k, s := range taken {
		end := length
		if k+1 < len(taken) {
			end = taken[k+1].off
		}
		if from := roundUp(s.off+s.n, 8); from+n <= end {
			return from, nil
		}
	}
	return 0, fmt.Errorf("%d bytes do not fit into the metadata region: %w", n, ErrUnsupported)
}
