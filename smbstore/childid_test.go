package smbstore

import (
	"context"
	"testing"
)

// A guest must not see another disk because there is a checkpoint: a child has
// its parent's virtual disk ID (MS-VHDX 2.6.1.2, IsVirtualDisk), also where the
// parent lies in another folder.
func TestChildKeepsDiskID(t *testing.T) {
	ctx := context.Background()
	root := t.TempDir()
	at, err := ParseLocation(root)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(ctx, at, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, dir := range []string{"gold", "web1"} {
		if err := s.MkdirAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	web1, err := Open(ctx, at.Join("web1"), Options{}) // its parents' folder is another's
	if err != nil {
		t.Fatal(err)
	}
	defer web1.Close()
	create := func(s Store, name string, o CreateDiskOptions) {
		t.Helper()
		dev, err := CreateDisk(ctx, s, name, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := dev.Close(); err != nil {
			t.Fatal(err)
		}
	}
	create(s, "gold/base.vhdx", CreateDiskOptions{Format: VHDX, Size: 4 << 20})
	create(web1, "mid.avhdx", CreateDiskOptions{Parent: at.Join("gold", "base.vhdx")})
	create(web1, "leaf.avhdx", CreateDiskOptions{Parent: at.Join("web1", "mid.avhdx")})
	want, err := InspectDisk(ctx, s, "gold/base.vhdx")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"web1/mid.avhdx", "web1/leaf.avhdx"} {
		got, err := InspectDisk(ctx, s, name)
		if err != nil {
			t.Fatal(err)
		}
		if got.ID != want.ID {
			t.Errorf("%s has the virtual disk ID %s, its parent %s", name, got.ID, want.ID)
		}
	}
}
