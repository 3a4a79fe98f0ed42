package vhdx

import (
	"errors"
	"strings"
	"testing"

	"lunless/smbstore/block"
)

// TestRelink changes a link to longer and shorter ones, live.
func TestRelink(t *testing.T) {
	d, f := differencing(t, 4*mib, mib, 512)
	must(t, d.WriteAt(ctx, []byte("own"), 5000, 0))
	must(t, d.Close())
	fixMetadata(t, f, func(b []byte) { addItem(b, newGUID(), 0); copy(b[100<<10:], "strange!") })
	parent := block.NewMem(4 * mib)
	d, err := Open(noClose{f}, OpenOptions{Parent: parent})
	must(t, err)
	was := d.Info()
	for _, n := range []int{10, 1000, 30000, 5, 32000, 32000, 1} {
		link := ParentLink{Linkage: newGUID(), Relative: strings.Repeat("r", n), Volume: strings.Repeat("ä", n), Absolute: "a"}
		if n%2 == 0 {
			link.Linkage2 = newGUID()
		}
		must(t, d.Relink(ctx, link))
		if got := d.ParentLink(); *got != link {
			t.Fatalf("%d: %.100v", n, got)
		}
		image := f.Snapshot() // stable, in the log at least
		in, err := Inspect(image)
		must(t, err)
		if *in.ParentLink != link || in.DataWriteGUID != was.DataWriteGUID || in.FileWriteGUID == was.FileWriteGUID {
			t.Fatalf("%d: %.300v", n, in)
		}
		if r, err := Check(image); err != nil || !r.Clean() {
			t.Fatalf("%v %+v", err, r.Findings)
		}
	}
	must(t, d.WriteAt(ctx, []byte("x"), 0, 0))
	must(t, d.Close())
	if string(readAll(t, f, metaStart+100<<10, 8)) != "strange!" {
		t.Error("an item that is not known has changed")
	}
	// Without the parent, too.
	d, err = Open(noClose{f}, OpenOptions{Bare: true})
	must(t, err)
	must(t, d.Relink(ctx, exampleLink))
	must(t, d.Close())
	in, err := Inspect(f)
	must(t, err)
	if *in.ParentLink != exampleLink || in.LogInUse {
		t.Errorf("%+v", in)
	}
	if err := d.Relink(ctx, exampleLink); !errors.Is(err, block.ErrClosed) {
		t.Error(err)
	}
	d, err = Open(noClose{f}, OpenOptions{Bare: true, ReadOnly: true})
	must(t, err)
	if err := d.Relink(ctx, exampleLink); !errors.Is(err, block.ErrReadOnly) {
		t.Error(err)
	}
	must(t, d.Close())
	d, err = Open(noClose{small(t, true)}, OpenOptions{})
	must(t, err)
	if err := d.Relink(ctx, exampleLink); !errors.Is(err, ErrBadOptions) {
		t.Error(err)
	}
	must(t, d.Close())
}

// TestDataWriteGUID: what it becomes with the first change of content.
func TestDataWriteGUID(t *testing.T) {
	f := small(t, true)
	chosen := newGUID()
	d, err := Open(noClose{f}, OpenOptions{DataWriteGUID: chosen})
	must(t, err)
	if d.Info().DataWriteGUID == chosen {
		t.Error("taken before a change")
	}
	must(t, d.WriteAt(ctx, []byte{1}, 0, 0))
	if got := d.Info().DataWriteGUID; got != chosen {
		t.Errorf("is %v, want %v", got, chosen)
	}
	must(t, d.Close())
}

// TestChildMetadata: a child has the parent's virtual disk metadata, and none
// that is of the parent's file (MS-VHDX 2.6.1.2).
func TestChildMetadata(t *testing.T) {
	f := small(t, true)
	virtual, file := newGUID(), newGUID()
	fixMetadata(t, f, func(b []byte) {
		addItem(b, virtual, flagIsVirtualDisk|flagIsUser)
		copy(b[100<<10:], "of disk!")
		addItem(b, file, flagIsUser)
		le.PutUint32(b[(le.Uint16(b[10:]))*metadataEntrySize+16:], 101<<10)
	})
	p, err := Open(noClose{f}, OpenOptions{})
	must(t, err)
	child := block.NewMemFile(0)
	d, err := Create(noClose{child}, CreateOptions{Parent: &exampleLink, ParentDevice: p})
	must(t, err)
	must(t, d.Close())
	im, err := loadImage(child)
	must(t, err)
	n := 0
	for _, it := range im.items.Items {
		switch it.ID {
		case file:
			t.Error("an item of the parent's file is in the child")
		case virtual:
			n++
			if got := readAll(t, child, metaStart+int64(it.Offset), int64(it.Length)); string(got) != "of disk!" {
				t.Errorf("%q", got)
			}
		}
	}
	if n != 1 {
		t.Errorf("the virtual disk's item is there %d times", n)
	}
}
