package shares

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lunless/shares/fs"
	"lunless/smbstore/smb2"
)

// TestClosedEndIsABarrier: a client that has closed its end of the connection
// may take the server's closing for the end of all it sent, so that what it sends
// on another connection comes after.
func TestClosedEndIsABarrier(t *testing.T) {
	var fault *fs.Fault
	var late atomic.Bool
	release := make(chan struct{})
	srv := startServer(t, func(c *Config) {
		fault = fs.NewFault(c.Shares[0].FS)
		c.Shares[0].FS = fault
	})
	let := sync.OnceFunc(func() { close(release) })
	t.Cleanup(let) // before the server is stopped
	c := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	id := c.create("disk")
	data := bytes.Repeat([]byte{7}, 128<<10) // large enough for a worker
	started := make(chan struct{})
	fault.Set(func(op fs.Op, _ string) error {
		if op == fs.OpWrite && late.CompareAndSwap(false, true) {
			close(started)
			<-release // a disk that takes its time
		}
		return nil
	})
	c.send(c.build(smb2.CommandWrite, &smb2.WriteRequest{Length: uint32(len(data)), FileID: id}, data))
	<-started
	if err := c.nc.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	c.nc.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := c.nc.Read(make([]byte, 1)); err == io.EOF {
		t.Fatal("the server closed its end with a WRITE still on its way to the disk")
	}
	let()
	c.nc.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.Copy(io.Discard, c.nc); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(srv.root, "disk")); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the file holds %d bytes, %v: the WRITE had not landed when the server closed", len(got), err)
	}
}
