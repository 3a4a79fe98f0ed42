package smb2

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func exampleInterfaces() *NetworkInterfaceInfos {
	return &NetworkInterfaceInfos{
		{IfIndex: 1, Capability: InterfaceRSSCapable, LinkSpeed: 1e10, Addr: netip.MustParseAddr("192.0.2.1")},
		{IfIndex: 2, LinkSpeed: 1e9, Addr: netip.MustParseAddr("2001:db8::1")},
	}
}

// TestLayout checks bytes that no golden has against the specification.
func TestLayout(t *testing.T) {
	body := func(m Message) []byte { return encodeBody(m)[HeaderSize:] }
	payload := func(p payloadCodec) []byte {
		b := bytes.Repeat([]byte{0xA5}, p.Size())
		p.Encode(b)
		return b
	}
	array := NewSnapshotArray([]string{"ab", "c"})
	v4 := (*exampleInterfaces())[:1]
	tests := []struct {
		name string
		got  []byte
		want string
	}{
		{"error without data", body(&ErrorResponse{}), "0900 00 00 00000000 00"},
		{"error, STATUS_BUFFER_TOO_SMALL", body(&ErrorResponse{Data: []byte{0x78, 0x56, 0x34, 0x12}}), "0900 00 00 04000000 78563412"},
		{"error contexts", body(&ErrorResponse{Contexts: []ErrorContext{{ErrorIDShareRedirect, []byte{1}}, {ErrorIDDefault, []byte{2, 3}}}}),
			"0900 02 00 1a000000 01000000 53526472 01 00000000000000 02000000 00000000 0203"},
		{"symbolic link", payload(&SymlinkError{UnparsedPathLength: 6, Relative: true, SubstituteName: "ab", PrintName: "c"}),
			"1e000000 53594d4c 0c0000a0 1200 0600 0000 0400 0400 0200 01000000 6100 6200 6300"},
		{"tree connect, extension", body(&TreeConnectRequest{Flags: TreeConnectFlagExtensionPresent, Path: "a",
			Contexts: []TreeConnectContext{{TreeConnectRemotedIdentity, []byte{9}}}}),
			"0900 0400 5800 0200 20000000 0100 00000000000000000000 6100 000000000000 0100 0100 00000000 09"},
		{"read request, channel", body(&ReadRequest{Length: 1, Channel: ChannelRDMAV1, ChannelInfo: []byte{7, 8}}),
			"3100 00 00 01000000 0000000000000000 00000000000000000000000000000000 00000000 01000000 00000000 7000 0200 0708"},
		{"write request, channel", body(&WriteRequest{Length: 0, Channel: ChannelRDMAV1, RemainingBytes: 5, ChannelInfo: []byte{7, 8}}),
			"3100 7800 00000000 0000000000000000 00000000000000000000000000000000 01000000 05000000 7000 0200 00000000 0708000000000000"},
		{"lock", body(&LockRequest{LockSequence: 0x21, FileID: FileID{1, 2}, Locks: []LockElement{{3, 4, LockFlagUnlock}}}),
			"3000 0100 21000000 0100000000000000 0200000000000000 0300000000000000 0400000000000000 04000000 00000000"},
		{"snapshots", payload(&array), "02000000 02000000 0c000000 6100 6200 0000 6300 0000 0000"},
		{"resume key", payload(&ResumeKeyResponse{ResumeKey: ResumeKey{1}, Context: make([]byte, 4)}),
			"010000000000000000000000000000000000000000000000 04000000 00000000"},
		{"resiliency", payload(&NetworkResiliencyRequest{Timeout: 0x100}), "00010000 00000000"},
		{"transform header", payload(&TransformHeader{Nonce: [16]byte{1}, OriginalMessageSize: 2, Flags: TransformEncrypted, SessionID: 3}),
			"fd534d42 00000000000000000000000000000000 01000000000000000000000000000000 02000000 0000 0100 0300000000000000"},
		{"interface", payload(&v4)[:32],
			"00000000 01000000 01000000 00000000 00e40b5402000000 0200 0000 c0000201"},
		{"app instance id", (&AppInstanceID{ID: GUID{0xAA}}).Context().Data, "1400 0000 aa000000000000000000000000000000"},
		{"app instance version", (&AppInstanceVersion{High: 1, Low: 2}).Context().Data, "1800 0000 00000000 0100000000000000 0200000000000000"},
		{"durable reconnect 2", (&DurableReconnectV2{FileID{1, 2}, GUID{3}, DurableFlagPersistent}).Context().Data,
			"0100000000000000 0200000000000000 03000000000000000000000000000000 02000000"},
		{"on-disk id", (&OnDiskID{1, 2}).Context().Data, "0100000000000000 0200000000000000 00000000000000000000000000000000"},
		{"compression capabilities", (&CompressionCapabilities{CompressionChained, []CompressionAlgorithm{CompressionLZ77}}).Context().Data,
			"0100 0000 01000000 0200"},
		{"RDMA capabilities", (&RDMATransformCapabilities{[]RDMATransform{RDMATransformSigning}}).Context().Data, "0100 0000 00000000 0200"},
	}
	for _, tt := range tests {
		want := unhex(t, string(bytes.ReplaceAll([]byte(tt.want), []byte(" "), nil)))
		if !bytes.Equal(tt.got, want) {
			t.Errorf("%s:\n got %x\nwant %x", tt.name, tt.got, want)
		}
	}
}

// TestAppInstanceNames compares the long names with MS-SMB2 2.2.13.2.
func TestAppInstanceNames(t *testing.T) {
	for name, want := range map[string]string{
		CreateContextAppInstanceID:      "45bca66aefa7f74a9008fa462e144d74",
		CreateContextAppInstanceVersion: "b982d0b73b56074fa07b524a8116a010",
		CreateContextSVHDXOpenDevice:    "9ccbcf9e04c1e643980e158da1f6ec83",
	} {
		if !bytes.Equal([]byte(name), unhex(t, want)) {
			t.Errorf("%x, want %s", name, want)
		}
	}
	a, b := AppInstanceVersion{1, 9}, AppInstanceVersion{2, 0}
	if !a.Less(b) || b.Less(a) || a.Less(a) || !(AppInstanceVersion{1, 8}).Less(a) {
		t.Error("versions are not in order")
	}
}

// TestMalformed names the sentinel and the field of what must not decode.
func TestMalformed(t *testing.T) {
	create := func(mutate func(b []byte)) []byte {
		b := encodeBody(&CreateRequest{Name: "ab", Contexts: []CreateContext{
			{CreateContextMaximalAccess, nil}, {CreateContextLease, make([]byte, 32)}}})
		mutate(b)
		return b
	}
	u16 := func(m Message, off int, v uint16) []byte {
		b := encodeBody(m)
		le.PutUint16(b[HeaderSize+off:], v)
		return b
	}
	u32 := func(m Message, off int, v uint32) []byte {
		b := encodeBody(m)
		le.PutUint32(b[HeaderSize+off:], v)
		return b
	}
	negotiate := func() *NegotiateRequest {
		return &NegotiateRequest{Dialects: []Dialect{Dialect311}, Contexts: []NegotiateContext{{1, make([]byte, 6)}}}
	}
	contexts := Align8(createRequestFixed + 4) // of the body: 64
	tests := []struct {
		name  string
		m     Message
		msg   []byte
		err   error
		field string
	}{
		{"empty", &ReadRequest{}, nil, ErrTruncated, ""},
		{"header only", &ReadRequest{}, make([]byte, HeaderSize), ErrTruncated, ""},
		{"one byte short", &ReadRequest{}, make([]byte, HeaderSize+readRequestFixed-1), ErrTruncated, ""},
		{"structure size", &ReadRequest{}, make([]byte, 200), ErrStructureSize, ""},
		{"name behind the end", &CreateRequest{}, create(func(b []byte) { le.PutUint16(b[HeaderSize+46:], 0x7000) }), ErrBounds, "Name"},
		{"name inside the header", &CreateRequest{}, create(func(b []byte) { le.PutUint16(b[HeaderSize+44:], 8) }), ErrBounds, "Name"},
		{"name of odd length", &CreateRequest{}, create(func(b []byte) { le.PutUint16(b[HeaderSize+46:], 3) }), ErrValue, "Name"},
		{"contexts behind the end", &CreateRequest{}, create(func(b []byte) { le.PutUint32(b[HeaderSize+52:], 1<<31) }), ErrBounds, "CreateContexts"},
		{"contexts wrap around", &CreateRequest{}, create(func(b []byte) { le.PutUint32(b[HeaderSize+48:], 0xFFFFFFF8) }), ErrBounds, "CreateContexts"},
		{"contexts not aligned", &CreateRequest{}, create(func(b []byte) {
			le.PutUint32(b[HeaderSize+48:], uint32(HeaderSize+contexts+4))
			le.PutUint32(b[HeaderSize+52:], 32)
		}), ErrAlignment, "CreateContextsOffset"},
		{"next context not aligned", &CreateRequest{}, create(func(b []byte) { le.PutUint32(b[HeaderSize+contexts:], 20) }), ErrAlignment, "create context: Next"},
		{"next context behind the end", &CreateRequest{}, create(func(b []byte) { le.PutUint32(b[HeaderSize+contexts:], 0x1000) }), ErrBounds, "create context: Next"},
		{"next context is this one", &CreateRequest{}, create(func(b []byte) { le.PutUint32(b[HeaderSize+contexts:], 8) }), ErrBounds, "create context: Next"},
		{"context's name in the next", &CreateRequest{}, create(func(b []byte) { le.PutUint16(b[HeaderSize+contexts+6:], 40) }), ErrBounds, "create context: Name"},
		{"context's data in the next", &CreateRequest{}, create(func(b []byte) {
			le.PutUint16(b[HeaderSize+contexts+10:], 24)
			le.PutUint32(b[HeaderSize+contexts+12:], 8)
		}), ErrBounds, "create context: Data"},
		{"more dialects than bytes", &NegotiateRequest{}, u16(negotiate(), 2, 0xFFFF), ErrTruncated, ""},
		{"more contexts than bytes", &NegotiateRequest{}, u16(negotiate(), 32, 0xFFFF), ErrBounds, "NegotiateContextList"},
		{"contexts not aligned", &NegotiateRequest{}, u32(negotiate(), 28, HeaderSize+41), ErrAlignment, "NegotiateContextOffset"},
		{"contexts in the fixed part", &NegotiateRequest{}, u32(negotiate(), 28, HeaderSize), ErrBounds, "NegotiateContextOffset"},
		{"token behind the end", &SessionSetupRequest{}, u16(&SessionSetupRequest{SecurityBuffer: []byte{1}}, 14, 2), ErrBounds, "SecurityBuffer"},
		{"more locks than bytes", &LockRequest{}, u16(&LockRequest{Locks: make([]LockElement, 1)}, 2, 2), ErrBounds, "LockCount"},
		{"write behind the end", &WriteRequest{}, u32(&WriteRequest{Length: 1}, 4, 1), ErrBounds, "Data"},
		{"write from the header", &WriteRequest{}, u16(&WriteRequest{Length: 0}, 2, 0), nil, ""},
		{"read behind the end", &ReadResponse{}, u32(&ReadResponse{}, 4, 1), ErrBounds, "Data"},
		{"input behind the end", &IoctlRequest{}, u32(&IoctlRequest{Input: []byte{1}}, 28, 0xFFFFFFFF), ErrBounds, "Input"},
		{"output behind the end", &IoctlResponse{}, u32(&IoctlResponse{Output: []byte{1}}, 36, 0xFFFFFFFF), ErrBounds, "Output"},
		{"info behind the end", &SetInfoRequest{}, u32(&SetInfoRequest{Buffer: []byte{1}}, 4, 2), ErrBounds, "Buffer"},
		{"pattern of odd length", &QueryDirectoryRequest{}, u16(&QueryDirectoryRequest{FileName: "ab"}, 26, 3), ErrValue, "FileName"},
		{"more error contexts than bytes", &ErrorResponse{}, u16(&ErrorResponse{Contexts: make([]ErrorContext, 1)}, 2, 2), ErrTruncated, ""},
		{"lease break as oplock break", &OplockBreak{}, encodeBody(&LeaseBreak{}), ErrStructureSize, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.m.Decode(tt.msg)
			if !errors.Is(err, tt.err) {
				t.Fatalf("%v, want %v", err, tt.err)
			}
			var de *DecodeError
			if tt.err != nil && (!errors.As(err, &de) || de.Field != tt.field) {
				t.Errorf("%v: field is not %q", err, tt.field)
			}
		})
	}
}

// TestTruncated cuts every golden at every length and throws random bytes into
// it: decoding may fail, and must not panic.
func TestTruncated(t *testing.T) {
	seed := [2]uint64{1, 2}
	t.Logf("seed %v", seed)
	rng := rand.New(rand.NewPCG(seed[0], seed[1]))
	for _, g := range goldens(t) {
		var h Header
		if err := h.Decode(g.msg); err != nil {
			t.Fatal(err)
		}
		for n := range len(g.msg) {
			cut := g.msg[:n:n]
			h.Decode(cut)
			if n < HeaderSize+2 {
				continue
			}
			m := newMessage(h.Command, h.IsResponse(), cut)
			m.Decode(cut)
			broken := bytes.Clone(g.msg)
			for range 3 {
				broken[HeaderSize+rng.IntN(len(broken)-HeaderSize)] = byte(rng.Uint32())
			}
			newMessage(h.Command, h.IsResponse(), broken).Decode(broken)
		}
	}
}

func TestCheckRequest(t *testing.T) {
	lease := encodeBody(&LeaseBreak{})
	for c := Command(0); c < NumCommands; c++ {
		msg := encodeBody(newMessage(c, false, nil))
		if err := CheckRequest(c, msg); err != nil {
			t.Errorf("%v: %v", c, err)
		}
		if err := CheckRequest(c, msg[:HeaderSize+Commands[c].FixedSize-1]); !errors.Is(err, ErrTruncated) {
			t.Errorf("%v, cut: %v", c, err)
		}
		le.PutUint16(msg[HeaderSize:], Commands[c].StructureSize+1)
		if err := CheckRequest(c, msg); !errors.Is(err, ErrStructureSize) {
			t.Errorf("%v, structure size one more: %v", c, err)
		}
	}
	if err := CheckRequest(CommandOplockBreak, lease); err != nil {
		t.Error(err)
	}
	if err := CheckRequest(CommandOplockBreak, lease[:len(lease)-1]); !errors.Is(err, ErrTruncated) {
		t.Errorf("a lease break, cut: %v", err)
	}
	if err := CheckRequest(CommandNotification, lease); !errors.Is(err, ErrValue) {
		t.Errorf("no command of clients: %v", err)
	}
	if !IsLeaseBreak(lease) || IsLeaseBreak(encodeBody(&OplockBreak{})) || IsLeaseBreak(nil) {
		t.Error("IsLeaseBreak")
	}
}

func TestCompound(t *testing.T) {
	var frame []byte
	var starts []int
	for i, m := range []Message{&CreateRequest{Name: "abc"}, &CloseRequest{FileID: RelatedFileID}, &EchoRequest{}} {
		starts = append(starts, len(frame))
		frame = AppendMessage(frame, &Header{MessageID: uint64(i)}, m)
		if i < 2 {
			frame = LinkCompound(frame, starts[i])
		}
	}
	rest := frame
	for i, want := range []int{128, 88, HeaderSize + 4} {
		var msg []byte
		var err error
		if msg, rest, err = SplitCompound(rest); err != nil {
			t.Fatal(err)
		}
		var h Header
		if err := h.Decode(msg); err != nil || h.MessageID != uint64(i) || len(msg) != want {
			t.Errorf("message %d: %d bytes, want %d; %+v, %v", i, len(msg), want, h, err)
		}
	}
	if rest != nil {
		t.Errorf("%d bytes are left", len(rest))
	}
	for next, want := range map[uint32]error{4: ErrAlignment, 56: ErrBounds, uint32(len(frame)): ErrAlignment,
		uint32(Align8(len(frame))) - HeaderSize: ErrBounds, 0xFFFFFFF8: ErrBounds} {
		bad := bytes.Clone(frame)
		le.PutUint32(bad[20:], next)
		if _, _, err := SplitCompound(bad); !errors.Is(err, want) {
			t.Errorf("NextCommand %d of %d: %v, want %v", next, len(frame), err, want)
		}
	}
}

func TestFrame(t *testing.T) {
	b := []byte{0xA5, 0xA5, 0xA5, 0xA5}
	PutFrameHeader(b, 0x123456)
	if !bytes.Equal(b, []byte{0, 0x12, 0x34, 0x56}) {
		t.Errorf("%x", b)
	}
	if n, err := FrameSize(b); n != 0x123456 || err != nil {
		t.Errorf("%#x, %v", n, err)
	}
	if _, err := FrameSize([]byte{0x85, 0, 0, 0}); !errors.Is(err, ErrValue) {
		t.Errorf("a keep-alive: %v", err)
	}
	if _, err := FrameSize(b[:3]); !errors.Is(err, ErrTruncated) {
		t.Errorf("three bytes: %v", err)
	}
}

func TestUTF16(t *testing.T) {
	for _, tt := range []struct{ utf16, text string }{
		{"", ""},
		{"a\x00\xe9\x00\xac\x20", "aé€"},
		{"\x3d\xd8\x00\xde", "😀"},
		{"\x00\xd8", "\xed\xa0\x80"},                     // a high surrogate alone
		{"\x00\xde\x3d\xd8", "\xed\xb8\x80\xed\xa0\xbd"}, // the pair the wrong way round
		{"\x3d\xd8a\x00", "\xed\xa0\xbda"},
	} {
		if got := DecodeUTF16([]byte(tt.utf16)); got != tt.text {
			t.Errorf("%x decodes to %q, want %q", tt.utf16, got, tt.text)
		}
		if got := AppendUTF16(nil, tt.text); string(got) != tt.utf16 {
			t.Errorf("%q encodes to %x, want %x", tt.text, got, tt.utf16)
		}
	}
	if got := AppendUTF16(nil, "\xff\xed\xa0"); string(got) != "\xfd\xff\xfd\xff\xfd\xff" {
		t.Errorf("bytes that are no text encode to %x", got)
	}
}

func TestStatus(t *testing.T) {
	var err error = StatusAccessDenied
	if err.Error() != "STATUS_ACCESS_DENIED (0xC0000022)" || !errors.Is(err, StatusAccessDenied) {
		t.Error(err)
	}
	if s := Status(0xC0FFEE00).String(); s != "NTSTATUS 0xC0FFEE00" {
		t.Error(s)
	}
	if !StatusPending.IsSuccess() || !StatusBufferOverflow.IsWarning() || !StatusAccessDenied.IsError() || StatusSuccess.IsError() {
		t.Error("severities")
	}
}

func TestInterfaces(t *testing.T) {
	want := exampleInterfaces()
	b := make([]byte, want.Size())
	want.Encode(b)
	var got NetworkInterfaceInfos
	if err := got.Decode(b); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(*want, got, cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Error(d)
	}
}
