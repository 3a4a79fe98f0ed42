package smbstore_test

import (
	"testing"

	"lunless/smbstore"
	"lunless/smbstore/storetest"
)

// A process that dies with a copy, a lock or a small file open leaves it to whoever
// comes next, on a continuously available share too.
func TestDeadWriterKeepsNobodyOut(t *testing.T) {
	server := storetest.StartLunless(t)
	for _, share := range []string{"vms", "ca"} {
		t.Run(share, func(t *testing.T) {
			at := server.Location("")
			at.Share = share
			open := func() smbstore.Store {
				s, err := smbstore.Open(t.Context(), at, server.Options())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { s.Close() })
				return s
			}
			dead, next := open(), open()
			if err := next.MkdirAll("vm/folder"); err != nil {
				t.Fatal(err)
			}
			for name, flags := range map[string]smbstore.Flags{
				"vm/made": smbstore.ReadWrite | smbstore.Create | smbstore.Exclusive, "vm/folder/copied": smbstore.ReadWrite | smbstore.Create | smbstore.Truncate,
			} {
				f, err := dead.OpenFile(name, flags)
				if err == nil {
					_, err = f.WriteAt([]byte("a word"), 0)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			smbstore.Abandon(dead) // as if its process was killed
			if b, err := smbstore.ReadFile(next, "vm/made", 100); err != nil || string(b) != "a word" {
				t.Errorf("read: %q, %v", b, err)
			}
			f, err := next.OpenFile("vm/made", smbstore.ReadWrite|smbstore.Create|smbstore.Truncate)
			if err == nil {
				err = f.Close()
			}
			if err != nil {
				t.Errorf("write: %v", err)
			}
			if err := next.RemoveAll("vm"); err != nil {
				t.Errorf("remove: %v", err)
			}
		})
	}
}
