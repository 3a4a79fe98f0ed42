package smbstore_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"lunless/smbstore"
	"lunless/smbstore/block"
	"lunless/smbstore/storetest"
)

// The server copies, zeroes and tells its holes, encrypted or signed.
func TestSMBControl(t *testing.T) {
	eachServer(t, testSMBControl)
	t.Run("encrypted", func(t *testing.T) {
		testSMBControl(t, storetest.StartSamba(t, "server smb encrypt = required"))
	})
	t.Run("SMB 3.0", func(t *testing.T) {
		testSMBControl(t, storetest.StartSamba(t, "server max protocol = SMB3_00"))
	})
}

func testSMBControl(t *testing.T, server *storetest.Server) {
	s, err := smbstore.Open(t.Context(), server.Location(""), server.Options())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	open := func(name string) smbstore.File {
		t.Helper()
		f, err := s.OpenFile(name, smbstore.ReadWrite|smbstore.Create)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	src, dst := open("src"), open("dst ü")
	const size = 40<<20 + 777
	data := make([]byte, size)
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < size; i += 100 {
		data[i] = byte(rnd.Uint32())
	}
	if _, err := src.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	n, err := dst.(block.RangeCopier).CopyFrom(src, 5, 3, size-5)
	if err != nil || n != size-5 {
		t.Fatalf("CopyFrom: %d, %v", n, err)
	}
	got := make([]byte, size-5)
	if _, err := dst.ReadAt(got, 3); err != nil || !bytes.Equal(got, data[5:]) {
		t.Errorf("the copy differs, %v", err)
	}
	if err := dst.(block.Puncher).PunchHole(8<<20, 16<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := dst.ReadAt(got[:16<<20], 8<<20); err != nil || !block.IsZero(got[:16<<20]) {
		t.Errorf("the hole does not read as zeroes, %v", err)
	}
	if err := dst.Sync(); err != nil {
		t.Fatal(err)
	}
	sparse := open("sparse")
	if err := sparse.Truncate(1 << 30); err != nil {
		t.Fatal(err)
	}
	if _, err := sparse.WriteAt([]byte("x"), 512<<20); err != nil {
		t.Fatal(err)
	}
	if err := sparse.Sync(); err != nil {
		t.Fatal(err)
	}
	var at, zero int64
	err = sparse.(block.Extenter).FileExtents(0, 1<<30, func(e block.Extent) error {
		if e.Offset != at {
			t.Errorf("extent %+v does not continue at %d", e, at)
		}
		if at = e.Offset + e.Length; e.State == block.Zero {
			zero += e.Length
			if e.Offset <= 512<<20 && e.Offset+e.Length > 512<<20 {
				t.Errorf("%+v hides data", e)
			}
		}
		return nil
	})
	if err != nil || at != 1<<30 {
		t.Errorf("extents end at %d, %v", at, err)
	}
	t.Logf("%d of %d bytes are known to be zero", zero, at)
	// The control connection's handles do not outlive the files'.
	for _, f := range []smbstore.File{src, dst, sparse} {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Rename("dst ü", "renamed"); err != nil {
		t.Error(err)
	}
}

// A copy the server made and never synced may be lost with the server: the next
// Sync must not succeed.
func TestSMBUnsyncedCopyLost(t *testing.T) {
	eachServer(t, func(t *testing.T, server *storetest.Server) {
		s, err := smbstore.Open(t.Context(), server.Location(""), server.Options())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var files [2]smbstore.File
		for i, name := range []string{"a", "b"} {
			if files[i], err = s.OpenFile(name, smbstore.ReadWrite|smbstore.Create); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := files[0].WriteAt(make([]byte, 1<<20), 0); err != nil {
			t.Fatal(err)
		}
		if _, err := files[1].(block.RangeCopier).CopyFrom(files[0], 0, 0, 1<<20); err != nil {
			t.Fatal(err)
		}
		server.Kill()
		server.Start(t)
		if err := files[1].Sync(); !errors.Is(err, block.ErrFailed) {
			t.Errorf("got %v, want ErrFailed", err)
		}
		if err := files[0].Sync(); err != nil {
			t.Error(err)
		}
	})
}
