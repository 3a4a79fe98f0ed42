package smb2

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The sessions in testdata/sessions were captured between smbclient and smbd 4.17
// on loopback: K is the key NTLM established, then a line a message, C the client's
// and S the server's. The file's name says what the two negotiated.
type capturedSession struct {
	name     string
	key      []byte
	messages []capturedMessage
}

type capturedMessage struct {
	fromServer bool
	bytes      []byte
}

func capturedSessions(t testing.TB) []capturedSession {
	t.Helper()
	paths, err := filepath.Glob("testdata/sessions/*.hex")
	if err != nil || len(paths) == 0 {
		t.Fatal("no captured sessions", err)
	}
	var out []capturedSession
	for _, p := range paths {
		content, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		s := capturedSession{name: strings.TrimSuffix(strings.TrimPrefix(filepath.Base(p), "smbclient-samba-"), ".hex")}
		for line := range strings.Lines(string(content)) {
			kind, text, _ := strings.Cut(strings.TrimSpace(line), " ")
			b, err := hex.DecodeString(text)
			if err != nil {
				t.Fatal(p, err)
			}
			if kind == "K" {
				s.key = b
				continue
			}
			s.messages = append(s.messages, capturedMessage{kind == "S", b})
		}
		out = append(out, s)
	}
	return out
}

// negotiated is what the session's name says.
func (s capturedSession) negotiated(t testing.TB) (d Dialect, alg SigningAlgorithm, c Cipher) {
	t.Helper()
	version, how, _ := strings.Cut(s.name, "-")
	for _, v := range []Dialect{Dialect210, Dialect300, Dialect302, Dialect311} {
		if v.String() == version {
			d = v
		}
	}
	alg, c = SigningFor(d), CipherAES128GCM // what 4.17 prefers, where none is named
	switch how {
	case "hmac", "cmac":
	case "gmac":
		alg = SigningAESGMAC
	default:
		if d == Dialect311 {
			alg = SigningAESGMAC
		}
		for c = CipherAES128CCM; c.String() != how; c++ {
			if c > CipherAES256GCM {
				t.Fatalf("session %q", s.name)
			}
		}
	}
	return d, alg, c
}

// preauth runs the chain over NEGOTIATE and SESSION_SETUP.
func (s capturedSession) preauth() *PreauthHash {
	var h PreauthHash
	for i, m := range s.messages {
		if i < 5 { // NEGOTIATE both ways, SESSION_SETUP both ways, the last request
			h.Update(m.bytes)
		}
	}
	return &h
}

// Every signature Samba and smbclient made verifies and is the one we make, and
// everything they sealed opens: the algorithms, the key derivation and the
// pre-authentication chain together.
func TestCapturedSessions(t *testing.T) {
	for _, s := range capturedSessions(t) {
		t.Run(s.name, func(t *testing.T) {
			d, alg, c := s.negotiated(t)
			if got := Dialect(binary.LittleEndian.Uint16(s.messages[1].bytes[HeaderSize+4:])); got != d {
				t.Fatalf("dialect %v", got)
			}
			in := KeyInput{Dialect: d, Cipher: c, Key: s.key, Preauth: s.preauth()}
			client := in.Derive()
			in.IsServer = true
			server := in.Derive()
			if !bytes.Equal(client.Encryption, server.Decryption) || !bytes.Equal(client.Decryption, server.Encryption) {
				t.Error("the two sides' keys do not match")
			}
			signer, err := NewSigner(alg, client.Signing)
			if err != nil {
				t.Fatal(err)
			}
			var signed, sealed int
			for i, m := range s.messages {
				if IsTransform(m.bytes) {
					openCaptured(t, m, c, client, server)
					sealed++
					continue
				}
				signed += verifyCaptured(t, i, signer, m.bytes)
			}
			wantSealed := strings.Contains(s.name, "AES")
			if signed == 0 || !wantSealed && signed < 10 || wantSealed != (sealed >= 10) {
				t.Errorf("%d signed and %d sealed messages", signed, sealed)
			}
		})
	}
}

func openCaptured(t *testing.T, m capturedMessage, c Cipher, client, server SessionKeys) {
	t.Helper()
	key := server.Decryption
	if m.fromServer {
		key = client.Decryption
	}
	o, err := NewOpener(c, key)
	if err != nil {
		t.Fatal(err)
	}
	msg, err := o.Open(bytes.Clone(m.bytes))
	if err != nil || !bytes.HasPrefix(msg, []byte("\xfeSMB")) {
		t.Errorf("sealed message: %x, %v", msg, err)
	}
}

// verifyCaptured checks the signed messages of a compound and returns how many.
func verifyCaptured(t *testing.T, i int, signer *Signer, rest []byte) (signed int) {
	t.Helper()
	for len(rest) > 0 {
		msg := rest
		if next := binary.LittleEndian.Uint32(msg[20:]); next != 0 {
			msg = msg[:next]
		}
		rest = rest[len(msg):]
		if HeaderFlags(binary.LittleEndian.Uint32(msg[16:]))&FlagSigned == 0 {
			continue
		}
		signed++
		if !signer.Verify(msg) {
			t.Errorf("message %d does not verify", i)
		}
		again := bytes.Clone(msg)
		if signer.Sign(again); !bytes.Equal(again, msg) {
			t.Errorf("message %d is signed differently", i)
		}
	}
	return signed
}
