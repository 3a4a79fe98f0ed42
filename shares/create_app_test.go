package shares

import (
	"testing"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// MS-SMB2 3.3.5.9.13 comes before "Open Execution": an instance that takes over is
// not kept out by what the older one has marked to be deleted, which goes with it.
func TestAppInstanceOfFileToDelete(t *testing.T) {
	for _, tt := range []struct {
		what    string
		version uint64
		others  bool // somebody else has the file open
		want    smb2.Status
	}{
		{"newer", 3, false, smb2.StatusSuccess},
		{"older", 1, false, smb2.StatusFileForcedClosed},
		{"newer, with others", 3, true, smb2.StatusDeletePending},
	} {
		t.Run(tt.what, func(t *testing.T) {
			srv := startServer(t, nil)
			app := func(version uint64) *smb2.CreateRequest {
				return cached("disk", smb2.OplockNone, 0, 0, (&smb2.AppInstanceID{ID: smb2.GUID{5}}).Context(),
					(&smb2.AppInstanceVersion{High: 1, Low: version}).Context(), durableV2(byte(version), 0, 0))
			}
			old, fresh := loginAs(t, srv.addr, 1, testUser, "vms"), loginAs(t, srv.addr, 2, testUser, "vms")
			m := old.mustCreate(app(2))
			if tt.others {
				old.mustCreate(createRequest("disk"))
			}
			if st := old.setInfo(m.FileID, fscc.FileDispositionInformation, &fscc.DispositionInfo{DeletePending: true}); st != smb2.StatusSuccess {
				t.Fatal(st)
			}
			fresh.send(fresh.build(smb2.CommandCreate, app(tt.version), nil))
			r := fresh.response()
			if r.hdr.Status == smb2.StatusPending {
				r = fresh.response()
			}
			if r.hdr.Status != tt.want {
				t.Fatalf("%v, want %v", r.hdr.Status, tt.want)
			}
			if tt.want != smb2.StatusSuccess {
				return
			}
			var c smb2.CreateResponse
			if err := c.Decode(r.msg); err != nil || c.CreateAction != smb2.FileCreated {
				t.Errorf("action %v, %v: want a new file", c.CreateAction, err)
			}
		})
	}
}
