package smbstore

import (
	"errors"
	"testing"
)

// TestDenyWrite: readers who deny writing share a file, and no writer is among them.
func TestDenyWrite(t *testing.T) {
	s, err := Open(t.Context(), Location{Path: t.TempDir()}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	open := func(flags Flags) (File, error) { return s.OpenFile("x", flags) }
	f, err := open(ReadWrite | Create)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(Read | DenyWrite); !errors.Is(err, ErrSharing) {
		t.Errorf("deny writing beside a writer: %v", err)
	}
	f.Close()
	a, err := open(Read | DenyWrite)
	if err != nil {
		t.Fatal(err)
	}
	b, err := open(Read | DenyWrite)
	if err != nil {
		t.Fatal("a second reader:", err)
	}
	if _, err := open(Read); err != nil {
		t.Errorf("a plain reader: %v", err)
	}
	for _, flags := range []Flags{ReadWrite, Write, ReadWrite | DenyWrite} {
		if _, err := open(flags); !errors.Is(err, ErrSharing) {
			t.Errorf("writer with flags %#x beside readers that deny it: %v", flags, err)
		}
	}
	a.Close()
	if _, err := open(ReadWrite); !errors.Is(err, ErrSharing) {
		t.Errorf("one of the readers is still there: %v", err)
	}
	b.Close()
	w, err := open(ReadWrite | DenyWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := open(Read | DenyWrite); !errors.Is(err, ErrSharing) {
		t.Errorf("deny writing beside one who writes alone: %v", err)
	}
}
