package smbstore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/storetest"
)

func TestLocalStore(t *testing.T) {
	s, err := smbstore.OpenPath(t.Context(), t.TempDir(), smbstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	storetest.Test(t, s)
	if err := s.MkdirAll("below"); err != nil {
		t.Fatal(err)
	}
	storetest.Test(t, smbstore.Sub(s, "below"))
}

func TestSMBStoreOnSamba(t *testing.T) {
	samba := storetest.StartSamba(t)
	s, err := smbstore.Open(t.Context(), samba.Location("Some Folder/ünder"), samba.Options())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.MkdirAll(""); err != nil {
		t.Fatal(err)
	}
	storetest.Test(t, s)
}

func TestSMBStoreRefusals(t *testing.T) {
	samba := storetest.StartSamba(t)
	o := samba.Options()
	o.Credentials = &smbstore.Credentials{User: samba.User, Password: "wrong"}
	if _, err := smbstore.Open(t.Context(), samba.Location(""), o); !errors.Is(err, smbstore.ErrLogon) {
		t.Errorf("a wrong password: %v", err)
	}
	l := samba.Location("")
	l.Share = "nosuch"
	if _, err := smbstore.Open(t.Context(), l, samba.Options()); !errors.Is(err, smbstore.ErrNoShare) {
		t.Errorf("a share that is not there: %v", err)
	}
}

// A writer and a reader go on while the server is killed and started again.
func TestSMBReconnect(t *testing.T) {
	samba := storetest.StartSamba(t)
	s, err := smbstore.Open(t.Context(), samba.Location(""), samba.Options())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f, err := s.OpenFile("disk", smbstore.ReadWrite|smbstore.Create)
	if err != nil {
		t.Fatal(err)
	}
	const workers, size = 4, 32 << 10
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	var ops atomic.Int64
	for w := range int64(workers) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			p, q := make([]byte, size), make([]byte, size)
			for seq := uint64(1); ctx.Err() == nil; seq++ {
				off := (w + workers*int64(seq%16)) * size
				for i := 0; i < size; i += 8 {
					binary.LittleEndian.PutUint64(p[i:], seq)
				}
				if _, err := f.WriteAt(p, off); err != nil {
					t.Error(err)
					return
				}
				if seq%8 == 0 {
					if err := f.Sync(); err != nil {
						t.Error(err)
						return
					}
				}
				if _, err := f.ReadAt(q, off); err != nil && err != io.EOF || !bytes.Equal(p, q) {
					t.Errorf("worker %d, %d: an acknowledged write is gone (%v)", w, seq, err)
					return
				}
				ops.Add(1)
			}
		}()
	}
	for range 4 {
		time.Sleep(time.Second)
		samba.Kill()
		time.Sleep(200 * time.Millisecond)
		samba.Start(t)
	}
	wg.Wait()
	if ops.Load() < 100 {
		t.Errorf("only %d operations", ops.Load())
	}
	samba.Kill()
	samba.Start(t)
	for name, err := range map[string]error{
		"mkdir": s.Mkdir("d"), "rename": s.Rename("disk", "d/disk"),
	} {
		if err != nil {
			t.Errorf("%s after a restart: %v", name, err)
		}
	}
}

func TestSMBUnreachable(t *testing.T) {
	samba := storetest.StartSamba(t)
	o := samba.Options()
	o.ReconnectTimeout = time.Second
	s, err := smbstore.Open(t.Context(), samba.Location(""), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f, err := s.OpenFile("x", smbstore.ReadWrite|smbstore.Create)
	if err != nil {
		t.Fatal(err)
	}
	samba.Kill()
	start := time.Now()
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, smbstore.ErrUnreachable) {
		t.Errorf("write to a dead server: %v", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("gave up after %v", took)
	}
}

// The file is another after the restart: the handle must not write into it.
func TestSMBReplaced(t *testing.T) {
	samba := storetest.StartSamba(t)
	s, err := smbstore.Open(t.Context(), samba.Location(""), samba.Options())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f, err := s.OpenFile("x", smbstore.ReadWrite|smbstore.Create)
	if err != nil {
		t.Fatal(err)
	}
	samba.Kill()
	samba.Start(t)
	local, err := smbstore.OpenPath(t.Context(), samba.Dir+"/vms", smbstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := smbstore.WriteFile(local, "x", []byte("another")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, smbstore.ErrReplaced) {
		t.Errorf("got %v, want ErrReplaced", err)
	}
	if err := local.Remove("x"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, smbstore.ErrNotExist) {
		t.Errorf("got %v, want ErrNotExist", err)
	}
}
