package qemu

import (
	"os"
	"path/filepath"
	"testing"
)

func TestShorten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	want := func(now, before string) {
		t.Helper()
		if err := shorten(path, 10); err != nil {
			t.Fatal(err)
		}
		a, _ := os.ReadFile(path)
		b, _ := os.ReadFile(path + ".1")
		if string(a) != now || string(b) != before {
			t.Errorf("log %q, before %q; want %q, %q", a, b, now, before)
		}
	}
	write := func(s string) {
		t.Helper()
		if _, err := w.WriteString(s); err != nil {
			t.Fatal(err)
		}
	}
	write("0123456789")
	want("0123456789", "")
	write("abc")
	want("", "3456789abc")
	write("defgh")
	want("defgh", "3456789abc")
	write("ijklmn")
	want("", "efghijklmn")
}
