package fs

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// depotStore serves root until the function it returns is called.
func depotStore(t *testing.T, root string) (*POSIX, func()) {
	t.Helper()
	p, err := NewPOSIX(root, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return p, func() { p.Close() }
}

func depotFile(t *testing.T, p *POSIX, name, stream string) (*posixFile, *posixStream) {
	t.Helper()
	f, err := p.Create(context.Background(), name, CreateOptions{Access: ReadData | WriteData})
	if err != nil {
		t.Fatal(err)
	}
	s, err := f.(*posixFile).CreateStream(context.Background(), stream, StreamOptions{Access: WriteData})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.WriteAt([]byte("kept"), 0); err != nil {
		t.Fatal(err)
	}
	return f.(*posixFile), s.(*posixStream)
}

func TestStreamsAcrossRestarts(t *testing.T) {
	root, ctx := t.TempDir(), context.Background()
	p, stop := depotStore(t, root)
	f, s := depotFile(t, p, "f", "s")
	if err := s.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	s.Close()
	f.Close()
	stop()
	if err := os.Rename(filepath.Join(root, "f"), filepath.Join(root, "g")); err != nil {
		t.Fatal(err)
	}
	p, stop = depotStore(t, root)
	defer stop()
	g, err := p.Open(ctx, "g", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	again, err := g.(Streamer).OpenStream(ctx, "S", ReadData)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	b := make([]byte, 9)
	if n, err := again.ReadAt(b, 0); err != nil || string(b[:n]) != "kept" {
		t.Errorf("read %q, %v", b[:n], err)
	}
}

// A copy made beside the server has the mark and no streams, and gets its own.
func TestMarkWithoutStreams(t *testing.T) {
	root, ctx := t.TempDir(), context.Background()
	p, stop := depotStore(t, root)
	defer stop()
	f, err := p.Create(ctx, "copy", CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Setxattr(filepath.Join(root, "copy"), xattrMarker, []byte{1}, 0); err != nil {
		t.Fatal(err)
	}
	if list, err := f.(Streamer).Streams(ctx); err != nil || len(list) != 0 {
		t.Errorf("streams %v, %v", list, err)
	}
	s, err := f.(Streamer).CreateStream(ctx, "s", StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if err := p.Remove(ctx, f); err != nil {
		t.Error(err)
	}
}

// What a crash leaves: a file on its way out goes with its streams, one that was
// to be replaced and was not stays with them, and streams that a predecessor
// with the same FileID has left are nobody's.
func TestSweep(t *testing.T) {
	root, ctx := t.TempDir(), context.Background()
	p, stop := depotStore(t, root)
	names := map[string]string{}
	for _, name := range []string{"dying", "linked", "stale"} {
		f, s := depotFile(t, p, name, "s")
		names[name] = f.id.depotKey()
		s.Close()
		f.Close()
	}
	d, err := p.Create(ctx, "folder", CreateOptions{Dir: true})
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.(Streamer).CreateStream(ctx, "s", StreamOptions{})
	if err != nil {
		t.Fatal(err)
	}
	names["folder"] = d.ID().depotKey()
	s.Close()
	d.Close()
	stop()
	dead := filepath.Join(root, depotName, deadName)
	for _, err := range []error{
		os.MkdirAll(dead, 0o700),
		os.Rename(filepath.Join(root, "dying"), filepath.Join(dead, names["dying"])),
		os.Rename(filepath.Join(root, "folder"), filepath.Join(dead, names["folder"])),
		os.Link(filepath.Join(root, "linked"), filepath.Join(dead, names["linked"])),
		unix.Removexattr(filepath.Join(root, "stale"), xattrMarker),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	p, stop = depotStore(t, root)
	defer stop()
	for name, want := range map[string]bool{"dying": false, "folder": false, "linked": true, "stale": true} {
		if _, err := os.Stat(filepath.Join(root, depotName, names[name])); (err == nil) != want {
			t.Errorf("streams of %s: %v", name, err)
		}
	}
	if left, err := os.ReadDir(dead); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	for name, want := range map[string]int{"linked": 1, "stale": 0} {
		f, err := p.Open(ctx, name, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		list, err := f.(Streamer).Streams(ctx)
		if err != nil || len(list) != want {
			t.Errorf("%s has streams %v, %v", name, list, err)
		}
		if _, err := f.(Streamer).CreateStream(ctx, "new", StreamOptions{}); err != nil {
			t.Error(err)
		}
		if list, _ = f.(Streamer).Streams(ctx); len(list) != want+1 {
			t.Errorf("%s has streams %v", name, list)
		}
	}
}

// Files without streams leave the depot alone, and it costs them nothing to be deleted.
func TestNoDepotWithoutStreams(t *testing.T) {
	root, ctx := t.TempDir(), context.Background()
	p, stop := depotStore(t, root)
	defer stop()
	f, err := p.Create(ctx, "f", CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if list, err := f.(Streamer).Streams(ctx); err != nil || list != nil {
		t.Errorf("streams %v, %v", list, err)
	}
	if err := p.Remove(ctx, f); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(root); err != nil || len(entries) > 0 {
		t.Errorf("root holds %v, %v", entries, err)
	}
}
