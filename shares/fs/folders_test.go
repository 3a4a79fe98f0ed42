package fs

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

func (p *POSIX) isClean(t *testing.T, f File) bool {
	t.Helper()
	st, err := statFD(f.(*posixFile).fd.fd)
	if err != nil {
		t.Fatal(err)
	}
	p.folders.mu.Lock()
	defer p.folders.mu.Unlock()
	_, clean := p.folders.clean[keyOf(&st)]
	return clean
}

// SyncParent flushes what has changed, up to the root, and nothing else.
func TestFoldersFlushedOnce(t *testing.T) {
	ctx := context.Background()
	p, _ := store(t)
	make := func(name string, dir bool) File {
		t.Helper()
		f, err := p.Create(ctx, name, CreateOptions{Dir: dir, Access: ReadData | WriteData})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	root, err := p.Open(ctx, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	a := make("a", true)
	b := make("a/b", true)
	f := make("a/b/f", false)
	folders := []File{root, a, b}
	want := func(when string, clean ...bool) {
		t.Helper()
		for i, f := range folders {
			if got := p.isClean(t, f); got != clean[i] {
				t.Errorf("%s: folder %d clean %v", when, i, got)
			}
		}
	}
	sync := func() {
		t.Helper()
		if err := p.SyncParent(ctx, f); err != nil {
			t.Fatal(err)
		}
	}
	want("created", false, false, false)
	sync()
	want("flushed", true, true, true)
	make("x", false)
	want("changed above", false, true, true)
	sync()
	want("flushed again", true, true, true)
	if err := p.Rename(ctx, f, "a/g", false); err != nil {
		t.Fatal(err)
	}
	want("renamed", true, false, false)
	sync()
	want("both ends flushed", true, true, true)
	if err := p.Remove(ctx, f); err != nil {
		t.Fatal(err)
	}
	want("removed", true, false, true)
	sync()
	want("removal flushed", true, true, true)
}

// What a flush of a folder lost cannot be told, so that nothing in it counts as
// flushed any more.
func TestFolderFlushFails(t *testing.T) {
	ctx := context.Background()
	p, _ := store(t)
	f, err := p.Create(ctx, "f", CreateOptions{Access: ReadData | WriteData})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p.folders.failed = map[folderKey]struct{}{keyOf(&p.rootStat): {}}
	for range 2 {
		if err := p.SyncParent(ctx, f); !errors.Is(err, ErrFailed) {
			t.Errorf("SyncParent: %v", err)
		}
	}
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, ErrFailed) {
		t.Errorf("write: %v", err)
	}
}

// All who ask while a flush is under way share the next one.
func TestFlushesAreShared(t *testing.T) {
	ctx := context.Background()
	p, _ := store(t)
	file, err := p.Create(ctx, "f", CreateOptions{Access: ReadData | WriteData})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	f := file.(*posixFile)
	const waiters = 50
	f.syncMu.Lock() // a flush under way
	f.started.Add(1)
	var wg sync.WaitGroup
	for range waiters {
		wg.Go(func() {
			if err := f.Sync(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	for f.fd.state.Load()/inUse < waiters { // all of them have asked
		time.Sleep(time.Millisecond)
	}
	time.Sleep(time.Millisecond)
	f.finished = 1
	f.syncMu.Unlock()
	wg.Wait()
	if n := f.started.Load(); n > waiters/5 { // two, but for who was held up between
		t.Errorf("%d flushes for %d waiters", n-1, waiters)
	}
}
