package smb2

import (
	"bytes"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// structured is what every codec has in common.
type structured interface {
	Size() int
	Decode([]byte) error
}

// reencode checks the property of every codec: what decodes, encodes to bytes
// that decode to an equal value and encode to themselves.
func reencode[T structured](t *testing.T, fresh func() T, encode func(T) []byte, in []byte) {
	t.Helper()
	first := fresh()
	if first.Decode(in) != nil {
		return
	}
	once := encode(first)
	second := fresh()
	if err := second.Decode(once); err != nil {
		t.Fatalf("%+v encodes to %x, which does not decode: %v", first, once, err)
	}
	if d := cmp.Diff(first, second, cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Fatalf("decoding what was encoded (-first +second):\n%s", d)
	}
	if twice := encode(second); !bytes.Equal(once, twice) {
		t.Fatalf("encodes to %x, then to %x", once, twice)
	}
}

func encodeBody(m Message) []byte {
	msg := bytes.Repeat([]byte{0xA5}, m.Size())
	clear(msg[:HeaderSize])
	m.Encode(msg)
	return append(msg, payload(m)...)
}

func fuzzCommand(f *testing.F, c Command) {
	for _, g := range goldens(f) {
		if g.command == strings.ToLower(c.String()) && !strings.HasPrefix(g.variant, "error") {
			f.Add(strings.Contains(g.name, "-response"), g.msg)
		}
	}
	f.Fuzz(func(t *testing.T, response bool, msg []byte) {
		if newMessage(c, response, msg) == nil {
			return
		}
		reencode(t, func() Message { return newMessage(c, response, msg) }, encodeBody, msg)
	})
}

func FuzzNegotiate(f *testing.F)      { fuzzCommand(f, CommandNegotiate) }
func FuzzSessionSetup(f *testing.F)   { fuzzCommand(f, CommandSessionSetup) }
func FuzzLogoff(f *testing.F)         { fuzzCommand(f, CommandLogoff) }
func FuzzTreeConnect(f *testing.F)    { fuzzCommand(f, CommandTreeConnect) }
func FuzzTreeDisconnect(f *testing.F) { fuzzCommand(f, CommandTreeDisconnect) }
func FuzzCreate(f *testing.F)         { fuzzCommand(f, CommandCreate) }
func FuzzClose(f *testing.F)          { fuzzCommand(f, CommandClose) }
func FuzzFlush(f *testing.F)          { fuzzCommand(f, CommandFlush) }
func FuzzRead(f *testing.F)           { fuzzCommand(f, CommandRead) }
func FuzzWrite(f *testing.F)          { fuzzCommand(f, CommandWrite) }
func FuzzLock(f *testing.F)           { fuzzCommand(f, CommandLock) }
func FuzzIoctl(f *testing.F)          { fuzzCommand(f, CommandIoctl) }
func FuzzCancel(f *testing.F)         { fuzzCommand(f, CommandCancel) }
func FuzzEcho(f *testing.F)           { fuzzCommand(f, CommandEcho) }
func FuzzQueryDirectory(f *testing.F) { fuzzCommand(f, CommandQueryDirectory) }
func FuzzChangeNotify(f *testing.F)   { fuzzCommand(f, CommandChangeNotify) }
func FuzzQueryInfo(f *testing.F)      { fuzzCommand(f, CommandQueryInfo) }
func FuzzSetInfo(f *testing.F)        { fuzzCommand(f, CommandSetInfo) }

// FuzzOplockBreak takes the structure from the message, as a receiver does.
func FuzzOplockBreak(f *testing.F) { fuzzCommand(f, CommandOplockBreak) }

func FuzzErrorResponse(f *testing.F) {
	for _, g := range goldens(f) {
		if strings.HasPrefix(g.variant, "error") {
			f.Add(g.msg)
		}
	}
	for _, m := range []*ErrorResponse{
		{Data: []byte{0, 1, 0, 0}},
		{Contexts: []ErrorContext{{ErrorIDDefault, []byte{1, 2, 3}}, {ErrorIDShareRedirect, nil}}},
	} {
		f.Add(encodeBody(m))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		reencode(t, func() Message { return &ErrorResponse{} }, encodeBody, msg)
	})
}

func FuzzHeader(f *testing.F) {
	for _, g := range goldens(f) {
		f.Add(g.msg[:HeaderSize])
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		var first, second Header
		if first.Decode(msg) != nil {
			return
		}
		b := bytes.Repeat([]byte{0xA5}, HeaderSize)
		first.Encode(b)
		if err := second.Decode(b); err != nil || first != second {
			t.Fatalf("%+v became %+v: %v", first, second, err)
		}
	})
}

// FuzzCompound splits a frame: the parts must be the frame, each with a header.
func FuzzCompound(f *testing.F) {
	var frame []byte
	for i := range 3 {
		start := len(frame)
		frame = AppendMessage(frame, &Header{Command: CommandCreate, MessageID: uint64(i)}, &CreateRequest{Name: "a"})
		if i < 2 {
			frame = LinkCompound(frame, start)
		}
	}
	f.Add(frame)
	f.Fuzz(func(t *testing.T, frame []byte) {
		var joined []byte
		for rest := frame; rest != nil; {
			var msg []byte
			var err error
			if msg, rest, err = SplitCompound(rest); err != nil {
				return
			}
			if err := new(Header).Decode(msg); err != nil {
				t.Fatal(err)
			}
			if rest != nil && len(msg)%8 != 0 {
				t.Fatalf("a message of %d bytes inside a compound", len(msg))
			}
			joined = append(joined, msg...)
		}
		if !bytes.Equal(joined, frame) {
			t.Fatal("parts are not the frame")
		}
	})
}

// contextCodecs are the typed create contexts.
var contextCodecs = []func() interface {
	Decode([]byte) error
	Context() CreateContext
}{
	func() createContextCodec { return &DurableRequest{} },
	func() createContextCodec { return &DurableResponse{} },
	func() createContextCodec { return &DurableReconnect{} },
	func() createContextCodec { return &DurableRequestV2{} },
	func() createContextCodec { return &DurableResponseV2{} },
	func() createContextCodec { return &DurableReconnectV2{} },
	func() createContextCodec { return &AppInstanceID{} },
	func() createContextCodec { return &AppInstanceVersion{} },
	func() createContextCodec { return &Lease{} },
	func() createContextCodec { return &AllocationSize{} },
	func() createContextCodec { return &MaximalAccessRequest{} },
	func() createContextCodec { return &MaximalAccessResponse{} },
	func() createContextCodec { return &Timewarp{} },
	func() createContextCodec { return &OnDiskID{} },
}

type createContextCodec = interface {
	Decode([]byte) error
	Context() CreateContext
}

func FuzzCreateContexts(f *testing.F) {
	for i := range contextCodecs {
		for _, n := range []int{0, 8, 16, 20, 24, 32, 36, 52} {
			data := make([]byte, n)
			if n > 0 {
				data[0] = byte(n)
			}
			f.Add(uint8(i), data)
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		fresh := contextCodecs[int(kind)%len(contextCodecs)]
		first, second := fresh(), fresh()
		if first.Decode(data) != nil {
			return
		}
		c := first.Context()
		if err := second.Decode(c.Data); err != nil {
			t.Fatalf("%+v: %v", first, err)
		}
		if d := cmp.Diff(first, second); d != "" {
			t.Fatal(d)
		}
		if len(c.Data) != len(data) {
			t.Fatalf("%d bytes became %d", len(data), len(c.Data))
		}
	})
}

type negotiateContextCodec = interface {
	Decode([]byte) error
	Context() NegotiateContext
}

func FuzzNegotiateContexts(f *testing.F) {
	codecs := []func() negotiateContextCodec{
		func() negotiateContextCodec { return &PreauthIntegrityCapabilities{} },
		func() negotiateContextCodec { return &EncryptionCapabilities{} },
		func() negotiateContextCodec { return &CompressionCapabilities{} },
		func() negotiateContextCodec { return &NetnameContext{} },
		func() negotiateContextCodec { return &TransportCapabilities{} },
		func() negotiateContextCodec { return &RDMATransformCapabilities{} },
		func() negotiateContextCodec { return &SigningCapabilities{} },
	}
	for i := range codecs {
		f.Add(uint8(i), []byte{1, 0, 2, 0, 1, 0, 0xAA, 0xBB, 3, 0, 4, 0})
	}
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		fresh := codecs[int(kind)%len(codecs)]
		first, second := fresh(), fresh()
		if len(data) > 0xFFFF || first.Decode(data) != nil {
			return
		}
		c := first.Context()
		if err := second.Decode(c.Data); err != nil {
			t.Fatalf("%+v: %v", first, err)
		}
		if d := cmp.Diff(first, second); d != "" {
			t.Fatal(d)
		}
	})
}

// payloadCodec is a structure inside a message, without a header of its own.
type payloadCodec interface {
	structured
	Encode([]byte)
}

func FuzzPayloads(f *testing.F) {
	codecs := []func() payloadCodec{
		func() payloadCodec { return &ValidateNegotiateInfoRequest{} },
		func() payloadCodec { return &ValidateNegotiateInfoResponse{} },
		func() payloadCodec { return &NetworkResiliencyRequest{} },
		func() payloadCodec { return &SnapshotArray{} },
		func() payloadCodec { return &ResumeKeyResponse{} },
		func() payloadCodec { return &CopychunkCopy{} },
		func() payloadCodec { return &CopychunkResponse{} },
		func() payloadCodec { return &NetworkInterfaceInfos{} },
		func() payloadCodec { return &SymlinkError{} },
		func() payloadCodec { return &TransformHeader{} },
		func() payloadCodec { return &SMB1NegotiateRequest{} },
	}
	paths, err := filepath.Glob("testdata/*.hex")
	if err != nil {
		f.Fatal(err)
	}
	for _, p := range paths {
		if strings.Contains(p, "smb1_negotiate") {
			f.Add(uint8(10), readHex(f, p))
		}
	}
	array := NewSnapshotArray([]string{"@GMT-2026.01.02-03.04.05"})
	for i, v := range []payloadCodec{
		&ValidateNegotiateInfoRequest{Dialects: []Dialect{Dialect311}}, &ValidateNegotiateInfoResponse{},
		&NetworkResiliencyRequest{}, &array, &ResumeKeyResponse{Context: make([]byte, 4)},
		&CopychunkCopy{Chunks: make([]CopychunkChunk, 2)}, &CopychunkResponse{}, exampleInterfaces(),
		&SymlinkError{SubstituteName: `a\b`, PrintName: "b"}, &TransformHeader{SessionID: 1},
	} {
		b := make([]byte, v.Size())
		v.Encode(b)
		f.Add(uint8(i), b)
	}
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		encode := func(v payloadCodec) []byte {
			b := bytes.Repeat([]byte{0xA5}, v.Size())
			v.Encode(b)
			return b
		}
		reencode(t, codecs[int(kind)%len(codecs)], encode, data)
	})
}

// FuzzUTF16 checks that every sequence of 16-bit units survives.
func FuzzUTF16(f *testing.F) {
	for _, b := range []string{"a\x00", "\x00\xD8\x00\xDC", "\x00\xDC\x00\xD8", "\x00\xD8a\x00", "\xFF\xFF\xFD\xFF"} {
		f.Add([]byte(b))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = b[:len(b)&^1]
		s := DecodeUTF16(b)
		if got := AppendUTF16(nil, s); !bytes.Equal(got, b) {
			t.Fatalf("%x became %x by %q", b, got, s)
		}
		// Any string at all must encode to as many bytes as SizeUTF16 says.
		if got := AppendUTF16(nil, string(b)); len(got) != SizeUTF16(string(b)) {
			t.Fatalf("%q: %d bytes, SizeUTF16 says %d", b, len(got), SizeUTF16(string(b)))
		}
	})
}
