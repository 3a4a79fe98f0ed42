package fscc

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// codec is what every structure of fixed layout offers.
type codec interface {
	Size() int
	Encode([]byte)
	Decode([]byte) error
}

// golden is one structure as smbclient 4.17 and smbtorture 4.17 exchanged it
// with smbd 4.17, captured with tshark: query/TYPE/CLASS is a reply to
// QUERY_INFO, set/TYPE/CLASS a SET_INFO request, dir/1/CLASS a reply to
// QUERY_DIRECTORY, ioctl and ioctlrep what a control code carried each way.
type golden struct {
	kind string
	data []byte
}

func goldens(tb testing.TB) (list []golden) {
	tb.Helper()
	f, err := os.Open("testdata/samba-4.17.txt")
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		kind, text, _ := strings.Cut(in.Text(), " ")
		data, err := hex.DecodeString(text)
		if err != nil {
			tb.Fatal(err)
		}
		list = append(list, golden{kind, data})
	}
	if len(list) < 40 {
		tb.Fatalf("%d goldens", len(list))
	}
	return list
}

// goldenCodecs are the structures behind the kinds of golden.
var goldenCodecs = map[string]func() codec{
	"query/1/4": func() codec { return new(BasicInfo) }, "set/1/4": func() codec { return new(BasicInfo) },
	"query/1/5":  func() codec { return new(StandardInfo) },
	"query/1/6":  func() codec { return new(InternalInfo) },
	"query/1/7":  func() codec { return new(EaInfo) },
	"query/1/8":  func() codec { return new(AccessInfo) },
	"query/1/16": func() codec { return new(ModeInfo) },
	"query/1/17": func() codec { return new(AlignmentInfo) },
	"query/1/18": func() codec { return new(AllInfo) },
	"query/1/21": func() codec { return new(NameInfo) },
	"query/1/28": func() codec { return new(CompressionInfo) },
	"query/1/34": func() codec { return new(NetworkOpenInfo) },
	"query/1/35": func() codec { return new(AttributeTagInfo) },
	"query/2/1":  func() codec { return new(FsVolumeInfo) },
	"query/2/3":  func() codec { return new(FsSizeInfo) },
	"query/2/4":  func() codec { return new(FsDeviceInfo) },
	"query/2/5":  func() codec { return new(FsAttributeInfo) },
	"query/2/6":  func() codec { return new(FsControlInfo) },
	"set/1/10":   func() codec { return new(RenameInfo) }, "set/1/11": func() codec { return new(LinkInfo) },
	"set/1/13":       func() codec { return new(DispositionInfo) },
	"ioctl/000900c4": func() codec { return new(SetSparse) },
	"ioctl/000940cf": func() codec { return new(ByteRange) },
	"ioctl/000980c8": func() codec { return new(ZeroData) },
}

// TestGoldens decodes what a peer sent and encodes it again to the same bytes.
func TestGoldens(t *testing.T) {
	for _, g := range goldens(t) {
		if again, err := reencodeGolden(g); err != nil {
			t.Errorf("%s %x: %v", g.kind, g.data, err)
		} else if !bytes.Equal(again, g.data) {
			t.Errorf("%s\n got %x\nwant %x", g.kind, again, g.data)
		}
	}
}

func reencodeGolden(g golden) ([]byte, error) {
	b := make([]byte, len(g.data)) // peers pad some structures at their end with zeroes
	var err error
	switch g.kind {
	case "dir/1/3", "dir/1/12", "dir/1/37":
		class := map[string]InfoClass{"dir/1/3": 3, "dir/1/12": 12, "dir/1/37": 37}[g.kind]
		w, err := NewDirWriter(class, b)
		if err != nil {
			return nil, err
		}
		err = ReadDirEntries(class, g.data, func(e *DirEntry) error { w.Add(e); return nil })
		return b, err
	case "query/1/22":
		var list []StreamEntry
		list, err = DecodeStreams(g.data)
		w := NewStreamWriter(b)
		for i := range list {
			w.Add(&list[i])
		}
	case "notify/1/0":
		var list []NotifyEntry
		list, err = DecodeNotify(g.data)
		w := NewNotifyWriter(b)
		for i := range list {
			w.Add(&list[i])
		}
	case "query/3/0", "set/3/0":
		// Parts may come in any order: ours need not be the peer's.
		var d, again SecurityDescriptor
		if err := d.Decode(g.data); err != nil {
			return nil, err
		}
		enc, err := d.Marshal()
		if err != nil {
			return nil, err
		}
		if err := again.Decode(enc); err != nil || !cmp.Equal(d, again, cmpSID) || len(enc) != len(g.data) {
			return enc, err
		}
		return g.data, nil
	case "ioctlrep/000940cf":
		var list []ByteRange
		list, err = DecodeRanges(g.data)
		w := writer{b: b}
		for i := range list {
			list[i].put(&w)
		}
	case "ioctl/000900c4":
		var v SetSparse
		err = v.Decode(g.data)
		if v.Sparse { // any value but zero (MS-FSCC 2.1.8)
			return g.data, err
		}
	default:
		newCodec := goldenCodecs[g.kind]
		if newCodec == nil {
			return nil, ErrInvalid
		}
		c := newCodec()
		if err = c.Decode(g.data); err != nil {
			return nil, err
		}
		b = append(b, make([]byte, max(0, c.Size()-len(b)))...)
		c.Encode(b)
	}
	return b, err
}

// TestGoldenContents looks at values the peer is known to have shown.
func TestGoldenContents(t *testing.T) {
	names := map[string]DirEntry{}
	labels := map[string]bool{}
	renames := map[string]bool{}
	var sizes []int64
	for _, g := range goldens(t) {
		switch g.kind {
		case "dir/1/37":
			err := ReadDirEntries(FileIdBothDirectoryInformation, g.data, func(e *DirEntry) error {
				names[e.Name] = *e
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		case "query/2/1":
			var v FsVolumeInfo
			if err := v.Decode(g.data); err != nil {
				t.Error(err)
			}
			labels[v.Label] = true
		case "set/1/10":
			var r RenameInfo
			if err := r.Decode(g.data); err != nil {
				t.Error(err)
			}
			renames[r.Name] = true
		case "query/1/18":
			var a AllInfo
			if err := a.Decode(g.data); err != nil {
				t.Error(err)
			}
			sizes = append(sizes, a.Standard.EndOfFile)
		}
	}
	for name, size := range map[string]int64{"File1.txt": 6, "Äpfel.bin": 5000} {
		e := names[name]
		if e.EndOfFile != size || e.Attributes&FILE_ATTRIBUTE_DIRECTORY != 0 || e.CreationTime.Time().Year() < 2024 || e.FileID == 0 {
			t.Errorf("%s: %+v", name, e)
		}
	}
	if e := names["sub"]; e.Attributes&FILE_ATTRIBUTE_DIRECTORY == 0 {
		t.Errorf("sub: %+v", e)
	}
	if !labels["vms"] || !renames["f2.txt"] || len(sizes) == 0 || sizes[0] != 6 {
		t.Errorf("labels %v, renames %v, sizes %v", labels, renames, sizes)
	}
}
