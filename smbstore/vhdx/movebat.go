package vhdx

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"lunless/smbstore/block"
)

// batMirror has every page of the BAT that a commit writes in its place written
// to the region to come as well; under flushMu.
type batMirror struct {
	from, n, to int64 // file offsets, and the bytes that are mirrored
}

// place is where an update goes to as well.
func (m *batMirror) place(off int64) (int64, bool) {
	if m == nil || off < m.from || off >= m.from+m.n {
		return 0, false
	}
	return off - m.from + m.to, true
}

// moveBAT has the disk go on with a BAT in room to, which reads as zeroes, and with
// size as its size, after more has written what lies past the old region. What refers to the new
// one and to the size changes in one log sequence. to is given back if that does
// not come about, the old region if it does. Requests are held for the switch
// alone.
func (d *Disk) moveBAT(ctx context.Context, to room, size int64, more func() error) error {
	old := room{int64(d.im.bat.Offset), int64(d.im.bat.Length)}
	if err := d.copyBAT(ctx, old, to, more); err != nil {
		d.mirrorBAT(nil)
		d.space.release(to)
		return fmt.Errorf("copy block allocation table to %#x: %w", to.off, err)
	}
	release := d.quiesce()
	defer release()
	defer d.mirrorBAT(nil)           // before requests use the old region's room, or that of the new one
	ctx = context.WithoutCancel(ctx) // from here on, all or nothing
	if err := d.flush(ctx); err != nil {
		return err // the disk has failed
	}
	if d.closed.Load() {
		return block.ErrClosed
	}
	t, spans := d.tableWithBAT(to)
	pages, err := d.tablePages(t)
	if err == nil {
		err = d.edit(ctx, len(pages)+2, func(m metaEdit) error {
			if err := d.putSize(m, size); err != nil {
				return err
			}
			for _, p := range pages {
				m.put(p.Offset, p.Data)
			}
			m.free(old)
			return nil
		})
	}
	if err != nil {
		d.space.release(to)
		return err
	}
	if err := d.flush(ctx); err != nil {
		return err
	}
	d.im.table, d.im.bat = t, *t.find(guidBAT)
	d.meta.forget(old.off, old.n)
	d.meta.forget(to.off, to.n) // who walks without locks may have read there what was before
	d.geo.Store(&geometry{size: size, bat: to.off, spans: spans})
	return nil
}

// mirrorBAT begins or ends mirroring.
func (d *Disk) mirrorBAT(m *batMirror) {
	d.flushMu.Lock()
	defer d.flushMu.Unlock()
	d.mirror = m
}

// copyBAT fills the region to come while requests go on.
func (d *Disk) copyBAT(ctx context.Context, old, to room, more func() error) error {
	n := min(old.n, to.n)
	d.mirrorBAT(&batMirror{from: old.off, n: n, to: to.off})
	buf := make([]byte, min(n, mib))
	err := dataRuns(d.own, old.off, n, func(at, n int64) error {
		for n > 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			c := min(n, int64(len(buf)))
			if err := d.copyPages(buf[:c], at, to.off+at-old.off); err != nil {
				return err
			}
			at, n = at+c, n-c
		}
		return nil
	})
	if err != nil || more == nil {
		return err
	}
	return more()
}

// copyPages copies a piece of the BAT that no commit changes meanwhile.
func (d *Disk) copyPages(buf []byte, from, to int64) error {
	d.flushMu.Lock()
	defer d.flushMu.Unlock()
	if d.closed.Load() {
		return block.ErrClosed
	}
	if err := readFull(d.own, buf, from); err != nil {
		return err
	}
	return d.writeFile(buf, to)
}

// tableWithBAT is the region table, and all that blocks must not overlap, with
// the BAT elsewhere.
func (d *Disk) tableWithBAT(to room) (*regionTable, []span) {
	t := &regionTable{slices.Clone(d.im.table.Regions)}
	r := t.find(guidBAT)
	r.Offset, r.Length = uint64(to.off), uint32(to.n)
	spans := append(t.spans(),
		span{0, sectionEnd, "header section"}, span{int64(d.im.hdr.LogOffset), int64(d.im.hdr.LogLength), "log"})
	slices.SortFunc(spans, func(a, b span) int { return cmpInt(a.off, b.off) })
	return t, spans
}

// tablePages returns the pages of both region tables that change when they become t.
func (d *Disk) tablePages(t *regionTable) ([]update, error) {
	raw, have := make([]byte, regionTableSize), make([]byte, regionTableSize)
	t.encode(raw)
	var out []update
	for _, off := range regionTableOffsets {
		if err := readFull(d.own, have, off); err != nil {
			return nil, err
		}
		for at := int64(0); at < regionTableSize; at += metaPageSize {
			if page := raw[at : at+metaPageSize]; !bytes.Equal(page, have[at:at+metaPageSize]) {
				out = append(out, update{Offset: off + at, Data: page})
			}
		}
	}
	return out, nil
}

// putSize changes the virtual disk's size in the metadata region.
func (d *Disk) putSize(m metaEdit, size int64) error {
	if size == d.Size() {
		return nil
	}
	it := d.im.items.system(guidVirtualDiskSize)
	if it == nil {
		return corrupt(int64(d.im.metadata.Offset), "metadata: no item %v", guidVirtualDiskSize)
	}
	at := int64(d.im.metadata.Offset) + int64(it.Offset)
	if err := m.own(at, 8); err != nil {
		return err
	}
	m.write(at, le.AppendUint64(nil, uint64(size)))
	return nil
}

// putSizeAlone is moveBAT for a BAT that stays where it is.
func (d *Disk) putSizeAlone(ctx context.Context, size int64) error {
	if err := d.flush(ctx); err != nil { // while requests go on: the next one has little to do
		return err
	}
	defer d.quiesce()()
	return d.switchSize(context.WithoutCancel(ctx), size)
}

// switchSize changes the size. All requests are held.
func (d *Disk) switchSize(ctx context.Context, size int64) error {
	if err := d.edit(ctx, 2, func(m metaEdit) error { return d.putSize(m, size) }); err != nil {
		return err
	}
	if err := d.flush(ctx); err != nil {
		return err
	}
	g := *d.geo.Load()
	g.size = size
	d.geo.Store(&g)
	return nil
}
