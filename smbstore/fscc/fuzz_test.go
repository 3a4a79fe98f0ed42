package fscc

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

// fixed are the structures with the codec contract, for the fuzz targets: an
// index into one of these and bytes.
type family []func() codec

var (
	fileFamily = family{
		func() codec { return new(BasicInfo) }, func() codec { return new(StandardInfo) },
		func() codec { return new(InternalInfo) }, func() codec { return new(EaInfo) },
		func() codec { return new(AccessInfo) }, func() codec { return new(PositionInfo) },
		func() codec { return new(ModeInfo) }, func() codec { return new(AlignmentInfo) },
		func() codec { return new(AllInfo) }, func() codec { return new(NameInfo) },
		func() codec { return new(NetworkOpenInfo) }, func() codec { return new(AttributeTagInfo) },
		func() codec { return new(CompressionInfo) }, func() codec { return new(IDInfo) },
		func() codec { return new(AllocationInfo) }, func() codec { return new(EndOfFileInfo) },
		func() codec { return new(ValidDataLengthInfo) }, func() codec { return new(DispositionInfo) },
		func() codec { return new(DispositionInfoEx) }, func() codec { return new(RenameInfo) },
		func() codec { return new(RenameInfoEx) }, func() codec { return new(PipeInfo) },
		func() codec { return new(PipeLocalInfo) },
	}
	fsFamily = family{
		func() codec { return new(FsVolumeInfo) }, func() codec { return new(FsSizeInfo) },
		func() codec { return new(FsFullSizeInfo) }, func() codec { return new(FsDeviceInfo) },
		func() codec { return new(FsAttributeInfo) }, func() codec { return new(FsControlInfo) },
		func() codec { return new(FsObjectIDInfo) }, func() codec { return new(FsSectorSizeInfo) },
	}
	fsctlFamily = family{
		func() codec { return new(ByteRange) }, func() codec { return new(ZeroData) },
		func() codec { return new(SetSparse) }, func() codec { return new(Trim) },
		func() codec { return new(TrimReply) }, func() codec { return new(DuplicateExtents) },
		func() codec { return new(DuplicateExtentsEx) }, func() codec { return new(GetIntegrity) },
		func() codec { return new(SetIntegrity) }, func() codec { return new(CompressionState) },
		func() codec { return new(SetIntegrityEx) }, func() codec { return new(NTFSVolumeData) },
		func() codec { return new(ObjectIDBuffer) }, func() codec { return new(OffloadReadInput) },
		func() codec { return new(OffloadReadOutput) }, func() codec { return new(OffloadWriteInput) },
		func() codec { return new(OffloadWriteOutput) }, func() codec { return new(FileRegion) },
		func() codec { return new(FileRegions) }, func() codec { return new(PipeWait) },
		func() codec { return new(PipePeek) },
	}
)

// check demands that what decodes, encodes to what decodes to the same, and
// that Encode writes Size bytes, all of them, and none beyond.
func (f family) check(t *testing.T, kind uint8, b []byte) {
	t.Helper()
	newCodec := f[int(kind)%len(f)]
	c := newCodec()
	if c.Decode(b) != nil {
		return
	}
	const guard = 8
	enc := bytes.Repeat([]byte{0xA5}, c.Size()+guard)
	c.Encode(enc)
	if !bytes.Equal(enc[c.Size():], bytes.Repeat([]byte{0xA5}, guard)) {
		t.Fatalf("%T writes beyond its size", c)
	}
	enc = enc[:c.Size()]
	other := bytes.Repeat([]byte{0x5A}, c.Size())
	c.Encode(other)
	if !bytes.Equal(enc, other) {
		t.Fatalf("%T leaves bytes of its size unwritten", c)
	}
	again := newCodec()
	if err := again.Decode(enc); err != nil {
		t.Fatalf("%T %x does not decode again: %v", c, enc, err)
	}
	if !reflect.DeepEqual(c, again) {
		t.Fatalf("%T %+v decodes again as %+v", c, c, again)
	}
}

// TestSizes has every structure of fixed size as the specification gives it,
// and cut short by one byte.
func TestSizes(t *testing.T) {
	for _, c := range []struct {
		codec codec
		size  int
	}{
		{new(BasicInfo), 40}, {new(StandardInfo), 24}, {new(InternalInfo), 8}, {new(EaInfo), 4}, {new(AccessInfo), 4},
		{new(PositionInfo), 8}, {new(ModeInfo), 4}, {new(AlignmentInfo), 4}, {new(AllInfo), 100}, {new(NameInfo), 4},
		{new(NetworkOpenInfo), 56}, {new(AttributeTagInfo), 8}, {new(CompressionInfo), 16}, {new(IDInfo), 24},
		{new(DispositionInfo), 1}, {new(DispositionInfoEx), 4}, {&RenameInfo{Name: "ab"}, 24}, {&RenameInfoEx{Name: "abc"}, 26},
		{new(PipeInfo), 8}, {new(PipeLocalInfo), 40}, {new(FsVolumeInfo), 18}, {new(FsSizeInfo), 24}, {new(FsFullSizeInfo), 32},
		{new(FsDeviceInfo), 8}, {new(FsAttributeInfo), 12}, {new(FsControlInfo), 48}, {new(FsObjectIDInfo), 64},
		{new(FsSectorSizeInfo), 28}, {new(ByteRange), 16}, {new(ZeroData), 16}, {new(DuplicateExtents), 40},
		{new(GetIntegrity), 16}, {new(SetIntegrity), 8}, {new(SetIntegrityEx), 16}, {new(NTFSVolumeData), 96}, {new(CompressionState), 2}, {new(ObjectIDBuffer), 64},
		{new(OffloadReadInput), 32}, {new(OffloadReadOutput), 528}, {new(OffloadWriteInput), 544}, {new(OffloadWriteOutput), 16},
		{new(FileRegion), 24}, {new(FileRegions), 16}, {new(PipeWait), 14}, {new(PipePeek), 16},
	} {
		if c.codec.Size() != c.size {
			t.Errorf("%T: %d bytes, want %d", c.codec, c.codec.Size(), c.size)
		}
		b := make([]byte, c.size)
		c.codec.Encode(b)
		if err := c.codec.Decode(b); err != nil {
			t.Errorf("%T: %v", c.codec, err)
		}
		if err := c.codec.Decode(b[:c.size-1]); err == nil && c.size > 24 {
			t.Errorf("%T decodes with a byte missing", c.codec)
		}
	}
}

func seed(f *testing.F, fam family, prefix string) {
	for i, newCodec := range fam {
		for _, g := range goldens(f) {
			if known := goldenCodecs[g.kind]; strings.HasPrefix(g.kind, prefix) && known != nil &&
				reflect.TypeOf(known()) == reflect.TypeOf(newCodec()) {
				f.Add(uint8(i), g.data)
			}
		}
		b := make([]byte, newCodec().Size())
		newCodec().Encode(b)
		f.Add(uint8(i), b)
	}
}

func FuzzFileInfo(f *testing.F) {
	seed(f, fileFamily, "")
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) { fileFamily.check(t, kind, b) })
}

func FuzzFsInfo(f *testing.F) {
	seed(f, fsFamily, "query/2/")
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) { fsFamily.check(t, kind, b) })
}

func FuzzFsctl(f *testing.F) {
	seed(f, fsctlFamily, "ioctl")
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) { fsctlFamily.check(t, kind, b) })
}

// FuzzLists covers the chained entries: what is read can be written into a
// buffer of the same length, and reads back the same.
func FuzzLists(f *testing.F) {
	for _, g := range goldens(f) {
		for i, kind := range []string{"dir/1/3", "dir/1/12", "dir/1/37", "query/1/22", "notify/1/0"} {
			if g.kind == kind {
				f.Add(uint8(i), g.data)
			}
		}
	}
	ea := make([]byte, 64)
	w := NewEaWriter(ea)
	w.Add(&EaEntry{Name: []byte("A"), Value: []byte("one")})
	w.Add(&EaEntry{Name: []byte("LONGER"), Flags: FILE_NEED_EA})
	f.Add(uint8(listEas), ea[:w.Len()])
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		b2 := make([]byte, 2*len(b)+64)
		n, err := rewriteList(kind, b, b2)
		if err != nil {
			return
		}
		b3 := make([]byte, len(b2))
		m, err := rewriteList(kind, b2[:n], b3)
		if err != nil || !bytes.Equal(b2[:n], b3[:m]) {
			t.Fatalf("kind %d: %x reads back as %x, %v", kind%listKinds, b2[:n], b3[:m], err)
		}
	})
}

// Kinds of list; those below listStreams are directory classes.
const (
	listStreams = 3 + iota
	listNotify
	listEas
	listFullDir
	listExtdDir
	listKinds
)

// rewriteList reads a list from src and writes it to dst.
func rewriteList(kind uint8, src, dst []byte) (int, error) {
	switch kind %= listKinds; kind {
	case listStreams:
		list, err := DecodeStreams(src)
		w := NewStreamWriter(dst)
		for i := range list {
			w.Add(&list[i])
		}
		return w.Len(), err
	case listNotify:
		list, err := DecodeNotify(src)
		w := NewNotifyWriter(dst)
		for i := range list {
			w.Add(&list[i])
		}
		return w.Len(), err
	case listEas:
		list, err := DecodeEas(src)
		w := NewEaWriter(dst)
		for i := range list {
			w.Add(&list[i])
		}
		return w.Len(), err
	}
	class := map[uint8]InfoClass{0: 3, 1: 12, 2: 37, listFullDir: 38, listExtdDir: 60}[kind]
	w, err := NewDirWriter(class, dst)
	if err != nil {
		return 0, err
	}
	err = ReadDirEntries(class, src, func(e *DirEntry) error { w.Add(e); return nil })
	return w.Len(), err
}

func FuzzSecurityDescriptor(f *testing.F) {
	for _, g := range goldens(f) {
		if strings.HasSuffix(g.kind, "/3/0") {
			f.Add(g.data)
		}
	}
	raw, err := (&SecurityDescriptor{Owner: testUser, Group: testStaff, Control: SE_SACL_PRESENT,
		SACL: &ACL{ACEs: []ACE{callbackACE(SYSTEM_MANDATORY_LABEL_ACE_TYPE, 1, testUser)}},
		DACL: dacl(objectACE(ACCESS_ALLOWED_OBJECT_ACE_TYPE, 1, 3, testUser), Deny(testStaff, 2, INHERITED_ACE))}).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, b []byte) {
		var d, again SecurityDescriptor
		if d.Decode(b) != nil {
			return
		}
		enc, err := d.Marshal()
		if err != nil {
			t.Fatalf("%+v does not encode: %v", d, err)
		}
		if err := again.Decode(enc); err != nil {
			t.Fatalf("%x does not decode again: %v", enc, err)
		}
		enc2, err := again.Marshal()
		if err != nil || !bytes.Equal(enc, enc2) {
			t.Fatalf("%x encodes to %x, %v", enc, enc2, err)
		}
		// nothing a descriptor holds upsets what works with it
		d.AccessCheck(&testToken, MAXIMUM_ALLOWED)
		for _, folder := range []bool{false, true} {
			if n, err := NewDescriptor(&d, &d, &testToken, folder); err == nil {
				if _, err := n.Marshal(); err != nil {
					t.Fatalf("inherited descriptor does not encode: %v", err)
				}
			}
		}
		if m, err := d.Merge(&d, 0xF000007F); err == nil {
			m.Select(DACL_SECURITY_INFORMATION | LABEL_SECURITY_INFORMATION)
		}
	})
}

func FuzzSID(f *testing.F) {
	f.Add("S-1-5-21-1-2-3-1001")
	f.Add("S-1-0x123456789ABC-1")
	f.Add("s-1-1-0")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSID(text)
		if err != nil {
			return
		}
		if again, err := ParseSID(s.String()); err != nil && !s.IsZero() || again != s {
			t.Fatalf("%q is %v, which is %v, %v", text, s, again, err)
		}
		b := make([]byte, s.Size())
		s.Encode(b)
		var again SID
		if err := again.Decode(b); err != nil || again != s {
			t.Fatalf("%v encodes to %x, which is %v, %v", s, b, again, err)
		}
	})
}

// FuzzUTF16: every sequence of units survives the way through a string.
func FuzzUTF16(f *testing.F) {
	f.Add([]byte{'a', 0, 0x3D, 0xD8, 0x00, 0xDE})
	f.Add([]byte{0x00, 0xD8, 0x00, 0xD8, 0x00, 0xDC, 0x00, 0xDC})
	f.Fuzz(func(t *testing.T, b []byte) {
		b = b[:len(b)&^1]
		s := DecodeUTF16(b)
		if got := EncodeUTF16(s); !bytes.Equal(got, b) || len(got) != UTF16Len(s) {
			t.Fatalf("%x is %q, which is %x (length %d)", b, s, got, UTF16Len(s))
		}
	})
}

// FuzzPattern holds the matcher against a plain one that tries everything.
func FuzzPattern(f *testing.F) {
	for _, p := range []string{"*.txt", "a<b>c\"", "<.>", "??*\"", ">>>\"<"} {
		f.Add(p, "abc.d.txt")
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if len(pattern) > 12 || len(name) > 12 || name == "" {
			return
		}
		p, err := CompilePattern(pattern)
		if err != nil {
			return
		}
		want := pattern == "*.*" || tryAll(appendUpcased(nil, pattern), appendUpcased(nil, name))
		if p.Match(name) != want {
			t.Fatalf("%q against %q: %v, want %v", pattern, name, !want, want)
		}
	})
}

// tryAll is MS-FSA 2.1.4.4 written as it reads.
func tryAll(p, n []uint16) bool {
	if len(p) == 0 {
		return len(n) == 0
	}
	switch p[0] {
	case '*':
		return tryAll(p[1:], n) || len(n) > 0 && tryAll(p, n[1:])
	case '<':
		if tryAll(p[1:], n) {
			return true
		}
		if len(n) == 0 {
			return false
		}
		last := n[0] == '.'
		for _, u := range n[1:] {
			last = last && u != '.'
		}
		return !last && tryAll(p, n[1:])
	case '>':
		if len(n) == 0 || n[0] == '.' {
			return tryAll(p[1:], n)
		}
		return tryAll(p[1:], n[1:])
	case '"':
		return len(n) == 0 && tryAll(p[1:], n) || len(n) > 0 && n[0] == '.' && tryAll(p[1:], n[1:])
	case '?':
		return len(n) > 0 && tryAll(p[1:], n[1:])
	}
	return len(n) > 0 && n[0] == p[0] && tryAll(p[1:], n[1:])
}
