package smbstore_test

import (
	"errors"
	"testing"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/storetest"
)

// Operations on a server that stays away wait for it together, once; when it is
// back it is found.
func TestOutageIsWaitedForOnce(t *testing.T) {
	server := storetest.StartLunless(t)
	o := server.Options()
	o.ReconnectTimeout = 2 * time.Second
	s, err := smbstore.Open(t.Context(), server.Location(""), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f, err := s.OpenFile("disk", smbstore.ReadWrite|smbstore.Create)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 4096)
	if _, err := f.WriteAt(p, 0); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	start := time.Now()
	for _, c := range []struct {
		name string
		op   func() error
	}{
		{"write", func() error { _, err := f.WriteAt(p, 0); return err }},
		{"sync", f.Sync},
		{"list", func() error { _, err := s.ReadDir(""); return err }},
		{"make", func() error { return smbstore.WriteFile(s, "journal", p) }},
		{"close", f.Close},
	} {
		if err := c.op(); !errors.Is(err, smbstore.ErrUnreachable) && c.name != "close" {
			t.Errorf("%s: %v, want ErrUnreachable", c.name, err)
		}
	}
	if took := time.Since(start); took > 2*o.ReconnectTimeout {
		t.Errorf("waited for %v, at most %v for all", took, o.ReconnectTimeout)
	}
	server.Start(t)
	for until := time.Now().Add(5 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if _, err = s.Stat("disk"); err == nil || time.Now().After(until) {
			break
		}
	}
	if err != nil {
		t.Errorf("the server is back: %v", err)
	}
}
