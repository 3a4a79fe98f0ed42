package vhd

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"lunless/smbstore/block"
)

// moved is another link, with a path too long for the room of link's.
func moved(n int) *ParentLink {
	return &ParentLink{ID: ID{9, byte(n)}, Time: uint32(n), Name: fmt.Sprintf("élan%d.vhd", n),
		Relative: `..\` + strings.Repeat(`x\`, n) + "p.vhd", Absolute: `\\?\d:\p.vhd`}
}

func TestRelink(t *testing.T) {
	f := noClose{block.NewMemFile(0)}
	root, content := base(t, 8<<20, 3)
	d := child(t, f, keep{root}, 0)
	p := bytes.Repeat([]byte{5}, 5000)
	copy(content[3<<20:], p)
	must(t, d.WriteAt(ctx, p, 3<<20, 0))
	if diff := cmp.Diff(link(), d.ParentLink()); diff != "" {
		t.Errorf("link as created (-want +got):\n%s", diff)
	}
	created, _ := f.Size()
	for _, n := range []int{1, 300, 5, 2000, 2000, 7} { // 300 and 2000 do not fit into the first room
		must(t, d.Relink(ctx, *moved(n)))
		must(t, d.WriteAt(ctx, p, 3<<20, 0))
		if n == 1 {
			if size, _ := f.Size(); size != created {
				t.Errorf("relinking took %d bytes for good", size-created)
			}
		}
		if diff := cmp.Diff(moved(n), d.ParentLink()); diff != "" {
			t.Errorf("link now (-want +got):\n%s", diff)
		}
		must(t, d.Close())
		mustBeClean(t, f)
		in, err := Inspect(f)
		must(t, err)
		if diff := cmp.Diff(moved(n), in.ParentLink); diff != "" {
			t.Errorf("link in the file (-want +got):\n%s", diff)
		}
		d, err = Open(f, OpenOptions{Parent: keep{root}})
		must(t, err)
		if d.im.ft.DataOffset != headerOffset {
			t.Errorf("header at %#x", d.im.ft.DataOffset)
		}
		got := make([]byte, len(content))
		must(t, d.ReadAt(ctx, got, 0))
		if !bytes.Equal(got, content) {
			t.Fatal("content differs")
		}
	}
	for name, bad := range map[string]ParentLink{
		"no ID": {Name: "a"}, "no name": {ID: ID{1}}, "long name": {ID: ID{1}, Name: strings.Repeat("n", 256)},
		"long path": {ID: ID{1}, Name: "a", Relative: strings.Repeat("n", 33000)}, "zero": {ID: ID{1}, Name: "a\x00"},
	} {
		if err := d.Relink(ctx, bad); !errors.Is(err, ErrBadOptions) {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, d.Close())
	plain, err := Create(block.NewMemFile(0), CreateOptions{Size: 1 << 20})
	must(t, err)
	if err := plain.Relink(ctx, *link()); !errors.Is(err, ErrBadOptions) {
		t.Errorf("of a disk without parent: %v", err)
	}
	must(t, plain.Close())
}

// relinked opens an image and wants one of two links in it.
func relinked(image *block.MemFile, a, b ParentLink) error {
	for _, ro := range []bool{true, false} {
		d, err := Open(noClose{image}, OpenOptions{Parent: block.NewMem(64 << 20), ReadOnly: ro})
		if err != nil {
			return err
		}
		if p := d.ParentLink(); *p != a && *p != b {
			return fmt.Errorf("link is %+v", p)
		}
		if err := d.Close(); err != nil {
			return err
		}
	}
	r, err := Check(image)
	if err != nil || !r.Clean() || slices.ContainsFunc(r.Findings, func(f Finding) bool { return strings.Contains(f.What, "footer") }) {
		return fmt.Errorf("check after opening: %v %+v", err, r.Findings)
	}
	return nil
}

// TestForeignLocators reads what others write: entries of old, room in bytes, and
// paths of systems that mean nothing here.
func TestForeignLocators(t *testing.T) {
	for _, c := range []struct {
		name string
		set  map[string]string // by code, as bytes
		want ParentLink
	}{
		{"of old", map[string]string{"Wi2r": "..\\p.vhd", "Wi2k": "c:\\p.vhd\x00rest"}, ParentLink{Relative: `..\p.vhd`, Absolute: `c:\p.vhd`}},
		{"Latin-1", map[string]string{"Wi2k": "c:\\\xe9lan.vhd"}, ParentLink{Absolute: `c:\élan.vhd`}},
		{"both", map[string]string{"Wi2r": "old", "W2ru": "n\x00e\x00w\x00"}, ParentLink{Relative: "new"}},
		{"Macintosh", map[string]string{"MacX": "file://localhost/é.vhd", "Mac ": "\x01\x02"}, ParentLink{URL: "file://localhost/é.vhd"}},
		{"odd length", map[string]string{"W2ru": "n\x00e\x00w\x00?"}, ParentLink{Relative: "new"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := noClose{block.NewMemFile(0)}
			must(t, child(t, f, block.NewMem(8<<20), 0).Close())
			must(t, foreign(f, c.set))
			d, err := Open(f, OpenOptions{Bare: true})
			must(t, err)
			want := c.want
			want.ID, want.Time, want.Name = link().ID, link().Time, link().Name
			if diff := cmp.Diff(&want, d.ParentLink()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			must(t, d.Close())
			mustBeClean(t, f)
			d, err = Open(f, OpenOptions{Parent: block.NewMem(8 << 20)})
			must(t, err)
			must(t, d.Relink(ctx, *moved(3)))
			must(t, d.Close())
			mustBeClean(t, f)
		})
	}
}

// foreign replaces locators by another program's, behind the file's end.
func foreign(f block.File, set map[string]string) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	head, foot := make([]byte, headerSize), make([]byte, footerSize)
	if err := errors.Join(readFull(f, head, headerOffset), readFull(f, foot, 0)); err != nil {
		return err
	}
	copy(foot[28:], "win ")
	be.PutUint32(foot[64:], sum(foot, 64))
	var all []locator
	for _, code := range []string{"MacX", "Mac ", "Wi2r", "Wi2k", "W2ru", "W2ku"} {
		if data, ok := set[code]; ok {
			all = append(all, locator{code, 512, uint32(len(data)), uint64(size)})
			if _, err := f.WriteAt([]byte(data), size); err != nil {
				return err
			}
			size += 512
		}
	}
	setLocators(head, all)
	be.PutUint32(head[36:], sum(head, 36))
	_, e1 := f.WriteAt(head, headerOffset)
	_, e2 := f.WriteAt(foot, 0)
	_, e3 := f.WriteAt(foot, size)
	return errors.Join(e1, e2, e3)
}

// TestBadLocators: a path that cannot be read does not keep a disk from being
// opened; Check names it.
func TestBadLocators(t *testing.T) {
	for name, change := range map[string]func(l *locator){
		"outside":     func(l *locator) { l.Offset = 1 << 40 },
		"2^64":        func(l *locator) { l.Offset = 1<<64 - 1 },
		"long":        func(l *locator) { l.Length = 1<<32 - 1 },
		"long enough": func(l *locator) { l.Length = maxPath },
	} {
		t.Run(name, func(t *testing.T) {
			f := noClose{block.NewMemFile(0)}
			must(t, child(t, f, block.NewMem(8<<20), 0).Close())
			head := make([]byte, headerSize)
			must(t, readFull(f, head, headerOffset))
			all := locators(head)
			change(&all[0])
			setLocators(head, all)
			be.PutUint32(head[36:], sum(head, 36))
			_, err := f.WriteAt(head, headerOffset)
			must(t, err)
			r, err := Check(f)
			must(t, err)
			if r.Clean() || r.Findings[0].Offset != headerOffset+locatorsAt {
				t.Errorf("found %+v", r.Findings)
			}
			d, err := Open(f, OpenOptions{Parent: block.NewMem(8 << 20)})
			must(t, err)
			if p := d.ParentLink(); p.Relative != "" || p.Absolute != link().Absolute {
				t.Errorf("link %+v", p)
			}
			must(t, d.Relink(ctx, *moved(3)))
			must(t, d.Close())
			mustBeClean(t, f)
		})
	}
}
