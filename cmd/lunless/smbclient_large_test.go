//go:build !race

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestSmbclientLargeFile puts a file past what 31 bits hold, and gets it into a
// FIFO, which spares the disk. Not by reget: smbclient asks past the file's end
// there, forgets its other READs at the first END_OF_FILE, and then takes their
// answers for a broken connection.
func TestSmbclientLargeFile(t *testing.T) {
	s := serve(t)
	const size = 2<<30 + 64<<20 + 4097
	source := randomFile(t, size, 64<<20)
	fifo := filepath.Join(t.TempDir(), "back")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	back, err := os.OpenFile(fifo, os.O_RDWR, 0) // with a writer, so that neither end waits for the other
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	same := make(chan error, 1)
	go func() { same <- sameStream(back, source, size) }()
	out, err := s.smbclient(t, "vms", fmt.Sprintf(`put "%s" big; get big "%s"; ls big`, source, fifo))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	back.SetReadDeadline(time.Now().Add(10 * time.Second)) // what the pipe still holds; nothing else comes
	if err := <-same; err != nil {
		t.Errorf("what came back: %v\n%s", err, out)
	}
	f, err := os.Open(filepath.Join(s.vms, "big"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := sameStream(f, source, size); err != nil {
		t.Errorf("what was put: %v", err)
	}
	if n, _ := f.Read(make([]byte, 1)); n != 0 {
		t.Errorf("what was put is longer than %d bytes", size)
	}
}

// sameStream compares what r still gives, n bytes, with a file.
func sameStream(r io.Reader, file string, n int64) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	var got, want [1 << 20]byte
	for at := int64(0); at < n; {
		k := min(n-at, int64(len(got)))
		if m, err := io.ReadFull(r, got[:k]); err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", at+int64(m), n, err)
		}
		if _, err := io.ReadFull(f, want[:k]); err != nil {
			return err
		}
		if !bytes.Equal(got[:k], want[:k]) {
			return fmt.Errorf("differs from %s in the %d bytes at %d", file, k, at)
		}
		at += k
	}
	return nil
}
