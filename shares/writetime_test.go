package shares

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"lunless/shares/fs"
	"lunless/shares/state"
	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// MS-FSA 2.1.4.17, note 43: when a write shows in the last write time is deferred.
func TestWriteTimeDelay(t *testing.T) {
	const delay, again = 2 * time.Second, 10 * time.Second
	at := func(n int) time.Time { return time.Unix(1e9+int64(n), 0).UTC() }
	var w writeTime
	var file time.Time // the file's own
	shown := func(second int) time.Time {
		info := fs.Info{Written: file}
		w.show(&info, int64(second)*int64(time.Second), delay, again)
		return info.Written
	}
	write := func(second int) {
		w.began.CompareAndSwap(0, int64(second)*int64(time.Second))
		file = at(second)
	}
	want := func(second, since int) {
		t.Helper()
		if got := shown(second); got != at(since) {
			t.Errorf("after %d s the file shows as written at %v, want %v", second, got, at(since))
		}
	}
	file = at(0)
	want(1, 0)
	write(2)
	want(3, 0)
	write(3)
	want(4, 3) // 2 s after the first write that did not show
	write(5)
	want(14, 3)
	want(15, 5)                                        // 10 s after the second
	write(16)                                          // nobody asks
	if stale, hidden := w.settle(); !stale || hidden { // a CLOSE, say
		t.Errorf("clients were told something else: %v, of the last write too: %v; want true, false", stale, hidden)
	}
	want(16, 16)
	write(17)
	want(18, 16)
	if stale, hidden := w.settle(); !stale || !hidden {
		t.Errorf("clients were told something else: %v, of the last write too: %v; want both", stale, hidden)
	}
	want(18, 17)
	write(19)
	w.told.Store(0) // nobody has been told anything
	want(19, 19)
}

// The file itself has its time at once; other clients learn of it with FLUSH,
// SET_INFO and CLOSE (MS-FSA 2.1.4.17, note 43), and never if it goes back.
func TestWriteTimeShows(t *testing.T) {
	srv := startServer(t, nil)
	srv.table.written.delay = time.Hour
	c, other := loginRaw(t, srv.addr, smb2.Dialect311, "vms"), loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	own := func() time.Time {
		t.Helper()
		st, err := os.Stat(filepath.Join(srv.root, "f"))
		if err != nil {
			t.Fatal(err)
		}
		return st.ModTime()
	}
	ask := func(c *rawClient, id smb2.FileID) time.Time {
		t.Helper()
		var b fscc.BasicInfo
		out, st := c.queryInfo(&smb2.QueryInfoRequest{InfoType: smb2.InfoFile, FileInfoClass: uint8(fscc.FileBasicInformation),
			FileID: id, OutputBufferLength: uint32(b.Size())})
		if st != 0 {
			t.Fatal(st)
		}
		if err := b.Decode(out); err != nil {
			t.Fatal(err)
		}
		return b.LastWriteTime.Time()
	}
	long := time.Now().Add(-time.Hour)
	for _, tt := range []struct {
		name string
		do   func(id smb2.FileID) smb2.Status
	}{
		{"FLUSH", func(id smb2.FileID) smb2.Status {
			return c.call(smb2.CommandFlush, &smb2.FlushRequest{FileID: id}, nil).hdr.Status
		}},
		{"end of file", func(id smb2.FileID) smb2.Status {
			return c.setInfo(id, fscc.FileEndOfFileInformation, &fscc.EndOfFileInfo{EndOfFile: 4})
		}},
		{"allocation", func(id smb2.FileID) smb2.Status {
			return c.setInfo(id, fscc.FileAllocationInformation, &fscc.AllocationInfo{AllocationSize: 4})
		}},
		{"no time at all", func(id smb2.FileID) smb2.Status {
			return c.setInfo(id, fscc.FileBasicInformation, &fscc.BasicInfo{})
		}},
		{"frozen", func(id smb2.FileID) smb2.Status {
			return c.setInfo(id, fscc.FileBasicInformation, &fscc.BasicInfo{LastWriteTime: fscc.FiletimeFreeze})
		}},
		{"WRITE through", func(id smb2.FileID) smb2.Status {
			return c.writeThroughOpen(id, smb2.WriteFlagWriteThrough|smb2.WriteFlagWriteUnbuffered)
		}},
		{"CLOSE", func(id smb2.FileID) smb2.Status {
			m := c.closeFile(id)
			if at := fscc.Filetime(m.LastWriteTime).Time(); time.Since(at) > time.Minute {
				t.Errorf("CLOSE tells that the file was written at %v", at)
			}
			return 0
		}},
		{"end of the connection", func(smb2.FileID) smb2.Status {
			gone := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
			id := gone.open("f", rightsAll, 0)
			gone.mustWrite(id, "more")
			gone.nc.Close()
			for srv.table.find(state.OpenID(id.Persistent)) != nil {
				sleepBriefly()
			}
			return 0
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			os.Remove(filepath.Join(srv.root, "f"))
			if err := os.WriteFile(filepath.Join(srv.root, "f"), []byte("before"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(filepath.Join(srv.root, "f"), long, long); err != nil {
				t.Fatal(err)
			}
			before := own()
			id, seen := c.open("f", rightsAll, 0), other.open("f", smb2.FileReadAttributes, 0)
			c.mustWrite(id, "data")
			for who, at := range map[string]time.Time{"the writer": ask(c, id), "another client": ask(other, seen)} {
				if d := at.Sub(before).Abs(); d > time.Microsecond {
					t.Errorf("%s sees %v at once, want %v still", who, at, before)
				}
			}
			if !own().After(before) {
				t.Error("the file itself has the old time: the server could die now")
			}
			if st := tt.do(id); st != 0 {
				t.Fatal(st)
			}
			if at := ask(other, seen); time.Since(at) > time.Minute || time.Since(own()) > time.Minute {
				t.Errorf("another client sees %v afterwards, and the file has %v", at, own())
			}
			if m, st := other.tryCreate(&smb2.CreateRequest{Name: "f", DesiredAccess: smb2.FileReadAttributes, ShareAccess: shareAll,
				CreateDisposition: smb2.FileOpen}); st != 0 || time.Since(fscc.Filetime(m.LastWriteTime).Time()) > time.Minute {
				t.Errorf("CREATE: %v, written at %v", st, fscc.Filetime(m.LastWriteTime).Time())
			}
		})
	}
}
