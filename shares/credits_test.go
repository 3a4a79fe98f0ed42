package shares

import "testing"

func TestWindow(t *testing.T) {
	w := newWindow(16)
	if w.take(1, 1) {
		t.Fatal("took an id beyond the first window")
	}
	if !w.take(0, 0) {
		t.Fatal("refused id 0")
	}
	if w.take(0, 1) {
		t.Fatal("took id 0 twice")
	}
	if g := w.grant(0); g != 1 {
		t.Fatalf("granted %d to a client without credits, want 1", g)
	}
	if g := w.grant(100); g != 15 {
		t.Fatalf("granted %d, want 15 up to the limit", g)
	}
	if g := w.grant(100); g != 0 {
		t.Fatalf("granted %d at the limit", g)
	}
	if !w.take(5, 4) || w.take(8, 1) || w.take(3, 3) {
		t.Fatal("ids 5..8 taken wrongly")
	}
	if !w.take(1, 4) || w.low != 9 {
		t.Fatalf("low %d after 1..8, want 9", w.low)
	}
	if w.take(15, 3) {
		t.Fatal("took ids that reach beyond the window")
	}
}

// TestWindowUnusedOldID keeps one old id unused: the window may then not grow
// for ever, and the client is never left without a credit.
func TestWindowUnusedOldID(t *testing.T) {
	w := newWindow(8)
	w.take(0, 1)
	w.grant(8)
	for id := uint64(2); ; id++ { // id 1 stays
		if id >= w.high {
			break
		}
		if !w.take(id, 1) {
			t.Fatalf("refused id %d", id)
		}
		w.grant(1)
		if w.held < 1 || w.high-w.low > w.size {
			t.Fatalf("held %d, window %d..%d of %d", w.held, w.low, w.high, w.size)
		}
		if id > 1000 {
			t.Fatal("the window follows an unused id for ever")
		}
	}
	if !w.take(1, 1) || w.grant(4) == 0 {
		t.Fatal("the window does not open again")
	}
}

// TestWindowOverdraft: what a client uses without having been granted it counts
// against its limit.
func TestWindowOverdraft(t *testing.T) {
	w := newWindow(16)
	w.ahead = 4
	if !w.take(0, 1) || w.grant(8) != 8 { // { 1 .. 8 }
		t.Fatal("window does not open")
	}
	if w.take(9, 5) || !w.take(9, 4) || w.high != 13 {
		t.Fatalf("window up to %d, want 13", w.high)
	}
	if w.held != 8 || w.grant(100) != 8 {
		t.Fatalf("held %d, want 8 of 16", w.held)
	}
	if w.take(w.high, 1) {
		t.Fatal("overdrawn beyond the limit")
	}
}
