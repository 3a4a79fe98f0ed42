package shares

import (
	"context"
	"strings"
	"sync"
	"testing"

	"lunless/shares/fs"
	"lunless/smbstore/smb2"
)

// gatedFS holds up every write until its gate is opened, and, as fs.File has it,
// closes a file when its calls in progress have returned.
type gatedFS struct {
	fs.FS
	gate    chan struct{}
	entered chan struct{} // one for each write that has begun
}

func (g *gatedFS) Open(ctx context.Context, name string, a fs.Access) (fs.File, error) {
	f, err := g.FS.Open(ctx, name, a)
	if err != nil {
		return nil, err
	}
	return &gatedFile{File: f, fs: g}, nil
}

type gatedFile struct {
	fs.File
	fs *gatedFS
	mu sync.RWMutex
}

func (f *gatedFile) WriteAt(p []byte, off int64) (int, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	f.fs.entered <- struct{}{}
	<-f.fs.gate
	return f.File.WriteAt(p, off)
}

func (f *gatedFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.File.Close()
}

// A host that comes back ends its old session while a write of that is under
// way: the disk is nobody else's before the write is over.
func TestWritesAreOverBeforeOthersOpen(t *testing.T) {
	gated := &gatedFS{gate: make(chan struct{}), entered: make(chan struct{}, 1)}
	srv := startServer(t, func(cfg *Config) {
		gated.FS = cfg.Shares[0].FS
		cfg.Shares[0].FS = gated
	})
	var once sync.Once
	open := func() { once.Do(func() { close(gated.gate) }) }
	t.Cleanup(open)
	old, other := loginRaw(t, srv.addr, smb2.Dialect311, "vms"), loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	old.existing("disk", 0, 0)
	id := old.mustCreate(&smb2.CreateRequest{Name: "disk", DesiredAccess: smb2.GenericWrite, ShareAccess: smb2.FileShareRead,
		CreateDisposition: smb2.FileOpen}).FileID
	const size = 256 << 10 // large enough for a worker
	old.send(old.build(smb2.CommandWrite, &smb2.WriteRequest{FileID: id, Length: size}, []byte(strings.Repeat("x", size))))
	<-gated.entered

	back := dialRaw(t, srv.addr)
	back.negotiate(smb2.Dialect311)
	ended := make(chan smb2.Status, 1)
	go func() { ended <- back.setup(testUser, testPassword, old.session) }()
	for range 20 {
		other.wantOpen("disk", smb2.GenericWrite, shareAll, smb2.StatusSharingViolation)
		sleepBriefly()
	}
	open()
	if st := <-ended; st != smb2.StatusSuccess {
		t.Fatal(st)
	}
	other.wantOpen("disk", smb2.GenericWrite, shareAll, smb2.StatusSuccess)
}
