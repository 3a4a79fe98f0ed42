package fstest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"lunless/shares/fs"
)

func testRoot(e *env) {
	root := e.open("", 0)
	e.name(root, "")
	if !root.Dir() || !e.stat(root).Dir {
		e.Error("the root is no folder")
	}
	e.cannotCreate("", fs.ErrExist)
	e.is(e.fs.Remove(ctx, root), fs.ErrPermission)
	e.is(e.fs.Rename(ctx, root, "elsewhere", false), fs.ErrPermission)
	e.ok(e.fs.SyncParent(ctx, root))
	e.has("")
}

func testOpenErrors(e *env) {
	e.create("file")
	e.mkdir("dir")
	e.cannotOpen("nothing", fs.ErrNotExist)
	e.cannotOpen("dir/nothing", fs.ErrNotExist)
	e.cannotOpen("nothing/file", fs.ErrPathNotExist)
	e.cannotOpen("dir/nothing/file", fs.ErrPathNotExist)
	e.cannotOpen("file/below", fs.ErrNotDir)
	e.cannotOpen("FILE/below", fs.ErrNotDir)
	e.cannotOpen("FILE/below/further", fs.ErrNotDir)
}

func testBadNames(e *env) {
	e.mkdir("dir")
	for _, name := range []string{
		"/", "/a", "a/", "a//b", ".", "a/.", "./a", "dir/./x",
		"a\\b", "a:b", "a:b:$DATA", "a*", "a?", "a<", "a>", "a|", `a"`, "a\x00", "\x1f", "tab\t",
		"\xff", "a\xc3", "\xed\xa0\x80\xed\xb0\x80", "dir/a*/x",
	} {
		e.cannotOpen(name, fs.ErrBadName)
		e.cannotCreate(name, fs.ErrBadName)
	}
	for _, name := range []string{"..", "../x", "dir/..", "dir/../x", "dir/../../x", "a/../.."} {
		e.cannotOpen(name, fs.ErrEscapes)
		e.cannotCreate(name, fs.ErrEscapes)
	}
	for _, name := range []string{
		strings.Repeat("a", 256), "dir/" + strings.Repeat("ä", 256), strings.Repeat("a/", 4000) + "a",
	} {
		e.cannotOpen(name, fs.ErrNameTooLong)
		e.cannotCreate(name, fs.ErrNameTooLong)
	}
	e.has("", "dir")
	for _, name := range []string{
		strings.Repeat("a", 255), "trailing dot.", "trailing space ", "...", " ", "~", "ü€😀", "\xed\xa0\x80",
		"x (deleted)", "%00", "-", "\x7f",
	} {
		f := e.create("dir/" + name)
		e.name(f, "dir/"+name)
		e.name(e.open("DIR/"+name, 0), "dir/"+name)
	}
	if n := len(e.list("dir")); n != 12 {
		e.Errorf("%d of 12 unusual names listed", n)
	}
}

func testCase(e *env) {
	for _, c := range []struct{ stored, asked string }{
		{"File.TXT", "fILE.txt"},
		{"größe", "GRÖßE"},
		{"ΣΊΣΥΦΟΣ", "σίσυφος"},
		{"ÿ", "Ÿ"},
		{"дом", "ДОМ"},
		{"\xed\xa0\x80a", "\xed\xa0\x80A"},
	} {
		e.create(c.stored)
		e.name(e.open(c.asked, 0), c.stored)
		e.cannotCreate(c.asked, fs.ErrExist)
		e.cannotCreate(c.stored, fs.ErrExist)
	}
	// Alike to a person, not to Windows.
	for _, c := range []struct{ stored, other string }{
		{"ss", "ß"}, {"i", "İ"}, {"k", "\u212a"}, {"é", "e\u0301"},
	} {
		e.create(c.stored)
		e.cannotOpen(c.other, fs.ErrNotExist)
	}
	e.mkdir("One")
	e.mkdir("oNE/Two")
	e.mkdir("ONE/TWO/Three")
	e.create("one/two/three/four")
	e.name(e.open("ONE/two/THREE/FOUR", fs.ReadData), "One/Two/Three/four")
	e.has("one/TWO", "Three")
}

func testCreateErrors(e *env) {
	e.create("file")
	e.mkdir("dir")
	e.cannotCreate("file", fs.ErrExist)
	e.cannotCreate("DIR", fs.ErrExist)
	e.cannotCreate("no/file", fs.ErrPathNotExist)
	e.cannotCreate("dir/no/file", fs.ErrPathNotExist)
	e.cannotCreate("file/below", fs.ErrNotDir)
	e.cannotCreate("FILE/below/below", fs.ErrNotDir)
	_, err := e.fs.Create(ctx, "new", fs.CreateOptions{AllocationSize: -1})
	e.is(err, fs.ErrInvalid)
	e.has("", "dir", "file")
}

func testCreateOptions(e *env) {
	sd := []byte("a security descriptor is bytes here\x00\x01")
	for _, dir := range []bool{false, true} {
		name := fmt.Sprintf("made-%t", dir)
		before := time.Now().Add(-2 * time.Second)
		f := e.createWith(name, fs.CreateOptions{
			Dir: dir, Access: readWrite, Attributes: 0x02 | 0x20 | 0x10 | 0x80, SecurityDescriptor: sd, AllocationSize: 100_000,
		})
		for _, f := range []fs.File{f, e.open(name, 0)} {
			info := e.stat(f)
			want := fs.Attributes(0x22)
			if dir {
				want |= 0x10
			}
			if info.Attributes != want || info.Dir != dir || f.Dir() != dir || info.Size != 0 || info.Links != 1 {
				e.Errorf("%+v, want attributes %#x", info, want)
			}
			if !dir && info.AllocationSize < 100_000 {
				e.Errorf("%d bytes reserved", info.AllocationSize)
			}
			for _, at := range []time.Time{info.Created, info.Accessed, info.Written, info.Changed} {
				if at.Before(before) || at.After(time.Now().Add(2*time.Second)) {
					e.Errorf("made at %v, it is %v", at, time.Now())
				}
			}
			got, err := f.SecurityDescriptor(ctx)
			if err != nil || string(got) != string(sd) {
				e.Errorf("security descriptor %q, %v", got, err)
			}
		}
	}
	for _, access := range []fs.Access{0, fs.ReadData, fs.WriteData, readWrite} {
		name := fmt.Sprintf("marked-%d", access)
		f := e.createWith(name, fs.CreateOptions{Mark: []byte("a mark"), Access: access, Attributes: 2, SecurityDescriptor: sd, AllocationSize: 5000})
		e.cannotCreate(name, fs.ErrExist)
		e.name(f, name)
		for _, f := range []fs.File{f, e.open(name, 0)} {
			mark, err := fs.Mark(ctx, f)
			got, err2 := f.SecurityDescriptor(ctx)
			if info := e.stat(f); info.Attributes != 2 || info.Links != 1 || string(got) != string(sd) || string(mark) != "a mark" || err != nil || err2 != nil {
				e.Errorf("%+v, mark %q, security descriptor %q, %v, %v", info, mark, got, err, err2)
			}
		}
		if access&fs.WriteData != 0 {
			e.write(f, 0, "data")
		} else if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, fs.ErrPermission) {
			e.Errorf("write: %v", err)
		}
	}
	f := e.createWith("metadata", fs.CreateOptions{})
	if mark, err := fs.Mark(ctx, f); mark != nil || err != nil {
		e.Errorf("mark nobody gave: %q, %v", mark, err)
	}
	_, err := f.WriteAt([]byte("x"), 0)
	e.is(err, fs.ErrPermission)
	_, err = f.ReadAt(make([]byte, 1), 0)
	e.is(err, fs.ErrPermission)
	got, err := f.SecurityDescriptor(ctx)
	if got != nil || err != nil {
		e.Errorf("security descriptor nobody stored: %q, %v", got, err)
	}
}

func testCancelled(e *env) {
	f := e.create("file")
	e.write(f, 0, "data")
	done, cancel := context.WithCancel(ctx)
	cancel()
	_, err := e.fs.Open(done, "file", 0)
	e.is(err, context.Canceled)
	_, err = e.fs.Create(done, "other", fs.CreateOptions{})
	e.is(err, context.Canceled)
	e.is(e.fs.Rename(done, f, "other", false), context.Canceled)
	e.is(e.fs.Remove(done, f), context.Canceled)
	e.is(f.Truncate(done, 0), context.Canceled)
	e.is(f.Zero(done, 0, 4), context.Canceled)
	_, err = f.CopyRange(done, f, 0, 8, 4)
	e.is(err, context.Canceled)
	e.holds(f, "data")
	e.has("", "file")
}

func testClosedFile(e *env) {
	for _, name := range []string{"dir", "file"} {
		f, err := e.fs.Create(ctx, name, fs.CreateOptions{Dir: name == "dir", Access: readWrite})
		e.ok(err)
		e.ok(f.Close())
		for op, err := range afterClose(e.fs, f) {
			if (err == nil) != (op == "ID") {
				e.Errorf("%s after Close of a %s: %v", op, name, err)
			} else if err != nil {
				e.is(err, fs.ErrClosed)
			}
		}
	}
}

func afterClose(store fs.FS, f fs.File) map[string]error {
	visit := func(int64, int64) error { return nil }
	errs := map[string]error{
		"Close":         f.Close(),
		"Sync":          f.Sync(ctx),
		"Truncate":      f.Truncate(ctx, 1),
		"SetAllocation": f.SetAllocation(ctx, 1),
		"Zero":          f.Zero(ctx, 0, 1),
		"Allocated":     f.Allocated(ctx, 0, 1, visit),
		"SetTimes":      f.SetTimes(ctx, fs.TimeChange{}),
		"SetAttributes": f.SetAttributes(ctx, 2),
		"SetSD":         f.SetSecurityDescriptor(ctx, []byte("x")),
		"Rename":        store.Rename(ctx, f, "new", false),
		"Link":          store.Link(ctx, f, "new", false),
		"Remove":        store.Remove(ctx, f),
		"SyncParent":    store.SyncParent(ctx, f),
	}
	_, errs["Name"] = f.Name()
	_, errs["Stat"] = f.Stat(ctx)
	_, errs["ReadAt"] = f.ReadAt(make([]byte, 1), 0)
	_, errs["ReadAtCached"] = f.ReadAtCached(make([]byte, 1), 0)
	_, errs["WriteAt"] = f.WriteAt(make([]byte, 1), 0)
	_, errs["CopyRange"] = f.CopyRange(ctx, f, 0, 0, 1)
	_, errs["SecurityDescriptor"] = f.SecurityDescriptor(ctx)
	_, errs["ReadDir"] = f.ReadDir(ctx)
	return errs
}

func testID(e *env) {
	a, b := e.create("a"), e.create("b")
	if a.ID() == b.ID() || a.ID() == e.open("", 0).ID() || a.ID() == (fs.FileID{}) {
		e.Errorf("IDs are not distinct: %v, %v", a.ID(), b.ID())
	}
	id := a.ID()
	e.ok(e.fs.Rename(ctx, a, "c", false))
	e.ok(e.fs.Link(ctx, a, "d", false))
	for _, name := range []string{"c", "d"} {
		f := e.open(name, 0)
		if f.ID() != id || e.stat(f).ID != id {
			e.Errorf("%s: ID %v, Info's %v, want %v", name, f.ID(), e.stat(f).ID, id)
		}
	}
	r, err := e.open("", 0).ReadDir(ctx)
	e.ok(err)
	defer r.Close()
	entry, err := r.Next(func(name string) bool { return name == "d" })
	e.ok(err)
	if entry.Info.ID != id {
		e.Errorf("listed ID %v, want %v", entry.Info.ID, id)
	}
}

func testMetadata(e *env) {
	for _, dir := range []bool{false, true} {
		name := fmt.Sprintf("object-%t", dir)
		f := e.createWith(name, fs.CreateOptions{Dir: dir, Access: readWrite})
		created := time.Date(1999, 12, 31, 23, 59, 59, 123456700, time.UTC)
		accessed := time.Date(2001, 2, 3, 4, 5, 6, 700, time.UTC)
		written := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		e.ok(f.SetTimes(ctx, fs.TimeChange{Created: &created, Accessed: &accessed, Written: &written}))
		e.ok(f.SetAttributes(ctx, 0x01|0x04|0x200|0x2000|0x4000|0x80))
		other := created.Add(time.Hour)
		e.ok(f.SetTimes(ctx, fs.TimeChange{Created: &other}))
		e.ok(f.SetSecurityDescriptor(ctx, []byte("one")))
		e.ok(f.SetSecurityDescriptor(ctx, []byte(strings.Repeat("two", 900))))
		want := fs.Attributes(0x2205)
		if dir {
			want |= 0x10
		}
		check := func(info fs.Info) {
			e.Helper()
			if !info.Created.Equal(other) || !info.Accessed.Equal(accessed) || !info.Written.Equal(written) {
				e.Errorf("times %v %v %v", info.Created, info.Accessed, info.Written)
			}
			if info.Attributes != want {
				e.Errorf("attributes %#x, want %#x", info.Attributes, want)
			}
		}
		check(e.stat(f))
		e.ok(f.Close())
		f = e.open(name, 0)
		check(e.stat(f))
		sd, err := f.SecurityDescriptor(ctx)
		if err != nil || string(sd) != strings.Repeat("two", 900) {
			e.Errorf("security descriptor %q, %v", brief(string(sd)), err)
		}
		r, err := e.open("", 0).ReadDir(ctx)
		e.ok(err)
		entry, err := r.Next(func(n string) bool { return n == name })
		e.ok(err)
		check(entry.Info)
		e.ok(r.Close())
		e.ok(f.SetAttributes(ctx, 0))
		if a := e.stat(f).Attributes; a != want&0x10 {
			e.Errorf("attributes %#x after they were cleared", a)
		}
		e.is(f.SetSecurityDescriptor(ctx, make([]byte, 1<<20)), fs.ErrNoSpace)
	}
	// READONLY is a mark; who may write is decided above.
	f := e.createWith("marked", fs.CreateOptions{Attributes: 1})
	e.ok(f.Close())
	e.write(e.open("marked", readWrite), 0, "x")
}

func testVolume(e *env) {
	v, err := e.fs.Volume(ctx)
	e.ok(err)
	f := e.create("f")
	if v.Serial != f.ID().Volume {
		e.Errorf("serial %#x, volume of a file %#x", v.Serial, f.ID().Volume)
	}
	if v.TotalBytes < v.FreeBytes || v.FreeBytes < v.AvailBytes || v.BytesPerSec < 512 || v.PhysicalSec < v.BytesPerSec ||
		v.SectorsPerUnit == 0 || v.MaxName != 255 || v.Label == "" || v.Created.IsZero() {
		e.Errorf("%+v", v)
	}
}
