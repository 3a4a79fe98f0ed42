package vhdx

import (
	"bytes"
	"testing"

	"lunless/smbstore/block"
)

// TestRepairReplays: a log that waits is replayed, and the data is there.
func TestRepairReplays(t *testing.T) {
	f := small(t, false)
	r, err := Repair(f)
	must(t, err)
	if !(finding{Note, logStart, "log replayed"}).in(r.Mended) || r.Info.LogInUse || len(r.Findings) > 0 {
		t.Errorf("mended:%s\nfindings:%s", list(r.Mended), list(r.Findings))
	}
	if size, _ := f.Size(); size != smallEnd {
		t.Errorf("the file has %d bytes", size)
	}
	holdsSmall(t, f)
}

// holdsSmall demands what small wrote.
func holdsSmall(t testing.TB, f *block.MemFile) {
	t.Helper()
	d, err := Open(noClose{f}, OpenOptions{ReadOnly: true})
	must(t, err)
	for i := range int64(3) {
		got := make([]byte, 5000)
		must(t, d.ReadAt(ctx, got, i*2*mib+100))
		if !bytes.Equal(got, bytes.Repeat([]byte{byte(i + 1)}, 5000)) {
			t.Fatalf("block %d is not what was written", i*2)
		}
	}
}

// rawEntry reads the BAT of an image of ours.
func rawEntry(t testing.TB, f *block.MemFile, i int64) batEntry {
	t.Helper()
	return batEntry(le.Uint64(readAll(t, f, batStart+i*8, 8)))
}
