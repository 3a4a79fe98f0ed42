package state

import (
	"errors"
	"testing"
)

// Opens of streams and of their file exclude each other for the delete of the file alone
// (MS-FSA 2.1.5.1.2.1).
func TestStreamOpens(t *testing.T) {
	const all = ShareRead | ShareWrite | ShareDelete
	file := func(access, share uint32) Change {
		return AddOpen(OpenRequest{Open: Open{ID: 1, Access: access, Share: share, Link: "f"}})
	}
	stream := func(access, share uint32) Change {
		return AddStreamOpen(Open{ID: 2, Access: access, Share: share, Link: "f"})
	}
	tests := []struct {
		name          string
		first, second Change
		want          error
	}{
		{"both exclusive", file(ReadData|WriteData, 0), stream(ReadData|WriteData, 0), nil},
		{"stream deletes", file(ReadData, 0), stream(Delete, 0), nil},
		{"file deletes", file(Delete, all), stream(ReadData, ShareRead|ShareWrite), ErrSharingViolation},
		{"file to delete", stream(ReadData, ShareRead|ShareWrite), file(Delete, all), ErrSharingViolation},
		{"file deletes, stream shares that", file(Delete, 0), stream(ReadData, ShareDelete), nil},
		{"stream of no data", file(Delete, all), stream(0x80, 0), nil},
		{"other streams", stream(Delete, 0), AddStreamOpen(Open{ID: 3, Access: ReadData, Link: "f"}), nil},
	}
	for _, tt := range tests {
		r, _, err := tt.first(Record{})
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if _, _, err = tt.second(r); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

// The file goes with the last open of it and of its streams, and an open of a
// stream keeps nobody from caching the file.
func TestStreamOpensAndDelete(t *testing.T) {
	var r Record
	do := func(c Change) Effects {
		t.Helper()
		next, fx, err := c(r)
		if err != nil {
			t.Fatal(err)
		}
		r = next
		return fx
	}
	do(AddStreamOpen(Open{ID: 2, Access: ReadData, Share: ShareDelete, Link: "f"}))
	fx := do(AddOpen(OpenRequest{Open: Open{ID: 1, Access: Delete, Link: "f"}, Want: Batch}))
	if fx.Open.Oplock.State != Batch {
		t.Errorf("oplock %v beside a stream's open", fx.Open.Oplock.State)
	}
	do(SetDeletePending(1, true))
	if fx := do(RemoveOpen(1, false)); fx.Delete {
		t.Error("deleted under the open of a stream")
	}
	if _, _, err := AddStreamOpen(Open{ID: 3, Link: "f"})(r); !errors.Is(err, ErrDeletePending) {
		t.Errorf("stream opened: %v", err)
	}
	if fx := do(RemoveOpen(2, true)); !fx.Delete || fx.Link != "f" {
		t.Errorf("not deleted with the stream's open: %+v", fx)
	}
}
