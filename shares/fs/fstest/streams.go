package fstest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"lunless/shares/fs"
	"lunless/smbstore/fscc"
)

// streams is f as what it has streams by.
func (e *env) streams(f fs.File) fs.Streamer {
	e.Helper()
	v, err := e.fs.Volume(ctx)
	e.ok(err)
	s, ok := f.(fs.Streamer)
	if !ok || !v.Streams {
		e.Fatalf("%T with Volume.Streams %v", f, v.Streams)
	}
	return s
}

// hasStreams is false for a store without streams, which must say so.
func (e *env) hasStreams() bool {
	e.Helper()
	v, err := e.fs.Volume(ctx)
	e.ok(err)
	if v.Streams {
		return true
	}
	if s, ok := e.create("none").(fs.Streamer); ok {
		_, err := s.Streams(ctx)
		e.is(err, fs.ErrNotSupported)
		_, err = s.CreateStream(ctx, "s", fs.StreamOptions{})
		e.is(err, fs.ErrNotSupported)
	}
	return false
}

func (e *env) createStream(f fs.File, name, data string) fs.Stream {
	e.Helper()
	s, err := e.streams(f).CreateStream(ctx, name, fs.StreamOptions{Access: readWrite})
	e.ok(err)
	e.Cleanup(func() { s.Close() })
	if data != "" {
		_, err = s.WriteAt([]byte(data), 0)
		e.ok(err)
	}
	return s
}

func (e *env) openStream(f fs.File, name string) fs.Stream {
	e.Helper()
	s, err := e.streams(f).OpenStream(ctx, name, readWrite)
	e.ok(err)
	e.Cleanup(func() { s.Close() })
	return s
}

// noStream checks that there is no stream of the name.
func (e *env) noStream(f fs.File, name string) {
	e.Helper()
	s, err := e.streams(f).OpenStream(ctx, name, 0)
	if err == nil {
		s.Close()
	}
	e.is(err, fs.ErrNotExist)
}

// streamNames checks the names of all streams, and that their sizes are in the list.
func (e *env) streamNames(f fs.File, want ...string) {
	e.Helper()
	list, err := e.streams(f).Streams(ctx)
	e.ok(err)
	var got []string
	for _, s := range list {
		got = append(got, s.Name)
		o := e.openStream(f, s.Name)
		info, err := o.Stat(ctx)
		e.ok(err)
		if info.Size != s.Size {
			e.Errorf("stream %q: size %d in the list, %d in Stat", s.Name, s.Size, info.Size)
		}
		e.ok(o.Close())
	}
	if !slices.Equal(got, want) {
		e.Errorf("streams %q, want %q", got, want)
	}
}

func testStreams(e *env) {
	if !e.hasStreams() {
		return
	}
	for _, dir := range []bool{false, true} {
		name := fmt.Sprintf("Base %v", dir)
		f := e.createWith(name, fs.CreateOptions{Dir: dir, Access: readWrite})
		e.streamNames(f)
		e.noStream(f, "One")
		one := e.createStream(f, "One", "first")
		two := e.createStream(f, "a two", "second")
		e.streamNames(f, "a two", "One")
		e.holds(one, "first")
		e.holds(two, "second")
		_, err := e.streams(f).CreateStream(ctx, "oNE", fs.StreamOptions{})
		e.is(err, fs.ErrExist)
		e.holds(e.openStream(f, "oNe"), "first")
		e.holds(e.openStream(e.open(name, 0), "one"), "first")

		if n, err := one.StreamName(); err != nil || n != "One" {
			e.Errorf("StreamName %q, %v", n, err)
		}
		if n, err := one.Name(); err != nil || n != name {
			e.Errorf("Name %q, %v", n, err)
		}
		if one.Dir() || one.ID() == f.ID() || one.ID() == two.ID() || one.Base().ID() != f.ID() || fs.StreamOf(one) == nil {
			e.Error("a stream takes itself for something else")
		}
		e.is(e.fs.Rename(ctx, one, "x", false), fs.ErrInvalid)
		// Nothing of it in any folder.
		e.has("", name)
		if dir {
			e.has(name)
		}
		e.ok(e.fs.Remove(ctx, two))
		e.is(e.fs.Remove(ctx, two), fs.ErrNotExist)
		e.holds(two, "second") // while it is open
		e.streamNames(f, "One")
		e.noStream(f, "a two")
		e.createStream(f, "A TWO", "")
		e.streamNames(f, "A TWO", "One")
		e.ok(e.fs.Remove(ctx, f))
		e.holds(one, "first")
		_, err = one.Name()
		e.is(err, fs.ErrNotExist)
		_, err = e.streams(f).CreateStream(ctx, "late", fs.StreamOptions{})
		e.is(err, fs.ErrNotExist)
		g := e.createWith(name, fs.CreateOptions{Dir: dir})
		e.streamNames(g)
		e.ok(e.fs.Remove(ctx, g))
	}
}

func testStreamNames(e *env) {
	if !e.hasStreams() {
		return
	}
	f := e.create("f")
	for name, want := range map[string]error{
		"": fs.ErrBadName, "a/b": fs.ErrBadName, `a\b`: fs.ErrBadName, "a:b": fs.ErrBadName, "a\x00": fs.ErrBadName,
		"\xff": fs.ErrBadName, strings.Repeat("x", 256): fs.ErrNameTooLong,
	} {
		_, err := e.streams(f).CreateStream(ctx, name, fs.StreamOptions{})
		e.is(err, want)
		_, err = e.streams(f).OpenStream(ctx, name, 0)
		e.is(err, want)
	}
	good := []string{"\x01?*<>|\"", ".", "..", "...", strings.Repeat("x", 255), "übung"}
	for _, name := range good {
		e.createStream(f, name, name)
	}
	e.streamNames(f, good...)
	for _, name := range good {
		e.holds(e.openStream(f, name), name)
	}
	e.holds(e.openStream(f, "ÜBUNG"), "übung")
}

func testStreamRename(e *env) {
	if !e.hasStreams() {
		return
	}
	f := e.create("f")
	a, b := e.createStream(f, "a", "of a"), e.createStream(f, "b", "of b")
	again := e.openStream(f, "a")
	e.is(a.RenameStream(ctx, "B", false), fs.ErrExist)
	e.is(a.RenameStream(ctx, "x:y", false), fs.ErrBadName)
	e.ok(a.RenameStream(ctx, "A", false)) // the same name
	e.streamNames(f, "a", "b")
	e.ok(a.RenameStream(ctx, "c", false))
	e.streamNames(f, "b", "c")
	if n, err := again.StreamName(); err != nil || n != "c" {
		e.Errorf("StreamName %q, %v", n, err)
	}
	e.ok(again.RenameStream(ctx, "B", true))
	e.holds(e.openStream(f, "b"), "of a")
	e.holds(b, "of b")
	_, err := b.StreamName()
	e.is(err, fs.ErrNotExist)
	e.is(b.RenameStream(ctx, "d", false), fs.ErrNotExist)

	// The file's own renames.
	e.mkdir("d")
	e.ok(e.fs.Rename(ctx, f, "d/g", false))
	e.holds(e.openStream(e.open("d/g", 0), "b"), "of a")
	if n, err := a.Name(); err != nil || n != "d/g" {
		e.Errorf("Name %q, %v", n, err)
	}
	// One that takes its place has its own streams, or none.
	h := e.create("h")
	e.ok(e.fs.Rename(ctx, h, "d/g", true))
	e.streamNames(e.open("d/g", 0))
	e.holds(a, "of a")
}

func testStreamLinks(e *env) {
	if !e.hasStreams() {
		return
	}
	f := e.create("f")
	e.createStream(f, "s", "kept")
	e.ok(e.fs.Link(ctx, f, "l", false))
	e.ok(e.fs.Remove(ctx, f))
	l := e.open("l", 0)
	e.holds(e.openStream(l, "s"), "kept")
	g := e.create("g")
	e.createStream(g, "t", "of g")
	e.ok(e.fs.Link(ctx, g, "l", true))
	e.streamNames(e.open("l", 0), "t")
	e.ok(e.fs.Remove(ctx, g))
	e.streamNames(e.open("l", 0), "t")
}

func testStreamData(e *env) {
	if !e.hasStreams() {
		return
	}
	f := e.create("f")
	_, err := f.WriteAt([]byte("main"), 0)
	e.ok(err)
	s := e.createStream(f, "s", "")
	const far = 40 << 20
	_, err = s.WriteAt([]byte("end"), far)
	e.ok(err)
	e.ok(s.Sync(ctx))
	info, err := s.Stat(ctx)
	e.ok(err)
	if info.Size != far+3 || info.AllocationSize >= far || info.Dir || info.ID != f.ID() {
		e.Errorf("stream is %+v", info)
	}
	base, err := f.Stat(ctx)
	e.ok(err)
	if base.Size != 4 || !base.Written.Equal(info.Written) || info.Created != base.Created {
		e.Errorf("file is %+v, its stream %+v", base, info)
	}
	b := make([]byte, 8)
	if n, err := s.ReadAt(b, far-2); n != 5 || err != nil || !bytes.Equal(b[:n], []byte("\x00\x00end")) {
		e.Errorf("read %q, %v", b[:n], err)
	}
	if n, err := f.CopyRange(ctx, s, far, 1, 3); n != 3 || err != nil {
		e.Errorf("copied %d, %v", n, err)
	}
	e.holds(f, "mend")
	e.ok(s.Truncate(ctx, 5))
	e.ok(s.Zero(ctx, 0, 5))
	if n, err := s.CopyRange(ctx, f, 0, 1, 4); n != 4 || err != nil {
		e.Errorf("copied %d, %v", n, err)
	}
	e.holds(s, "\x00mend")

	// Attributes are the file's, but for sparse.
	e.ok(s.SetAttributes(ctx, fscc.FILE_ATTRIBUTE_HIDDEN|fscc.FILE_ATTRIBUTE_SPARSE_FILE))
	info, err = s.Stat(ctx)
	e.ok(err)
	base, err = f.Stat(ctx)
	e.ok(err)
	if info.Attributes != fscc.FILE_ATTRIBUTE_HIDDEN|fscc.FILE_ATTRIBUTE_SPARSE_FILE || base.Attributes != fscc.FILE_ATTRIBUTE_HIDDEN {
		e.Errorf("attributes %#x of the stream, %#x of the file", info.Attributes, base.Attributes)
	}
	e.ok(s.SetSecurityDescriptor(ctx, []byte("sd")))
	if sd, err := f.SecurityDescriptor(ctx); err != nil || string(sd) != "sd" {
		e.Errorf("security descriptor %q, %v", sd, err)
	}
	e.ok(e.fs.SyncParent(ctx, s))
	e.ok(s.Close())
	_, err = s.WriteAt(b, 0)
	e.is(err, fs.ErrClosed)
}

// Of many who make a stream of one name, in two cases, one does.
func testRaceStreams(e *env) {
	if !e.hasStreams() {
		return
	}
	f := e.create("f")
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := map[string]int{}
	for i := range 8 {
		wg.Go(func() {
			for n := range 10 {
				name := fmt.Sprintf("%c%d", "sS"[i%2], n)
				s, err := e.streams(f).CreateStream(ctx, name, fs.StreamOptions{})
				if err != nil {
					if !errors.Is(err, fs.ErrExist) {
						e.Error(err)
					}
					continue
				}
				s.Close()
				mu.Lock()
				won[strings.ToLower(name)]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(won) != 10 {
		e.Errorf("made %v", won)
	}
	for name, n := range won {
		if n != 1 {
			e.Errorf("%s made %d times", name, n)
		}
	}
}
