package services

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lunless/shares/accounts"
	"lunless/smbstore/rpc"
)

type backend struct {
	shares   []Share
	err      error
	accounts *accounts.Store
}

func (b *backend) Accounts() *accounts.Store { return b.accounts }

func (b *backend) Server() Server {
	return Server{Name: "NODE1", Comment: "VM storage", Group: "WORKGROUP", VersionMajor: 10}
}

func (b *backend) Shares(context.Context) ([]Share, error) { return b.shares, b.err }

var twoShares = &backend{shares: []Share{
	{Name: "vms", Comment: "virtual machines", CurrentUses: 3, Encrypt: true, SD: []byte{1, 0, 4, 0x80}},
	{Name: "iso$", MaxUses: 10},
}}

// pipeTransport reads each message in pieces, as a client with a small buffer does.
type pipeTransport struct {
	p    *Pipe
	room int
}

func (t pipeTransport) Send(_ context.Context, pdu []byte) error {
	_, err := t.p.Write(pdu)
	return err
}

func (t pipeTransport) Receive(context.Context) ([]byte, error) {
	var msg []byte
	b := make([]byte, t.room)
	for {
		n, more, err := t.p.Read(b)
		msg = append(msg, b[:n]...)
		if err != nil || !more {
			return msg, err
		}
	}
}

func connect(t *testing.T, pipe string, syntax rpc.Syntax, c Caller, b Backend) *rpc.Client {
	t.Helper()
	p, err := Open(t.Context(), pipe, c, b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	client, err := rpc.Connect(t.Context(), pipeTransport{p, 100}, syntax)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func call[R interface{ Decode(*rpc.Decoder) error }](t *testing.T, c *rpc.Client, op uint16, encode func(*rpc.Encoder), reply R) R {
	t.Helper()
	d, err := c.Call(t.Context(), op, encode)
	if err != nil {
		t.Fatal(err)
	}
	if err := reply.Decode(d); err != nil {
		t.Fatal(err)
	}
	return reply
}

func TestShareEnum(t *testing.T) {
	ipc := rpc.ShareInfo{Name: "IPC$", Type: rpc.STYPE_IPC | rpc.STYPE_SPECIAL, Comment: "Remote IPC"}
	vms, iso := rpc.ShareInfo{Name: "vms"}, rpc.ShareInfo{Name: "iso$"}
	full := []rpc.ShareInfo{vms, iso, ipc}
	full[0].Comment = "virtual machines"
	uses := append([]rpc.ShareInfo(nil), full...)
	for i, u := range []struct {
		most, now uint32
		path      string
	}{{rpc.UnlimitedUses, 3, `C:\vms`}, {10, 0, `C:\iso$`}, {rpc.UnlimitedUses, 1, ""}} {
		uses[i].MaxUses, uses[i].CurrentUses, uses[i].Path = u.most, u.now, u.path
	}
	flags := append([]rpc.ShareInfo(nil), full...)
	flags[0].Flags, flags[1].Flags, flags[2].Flags = 0x8030, 0x30, 0x30
	sds := append([]rpc.ShareInfo(nil), uses...)
	sds[0].SD = twoShares.shares[0].SD

	for _, c := range []struct {
		level     uint32
		anonymous bool
		status    rpc.Status
		want      []rpc.ShareInfo
	}{
		{0, false, 0, []rpc.ShareInfo{vms, iso, {Name: "IPC$"}}},
		{1, false, 0, full},
		{1, true, 0, full},
		{2, false, 0, uses},
		{2, true, rpc.StatusAccessDenied, nil},
		{501, false, 0, flags},
		{502, false, 0, sds},
		{503, false, rpc.StatusInvalidLevel, nil},
		{1005, false, rpc.StatusInvalidLevel, nil},
	} {
		t.Run(fmt.Sprint(c.level, c.anonymous), func(t *testing.T) {
			client := connect(t, "srvsvc", rpc.SyntaxSrvsvc, Caller{User: "hv", Anonymous: c.anonymous}, twoShares)
			q := rpc.ShareEnumRequest{Server: `\\NODE1`, Level: c.level, PreferredMax: rpc.MaxPreferredLength}
			a := call(t, client, rpc.OpNetrShareEnum, q.Encode, new(rpc.ShareEnumReply))
			if a.Status != c.status || int(a.Total) != len(c.want) {
				t.Errorf("status %v, total %d; want %v, %d", a.Status, a.Total, c.status, len(c.want))
			}
			if diff := cmp.Diff(c.want, a.Shares); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestShareEnumInParts goes through the list with a buffer of a few shares at a time.
func TestShareEnumInParts(t *testing.T) {
	b := &backend{}
	for i := range 300 {
		b.shares = append(b.shares, Share{Name: fmt.Sprintf("share%03d", i), Comment: strings.Repeat("c", i%50)})
	}
	client := connect(t, "SrvSvc", rpc.SyntaxSrvsvc, Caller{}, b)
	var names []string
	q := rpc.ShareEnumRequest{Level: 1, PreferredMax: 500, HasResume: true}
	for range 1000 {
		a := call(t, client, rpc.OpNetrShareEnum, q.Encode, new(rpc.ShareEnumReply))
		if want := 301 - len(names); int(a.Total) != want {
			t.Fatalf("total %d behind %d shares, want %d", a.Total, len(names), want)
		}
		for _, s := range a.Shares {
			names = append(names, s.Name)
		}
		if a.Status == rpc.StatusOK {
			break
		}
		if a.Status != rpc.StatusMoreData || len(a.Shares) == 0 {
			t.Fatalf("status %v with %d shares", a.Status, len(a.Shares))
		}
		q.Resume = a.Resume
	}
	if len(names) != 301 || names[0] != "share000" || names[299] != "share299" || names[300] != "IPC$" {
		t.Errorf("%d names: %v ...", len(names), names[:min(3, len(names))])
	}
	q = rpc.ShareEnumRequest{Level: 1, PreferredMax: 1}
	if a := call(t, client, rpc.OpNetrShareEnum, q.Encode, new(rpc.ShareEnumReply)); a.Status != rpc.StatusBufTooSmall {
		t.Errorf("no room for one share: %v", a.Status)
	}
}

func TestShareGetInfo(t *testing.T) {
	client := connect(t, "srvsvc", rpc.SyntaxSrvsvc, Caller{}, twoShares)
	for _, c := range []struct {
		name   string
		level  uint32
		status rpc.Status
		want   *rpc.ShareInfo
	}{
		{"VMS", 1, 0, &rpc.ShareInfo{Name: "vms", Comment: "virtual machines"}},
		{"vms", 1005, 0, &rpc.ShareInfo{Flags: 0x8030}},
		{"ipc$", 0, 0, &rpc.ShareInfo{Name: "IPC$"}},
		{"none", 1, rpc.StatusNoSuchShare, nil},
		{"vms", 7, rpc.StatusInvalidLevel, nil},
	} {
		q := rpc.ShareGetInfoRequest{Share: c.name, Level: c.level}
		a := call(t, client, rpc.OpNetrShareGetInfo, q.Encode, new(rpc.ShareGetInfoReply))
		if a.Status != c.status {
			t.Errorf("%s at %d: %v, want %v", c.name, c.level, a.Status, c.status)
		}
		if diff := cmp.Diff(c.want, a.Share); diff != "" {
			t.Errorf("%s at %d: %s", c.name, c.level, diff)
		}
	}
}

func TestAnonymousShareGetInfo(t *testing.T) {
	client := connect(t, "srvsvc", rpc.SyntaxSrvsvc, Caller{Anonymous: true}, twoShares)
	for level, want := range map[uint32]rpc.Status{0: 0, 1: 0, 2: rpc.StatusAccessDenied, 501: 0, 502: rpc.StatusAccessDenied, 1005: 0} {
		q := rpc.ShareGetInfoRequest{Share: "vms", Level: level}
		a := call(t, client, rpc.OpNetrShareGetInfo, q.Encode, new(rpc.ShareGetInfoReply))
		if a.Status != want || (a.Share != nil) != (want == 0) {
			t.Errorf("level %d: %v, share %v", level, a.Status, a.Share)
		}
	}
}

// TestStickyShares: as NetrShareEnum, without IPC$ and level 501 (MS-SRVS 3.1.4.9).
func TestStickyShares(t *testing.T) {
	client := connect(t, "srvsvc", rpc.SyntaxSrvsvc, Caller{}, twoShares)
	for level, want := range map[uint32]rpc.Status{0: 0, 1: 0, 501: rpc.StatusInvalidLevel} {
		q := rpc.ShareEnumRequest{Level: level, PreferredMax: rpc.MaxPreferredLength}
		a := call(t, client, rpc.OpNetrShareEnumSticky, q.Encode, new(rpc.ShareEnumReply))
		if a.Status != want || want == 0 && len(a.Shares) != 2 {
			t.Errorf("level %d: %v, %d shares", level, a.Status, len(a.Shares))
		}
	}
}

func TestServerAndWorkstation(t *testing.T) {
	client := connect(t, "srvsvc", rpc.SyntaxSrvsvc, Caller{}, twoShares)
	for level := uint32(100); level <= 102; level++ {
		q := rpc.LevelRequest{Level: level}
		a := call(t, client, rpc.OpNetrServerGetInfo, q.Encode, new(rpc.ServerGetInfoReply))
		if a.Status != 0 || a.Info == nil || a.Info.Name != "NODE1" || level > 100 && (a.Info.Comment != "VM storage" || a.Info.VersionMajor != 10) {
			t.Errorf("level %d: %+v", level, a)
		}
	}
	tod := call(t, client, rpc.OpNetrRemoteTOD, func(e *rpc.Encoder) { e.UniqueWString("") }, new(rpc.RemoteTODReply))
	if tod.Time == nil || tod.Time.Year < 2024 || tod.Time.Month < 1 || tod.Time.Hours > 23 {
		t.Errorf("time of day %+v", tod.Time)
	}
	for op, want := range map[uint16]rpc.Fault{rpc.OpNetrSessionEnum: rpc.FaultAccessDenied, 99: rpc.FaultOperationRange} {
		if _, err := client.Call(t.Context(), op, func(*rpc.Encoder) {}); !errors.Is(err, want) {
			t.Errorf("operation %d: %v, want %v", op, err, want)
		}
	}
	if _, err := client.Call(t.Context(), rpc.OpNetrShareEnum, func(e *rpc.Encoder) { e.U32(1) }); !errors.Is(err, rpc.FaultBadStub) {
		t.Errorf("cut parameters: %v, want bad stub", err)
	}

	client = connect(t, "wkssvc", rpc.SyntaxWkssvc, Caller{}, twoShares)
	q := rpc.LevelRequest{Level: 100}
	w := call(t, client, rpc.OpNetrWkstaGetInfo, q.Encode, new(rpc.WkstaGetInfoReply))
	if w.Status != 0 || w.Info == nil || w.Info.ComputerName != "NODE1" || w.Info.Group != "WORKGROUP" {
		t.Errorf("workstation: %+v", w)
	}
}

func TestBackendError(t *testing.T) {
	client := connect(t, "srvsvc", rpc.SyntaxSrvsvc, Caller{}, &backend{err: errors.New("catalogue lost")})
	q := rpc.ShareEnumRequest{Level: 1, PreferredMax: rpc.MaxPreferredLength}
	if _, err := client.Call(t.Context(), rpc.OpNetrShareEnum, q.Encode); !errors.Is(err, rpc.FaultNoMemory) {
		t.Errorf("%v, want a fault", err)
	}
}

func TestOpenUnknown(t *testing.T) {
	for _, name := range []string{"samr", "", `pipe\srvsvc`} {
		if _, err := Open(t.Context(), name, Caller{}, twoShares); !errors.Is(err, ErrNoSuchPipe) {
			t.Errorf("Open(%q): %v, want ErrNoSuchPipe", name, err)
		}
	}
	p, err := Open(t.Context(), "srvsvc", Caller{}, twoShares)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rpc.Connect(t.Context(), pipeTransport{p, 4280}, rpc.SyntaxWkssvc); !errors.Is(err, rpc.ErrRejected) {
		t.Errorf("wkssvc on srvsvc: %v, want ErrRejected", err)
	}
}

func bind(t *testing.T) []byte {
	t.Helper()
	pdu, err := (&rpc.Bind{CallID: 1, MaxXmit: 4280, MaxRecv: 4280,
		Contexts: []rpc.Context{{Abstract: rpc.SyntaxSrvsvc, Transfer: []rpc.Syntax{rpc.SyntaxNDR}}}}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	return pdu
}

// TestPipeMessages follows a pipe through partial writes, partial reads, and its end.
func TestPipeMessages(t *testing.T) {
	p, err := Open(t.Context(), "srvsvc", Caller{}, twoShares)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.Read(make([]byte, 10)); !errors.Is(err, ErrEmpty) {
		t.Errorf("read of a fresh pipe: %v, want ErrEmpty", err)
	}
	for _, b := range bind(t) { // a byte at a time
		if n, err := p.Write([]byte{b}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	next, all := p.Unread()
	if next == 0 || next != all {
		t.Fatalf("%d of %d bytes wait", next, all)
	}
	if _, _, err := p.Transact(t.Context(), bind(t), 100); !errors.Is(err, ErrBusy) {
		t.Errorf("transact with an answer unread: %v, want ErrBusy", err)
	}
	b := make([]byte, 20)
	n, more, err := p.Read(b)
	if n != 20 || !more || err != nil {
		t.Fatalf("Read = %d, %v, %v; want 20 bytes and more", n, more, err)
	}
	rest := make([]byte, 4280)
	n, more, err = p.Read(rest)
	if n != next-20 || more || err != nil {
		t.Fatalf("Read = %d, %v, %v; want the other %d bytes", n, more, err, next-20)
	}
	var ack rpc.BindAck
	if err := ack.Decode(append(b, rest[:n]...)); err != nil || ack.Address != `\PIPE\srvsvc` {
		t.Errorf("%+v, %v", ack, err)
	}
	if next, all := p.Unread(); next != 0 || all != 0 {
		t.Errorf("%d, %d bytes wait after everything was read", next, all)
	}
	if _, err := p.Write(bind(t)); !errors.Is(err, ErrClosed) || !errors.Is(err, rpc.ErrProtocol) {
		t.Errorf("second bind: %v, want ErrClosed and ErrProtocol", err)
	}
	if _, err := p.Write(bind(t)); !errors.Is(err, ErrClosed) {
		t.Errorf("write after that: %v, want ErrClosed", err)
	}
	if _, _, err := p.Read(b); !errors.Is(err, ErrClosed) {
		t.Errorf("read after that: %v, want ErrClosed", err)
	}
}

func TestTransact(t *testing.T) {
	p, err := Open(t.Context(), "srvsvc", Caller{}, twoShares)
	if err != nil {
		t.Fatal(err)
	}
	out, more, err := p.Transact(t.Context(), bind(t), 16)
	if len(out) != 16 || !more || err != nil {
		t.Fatalf("Transact = %d bytes, %v, %v; want 16 and more", len(out), more, err)
	}
	rest := make([]byte, 4280)
	n, _, err := p.Read(rest)
	if err != nil {
		t.Fatal(err)
	}
	var ack rpc.BindAck
	if err := ack.Decode(append(out, rest[:n]...)); err != nil {
		t.Error(err)
	}
	if _, _, err := p.Transact(t.Context(), []byte{5, 0}, 16); !errors.Is(err, ErrEmpty) {
		t.Errorf("transact of half a PDU: %v, want ErrEmpty", err)
	}
}

// TestUnreadIsBounded writes calls without ever reading an answer.
func TestUnreadIsBounded(t *testing.T) {
	b := &backend{}
	for i := range 200 {
		b.shares = append(b.shares, Share{Name: fmt.Sprint("s", i), Comment: strings.Repeat("c", 200)})
	}
	p, err := Open(t.Context(), "srvsvc", Caller{}, b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Write(bind(t)); err != nil {
		t.Fatal(err)
	}
	stub := rpc.NewEncoder(rpc.MaxStub)
	(&rpc.ShareEnumRequest{Level: 1, PreferredMax: rpc.MaxPreferredLength}).Encode(stub)
	params, _ := stub.Bytes()
	pdu, err := (&rpc.Request{CallID: 2, Flags: rpc.FlagFirst | rpc.FlagLast, Opnum: rpc.OpNetrShareEnum, Stub: params}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if _, err = p.Write(pdu); err != nil {
			break
		}
	}
	if !errors.Is(err, rpc.ErrTooLong) {
		t.Errorf("a thousand answers unread: %v, want ErrTooLong", err)
	}
	if _, all := p.Unread(); all > 2*maxUnread {
		t.Errorf("%d bytes wait", all)
	}
}

func TestConcurrentUse(t *testing.T) {
	p, err := Open(t.Context(), "srvsvc", Caller{}, twoShares)
	if err != nil {
		t.Fatal(err)
	}
	pdu := bind(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			b := make([]byte, 64)
			for range 50 {
				p.Write(pdu)
				p.Read(b)
				p.Unread()
				p.Transact(context.Background(), pdu, 10)
			}
		})
	}
	wg.Go(func() { p.Close() })
	wg.Wait()
	if _, err := p.Write(pdu); !errors.Is(err, ErrClosed) {
		t.Errorf("write after Close: %v", err)
	}
}

// FuzzPipe writes anything: no panic, and no more waits than is bounded.
func FuzzPipe(f *testing.F) {
	pdu, err := (&rpc.Bind{CallID: 1, Contexts: []rpc.Context{{Abstract: rpc.SyntaxSrvsvc, Transfer: []rpc.Syntax{rpc.SyntaxNDR}}}}).Encode()
	if err != nil {
		f.Fatal(err)
	}
	for op, encode := range map[uint16]func(*rpc.Encoder){
		rpc.OpNetrShareEnum:     (&rpc.ShareEnumRequest{Level: 502, PreferredMax: rpc.MaxPreferredLength}).Encode,
		rpc.OpNetrShareGetInfo:  (&rpc.ShareGetInfoRequest{Share: "vms", Level: 2}).Encode,
		rpc.OpNetrServerGetInfo: (&rpc.LevelRequest{Level: 102}).Encode,
		rpc.OpNetrRemoteTOD:     func(e *rpc.Encoder) { e.UniqueWString("x") },
	} {
		e := rpc.NewEncoder(1000)
		encode(e)
		stub, _ := e.Bytes()
		q, err := (&rpc.Request{CallID: 2, Flags: rpc.FlagFirst | rpc.FlagLast, Opnum: op, Stub: stub}).Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(bytes.Join([][]byte{pdu, q}, nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Open(context.Background(), "srvsvc", Caller{}, twoShares)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		p.Write(b)
		if _, all := p.Unread(); all > maxUnread+rpc.MaxStub {
			t.Errorf("%d bytes wait", all)
		}
		for range 1 << 20 {
			if _, _, err := p.Read(make([]byte, 100)); err != nil {
				return
			}
		}
		t.Error("the answer has no end")
	})
}
