package fs_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"lunless/shares/fs"
)

// A change time that was set stands until something else changes the file.
func TestChangeTime(t *testing.T) {
	p := newPOSIX(t)
	ctx := t.Context()
	for _, want := range []time.Time{time.Unix(0, 0), time.Unix(-2, 100), time.Date(2286, 1, 2, 3, 4, 5, 6700, time.UTC)} {
		f, err := p.Create(ctx, fmt.Sprint(want.Year(), want.Nanosecond()), fs.CreateOptions{Access: fs.WriteData})
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		changed := func() time.Time {
			t.Helper()
			again, err := p.Open(ctx, mustName(t, f), 0)
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			info, err := again.Stat(ctx)
			if err != nil {
				t.Fatal(err)
			}
			return info.Changed
		}
		written := time.Unix(1e9, 0)
		if err := f.SetTimes(ctx, fs.TimeChange{Written: &written, Changed: &want}); err != nil {
			t.Fatal(err)
		}
		if got := changed(); !got.Equal(want) {
			t.Errorf("changed %v, want %v", got, want)
		}
		for name, change := range map[string]func() error{
			"write":      func() error { _, err := f.WriteAt([]byte("x"), 0); return err },
			"descriptor": func() error { return f.SetSecurityDescriptor(ctx, []byte("sd")) },
			"attributes": func() error { return f.SetAttributes(ctx, 1) },
		} {
			if err := f.SetTimes(ctx, fs.TimeChange{Changed: &want}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(25 * time.Millisecond) // beyond the granularity of the kernel's clock
			if err := change(); err != nil {
				t.Fatal(err)
			}
			if got := changed(); time.Since(got) > time.Minute {
				t.Errorf("%s: changed %v", name, got)
			}
		}
	}
}

// What the kernel keeps beside the data is no part of its allocation.
func TestAllocationOfData(t *testing.T) {
	p := newPOSIX(t)
	ctx := t.Context()
	sd := bytes.Repeat([]byte("descriptor"), 100)
	for name, want := range map[string]struct{ size, reserve, allocated int64 }{
		"empty": {0, 0, 0}, "byte": {1, 0, 4096}, "reserved": {0, 1 << 20, 1 << 20}, "part": {5000, 1 << 20, 1 << 20},
		"outgrown": {4097, 4096, 8192},
	} {
		f, err := p.Create(ctx, name, fs.CreateOptions{Access: fs.WriteData, SecurityDescriptor: sd, AllocationSize: want.reserve})
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(make([]byte, want.size), 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(ctx); err != nil { // blocks are counted when they are given out
			t.Fatal(err)
		}
		if info, err := f.Stat(ctx); err != nil || info.AllocationSize != want.allocated {
			t.Errorf("%s: %d bytes allocated, %v; want %d", name, info.AllocationSize, err, want.allocated)
		}
	}
}

func mustName(t *testing.T, f fs.File) string {
	t.Helper()
	name, err := f.Name()
	if err != nil {
		t.Fatal(err)
	}
	return name
}
