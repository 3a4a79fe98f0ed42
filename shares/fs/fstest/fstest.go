// Package fstest is the conformance suite of fs.FS: what every implementation
// and every wrapper must do, whatever holds the bytes.
package fstest

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"lunless/shares/fs"
)

// Run checks the FS that newFS makes: empty, writable, its own for each call. newFS
// closes it by t.Cleanup. Subtests run one after the other.
func Run(t *testing.T, newFS func(t *testing.T) fs.FS) {
	for _, c := range []struct {
		name string
		test func(*env)
	}{
		{"Root", testRoot},
		{"OpenErrors", testOpenErrors},
		{"BadNames", testBadNames},
		{"CaseInsensitive", testCase},
		{"CreateErrors", testCreateErrors},
		{"CreateOptions", testCreateOptions},
		{"Cancelled", testCancelled},
		{"ClosedFile", testClosedFile},
		{"ID", testID},
		{"Metadata", testMetadata},
		{"Volume", testVolume},
		{"ReadWrite", testReadWrite},
		{"DataErrors", testDataErrors},
		{"Truncate", testTruncate},
		{"Allocation", testAllocation},
		{"Zero", testZero},
		{"Allocated", testAllocated},
		{"CopyRange", testCopyRange},
		{"Sync", testSync},
		{"Rename", testRename},
		{"RenameFollowed", testRenameFollowed},
		{"RenameErrors", testRenameErrors},
		{"Link", testLink},
		{"Remove", testRemove},
		{"List", testList},
		{"ListWhileChanging", testListWhileChanging},
		{"RaceCreate", testRaceCreate},
		{"RaceRename", testRaceRename},
		{"RaceClose", testRaceClose},
		{"ExtendedAttributes", testEAs},
		{"Streams", testStreams},
		{"StreamNames", testStreamNames},
		{"StreamRename", testStreamRename},
		{"StreamLinks", testStreamLinks},
		{"StreamData", testStreamData},
		{"RaceStreams", testRaceStreams},
		{"Model", testModel},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(&env{T: t, fs: newFS(t)}) })
	}
}

const readWrite = fs.ReadData | fs.WriteData

var ctx = context.Background()

// env is one test's store, with helpers that end the test on what nobody expects.
type env struct {
	*testing.T
	fs fs.FS
}

func (e *env) ok(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

// is checks an error against a sentinel; nil wants success.
func (e *env) is(err, want error) {
	e.Helper()
	if !errors.Is(err, want) {
		e.Errorf("error %v, want %v", err, want)
	}
}

func (e *env) create(name string) fs.File {
	e.Helper()
	return e.createWith(name, fs.CreateOptions{Access: readWrite})
}

func (e *env) mkdir(name string) fs.File {
	e.Helper()
	return e.createWith(name, fs.CreateOptions{Dir: true})
}

func (e *env) createWith(name string, opts fs.CreateOptions) fs.File {
	e.Helper()
	f, err := e.fs.Create(ctx, name, opts)
	e.ok(err)
	e.Cleanup(func() { f.Close() })
	return f
}

func (e *env) open(name string, access fs.Access) fs.File {
	e.Helper()
	f, err := e.fs.Open(ctx, name, access)
	e.ok(err)
	e.Cleanup(func() { f.Close() })
	return f
}

// cannotOpen checks the error of opening name, for metadata and for data.
func (e *env) cannotOpen(name string, want error) {
	e.Helper()
	for _, access := range []fs.Access{0, fs.ReadData} {
		f, err := e.fs.Open(ctx, name, access)
		if err == nil {
			f.Close()
		}
		if !errors.Is(err, want) {
			e.Errorf("Open(%q, %d): %v, want %v", name, access, err, want)
		}
	}
}

func (e *env) cannotCreate(name string, want error) {
	e.Helper()
	for _, dir := range []bool{false, true} {
		f, err := e.fs.Create(ctx, name, fs.CreateOptions{Dir: dir})
		if err == nil {
			f.Close()
		}
		if !errors.Is(err, want) {
			e.Errorf("Create(%q, dir %t): %v, want %v", name, dir, err, want)
		}
	}
}

func (e *env) name(f fs.File, want string) {
	e.Helper()
	got, err := f.Name()
	if err != nil || got != want {
		e.Errorf("Name: %q, %v, want %q", got, err, want)
	}
}

func (e *env) stat(f fs.File) fs.Info {
	e.Helper()
	info, err := f.Stat(ctx)
	e.ok(err)
	return info
}

func (e *env) write(f fs.File, off int64, data string) {
	e.Helper()
	n, err := f.WriteAt([]byte(data), off)
	if err != nil || n != len(data) {
		e.Fatalf("WriteAt(%d bytes, %d): %d, %v", len(data), off, n, err)
	}
}

// content reads a file from its beginning to its end and past it.
func (e *env) content(f fs.File) string {
	e.Helper()
	p := make([]byte, e.stat(f).Size+64)
	n, err := f.ReadAt(p, 0)
	e.ok(err)
	return string(p[:n])
}

func (e *env) holds(f fs.File, want string) {
	e.Helper()
	if got := e.content(f); got != want {
		e.Errorf("content %q, want %q", brief(got), brief(want))
	}
}

func brief(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// list returns the names in a folder, sorted.
func (e *env) list(name string) []string {
	e.Helper()
	return e.listFile(e.open(name, 0), nil)
}

func (e *env) listFile(f fs.File, match func(string) bool) []string {
	e.Helper()
	r, err := f.ReadDir(ctx)
	e.ok(err)
	defer r.Close()
	names := []string{}
	for {
		entry, err := r.Next(match)
		if err == io.EOF {
			break
		}
		e.ok(err)
		names = append(names, entry.Name)
	}
	slices.Sort(names)
	return names
}

func (e *env) has(name string, want ...string) {
	e.Helper()
	if want == nil {
		want = []string{}
	}
	slices.Sort(want)
	if got := e.list(name); !slices.Equal(got, want) {
		e.Errorf("folder %q holds %q, want %q", name, got, want)
	}
}
