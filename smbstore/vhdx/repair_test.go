package vhdx

import (
	"bytes"
	"testing"

	"lunless/smbstore/block"
)

// TestRepair: what can be mended is, and said; what cannot is left as it is, and
// said with what to do. A second Repair finds nothing more to do.
func TestRepair(t *testing.T) {
	for _, c := range damages {
		t.Run(c.name, func(t *testing.T) {
			f := c.image(t)
			c.spoil(t, f)
			was := f.Snapshot()
			r, err := Repair(f)
			must(t, err)
			wantFindings(t, "mended", r.Mended, c.mended)
			for _, w := range c.left {
				if !w.in(r.Left) {
					t.Errorf("no %v at %#x of %q is left:%s", w.sev, w.off, w.what, list(r.Left))
				}
			}
			if len(c.left) == 0 && len(r.Left) > 0 {
				t.Errorf("left:%s", list(r.Left))
			}
			after := c.after
			if after == nil && len(c.mended) == 0 {
				after = c.want
				sameFile(t, was, f)
			}
			wantFindings(t, "findings after", r.Findings, after)
			was = f.Snapshot()
			if r, err = Repair(f); err != nil || len(r.Mended) > 0 {
				t.Errorf("again: %v, mended:%s", err, list(r.Mended))
			}
			sameFile(t, was, f)
		})
	}
}

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
