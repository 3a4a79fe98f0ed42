package fstest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"lunless/shares/fs"
)

// together runs n calls of f at a time.
func together(n int, f func(i int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			f(i)
		})
	}
	close(start)
	wg.Wait()
}

// spelling is name with the case of each letter taken from the bits of n.
func spelling(name string, n int) string {
	b := []byte(strings.ToLower(name))
	for i := range b {
		if n>>i&1 == 1 && 'a' <= b[i] && b[i] <= 'z' {
			b[i] -= 'a' - 'A'
		}
	}
	return string(b)
}

// Of calls that race for names equal but for case, one wins, and whoever opens
// the object sees what it was made with.
func testRaceCreate(e *env) {
	e.mkdir("dir")
	const rounds, racers = 30, 16
	for round := range rounds {
		name := fmt.Sprintf("dir/abcd-%d", round)
		var won, opened atomic.Int32
		together(racers, func(i int) {
			f, err := e.fs.Create(ctx, spelling(name, i<<4), fs.CreateOptions{
				Dir: round%2 == 1, Attributes: 2, SecurityDescriptor: []byte("sd"),
			})
			switch {
			case err == nil:
				won.Add(1)
				defer f.Close()
			case !errors.Is(err, fs.ErrExist):
				e.Errorf("create: %v", err)
			}
			g, err := e.fs.Open(ctx, spelling(name, i<<4^0xF0), 0)
			if err != nil {
				e.Errorf("open after create: %v", err)
				return
			}
			defer g.Close()
			opened.Add(1)
			sd, err := g.SecurityDescriptor(ctx)
			if string(sd) != "sd" || err != nil {
				e.Errorf("opened half made: security descriptor %q, %v", sd, err)
			}
		})
		if won.Load() != 1 {
			e.Fatalf("%d creates of one name won", won.Load())
		}
	}
	if n := len(e.list("dir")); n != rounds {
		e.Errorf("%d objects, want %d", n, rounds)
	}
}

// A file moved to and fro, between folders and cases, is found at one of its
// names or at none, is never somebody else's, and tells a name it has or had.
func testRaceRename(e *env) {
	e.mkdir("one")
	e.mkdir("two")
	f := e.create("one/file")
	other := e.create("two/other")
	names := []string{"one/file", "two/File", "two/FILE", "one/FILE", "one/moved"}
	var stop atomic.Bool
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := i; !stop.Load(); n++ {
				g, err := e.fs.Open(ctx, spelling(names[n%len(names)], n), 0)
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if err != nil {
					e.Errorf("open: %v", err)
					return
				}
				if g.ID() != f.ID() {
					e.Errorf("opened something else: %v", g.ID())
				}
				if name, err := g.Name(); err != nil || name == "two/other" {
					e.Errorf("name %q, %v", name, err)
				}
				g.Close()
			}
		})
	}
	for i := range 500 {
		e.ok(e.fs.Rename(ctx, f, names[(i+1)%len(names)], i%2 == 0))
	}
	stop.Store(true)
	wg.Wait()

	// Two files after one name: without replace one of them gets it.
	for round := range 50 {
		target := fmt.Sprintf("one/Target%d", round)
		var won atomic.Int32
		together(2, func(i int) {
			err := e.fs.Rename(ctx, []fs.File{f, other}[i], spelling(target, i<<4), false)
			switch {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, fs.ErrExist):
				e.Errorf("rename: %v", err)
			}
		})
		if won.Load() != 1 {
			e.Fatalf("%d renames to one name won", won.Load())
		}
	}
}

// A file closed under its readers and writers gives them ErrClosed and never
// another file's data, though its descriptor's number is used again at once.
func testRaceClose(e *env) {
	secret := e.create("secret")
	e.write(secret, 0, strings.Repeat("secret..", 512))
	for round := range 30 {
		name := fmt.Sprintf("file%d", round)
		f, err := e.fs.Create(ctx, name, fs.CreateOptions{Access: readWrite})
		e.ok(err)
		e.write(f, 0, strings.Repeat("public..", 512))
		together(6, func(i int) {
			if i == 0 {
				if err := f.Close(); err != nil {
					e.Errorf("close: %v", err)
				}
				for range 8 {
					g, err := e.fs.Open(ctx, "secret", readWrite)
					if err != nil {
						e.Errorf("open: %v", err)
						return
					}
					defer g.Close()
				}
				return
			}
			p := make([]byte, 4096)
			for {
				var n int
				var err error
				if i%2 == 0 {
					n, err = f.ReadAt(p, 0)
				} else {
					n, err = f.WriteAt([]byte(strings.Repeat("public..", 512)), 0)
				}
				if errors.Is(err, fs.ErrClosed) {
					return
				}
				if err != nil || n != len(p) || i%2 == 0 && string(p[:8]) != "public.." {
					e.Errorf("read or write during close: %q, %d, %v", p[:8], n, err)
					return
				}
			}
		})
	}
	e.holds(secret, strings.Repeat("secret..", 512))
}
