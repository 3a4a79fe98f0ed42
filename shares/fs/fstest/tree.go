package fstest

import (
	"errors"
	"fmt"
	"io"

	"lunless/shares/fs"
)

func testRename(e *env) {
	dir := e.mkdir("dir")
	f := e.create("file")
	e.write(f, 0, "f")
	for _, to := range []string{"FILE", "File", "File", "dir/file", "DIR/File", "other", "dir/a"} {
		e.ok(e.fs.Rename(ctx, f, to, false))
	}
	e.name(f, "dir/a")
	e.cannotOpen("file", fs.ErrNotExist)
	e.has("dir", "a")
	e.has("", "dir")

	// Replacing keeps the open object's data and takes the new spelling.
	g := e.create("dir/B")
	e.write(g, 0, "g")
	e.is(e.fs.Rename(ctx, f, "dir/b", false), fs.ErrExist)
	e.ok(e.fs.Rename(ctx, f, "dir/b", true))
	e.has("dir", "b")
	e.holds(e.open("dir/B", fs.ReadData), "f")
	e.holds(g, "g")
	_, err := g.Name()
	e.is(err, fs.ErrNotExist)
	e.is(e.fs.Rename(ctx, g, "again", false), fs.ErrNotExist)
	e.is(e.fs.Remove(ctx, g), fs.ErrNotExist)

	e.ok(e.fs.Rename(ctx, dir, "DIR", false))
	e.name(f, "DIR/b")
	e.ok(e.fs.Rename(ctx, f, "up", false))
	e.has("DIR")
	e.has("", "DIR", "up")
}

// Names follow renames of the folders above, and the new names are found in any case.
func testRenameFollowed(e *env) {
	e.mkdir("a")
	mid := e.mkdir("a/b")
	f := e.create("a/b/file")
	e.open("A/B/FILE", 0)
	e.mkdir("x")
	e.ok(e.fs.Rename(ctx, mid, "x/Y", false))
	e.name(f, "x/Y/file")
	e.name(mid, "x/Y")
	e.name(e.open("X/y/FILE", 0), "x/Y/file")
	e.cannotOpen("a/b/file", fs.ErrPathNotExist)
	e.cannotOpen("A/B", fs.ErrNotExist)
	e.mkdir("a/B")
	e.cannotOpen("a/b/file", fs.ErrNotExist)
	e.ok(e.fs.Remove(ctx, f))
	_, err := f.Name()
	e.is(err, fs.ErrNotExist)
	// A name that looks like the kernel's mark of an object without one.
	g := e.create("gone (deleted)")
	e.name(g, "gone (deleted)")
	e.ok(e.fs.Remove(ctx, g))
	_, err = g.Name()
	e.is(err, fs.ErrNotExist)
}

func testRenameErrors(e *env) {
	dir, f := e.mkdir("dir"), e.create("file")
	e.mkdir("dir/sub")
	other := e.mkdir("other")
	for _, replace := range []bool{false, true} {
		e.is(e.fs.Rename(ctx, f, "DIR", replace), fs.ErrExist)      // a folder is never replaced
		e.is(e.fs.Rename(ctx, other, "Dir", replace), fs.ErrExist)  // not by a folder
		e.is(e.fs.Rename(ctx, other, "FILE", replace), fs.ErrExist) // nor does one replace a file
		e.is(e.fs.Rename(ctx, dir, "dir/sub/x", replace), fs.ErrBadName)
		e.is(e.fs.Rename(ctx, dir, "dir/x", replace), fs.ErrBadName)
		e.is(e.fs.Rename(ctx, f, "none/file", replace), fs.ErrPathNotExist)
		e.is(e.fs.Rename(ctx, f, "file/x", replace), fs.ErrNotDir)
		e.is(e.fs.Rename(ctx, f, "a*", replace), fs.ErrBadName)
		e.is(e.fs.Rename(ctx, f, "../file", replace), fs.ErrEscapes)
		e.is(e.fs.Rename(ctx, f, "", replace), fs.ErrExist)
	}
	e.has("", "dir", "file", "other")
	e.has("dir", "sub")
}

func testLink(e *env) {
	dir, f := e.mkdir("dir"), e.create("file")
	e.write(f, 0, "data")
	e.ok(e.fs.Link(ctx, f, "dir/Second", false))
	if links := e.stat(f).Links; links != 2 {
		e.Errorf("%d links", links)
	}
	second := e.open("DIR/second", readWrite)
	e.name(second, "dir/Second")
	e.holds(second, "data")
	e.is(e.fs.Link(ctx, f, "dir/SECOND", false), fs.ErrExist)
	e.is(e.fs.Link(ctx, f, "DIR", true), fs.ErrExist)
	e.is(e.fs.Link(ctx, dir, "link", false), fs.ErrIsDir)
	e.is(e.fs.Link(ctx, f, "none/x", false), fs.ErrPathNotExist)
	e.is(e.fs.Link(ctx, f, "a?", false), fs.ErrBadName)
	e.ok(e.fs.Link(ctx, f, "dir/SECOND", true)) // the same file already
	e.has("dir", "SECOND")

	victim := e.create("victim")
	e.write(victim, 0, "victim")
	e.ok(e.fs.Link(ctx, f, "Victim", true))
	e.has("", "dir", "file", "Victim")
	e.holds(e.open("VICTIM", fs.ReadData), "data")
	e.holds(victim, "victim")

	// Renaming onto another name of the same file leaves one of the two.
	e.ok(e.fs.Rename(ctx, f, "victim", true))
	e.has("", "dir", "victim")
	if links := e.stat(f).Links; links != 2 {
		e.Errorf("%d links", links)
	}
	e.ok(e.fs.Remove(ctx, second))
	e.has("dir")
	e.holds(second, "data")
}

func testRemove(e *env) {
	dir := e.mkdir("dir")
	f := e.create("dir/file")
	e.write(f, 0, "data")
	reader := e.open("dir/file", fs.ReadData)
	e.is(e.fs.Remove(ctx, dir), fs.ErrNotEmpty)
	e.ok(e.fs.Remove(ctx, f))
	e.cannotOpen("dir/file", fs.ErrNotExist)
	e.holds(reader, "data")
	e.write(f, 4, "+")
	e.holds(reader, "data+")
	if links := e.stat(f).Links; links != 0 {
		e.Errorf("%d links", links)
	}
	for _, f := range []fs.File{f, reader} {
		_, err := f.Name()
		e.is(err, fs.ErrNotExist)
		e.is(e.fs.Remove(ctx, f), fs.ErrNotExist)
	}
	// Whoever has the name now keeps it.
	heir := e.create("dir/FILE")
	e.is(e.fs.Remove(ctx, f), fs.ErrNotExist)
	e.name(heir, "dir/FILE")
	e.ok(e.fs.Remove(ctx, heir))
	e.ok(e.fs.Remove(ctx, dir))
	e.cannotOpen("dir", fs.ErrNotExist)
	e.cannotCreate("dir/file", fs.ErrPathNotExist)
	e.has("")
}

func testList(e *env) {
	dir := e.mkdir("dir")
	e.has("dir")
	var want []string
	for i := range 300 {
		name := fmt.Sprintf("Entry %03d", i)
		want = append(want, name)
		f := e.create("dir/" + name)
		e.write(f, 0, name)
		e.ok(f.Close())
	}
	e.mkdir("dir/sub")
	want = append(want, "sub")
	e.has("dir", want...)

	asked := map[string]int{}
	got := e.listFile(dir, func(name string) bool {
		asked[name]++
		return name == "Entry 007" || name == "sub"
	})
	if len(got) != 2 || got[0] != "Entry 007" || got[1] != "sub" {
		e.Errorf("matched %q", got)
	}
	for _, name := range want {
		if asked[name] != 1 {
			e.Errorf("match was asked about %q %d times", name, asked[name])
		}
	}
	r, err := dir.ReadDir(ctx)
	e.ok(err)
	entry, err := r.Next(func(name string) bool { return name == "Entry 008" })
	e.ok(err)
	if entry.Info.Size != 9 || entry.Info.Dir || entry.Info.Links != 1 {
		e.Errorf("%+v", entry)
	}
	e.ok(r.Close())
	_, err = r.Next(nil)
	e.is(err, fs.ErrClosed)
	_, err = e.create("file").ReadDir(ctx)
	e.is(err, fs.ErrNotDir)
}

// An entry that stays is listed once, whatever happens around it.
func testListWhileChanging(e *env) {
	dir := e.mkdir("dir")
	const n = 400
	for i := range n {
		e.ok(e.create(fmt.Sprintf("dir/stays-%03d", i)).Close())
		e.ok(e.create(fmt.Sprintf("dir/goes-%03d", i)).Close())
	}
	r, err := dir.ReadDir(ctx)
	e.ok(err)
	defer r.Close()
	seen := map[string]int{}
	for i := 0; ; i++ {
		entry, err := r.Next(nil)
		if err == io.EOF {
			break
		}
		e.ok(err)
		seen[entry.Name]++
		if i < n {
			goes := e.open(fmt.Sprintf("dir/goes-%03d", i), 0)
			e.ok(e.fs.Remove(ctx, goes))
			e.ok(goes.Close())
			e.ok(e.create(fmt.Sprintf("dir/comes-%03d", i)).Close())
		}
	}
	for i := range n {
		if name := fmt.Sprintf("stays-%03d", i); seen[name] != 1 {
			e.Errorf("%s listed %d times", name, seen[name])
		}
	}
	e.ok(r.Close())
	if !errors.Is(r.Close(), fs.ErrClosed) {
		e.Error("closed twice")
	}
}
