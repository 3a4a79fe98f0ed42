package shares

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// watching is a CHANGE_NOTIFY that has gone async.
type watching struct {
	c       *rawClient
	interim response
}

// watch sends a CHANGE_NOTIFY that must have to wait.
func (c *rawClient) watch(id smb2.FileID, flags smb2.ChangeNotifyFlags, filter smb2.CompletionFilter, room uint32) watching {
	c.t.Helper()
	r := c.call(smb2.CommandChangeNotify, &smb2.ChangeNotifyRequest{Flags: flags, OutputBufferLength: room, FileID: id, CompletionFilter: filter}, nil)
	if r.hdr.Status != smb2.StatusPending {
		c.t.Fatalf("CHANGE_NOTIFY: %v, want STATUS_PENDING", r.hdr.Status)
	}
	return watching{c, r}
}

// notifyNow sends a CHANGE_NOTIFY that is answered at once.
func (c *rawClient) notifyNow(id smb2.FileID, flags smb2.ChangeNotifyFlags, filter smb2.CompletionFilter, room uint32) ([]string, smb2.Status) {
	c.t.Helper()
	return c.notifications(c.call(smb2.CommandChangeNotify, &smb2.ChangeNotifyRequest{Flags: flags, OutputBufferLength: room, FileID: id, CompletionFilter: filter}, nil))
}

func (c *rawClient) notifications(r response) (list []string, st smb2.Status) {
	c.t.Helper()
	if r.hdr.Status != 0 {
		return nil, r.hdr.Status
	}
	var m smb2.ChangeNotifyResponse
	if err := m.Decode(r.msg); err != nil {
		c.t.Fatal(err)
	}
	entries, err := fscc.DecodeNotify(m.Output)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, fmt.Sprintf("%d %s", e.Action, e.Name))
	}
	return list, 0
}

// final receives what ends the wait.
func (w watching) final() ([]string, smb2.Status) {
	w.c.t.Helper()
	r := w.c.response()
	if r.hdr.AsyncID != w.interim.hdr.AsyncID || r.hdr.Flags&smb2.FlagAsyncCommand == 0 {
		w.c.t.Fatalf("response to %v with AsyncId %d, want %d", r.hdr.Command, r.hdr.AsyncID, w.interim.hdr.AsyncID)
	}
	return w.c.notifications(r)
}

// told gathers what a watcher hears of changes that have been made: the first ends its
// wait, and what came until the next request is kept for that.
func (w watching) told(id smb2.FileID, flags smb2.ChangeNotifyFlags, filter smb2.CompletionFilter, n int) []string {
	w.c.t.Helper()
	got, st := w.final()
	for st == 0 && len(got) < n {
		var more []string
		more, st = w.c.notifyNow(id, flags, filter, 1<<12)
		got = append(got, more...)
	}
	if st != 0 {
		w.c.t.Errorf("told %q, then %v", got, st)
	}
	return got
}

// MS-FSA 2.1.4.1 and what reports by it.
func TestChangeNotify(t *testing.T) {
	srv := startServer(t, nil)
	c, w := loginRaw(t, srv.addr, smb2.Dialect311, "vms"), loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	x := loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	c.existing("dir", smb2.FileDirectoryFile, 0)
	c.existing("other", smb2.FileDirectoryFile, 0)
	type q = smb2.CreateRequest
	create := func(name string, d smb2.CreateDisposition, o smb2.CreateOptions) smb2.FileID {
		t.Helper()
		return c.mustCreate(&q{Name: name, DesiredAccess: rightsAll &^ smb2.Delete, ShareAccess: shareAll, CreateDisposition: d, CreateOptions: o}).FileID
	}
	on := func(name string, do func(id smb2.FileID) smb2.Status) func() {
		return func() {
			t.Helper()
			id := c.open(name, rightsAll, 0)
			if st := do(id); st != 0 {
				t.Errorf("%s: %v", name, st)
			}
			c.closeFile(id)
		}
	}
	write := func(n int) func(id smb2.FileID) smb2.Status {
		return func(id smb2.FileID) (st smb2.Status) {
			for i := range n {
				st = c.write(id, uint64(i), "x")
			}
			return st
		}
	}
	basic := func(b fscc.BasicInfo) func(id smb2.FileID) smb2.Status {
		return func(id smb2.FileID) smb2.Status { return c.setInfo(id, fscc.FileBasicInformation, &b) }
	}
	const day = fscc.Filetime(132000000000000000)
	rename := func(to string, replace bool) func(smb2.FileID) smb2.Status {
		return func(id smb2.FileID) smb2.Status { return c.rename(id, to, replace) }
	}
	for _, tt := range []struct {
		name   string
		filter smb2.CompletionFilter
		do     func()
		want   []string
	}{
		{"file made", smb2.NotifyChangeFileName, func() { c.closeFile(create(`dir\f`, smb2.FileCreate, 0)) }, []string{"1 f"}},
		{"folder made", smb2.NotifyChangeDirName, func() { c.closeFile(create(`dir\sub`, smb2.FileCreate, smb2.FileDirectoryFile)) }, []string{"1 sub"}},
		{"two, by two watchers' filters", smb2.NotifyChangeDirName | smb2.NotifyChangeFileName, func() {
			c.closeFile(create(`dir\f2`, smb2.FileCreate, 0))
			c.closeFile(create(`dir\sub2`, smb2.FileCreate, smb2.FileDirectoryFile))
		}, []string{"1 f2", "1 sub2"}},
		{"first write", smb2.NotifyChangeLastWrite, on(`dir\f`, write(1)), []string{"3 f"}},
		{"more writes", smb2.NotifyChangeSize, on(`dir\f`, write(9)), []string{"3 f"}},
		{"attributes", smb2.NotifyChangeAttributes, on(`dir\f`, basic(fscc.BasicInfo{Attributes: fscc.FILE_ATTRIBUTE_HIDDEN})), []string{"3 f"}},
		{"creation", smb2.NotifyChangeCreation, on(`dir\f`, basic(fscc.BasicInfo{CreationTime: day})), []string{"3 f"}},
		{"last access", smb2.NotifyChangeLastAccess, on(`dir\f`, basic(fscc.BasicInfo{LastAccessTime: day})), []string{"3 f"}},
		{"last write", smb2.NotifyChangeLastWrite, on(`dir\f`, basic(fscc.BasicInfo{LastWriteTime: day, Attributes: fscc.FILE_ATTRIBUTE_NORMAL})), []string{"3 f"}},
		{"end of file", smb2.NotifyChangeSize, on(`dir\f`, func(id smb2.FileID) smb2.Status {
			return c.setInfo(id, fscc.FileEndOfFileInformation, &fscc.EndOfFileInfo{EndOfFile: 100})
		}), []string{"3 f"}},
		{"overwritten", smb2.NotifyChangeSize, func() { c.closeFile(create(`dir\f`, smb2.FileOverwrite, 0)) }, []string{"3 f"}},
		{"extended attributes", smb2.NotifyChangeEA, on(`dir\f`, func(id smb2.FileID) smb2.Status {
			return c.setInfo(id, fscc.FileFullEaInformation, eaBuffer{"a", "b"})
		}), []string{"3 f"}},
		{"security", smb2.NotifyChangeSecurity, on(`dir\f`, func(id smb2.FileID) smb2.Status {
			sd := c.security(id, fscc.DACL_SECURITY_INFORMATION)
			b, _ := sd.Marshal()
			return c.setSecurity(id, fscc.DACL_SECURITY_INFORMATION, b)
		}), []string{"3 f"}},
		{"renamed", smb2.NotifyChangeFileName, on(`dir\f`, rename(`dir\g`, false)), []string{"4 f", "5 g"}},
		{"folder renamed", smb2.NotifyChangeDirName, on(`dir\sub2`, rename(`dir\sub3`, false)), []string{"4 sub2", "5 sub3"}},
		{"renamed over another", smb2.NotifyChangeFileName, on(`dir\f2`, rename(`dir\g`, true)), []string{"2 f2"}},
		{"moved away", smb2.NotifyChangeFileName, on(`dir\g`, rename(`other\g`, false)), []string{"2 g"}},
		{"moved here", smb2.NotifyChangeFileName, on(`other\g`, rename(`dir\g`, false)), []string{"1 g"}},
		{"linked", smb2.NotifyChangeFileName, on(`dir\g`, func(id smb2.FileID) smb2.Status {
			return c.setInfo(id, fscc.FileLinkInformation, &fscc.LinkInfo{Name: `dir\l`})
		}), []string{"1 l"}},
		{"stream made", smb2.NotifyChangeStreamName, func() { c.closeFile(create(`dir\g:s`, smb2.FileCreate, 0)) }, []string{"6 g:s"}},
		{"stream written", smb2.NotifyChangeStreamWrite, on(`dir\g:s`, write(1)), []string{"8 g:s"}},
		{"stream's size", smb2.NotifyChangeStreamSize, on(`dir\g:s`, write(1)), []string{"8 g:s"}},
		{"stream renamed", smb2.NotifyChangeStreamName, on(`dir\g:s`, rename(":t", false)), []string{"7 g:s", "6 g:t"}},
		{"stream deleted", smb2.NotifyChangeStreamName, on(`dir\g:t`, c.delete), []string{"7 g:t"}},
		{"deleted", smb2.NotifyChangeFileName, on(`dir\g`, c.delete), []string{"2 g"}},
		{"folder deleted", smb2.NotifyChangeDirName, on(`dir\sub3`, c.delete), []string{"2 sub3"}},
	} {
		d := w.open("dir", smb2.FileListDirectory, smb2.FileDirectoryFile)
		root := x.open("", smb2.FileListDirectory, smb2.FileDirectoryFile)
		near := w.watch(d, 0, tt.filter, 1<<12)
		far := x.watch(root, smb2.ChangeNotifyWatchTree, tt.filter, 1<<12)
		tt.do()
		if got := near.told(d, 0, tt.filter, len(tt.want)); !slices.Equal(got, tt.want) {
			t.Errorf("%s: told %q, want %q", tt.name, got, tt.want)
		}
		got := far.told(root, smb2.ChangeNotifyWatchTree, tt.filter, len(tt.want))
		for _, want := range tt.want {
			action, name, _ := strings.Cut(want, " ")
			if want = action + ` dir\` + name; !slices.Contains(got, want) {
				t.Errorf("%s: told of the tree %q, not %q", tt.name, got, want)
			}
		}
		w.closeFile(d)
		x.closeFile(root)
	}
	if n := &srv.notifier; n.watching.Load() != 0 || n.trees.Load() != 0 || n.held.Load() != 0 || len(n.folders) != 0 {
		t.Errorf("%d watchers, %d of trees, %d bytes left", n.watching.Load(), n.trees.Load(), n.held.Load())
	}
}

// MS-SMB2 3.3.5.19, MS-FSA 2.1.5.11: when requests are answered, and with what.
func TestChangeNotifyAnswers(t *testing.T) {
	srv := startServer(t, nil)
	c, w := loginRaw(t, srv.addr, smb2.Dialect311, "vms"), loginRaw(t, srv.addr, smb2.Dialect311, "vms")
	c.existing("dir", smb2.FileDirectoryFile, 0)
	c.existing("file", 0, 0)
	make := func(names ...string) {
		for _, n := range names {
			c.existing(`dir\`+n, 0, 0)
		}
	}
	watcher := func() smb2.FileID { return w.open("dir", smb2.FileListDirectory, smb2.FileDirectoryFile) }
	want := func(what string, got []string, st, wantStatus smb2.Status, list ...string) {
		t.Helper()
		if st != wantStatus || !slices.Equal(got, list) {
			t.Errorf("%s: %q, %v; want %q, %v", what, got, st, list, wantStatus)
		}
	}
	const filter = smb2.NotifyChangeFileName
	_, st := w.notifyNow(w.open("file", 1, 0), 0, filter, 1000)
	want("of a file", nil, st, smb2.StatusInvalidParameter)
	_, st = w.notifyNow(w.open("dir", smb2.FileReadAttributes, smb2.FileDirectoryFile), 0, filter, 1000)
	want("without FILE_LIST_DIRECTORY", nil, st, smb2.StatusAccessDenied)

	// In order of arrival, and what comes between requests is kept.
	id := watcher()
	first, second := w.watch(id, 0, filter, 1000), w.watch(id, 0, filter, 1000)
	make("a")
	got, st := first.final()
	want("first", got, st, 0, "1 a")
	make("b")
	got, st = second.final()
	want("second", got, st, 0, "1 b")
	make("c", "d")
	got, st = w.notifyNow(id, 0, filter, 1000)
	want("kept", got, st, 0, "1 c", "1 d")
	make("e", "f")
	got, st = w.notifyNow(id, 0, filter, 20) // room for one
	want("too large", got, st, smb2.StatusNotifyEnumDir)
	third := w.watch(id, 0, filter, 1000) // and then forgotten
	third.cancel()
	_, st = third.final()
	want("cancelled", nil, st, smb2.StatusCancelled)

	// The end of what is watched.
	fourth := w.watch(id, 0, filter, 1000)
	w.send(w.build(smb2.CommandClose, &smb2.CloseRequest{FileID: id}, nil))
	seen := w.statuses(2)
	if seen[smb2.CommandChangeNotify] != smb2.StatusNotifyCleanup || seen[smb2.CommandClose] != 0 {
		t.Errorf("closed: %v, after %v", seen, fourth.interim.hdr.Status)
	}
	c.existing("gone", smb2.FileDirectoryFile, 0)
	id = w.open("gone", smb2.FileListDirectory, smb2.FileDirectoryFile)
	fifth := w.watch(id, smb2.ChangeNotifyWatchTree, filter, 1000)
	doomed := c.open("gone", rightsAll, smb2.FileDirectoryFile)
	if st := c.delete(doomed); st != 0 {
		t.Fatal(st)
	}
	_, st = fifth.final()
	want("of a folder to delete", nil, st, smb2.StatusDeletePending)
	_, st = w.notifyNow(id, 0, filter, 1000)
	want("of one that was", nil, st, smb2.StatusDeletePending)
	w.closeFile(id)
	w.watch(watcher(), 0, filter, 1000)
	w.send(w.build(smb2.CommandTreeDisconnect, &smb2.TreeDisconnectRequest{}, nil))
	if seen := w.statuses(2); seen[smb2.CommandChangeNotify] != smb2.StatusNotifyCleanup {
		t.Errorf("tree disconnected: %v", seen)
	}
}

func (w watching) cancel() {
	h := smb2.Header{Command: smb2.CommandCancel, SessionID: w.c.session, Flags: smb2.FlagAsyncCommand, AsyncID: w.interim.hdr.AsyncID}
	msg := make([]byte, (&smb2.CancelRequest{}).Size())
	h.Encode(msg)
	(&smb2.CancelRequest{}).Encode(msg)
	w.c.send(msg)
}

// statuses receives n responses, in whatever order.
func (c *rawClient) statuses(n int) map[smb2.Command]smb2.Status {
	c.t.Helper()
	seen := map[smb2.Command]smb2.Status{}
	for len(seen) < n {
		for _, r := range c.receive() {
			seen[r.hdr.Command] = r.hdr.Status
		}
	}
	return seen
}

// A watcher of a share hears of changes through others that show the same
// folders, and is told to look itself when too much has happened.
func TestChangeNotifyAcrossShares(t *testing.T) {
	var inner string
	srv := startServer(t, func(cfg *Config) {
		inner = filepath.Join(cfg.Shares[0].Path, "inner", "deep")
		if err := os.MkdirAll(inner, 0o755); err != nil {
			t.Fatal(err)
		}
		cfg.Shares = append(cfg.Shares, Share{Name: "inner", Path: inner, FS: openFS(t, inner)})
	})
	outer, c := loginRaw(t, srv.addr, smb2.Dialect311, "vms"), loginRaw(t, srv.addr, smb2.Dialect311, "inner")
	const filter = smb2.NotifyChangeFileName
	root := outer.open("", smb2.FileListDirectory, smb2.FileDirectoryFile)
	w := outer.watch(root, smb2.ChangeNotifyWatchTree, filter, 1000)
	c.existing("new", 0, 0)
	if got, st := w.final(); st != 0 || !slices.Equal(got, []string{`1 inner\deep\new`}) {
		t.Errorf("told %q, %v", got, st)
	}
	in := c.open("", smb2.FileListDirectory, smb2.FileDirectoryFile)
	w = c.watch(in, 0, filter, 1000)
	outer.existing(`inner\deep\more`, 0, 0)
	if got, st := w.final(); st != 0 || !slices.Equal(got, []string{"1 more"}) {
		t.Errorf("told %q, %v", got, st)
	}
	outer.existing("at the root", 0, 0)
	for i := range 100 { // in one answer of 1000 bytes they have no room
		c.existing(fmt.Sprint("file", i), 0, 0)
	}
	if got, st := c.notifyNow(in, 0, filter, 1<<16); st != smb2.StatusNotifyEnumDir {
		t.Errorf("told %q, %v", got, st)
	}
	if n := srv.notifier.held.Load(); n > 1000 {
		t.Errorf("%d bytes kept for watchers", n)
	}
}
