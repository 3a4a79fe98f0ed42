package rpc

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// golden is a PDU that smbclient 4.17 or rpcclient 4.17 exchanged with smbd
// 4.17, captured with tshark: rpcreq/TYPE/OPNUM from the client, rpcrep from the
// server (TYPE that of the answer, OPNUM of what was asked).
type golden struct {
	kind string
	pdu  []byte
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
		pdu, err := hex.DecodeString(text)
		if err != nil {
			tb.Fatal(err)
		}
		list = append(list, golden{kind, pdu})
	}
	if len(list) < 40 {
		tb.Fatalf("%d goldens", len(list))
	}
	return list
}

// pdus are the PDU types.
func newPDU(t PDUType) pdu {
	switch t {
	case PDUBind, PDUAlterContext:
		return new(Bind)
	case PDUBindAck, PDUAlterContextResp:
		return new(BindAck)
	case PDUBindNak:
		return new(BindNak)
	case PDURequest:
		return new(Request)
	case PDUResponse:
		return new(Response)
	case PDUFault:
		return new(FaultPDU)
	}
	return nil
}

type pdu interface {
	Encode() ([]byte, error)
	Decode([]byte) error
}

// stub is the parameters or the results of an operation.
type stub interface {
	Encode(*Encoder)
	Decode(*Decoder) error
}

// newStub returns the structure of a golden, nil where we have none.
func newStub(kind string) stub {
	switch kind {
	case "rpcreq/0/0", "rpcreq/0/21":
		return new(LevelRequest)
	case "rpcrep/2/0":
		return new(WkstaGetInfoReply)
	case "rpcreq/0/15", "rpcreq/0/36":
		return new(ShareEnumRequest)
	case "rpcrep/2/15", "rpcrep/2/36":
		return new(ShareEnumReply)
	case "rpcreq/0/16":
		return new(ShareGetInfoRequest)
	case "rpcrep/2/16":
		return new(ShareGetInfoReply)
	case "rpcrep/2/21":
		return new(ServerGetInfoReply)
	case "rpcrep/2/28":
		return new(RemoteTODReply)
	}
	return nil
}

// TestGoldenPDUs decodes each PDU and encodes it to the same bytes.
func TestGoldenPDUs(t *testing.T) {
	for _, g := range goldens(t) {
		p := newPDU(PDUType(g.pdu[2]))
		if err := p.Decode(g.pdu); err != nil {
			t.Errorf("%s: %v", g.kind, err)
			continue
		}
		got, err := p.Encode()
		if err != nil || !bytes.Equal(got, g.pdu) {
			t.Errorf("%s: %v\n got %x\nwant %x", g.kind, err, got, g.pdu)
		}
	}
}

func stubOf(tb testing.TB, g golden) []byte {
	tb.Helper()
	if g.pdu[2] == byte(PDURequest) {
		var r Request
		if err := r.Decode(g.pdu); err != nil {
			tb.Fatal(err)
		}
		return r.Stub
	}
	var r Response
	if err := r.Decode(g.pdu); err != nil {
		tb.Fatal(err)
	}
	return r.Stub
}

// TestGoldenStubs decodes parameters and results and encodes them again: to the
// same bytes, but where the peer points to an empty password, or numbers its
// pointers in another order, which change nothing.
func TestGoldenStubs(t *testing.T) {
	for _, g := range goldens(t) {
		s := newStub(g.kind)
		if s == nil {
			continue
		}
		raw := stubOf(t, g)
		if err := s.Decode(NewDecoder(raw)); err != nil {
			t.Errorf("%s: %v: %x", g.kind, err, raw)
			continue
		}
		e := NewEncoder(MaxStub)
		s.Encode(e)
		got, err := e.Bytes()
		if err != nil {
			t.Errorf("%s: %v", g.kind, err)
			continue
		}
		again := newStub(g.kind)
		if err := again.Decode(NewDecoder(got)); err != nil || !cmp.Equal(s, again) {
			t.Errorf("%s: %v: %s", g.kind, err, cmp.Diff(s, again))
		}
		if hasPassword(s) {
			continue
		}
		if got, raw := renumber(got), renumber(raw); !bytes.Equal(got, raw) {
			t.Errorf("%s\n got %x\nwant %x", g.kind, got, raw)
		}
	}
}

// hasPassword tells the levels at which the peer points to an empty password,
// where we have a null pointer.
func hasPassword(s stub) bool {
	switch r := s.(type) {
	case *ShareEnumReply:
		return r.Level == 2 || r.Level == 502
	case *ShareGetInfoReply:
		return r.Level == 2 || r.Level == 502
	}
	return false
}

// renumber gives the referent IDs of a stub, all of the form 0x000200xx, the
// numbers 1, 2, 3 and so on.
func renumber(b []byte) []byte {
	out := bytes.Clone(b)
	n := uint32(0)
	for i := 0; i+4 <= len(out); i += 4 {
		if v := binary.LittleEndian.Uint32(out[i:]); v>>8 == 0x000200 {
			n++
			binary.LittleEndian.PutUint32(out[i:], n)
		}
	}
	return out
}
