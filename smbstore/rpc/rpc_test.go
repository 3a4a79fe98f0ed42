package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

var testSyntax = Syntax{UUID: mustUUID("12345678-1234-abcd-ef00-0123456789ab"), Major: 1, Minor: 2}

// echo answers operation 0 with its parameters, 1 with a fault, 2 with too much.
var echo = &Interface{Syntax: testSyntax, Call: func(_ context.Context, op uint16, in *Decoder, out *Encoder) error {
	switch op {
	case 0:
		out.Raw(in.Bytes(in.Len()))
	case 1:
		return FaultAccessDenied
	case 2:
		out.Raw(make([]byte, MaxStub+1))
	case 3:
		return fmt.Errorf("parameters: %w", ErrTruncated)
	default:
		return FaultOperationRange
	}
	return nil
}}

// loop joins a client to a server and counts the PDUs of both.
type loop struct {
	s        *Server
	out      [][]byte
	sent     int
	received int
}

func (l *loop) Send(ctx context.Context, pdu []byte) error {
	l.sent++
	out, err := l.s.Receive(ctx, pdu)
	l.out = append(l.out, out...)
	return err
}

func (l *loop) Receive(context.Context) ([]byte, error) {
	if len(l.out) == 0 {
		return nil, errors.New("nothing to receive")
	}
	l.received++
	pdu := l.out[0]
	l.out = l.out[1:]
	return pdu, nil
}

func TestCallInFragments(t *testing.T) {
	for _, n := range []int{0, 1, 7, 8, 4255, 4256, 4257, 8512, 100_000, MaxStub} {
		l := &loop{s: NewServer("x", echo)}
		c, err := Connect(t.Context(), l, testSyntax)
		if err != nil {
			t.Fatal(err)
		}
		want := make([]byte, n)
		for i := range want {
			want[i] = byte(i * 7)
		}
		d, err := c.Call(t.Context(), 0, func(e *Encoder) { e.Raw(want) })
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if got := d.Bytes(d.Len()); !bytes.Equal(got, want) {
			t.Errorf("%d bytes come back as %d, or changed", n, len(got))
		}
		fragments := max(1, (n+4255)/4256)
		if l.sent != 1+fragments || l.received != 1+fragments {
			t.Errorf("%d bytes: %d PDUs sent, %d received; want %d", n, l.sent, l.received, 1+fragments)
		}
	}
}

func TestFaults(t *testing.T) {
	l := &loop{s: NewServer("x", echo)}
	c, err := Connect(t.Context(), l, testSyntax)
	if err != nil {
		t.Fatal(err)
	}
	for op, want := range map[uint16]error{1: FaultAccessDenied, 2: FaultBadStub, 3: FaultBadStub, 4: FaultOperationRange} {
		if _, err := c.Call(t.Context(), op, func(*Encoder) {}); !errors.Is(err, want) {
			t.Errorf("operation %d: %v, want %v", op, err, want)
		}
	}
	if _, err := c.Call(t.Context(), 0, func(e *Encoder) { e.Raw(make([]byte, MaxStub+1)) }); !errors.Is(err, ErrTooLong) {
		t.Errorf("parameters too long: %v", err)
	}
}

func mustEncode(t *testing.T, p pdu) []byte {
	t.Helper()
	b, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPresentation is C706 12.6.4.4 and MS-RPCE 3.3.1.5.3: what a bind with the
// contexts of a Windows client is answered.
func TestPresentation(t *testing.T) {
	features := Syntax{UUID: bindTimeFeatures, Major: 1}
	features.UUID[8] = 3
	older, newer, major := testSyntax, testSyntax, testSyntax
	older.Minor, newer.Minor, major.Major = 1, 3, 2
	s := NewServer(`\PIPE\x`, echo)
	b := Bind{CallID: 9, MaxXmit: 5840, MaxRecv: 2000, Contexts: []Context{
		{0, testSyntax, []Syntax{SyntaxNDR}},
		{1, testSyntax, []Syntax{SyntaxNDR64}},
		{2, testSyntax, []Syntax{features}},
		{3, SyntaxSrvsvc, []Syntax{SyntaxNDR}},
		{4, testSyntax, []Syntax{SyntaxNDR64, SyntaxNDR}},
		{5, older, []Syntax{SyntaxNDR}},
		{6, newer, []Syntax{SyntaxNDR}},
		{7, major, []Syntax{SyntaxNDR}},
	}}
	out, err := s.Receive(t.Context(), mustEncode(t, &b))
	if err != nil || len(out) != 1 {
		t.Fatal(out, err)
	}
	var ack BindAck
	if err := ack.Decode(out[0]); err != nil {
		t.Fatal(err)
	}
	accepted := ContextResult{Transfer: SyntaxNDR}
	want := []ContextResult{
		accepted,
		{Result: ResultProviderRejection, Reason: ReasonTransferSyntaxes},
		{Result: ResultNegotiateAck},
		{Result: ResultProviderRejection, Reason: ReasonAbstractSyntax},
		accepted,
		accepted,
		{Result: ResultProviderRejection, Reason: ReasonAbstractSyntax},
		{Result: ResultProviderRejection, Reason: ReasonAbstractSyntax},
	}
	if !slices.Equal(ack.Results, want) {
		t.Errorf("results %+v", ack.Results)
	}
	if ack.CallID != 9 || ack.Address != `\PIPE\x` || ack.AssocGroup == 0 || ack.MaxXmit != 2000 || ack.MaxRecv != 4280 {
		t.Errorf("%+v", ack)
	}

	// an alter_context adds one more; a call on it works, on a refused one does not
	alter := Bind{CallID: 10, Alter: true, AssocGroup: ack.AssocGroup, Contexts: []Context{{8, testSyntax, []Syntax{SyntaxNDR}}}}
	out, err = s.Receive(t.Context(), mustEncode(t, &alter))
	if err != nil {
		t.Fatal(err)
	}
	var resp BindAck
	if err := resp.Decode(out[0]); err != nil || !resp.Alter || !slices.Equal(resp.Results, []ContextResult{accepted}) {
		t.Errorf("%+v, %v", resp, err)
	}
	for id, ok := range map[uint16]bool{8: true, 0: true, 3: false, 77: false} {
		out, err := s.Receive(t.Context(), mustEncode(t, &Request{CallID: 11, Flags: FlagFirst | FlagLast, ContextID: id}))
		if err != nil {
			t.Fatal(err)
		}
		var f FaultPDU
		switch fault := f.Decode(out[0]) == nil; {
		case fault == ok:
			t.Errorf("context %d: fault %v", id, fault)
		case fault && f.Status != FaultUnknownInterface:
			t.Errorf("context %d: %v", id, f.Status)
		}
	}
}

// TestServerEnds lists what ends an association.
func TestServerEnds(t *testing.T) {
	bind := mustEncode(t, &Bind{CallID: 1, Contexts: []Context{{0, testSyntax, []Syntax{SyntaxNDR}}}})
	request := func(flags uint8, call uint32) []byte {
		return mustEncode(t, &Request{CallID: call, Flags: flags, Stub: make([]byte, 8)})
	}
	patch := func(b []byte, at int, v byte) []byte {
		b = bytes.Clone(b)
		b[at] = v
		return b
	}
	for _, c := range []struct {
		name string
		pdus [][]byte
		want error
	}{
		{"request before bind", [][]byte{request(FlagFirst|FlagLast, 2)}, ErrProtocol},
		{"two binds", [][]byte{bind, bind}, ErrProtocol},
		{"alter_context first", [][]byte{patch(bind, 2, byte(PDUAlterContext))}, ErrProtocol},
		{"middle without first", [][]byte{bind, request(0, 2)}, ErrProtocol},
		{"first within a call", [][]byte{bind, request(FlagFirst, 2), request(FlagFirst, 3)}, ErrProtocol},
		{"fragment of another call", [][]byte{bind, request(FlagFirst, 2), request(FlagLast, 3)}, ErrProtocol},
		{"a response from a client", [][]byte{patch(bind, 2, byte(PDUResponse))}, ErrProtocol},
		{"big-endian", [][]byte{patch(bind, 4, 0)}, ErrInvalid},
		{"version 4", [][]byte{patch(bind, 0, 4)}, ErrInvalid},
		{"a length below the header's", [][]byte{patch(bind, 8, 3)}, ErrInvalid},
		{"a length beyond what is there", [][]byte{patch(bind, 9, 1)}, ErrTruncated},
		{"a length beyond all bounds", [][]byte{patch(bind, 9, 0xFF)}, ErrTooLong},
		{"no contexts", [][]byte{patch(bind, 24, 0)}, ErrInvalid},
		{"more contexts than there are", [][]byte{patch(bind, 24, 3)}, ErrTruncated},
		{"no transfer syntax", [][]byte{patch(bind, 30, 0)}, ErrInvalid},
	} {
		s := NewServer("x", echo)
		var err error
		for _, p := range c.pdus {
			if _, err = s.Receive(t.Context(), p); err != nil {
				break
			}
		}
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func TestBindWithAuthenticationIsRefused(t *testing.T) {
	b := mustEncode(t, &Bind{CallID: 1, Contexts: []Context{{0, testSyntax, []Syntax{SyntaxNDR}}}})
	b = append(b, make([]byte, 16)...) // a trailer of 8 bytes and 8 of token
	h := Header{Type: PDUBind, Flags: FlagFirst | FlagLast, FragLength: uint16(len(b)), AuthLength: 8, CallID: 1}
	h.Encode(b)
	out, err := NewServer("x", echo).Receive(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	var nak BindNak
	if err := nak.Decode(out[0]); err != nil || nak.Reason != NakAuthenticationType || nak.CallID != 1 {
		t.Errorf("%+v, %v", nak, err)
	}
}

// TestLongCallIsBounded sends fragments for ever: memory stays, the call fails,
// and the next one works.
func TestLongCallIsBounded(t *testing.T) {
	s := NewServer("x", echo)
	send := func(p pdu) [][]byte {
		out, err := s.Receive(t.Context(), mustEncode(t, p))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	send(&Bind{CallID: 1, Contexts: []Context{{0, testSyntax, []Syntax{SyntaxNDR}}}})
	stub := make([]byte, 5000)
	send(&Request{CallID: 2, Flags: FlagFirst, Stub: stub})
	for range 1000 {
		send(&Request{CallID: 2, Stub: stub})
	}
	if n := cap(s.in.stub); n > 2*MaxStub {
		t.Errorf("%d bytes held", n)
	}
	var f FaultPDU
	if err := f.Decode(send(&Request{CallID: 2, Flags: FlagLast, Stub: stub})[0]); err != nil || f.Status != FaultNoMemory {
		t.Errorf("%+v, %v", f, err)
	}
	var r Response
	if err := r.Decode(send(&Request{CallID: 3, Flags: FlagFirst | FlagLast, Stub: []byte{1}})[0]); err != nil || !bytes.Equal(r.Stub, []byte{1}) {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestNDRStrings(t *testing.T) {
	for _, want := range []string{"", "a", "vms", "Übung", "😀", strings.Repeat("x", maxString-1)} {
		e := NewEncoder(MaxStub)
		e.U8(1) // to see the alignment
		e.WString(want)
		b, err := e.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		d := NewDecoder(b)
		d.U8()
		if got := d.WString(); got != want || d.Err() != nil || d.Len() != 0 {
			t.Errorf("%q comes back as %q, %v, %d bytes left", want, got, d.Err(), d.Len())
		}
	}
	e := NewEncoder(MaxStub)
	e.WString(strings.Repeat("x", maxString))
	if _, err := e.Bytes(); !errors.Is(err, ErrTooLong) {
		t.Errorf("string too long: %v", err)
	}
	for name, c := range map[string]struct {
		words []uint32
		want  error
	}{
		"no terminator":       {[]uint32{2, 0, 2, 0x00410041}, ErrInvalid},
		"terminator too soon": {[]uint32{2, 0, 2, 0}, ErrInvalid},
		"count over maximum":  {[]uint32{1, 0, 2, 0x41}, ErrInvalid},
		"offset":              {[]uint32{2, 1, 1, 0}, ErrInvalid},
		"no characters":       {[]uint32{0, 0, 0}, ErrInvalid},
		"count too large":     {[]uint32{1 << 31, 0, 1 << 31, 0x41}, ErrTooLong},
		"cut short":           {[]uint32{100, 0, 100, 0x41}, ErrTruncated},
	} {
		e := NewEncoder(1000)
		for _, w := range c.words {
			e.U32(w)
		}
		d := NewDecoder(e.b)
		if d.WString(); !errors.Is(d.Err(), c.want) {
			t.Errorf("%s: %v, want %v", name, d.Err(), c.want)
		}
	}
}

func TestUUID(t *testing.T) {
	const text = "4b324fc8-1670-01d3-1278-5a47bf6ee188"
	u, err := ParseUUID(text)
	if err != nil || u.String() != text {
		t.Errorf("%v, %v", u, err)
	}
	if want := []byte{0xc8, 0x4f, 0x32, 0x4b, 0x70, 0x16, 0xd3, 0x01, 0x12, 0x78}; !bytes.Equal(u[:10], want) {
		t.Errorf("wire form %x", u)
	}
	for _, bad := range []string{"", "4b324fc8", text + "0", strings.ReplaceAll(text, "-", "_"), "xb324fc8-1670-01d3-1278-5a47bf6ee188"} {
		if _, err := ParseUUID(bad); err == nil {
			t.Errorf("ParseUUID(%q) succeeds", bad)
		}
	}
}

// FuzzPDU: what decodes, encodes to what decodes to the same.
func FuzzPDU(f *testing.F) {
	for _, g := range goldens(f) {
		f.Add(g.pdu)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < HeaderSize {
			return
		}
		p := newPDU(PDUType(b[2]))
		if p == nil || p.Decode(b) != nil {
			return
		}
		enc, err := p.Encode()
		if err != nil {
			t.Fatalf("%+v does not encode: %v", p, err)
		}
		again := newPDU(PDUType(b[2]))
		if err := again.Decode(enc); err != nil {
			t.Fatalf("%x does not decode again: %v", enc, err)
		}
		if enc2, err := again.Encode(); err != nil || !bytes.Equal(enc, enc2) {
			t.Fatalf("%x encodes to %x, %v", enc, enc2, err)
		}
	})
}

// FuzzStub does the same with parameters and results.
func FuzzStub(f *testing.F) {
	kinds := []string{"rpcreq/0/0", "rpcreq/0/15", "rpcreq/0/16", "rpcrep/2/0", "rpcrep/2/15", "rpcrep/2/16", "rpcrep/2/21", "rpcrep/2/28"}
	for _, g := range goldens(f) {
		if i := slices.Index(kinds, g.kind); i >= 0 {
			f.Add(uint8(i), stubOf(f, g))
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		k := kinds[int(kind)%len(kinds)]
		s := newStub(k)
		if s.Decode(NewDecoder(b)) != nil {
			return
		}
		e := NewEncoder(MaxStub)
		s.Encode(e)
		enc, err := e.Bytes()
		if err != nil {
			t.Fatalf("%s %+v does not encode: %v", k, s, err)
		}
		again := newStub(k)
		if err := again.Decode(NewDecoder(enc)); err != nil {
			t.Fatalf("%s %x does not decode again: %v", k, enc, err)
		}
		e2 := NewEncoder(MaxStub)
		again.Encode(e2)
		if enc2, err := e2.Bytes(); err != nil || !bytes.Equal(enc, enc2) {
			t.Fatalf("%s %x encodes to %x, %v", k, enc, enc2, err)
		}
	})
}
