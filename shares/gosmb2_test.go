package shares

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	cloudsoda "github.com/cloudsoda/go-smb2"
	hirochachacha "github.com/hirochachacha/go-smb2"
)

// goFile is what both go-smb2 clients' files do.
type goFile interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
}

// goShare is what both clients' shares do, file types aside.
type goShare interface {
	Mkdir(name string, perm os.FileMode) error
	Rename(from, to string) error
	Remove(name string) error
	ReadDir(name string) ([]fs.FileInfo, error)
	Stat(name string) (fs.FileInfo, error)
}

type goClient struct {
	share  goShare
	create func(name string) (goFile, error)
	list   func() ([]string, error)
}

// goClients connect with each of the two.
var goClients = map[string]func(t *testing.T, addr string) goClient{
	"cloudsoda": func(t *testing.T, addr string) goClient {
		d := cloudsoda.Dialer{Initiator: &cloudsoda.NTLMInitiator{User: testUser, Password: testPassword}}
		s, err := d.Dial(context.Background(), addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Logoff() })
		share, err := s.Mount("vms")
		if err != nil {
			t.Fatal(err)
		}
		return goClient{share, func(name string) (goFile, error) { return share.Create(name) }, s.ListSharenames}
	},
	"hirochachacha": func(t *testing.T, addr string) goClient {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		d := hirochachacha.Dialer{Initiator: &hirochachacha.NTLMInitiator{User: testUser, Password: testPassword}}
		s, err := d.Dial(nc)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Logoff() })
		share, err := s.Mount("vms")
		if err != nil {
			t.Fatal(err)
		}
		return goClient{share, func(name string) (goFile, error) { return share.Create(name) }, s.ListSharenames}
	},
}

// TestGoClients exercises both clients, with eight 1 MiB requests in flight, on a
// server that signs and one that encrypts.
func TestGoClients(t *testing.T) {
	for _, encrypt := range []bool{false, true} {
		srv := startServer(t, func(c *Config) { c.Encrypt = encrypt })
		for name, connect := range goClients {
			t.Run(fmt.Sprintf("%s/encrypt=%v", name, encrypt), func(t *testing.T) {
				exerciseGoClient(t, srv, connect(t, srv.addr), name)
			})
		}
	}
}

func exerciseGoClient(t *testing.T, srv *testServer, c goClient, dir string) {
	if err := c.share.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	f, err := c.create(dir + `\disk0.vhdx`)
	if err != nil {
		t.Fatal(err)
	}
	const chunk, chunks = 1 << 20, 24
	data := make([]byte, chunk*chunks)
	rng := rand.NewChaCha8([32]byte{3})
	rng.Read(data)
	inParallel(t, chunks, func(i int) error {
		_, err := f.WriteAt(data[i*chunk:(i+1)*chunk], int64(i*chunk))
		return err
	})
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(data))
	inParallel(t, chunks, func(i int) error {
		_, err := f.ReadAt(got[i*chunk:(i+1)*chunk], int64(i*chunk))
		return err
	})
	if !bytes.Equal(got, data) {
		t.Fatal("what was read differs from what was written")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.share.Rename(dir+`\disk0.vhdx`, dir+`\disk1.vhdx`); err != nil {
		t.Fatal(err)
	}
	if onDisk, err := os.ReadFile(filepath.Join(srv.root, dir, "disk1.vhdx")); err != nil || !bytes.Equal(onDisk, data) {
		t.Fatalf("on disk: %v, %d bytes", err, len(onDisk))
	}
	if list, err := c.share.ReadDir(dir); err != nil || len(list) != 1 || list[0].Size() != int64(len(data)) {
		t.Fatalf("listing: %v %v", list, err)
	}
	if err := c.share.Remove(dir + `\disk1.vhdx`); err != nil {
		t.Fatal(err)
	}
	if _, err := c.share.Stat(dir + `\disk1.vhdx`); !os.IsNotExist(err) {
		t.Fatalf("after removal: %v", err)
	}
	if names, err := c.list(); err != nil || len(names) != 2 {
		t.Fatalf("shares: %v %v", names, err)
	}
}

// inParallel runs fn for 0 to n-1, eight at a time.
func inParallel(t *testing.T, n int, fn func(i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := fn(i); err != nil {
				t.Errorf("request %d: %v", i, err)
			}
		})
	}
	wg.Wait()
}
