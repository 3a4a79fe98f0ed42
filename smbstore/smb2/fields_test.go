package smb2

import (
	"bytes"
	"encoding/hex"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// guidOf reads the usual spelling of a GUID.
func guidOf(t testing.TB, s string) (g GUID) {
	t.Helper()
	b := unhex(t, string(bytes.ReplaceAll([]byte(s), []byte("-"), nil)))
	slices.Reverse(b[0:4])
	slices.Reverse(b[4:6])
	slices.Reverse(b[6:8])
	copy(g[:], b)
	if g.String() != s {
		t.Fatalf("GUID %s prints as %s", s, g)
	}
	return g
}

func decodeGolden(t testing.TB, name string, m Message) (h Header) {
	t.Helper()
	msg := readHex(t, "testdata/"+name+".hex")
	if err := h.Decode(msg); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if err := m.Decode(msg); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return h
}

// TestGoldenFields compares what the codecs make of the goldens with what
// Wireshark's dissector makes of them.
func TestGoldenFields(t *testing.T) {
	tests := []struct {
		name   string
		header Header
		got    Message
		want   Message
	}{
		{"smbd-311-create-response-error",
			Header{CreditCharge: 1, Status: StatusObjectNameNotFound, Command: CommandCreate, Credits: 1, Flags: 0x11,
				MessageID: 4, TreeID: 0x2a1eb4ab, SessionID: 0xabf16ec6},
			&ErrorResponse{}, &ErrorResponse{}},
		{"smbclient-311-create-request",
			Header{CreditCharge: 1, Command: CommandCreate, Credits: 1, Flags: 0x10, MessageID: 7, TreeID: 0x85ec6e1f,
				SessionID: 0x1f5e0bc3},
			&CreateRequest{}, &CreateRequest{ImpersonationLevel: ImpersonationImpersonation,
				DesiredAccess: FileReadData | FileReadAttributes, FileAttributes: 0x10,
				ShareAccess: FileShareRead | FileShareWrite, CreateDisposition: FileOpen, CreateOptions: FileDirectoryFile}},
		{"smbclient-311-read-request",
			Header{CreditCharge: 1, Command: CommandRead, Credits: 1, Flags: 0x10, MessageID: 541, TreeID: 0x85ec6e1f,
				SessionID: 0x1f5e0bc3},
			&ReadRequest{}, &ReadRequest{Length: 6, FileID: FileID{0x1c25a16a, 0xbfb3fde8}}},
		{"smbd-311-read-response",
			Header{CreditCharge: 1, Command: CommandRead, Credits: 1, Flags: 0x11, MessageID: 541, TreeID: 0x85ec6e1f,
				SessionID: 0x1f5e0bc3},
			&ReadResponse{}, &ReadResponse{DataLength: 6, Data: []byte("hello\n")}},
		{"smbclient-311-write-request",
			Header{CreditCharge: 1, Command: CommandWrite, Credits: 1, Flags: 0x10, MessageID: 271, TreeID: 0x85ec6e1f,
				SessionID: 0x1f5e0bc3},
			&WriteRequest{}, &WriteRequest{Length: 6, FileID: FileID{0xfe28a62f, 0x16339d06}, Data: []byte("hello\n")}},
		{"smbd-311-write-response",
			Header{CreditCharge: 1, Command: CommandWrite, Credits: 1, Flags: 0x11, MessageID: 271, TreeID: 0x85ec6e1f,
				SessionID: 0x1f5e0bc3},
			&WriteResponse{}, &WriteResponse{Count: 6}},
		{"smbclient-311-query_directory-request",
			Header{CreditCharge: 128, Command: CommandQueryDirectory, Credits: 1, Flags: 0x10, MessageID: 8,
				TreeID: 0x85ec6e1f, SessionID: 0x1f5e0bc3},
			&QueryDirectoryRequest{}, &QueryDirectoryRequest{FileInformationClass: 37, FileID: FileID{0xc95d81fb, 0xc3f9c9c2},
				FileName: "*", OutputBufferLength: 8 << 20}},
		{"smbclient-311-query_info-request-3_0",
			Header{CreditCharge: 1, Command: CommandQueryInfo, Credits: 1, Flags: 0x10, MessageID: 706, TreeID: 0x85ec6e1f,
				SessionID: 0x1f5e0bc3},
			&QueryInfoRequest{}, &QueryInfoRequest{InfoType: InfoSecurity, OutputBufferLength: 65535,
				AdditionalInformation: OwnerSecurityInformation | GroupSecurityInformation | DACLSecurityInformation,
				FileID:                FileID{0x47cf5491, 0x4bfac7c7}}},
		{"smbtorture-311-change_notify-request",
			Header{CreditCharge: 1, Command: CommandChangeNotify, Credits: 1, Flags: 0x10, MessageID: 915,
				TreeID: 0xae4e17d8, SessionID: 0xb50006cc},
			&ChangeNotifyRequest{}, &ChangeNotifyRequest{Flags: ChangeNotifyWatchTree, OutputBufferLength: 1000,
				FileID: FileID{0xec3c4fa3, 0x22f70345}, CompletionFilter: NotifyChangeSize}},
		{"smbtorture-311-lock-request",
			Header{CreditCharge: 1, Command: CommandLock, Credits: 1, Flags: 0x10, MessageID: 25, TreeID: 0x665cb829,
				SessionID: 0xff089cf7},
			&LockRequest{}, &LockRequest{FileID: FileID{0x2dbe4b9d, 0x46e5934b}, Locks: []LockElement{
				{9999, 1, LockFlagSharedLock | LockFlagFailImmediately}, {9999, 1, LockFlagSharedLock}}}},
		{"smbtorture-311-cancel-request",
			Header{Command: CommandCancel, Flags: 0x10, MessageID: 915, SessionID: 0xb50006cc},
			&CancelRequest{}, &CancelRequest{}},
		{"smbtorture-311-oplock_break-request-24",
			Header{CreditCharge: 1, Command: CommandOplockBreak, Credits: 1, Flags: 0x10, MessageID: 7, TreeID: 0xbb369e68,
				SessionID: 0x968bc1c5},
			&OplockBreak{}, &OplockBreak{OplockLevel: OplockII, FileID: FileID{0x3f4d6750, 0xf819b8bd}}},
		{"smbtorture-311-oplock_break-request-36",
			Header{CreditCharge: 1, Command: CommandOplockBreak, Credits: 2, Flags: 0x10, MessageID: 71, TreeID: 0x44288fdc,
				SessionID: 0x396add44},
			&LeaseBreak{}, &LeaseBreak{LeaseKey: guidOf(t, "e0ddf00d-0ffe-badc-f20f-221f01f02345"),
				LeaseState: LeaseReadCaching}},
		{"smbd-311-oplock_break-response-44_notification",
			Header{Command: CommandOplockBreak, Flags: FlagServerToRedir, MessageID: ^uint64(0)},
			&LeaseBreakNotification{}, &LeaseBreakNotification{Flags: LeaseFlagBreakAckRequired,
				LeaseKey:          guidOf(t, "e0ddf00d-0ffe-badc-f20f-221f01f02345"),
				CurrentLeaseState: LeaseReadCaching | LeaseWriteCaching, NewLeaseState: LeaseReadCaching}},
		{"smbclient-311-tree_connect-request",
			Header{CreditCharge: 1, Command: CommandTreeConnect, Credits: 1, Flags: FlagSigned | 0x10, MessageID: 3,
				SessionID: 0x1f5e0bc3, Signature: [16]byte(unhex(t, "77139ab7692a8258161fd785eadabc81"))},
			&TreeConnectRequest{}, &TreeConnectRequest{Path: `\\127.0.0.1\IPC$`}},
		{"smbd-311-tree_connect-response",
			Header{CreditCharge: 1, Command: CommandTreeConnect, Credits: 1, Flags: 0x19, MessageID: 3, TreeID: 0x2a1eb4ab,
				SessionID: 0xabf16ec6, Signature: [16]byte(unhex(t, "16f3a612f6a196d16633d217e23530dd"))},
			&TreeConnectResponse{}, &TreeConnectResponse{ShareType: ShareTypeDisk, MaximalAccess: 0x1f01ff}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := decodeGolden(t, tt.name, tt.got)
			if d := cmp.Diff(tt.header, h); d != "" {
				t.Errorf("header (-want +got):\n%s", d)
			}
			if d := cmp.Diff(tt.want, tt.got); d != "" {
				t.Errorf("body (-want +got):\n%s", d)
			}
		})
	}
}

func TestGoldenNegotiate(t *testing.T) {
	var q NegotiateRequest
	decodeGolden(t, "smbclient-311-negotiate-request", &q)
	if want := []Dialect{Dialect202, Dialect210, Dialect300, Dialect302, Dialect311}; !slices.Equal(q.Dialects, want) {
		t.Errorf("dialects %v, want %v", q.Dialects, want)
	}
	if q.SecurityMode != SigningEnabled || q.Capabilities != 0x7f ||
		q.ClientGUID != guidOf(t, "e251d674-11cd-45fc-8b5f-4494f8ae25d6") {
		t.Errorf("got %+v", q)
	}
	checkContext(t, q.Contexts, NegotiatePreauthIntegrity, &PreauthIntegrityCapabilities{}, &PreauthIntegrityCapabilities{
		[]HashAlgorithm{HashSHA512}, unhex(t, "6c3a42f9dcf076b275394cedc21b9bcfea807e629a0e4cc0da5cea219a4ff001")})
	checkContext(t, q.Contexts, NegotiateEncryption, &EncryptionCapabilities{}, &EncryptionCapabilities{
		[]Cipher{CipherAES128GCM, CipherAES128CCM, CipherAES256GCM, CipherAES256CCM}})
	checkContext(t, q.Contexts, NegotiateSigning, &SigningCapabilities{}, &SigningCapabilities{
		[]SigningAlgorithm{SigningAESGMAC, SigningAESCMAC, SigningHMACSHA256}})
	checkContext(t, q.Contexts, NegotiateNetname, &NetnameContext{}, &NetnameContext{"127.0.0.1"})

	var r NegotiateResponse
	decodeGolden(t, "smbd-311-negotiate-response", &r)
	if r.DialectRevision != Dialect311 || r.MaxReadSize != 8<<20 || r.Capabilities != 0xf || len(r.SecurityBuffer) != 74 {
		t.Errorf("got %+v", r)
	}
	checkContext(t, r.Contexts, NegotiateSigning, &SigningCapabilities{}, &SigningCapabilities{
		[]SigningAlgorithm{SigningAESGMAC}})
	decodeGolden(t, "smbd-multi-negotiate-response-wildcard", &r)
	if r.DialectRevision != DialectWildcard || r.Capabilities != CapDFS|CapLeasing|CapLargeMTU {
		t.Errorf("got %+v", r)
	}
}

func checkContext[T interface {
	Decode([]byte) error
	Context() NegotiateContext
}](t *testing.T, list []NegotiateContext, typ NegotiateContextType, got, want T) {
	t.Helper()
	data, ok := FindNegotiateContext(list, typ)
	if !ok {
		t.Errorf("no context %#x", typ)
		return
	}
	if err := got.Decode(data); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("context %#x (-want +got):\n%s", typ, d)
	}
	if c := got.Context(); c.Type != typ || !bytes.Equal(c.Data, data) {
		t.Errorf("context %#x encodes to %x, want %x", typ, c.Data, data)
	}
}

func TestGoldenCreateContexts(t *testing.T) {
	key := guidOf(t, "7a6c7a38-0000-0000-c785-9385ffffffff")
	tests := []struct {
		golden    string
		name      string
		got, want interface {
			Decode([]byte) error
			Context() CreateContext
		}
	}{
		{"smbtorture-311-create-request-durable_v2_with_lease_v2", CreateContextDurableRequestV2, &DurableRequestV2{},
			&DurableRequestV2{Timeout: 4294967295, CreateGUID: guidOf(t, "e7fe4bf0-aa4d-43d1-a2c3-d4f92c82edbc")}},
		{"smbtorture-311-create-request-durable_v2_with_lease_v2", CreateContextLease, &Lease{},
			&Lease{Version: 2, LeaseKey: key, LeaseState: LeaseReadCaching | LeaseHandleCaching | LeaseWriteCaching}},
		{"smbd-311-create-response-durable_v2_with_lease_v2", CreateContextDurableRequestV2, &DurableResponseV2{},
			&DurableResponseV2{Timeout: 300000}},
		{"smbd-311-create-response-durable_v2_with_lease_v2", CreateContextLease, &Lease{},
			&Lease{Version: 2, LeaseKey: key, LeaseState: LeaseReadCaching | LeaseHandleCaching | LeaseWriteCaching, Epoch: 1}},
		{"smbd-311-create-response-maximal_access", CreateContextMaximalAccess, &MaximalAccessResponse{},
			&MaximalAccessResponse{StatusSuccess, 0x1f01ff}},
		{"smbtorture-311-create-request-maximal_access_with_allocation_size_with_durable_with_timewarp",
			CreateContextAllocationSize, &AllocationSize{}, &AllocationSize{1 << 20}},
		{"smbtorture-311-create-request-maximal_access_with_allocation_size_with_durable_with_timewarp",
			CreateContextMaximalAccess, &MaximalAccessRequest{}, &MaximalAccessRequest{}},
		{"smbtorture-311-create-request-maximal_access_with_allocation_size_with_durable_with_timewarp",
			CreateContextDurableRequest, &DurableRequest{}, &DurableRequest{}},
	}
	for _, tt := range tests {
		t.Run(tt.golden+"/"+tt.name, func(t *testing.T) {
			msg := readHex(t, "testdata/"+tt.golden+".hex")
			var q CreateRequest
			var r CreateResponse
			list, err := &q.Contexts, q.Decode(msg)
			if err != nil {
				list, err = &r.Contexts, r.Decode(msg)
			}
			if err != nil {
				t.Fatal(err)
			}
			data, ok := FindCreateContext(*list, tt.name)
			if !ok {
				t.Fatal("context is missing")
			}
			if err := tt.got.Decode(data); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, tt.got); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
			if c := tt.got.Context(); c.Name != tt.name || !bytes.Equal(c.Data, data) {
				t.Errorf("encodes to %x, want %x", c.Data, data)
			}
		})
	}
}

func TestGoldenIoctlPayloads(t *testing.T) {
	var q IoctlRequest
	var r IoctlResponse

	decodeGolden(t, "smbclient-300-ioctl-request-140204", &q)
	var vq ValidateNegotiateInfoRequest
	if err := vq.Decode(q.Input); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(ValidateNegotiateInfoRequest{Capabilities: 0x7f, GUID: guidOf(t, "9fe75c4b-3eb2-40dd-9ece-9195e6f21799"),
		SecurityMode: SigningEnabled, Dialects: []Dialect{Dialect202, Dialect210, Dialect300}}, vq); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}

	decodeGolden(t, "smbd-300-ioctl-response-140204", &r)
	var vr ValidateNegotiateInfoResponse
	if err := vr.Decode(r.Output); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(ValidateNegotiateInfoResponse{Capabilities: 0x4f, GUID: guidOf(t, "64626d73-0000-0000-0000-000000000000"),
		SecurityMode: SigningEnabled, Dialect: Dialect300}, vr); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}

	decodeGolden(t, "smbclient-311-ioctl-request-1480f2", &q)
	var cc CopychunkCopy
	if err := cc.Decode(q.Input); err != nil {
		t.Fatal(err)
	}
	if q.CtlCode != FsctlSrvCopychunkWrite || !slices.Equal(cc.Chunks, []CopychunkChunk{{Length: 6}}) {
		t.Errorf("got %v %+v", q.CtlCode, cc)
	}
	decodeGolden(t, "smbd-311-ioctl-response-140078", &r)
	var key ResumeKeyResponse
	if err := key.Decode(r.Output); err != nil || key.ResumeKey != cc.SourceKey {
		t.Errorf("resume key %x, used as %x; %v", key.ResumeKey, cc.SourceKey, err)
	}
	decodeGolden(t, "smbd-311-ioctl-response-1480f2", &r)
	var cr CopychunkResponse
	if err := cr.Decode(r.Output); err != nil || cr != (CopychunkResponse{ChunksWritten: 1, TotalBytesWritten: 6}) {
		t.Errorf("got %+v, %v", cr, err)
	}
}

func TestGoldenSMB1Negotiate(t *testing.T) {
	msg := readHex(t, "testdata/smbclient-multi-smb1_negotiate-request.hex")
	if ProtocolID(msg) != ProtocolSMB1 {
		t.Errorf("protocol %#x", ProtocolID(msg))
	}
	var r SMB1NegotiateRequest
	if err := r.Decode(msg); err != nil {
		t.Fatal(err)
	}
	if want := []string{"NT LANMAN 1.0", "NT LM 0.12", "SMB 2.002", "SMB 2.???"}; !slices.Equal(r.Dialects, want) {
		t.Errorf("dialects %q, want %q", r.Dialects, want)
	}
	if d, ok := r.Answer(); d != DialectWildcard || !ok {
		t.Errorf("answer %v %v", d, ok)
	}
	for _, tt := range []struct {
		dialects []string
		want     Dialect
	}{{[]string{"NT LM 0.12", "SMB 2.002"}, Dialect202}, {[]string{"NT LM 0.12"}, 0}, {nil, 0}} {
		r.Dialects = tt.dialects
		if d, ok := r.Answer(); d != tt.want || ok != (tt.want != 0) {
			t.Errorf("answer to %q: %v %v", tt.dialects, d, ok)
		}
	}
}
