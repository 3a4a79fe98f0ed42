package fs

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestShortName(t *testing.T) {
	for _, name := range []string{"A", "lunless", "DISK0.VHD", "a~1.txt", "12345678.abc", "_$#-{}"} {
		if got := ShortName(name); got != name {
			t.Errorf("%q is short already, got %q", name, got)
		}
	}
	seen := map[string]string{}
	for _, name := range []string{"Disk.vhdx", "Disk.vhdy", "disk with spaces.vhdx", "ünïcode", "日本語.txt", ".hidden", "a.b.c", "name.", "123456789", "a[1].txt", "...x"} {
		got := ShortName(name)
		if !isShort(got) || !mayBeComputed(got) {
			t.Errorf("%q became %q, which is no short name", name, got)
		}
		if other, ok := seen[got]; ok {
			t.Errorf("%q and %q are both %q", name, other, got)
		}
		seen[got] = name
	}
}

func FuzzShortName(f *testing.F) {
	f.Add("Disk.vhdx")
	f.Add("\xff.\xff")
	f.Fuzz(func(t *testing.T, name string) {
		if name == "" {
			return
		}
		if got := ShortName(name); !isShort(got) {
			t.Errorf("%q became %q", name, got)
		}
	})
}

func TestOpenByShortName(t *testing.T) {
	dir := t.TempDir()
	p, err := NewPOSIX(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := os.MkdirAll(filepath.Join(dir, "Virtual Machines"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "Virtual Machines", "web1.json.old"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	short := ShortName("Virtual Machines") + "/" + ShortName("web1.json.old")
	f, err := p.Open(t.Context(), short, ReadData)
	if err != nil {
		t.Fatalf("open %s: %v", short, err)
	}
	defer f.Close()
	if name, err := f.Name(); err != nil || name != "Virtual Machines/web1.json.old" {
		t.Errorf("%s leads to %q, %v", short, name, err)
	}
	if _, err := p.Create(t.Context(), short, CreateOptions{}); !errors.Is(err, ErrExist) {
		t.Errorf("a second object of that name: %v", err)
	}
	if _, err := p.Open(t.Context(), "VIR~0000", ReadData); !errors.Is(err, ErrNotExist) {
		t.Errorf("a short name nobody has: %v", err)
	}
}
