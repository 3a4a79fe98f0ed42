package shares

import (
	"reflect"
	"strings"
	"testing"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

type eaMap map[string]string

// eaBuffer encodes extended attributes given as name, value, name, value.
type eaBuffer []string

func (l eaBuffer) Encode(dst []byte) { copy(dst, l.bytes()) }
func (l eaBuffer) Size() int         { return len(l.bytes()) }

func (l eaBuffer) bytes() []byte {
	b := make([]byte, 1<<18)
	w := fscc.NewEaWriter(b)
	for i := 0; i < len(l); i += 2 {
		w.Add(&fscc.EaEntry{Name: []byte(l[i]), Value: []byte(l[i+1])})
	}
	return b[:w.Len()]
}

func (c *rawClient) eas(id smb2.FileID, q smb2.QueryInfoRequest) (eaMap, smb2.Status) {
	c.t.Helper()
	q.InfoType, q.FileInfoClass, q.FileID = smb2.InfoFile, uint8(fscc.FileFullEaInformation), id
	if q.OutputBufferLength == 0 {
		q.OutputBufferLength = 1 << 16
	}
	b, st := c.queryInfo(&q)
	list, err := fscc.DecodeEas(b)
	if err != nil {
		c.t.Fatal(err)
	}
	m := eaMap{}
	for _, e := range list {
		m[string(e.Name)] = string(e.Value)
	}
	return m, st
}

// MS-SMB2 3.3.5.9.1, 3.3.5.20.1, 3.3.5.21.1; MS-FSA 2.1.5.12.12, 2.1.5.15.6.
func TestExtendedAttributes(t *testing.T) {
	c := loginRaw(t, startServer(t, nil).addr, smb2.Dialect311, "vms")
	create := func(name string, d smb2.CreateDisposition, opts smb2.CreateOptions, list []byte) (smb2.FileID, smb2.Status) {
		m, st := c.tryCreate(&smb2.CreateRequest{Name: name, DesiredAccess: rightsAll, ShareAccess: shareAll, CreateDisposition: d,
			CreateOptions: opts, Contexts: []smb2.CreateContext{smb2.EABufferContext(list)}})
		return m.FileID, st
	}
	is := func(id smb2.FileID, want eaMap) {
		t.Helper()
		got, st := c.eas(id, smb2.QueryInfoRequest{Flags: smb2.QueryInfoRestartScan})
		if len(want) == 0 && st == smb2.StatusNoEAsOnFile {
			return
		}
		if st != 0 || !reflect.DeepEqual(got, want) {
			t.Errorf("extended attributes %q, %v; want %q", got, st, want)
		}
	}
	id, st := create("file", smb2.FileCreate, 0, eaBuffer{"One", "1", "two", "22"}.bytes())
	if st != 0 {
		t.Fatal(st)
	}
	is(id, eaMap{"One": "1", "two": "22"})
	if _, st := c.eas(id, smb2.QueryInfoRequest{}); st != smb2.StatusNoMoreEAs {
		t.Errorf("after the last: %v", st)
	}
	if got, st := c.eas(id, smb2.QueryInfoRequest{Flags: smb2.QueryInfoRestartScan | smb2.QueryInfoReturnSingleEntry}); st != 0 || len(got) != 1 {
		t.Errorf("one alone: %q, %v", got, st)
	}
	if got, _ := c.eas(id, smb2.QueryInfoRequest{}); !reflect.DeepEqual(got, eaMap{"two": "22"}) {
		t.Errorf("the rest: %q", got)
	}
	if got, _ := c.eas(id, smb2.QueryInfoRequest{Flags: smb2.QueryInfoIndexSpecified, AdditionalInformation: 2}); !reflect.DeepEqual(got, eaMap{"two": "22"}) {
		t.Errorf("from the second: %q", got)
	}
	if _, st := c.eas(id, smb2.QueryInfoRequest{Flags: smb2.QueryInfoIndexSpecified, AdditionalInformation: 3}); st != smb2.StatusNonexistentEAEntry {
		t.Errorf("from the third: %v", st)
	}
	if got, st := c.eas(id, smb2.QueryInfoRequest{Flags: smb2.QueryInfoRestartScan, OutputBufferLength: 16}); st != smb2.StatusBufferOverflow || len(got) != 1 {
		t.Errorf("room for one: %q, %v", got, st)
	}
	if _, st := c.eas(id, smb2.QueryInfoRequest{Flags: smb2.QueryInfoRestartScan, OutputBufferLength: 8}); st != smb2.StatusBufferTooSmall {
		t.Errorf("room for none: %v", st)
	}
	names := []byte("\x00\x00\x00\x00\x03ONE\x00")
	names[0] = 12
	names = append(append(names, 0, 0, 0), "\x00\x00\x00\x00\x04none\x00"...)
	if got, st := c.eas(id, smb2.QueryInfoRequest{Input: names}); st != 0 || !reflect.DeepEqual(got, eaMap{"One": "1", "NONE": ""}) {
		t.Errorf("by name: %q, %v", got, st)
	}
	if b, st := c.queryInfo(&smb2.QueryInfoRequest{InfoType: smb2.InfoFile, FileInfoClass: uint8(fscc.FileEaInformation),
		FileID: id, OutputBufferLength: 4}); st != 0 || b[0] != 5+3+1+5+3+2 {
		t.Errorf("FileEaInformation %v, %v", b, st)
	}
	for _, tt := range []struct {
		name string
		set  eaBuffer
		want smb2.Status
		is   eaMap
	}{
		{"replaced, added, removed", eaBuffer{"ONE", "new", "three", "3", "two", ""}, 0, eaMap{"ONE": "new", "three": "3"}},
		{"bad name", eaBuffer{"a*b", "x"}, smb2.StatusInvalidEAName, eaMap{"ONE": "new", "three": "3"}},
		{"all gone", eaBuffer{"one", "", "three", ""}, 0, nil},
	} {
		if st := c.setInfo(id, fscc.FileFullEaInformation, tt.set); st != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, st, tt.want)
		}
		is(id, tt.is)
	}
	large := strings.Repeat("x", 40000)
	c.setInfo(id, fscc.FileFullEaInformation, eaBuffer{"a", large}) // too large for some file systems
	if st := c.setInfo(id, fscc.FileFullEaInformation, eaBuffer{"b", large}); st != smb2.StatusEATooLarge {
		t.Errorf("80 KB: %v", st)
	}
	c.setInfo(id, fscc.FileFullEaInformation, eaBuffer{"a", ""})
	is(id, nil)
	if st := c.setInfo(id, fscc.FileFullEaInformation, raw("\x01\x00\x00")); st != smb2.StatusEAListInconsistent {
		t.Errorf("no list: %v", st)
	}
	c.closeFile(id)

	if _, st := create("bad", smb2.FileCreate, 0, eaBuffer{"a:b", "x"}.bytes()); st != smb2.StatusInvalidEAName {
		t.Errorf("file with a bad name: %v", st)
	}
	c.wantOpen("bad", 1, shareAll, smb2.StatusObjectNameNotFound)
	if _, st := create("bad", smb2.FileCreate, smb2.FileNoEAKnowledge, eaBuffer{"a", "x"}.bytes()); st != smb2.StatusAccessDenied {
		t.Errorf("FILE_NO_EA_KNOWLEDGE: %v", st)
	}
	id, _ = create("file", smb2.FileOverwrite, 0, eaBuffer{"over", "written"}.bytes())
	is(id, eaMap{"over": "written"})
	c.closeFile(id)
	id, _ = create("file", smb2.FileSupersede, 0, nil)
	is(id, nil)
}
