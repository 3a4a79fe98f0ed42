package shares

import (
	"os"
	"path/filepath"
	"testing"

	"lunless/shares/fs"
	"lunless/shares/state"
)

// An open of which nothing but its record is left takes the name with it that it was
// to delete, wherever a share leads to it, and leaves none that nobody can open
// (MS-FSA 2.1.5.5).
func TestEndLostOpen(t *testing.T) {
	const gone = state.OpenID(1 << 40)
	for _, tt := range []struct {
		what          string
		share         string // as the record has it
		onClose, mark bool
		other         bool // another open of the file is there
		stays         bool
	}{
		{what: "plain", share: "vms", stays: true},
		{what: "marked", share: "vms", mark: true},
		{what: "on close", share: "vms", onClose: true},
		{what: "others", share: "vms", mark: true, other: true, stays: true},
		{what: "no share", share: "away", mark: true, stays: true},
	} {
		t.Run(tt.what, func(t *testing.T) {
			srv := startServer(t, nil)
			path := filepath.Join(srv.root, "disk")
			if err := os.WriteFile(path, nil, 0o666); err != nil {
				t.Fatal(err)
			}
			f, err := srv.findShare("vms").FS.Open(t.Context(), "disk", 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			id := f.ID()
			link := shareKey(tt.share) + "/DISK"
			add := func(id fs.FileID, o state.Open) {
				t.Helper()
				if _, err := srv.store.Update(t.Context(), id, state.AddOpen(state.OpenRequest{Open: o})); err != nil {
					t.Fatal(err)
				}
			}
			o := state.Open{ID: gone, Access: state.ReadData | state.Delete, Share: 7, Link: link, DeleteOnClose: tt.onClose}
			o.Handle.Share, o.Handle.Name = tt.share, "disk"
			add(id, o)
			if tt.other {
				o.ID++
				add(id, o)
			}
			if tt.mark {
				if _, err := srv.store.Update(t.Context(), id, state.SetDeletePending(gone, true)); err != nil {
					t.Fatal(err)
				}
			}
			srv.endOpen(id, gone)
			if _, err := os.Stat(path); (err == nil) != tt.stays {
				t.Errorf("the file: %v", err)
			}
			srv.store.Update(t.Context(), id, func(r state.Record) (state.Record, state.Effects, error) {
				if want := tt.other && tt.mark; r.IsDeleting(link) != want || (len(r.Opens) > 0) != tt.other {
					t.Errorf("record %+v", r)
				}
				return r, state.Effects{}, nil
			})
		})
	}
}
