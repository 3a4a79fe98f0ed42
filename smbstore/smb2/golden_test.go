package smb2

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// newMessage returns the body that a command has in one direction.
func newMessage(c Command, response bool, msg []byte) Message {
	type pair struct{ request, response Message }
	p := map[Command]pair{
		CommandNegotiate:      {&NegotiateRequest{}, &NegotiateResponse{}},
		CommandSessionSetup:   {&SessionSetupRequest{}, &SessionSetupResponse{}},
		CommandLogoff:         {&LogoffRequest{}, &LogoffResponse{}},
		CommandTreeConnect:    {&TreeConnectRequest{}, &TreeConnectResponse{}},
		CommandTreeDisconnect: {&TreeDisconnectRequest{}, &TreeDisconnectResponse{}},
		CommandCreate:         {&CreateRequest{}, &CreateResponse{}},
		CommandClose:          {&CloseRequest{}, &CloseResponse{}},
		CommandFlush:          {&FlushRequest{}, &FlushResponse{}},
		CommandRead:           {&ReadRequest{}, &ReadResponse{}},
		CommandWrite:          {&WriteRequest{}, &WriteResponse{}},
		CommandLock:           {&LockRequest{}, &LockResponse{}},
		CommandIoctl:          {&IoctlRequest{}, &IoctlResponse{}},
		CommandCancel:         {&CancelRequest{}, nil},
		CommandEcho:           {&EchoRequest{}, &EchoResponse{}},
		CommandQueryDirectory: {&QueryDirectoryRequest{}, &QueryDirectoryResponse{}},
		CommandChangeNotify:   {&ChangeNotifyRequest{}, &ChangeNotifyResponse{}},
		CommandQueryInfo:      {&QueryInfoRequest{}, &QueryInfoResponse{}},
		CommandSetInfo:        {&SetInfoRequest{}, &SetInfoResponse{}},
		CommandOplockBreak:    {&OplockBreak{}, &OplockBreak{}},
	}[c]
	m := p.request
	if response {
		m = p.response
	}
	if c == CommandOplockBreak && len(msg) >= HeaderSize+2 {
		switch le.Uint16(msg[HeaderSize:]) {
		case leaseBreakNotificationSize:
			m = &LeaseBreakNotification{}
		case leaseBreakAckSize:
			m = &LeaseBreak{}
		}
	}
	return m
}

// payload is what a message leaves to its sender.
func payload(m Message) []byte {
	switch m := m.(type) {
	case *ReadResponse:
		return m.Data
	case *WriteRequest:
		return m.Data
	}
	return nil
}

func readHex(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return b
}

// golden is a message that a peer sent: its file is named
// peer-dialect-command-request|response[-variant].hex.
type golden struct {
	name    string
	msg     []byte
	command string // NEGOTIATE is negotiate
	variant string // error…: an ERROR body; compound_end: last of a compound
}

func goldens(t testing.TB) []golden {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.hex")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no goldens in testdata: %v", err)
	}
	var list []golden
	for _, p := range paths {
		name := strings.TrimSuffix(filepath.Base(p), ".hex")
		part := strings.SplitN(name, "-", 5)
		if len(part) < 4 {
			t.Fatalf("%s: name is not peer-dialect-command-direction", name)
		}
		if part[2] == "smb1_negotiate" {
			continue
		}
		g := golden{name: name, msg: readHex(t, p), command: part[2]}
		if len(part) == 5 {
			g.variant = part[4]
		}
		list = append(list, g)
	}
	return list
}

// canonical takes out of a golden what its peer was free to send and we send
// otherwise, so that all the rest can be compared byte by byte.
func canonical(g golden, h *Header) []byte {
	msg := bytes.Clone(g.msg)
	if strings.HasPrefix(g.variant, "error") && le.Uint32(msg[HeaderSize+4:]) == 0 {
		msg[HeaderSize+errorFixed] = 0 // the one byte of no data, 0x21 in an interim response
	}
	if h.IsResponse() {
		return msg
	}
	switch h.Command {
	case CommandCreate:
		end := HeaderSize + createRequestFixed + int(le.Uint16(msg[HeaderSize+46:]))
		list, n := le.Uint32(msg[HeaderSize+48:]), le.Uint32(msg[HeaderSize+52:])
		if n == 0 && len(msg) == end+2 && end > HeaderSize+createRequestFixed {
			return msg[:end] // smbclient: a terminator behind the name
		}
		for c := msg[list:]; n > 0; c = c[le.Uint32(c):] {
			if le.Uint32(c[12:]) == 0 {
				le.PutUint16(c[10:], 0) // the offset of no data
			}
			if le.Uint32(c) == 0 {
				break
			}
		}
	case CommandIoctl:
		if le.Uint32(msg[HeaderSize+40:]) == 0 {
			le.PutUint32(msg[HeaderSize+36:], 0) // the offset of no output
		}
		if le.Uint32(msg[HeaderSize+28:]) == 0 {
			le.PutUint32(msg[HeaderSize+24:], 0) // and of no input
		}
	}
	return msg
}

// TestGoldens decodes what peers sent and encodes it again into dirty memory:
// every byte must come back.
func TestGoldens(t *testing.T) {
	for _, g := range goldens(t) {
		t.Run(g.name, func(t *testing.T) {
			var h Header
			if err := h.Decode(g.msg); err != nil {
				t.Fatal(err)
			}
			if want := strings.ToUpper(g.command); h.Command.String() != want {
				t.Errorf("command %v, want %s", h.Command, want)
			}
			if !h.IsResponse() {
				if err := CheckRequest(h.Command, g.msg); err != nil {
					t.Error(err)
				}
			}
			m := newMessage(h.Command, h.IsResponse(), g.msg)
			if strings.HasPrefix(g.variant, "error") {
				m = &ErrorResponse{}
			}
			if err := m.Decode(g.msg); err != nil {
				t.Fatal(err)
			}
			got := bytes.Repeat([]byte{0xA5}, m.Size())
			h.Encode(got)
			m.Encode(got)
			got = append(got, payload(m)...)
			if h.NextCommand != 0 {
				for len(got) < int(h.NextCommand) {
					got = append(got, 0)
				}
			}
			want := canonical(g, &h)
			if strings.HasSuffix(g.variant, "compound_end") {
				got = append(got, make([]byte, Align8(len(got))-len(got))...) // smbd pads the last one too
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%#v\n got %x\nwant %x", m, got[HeaderSize:], want[HeaderSize:])
			}
		})
	}
}
