package auth

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The exchanges in testdata were captured between smbclient, or our own client,
// and smbd 4.17 on loopback: a line a token, S the server's and C the client's, -
// for none.
// The account is root, its password Golden-Passw0rd.
const (
	peerUser     = "root"
	peerPassword = "Golden-Passw0rd"
)

type peerExchange struct {
	name                    string
	hint                    []byte // NEGOTIATE response
	init, challenge, answer []byte
	end                     []byte
}

func peerExchanges(t testing.TB) map[string]peerExchange {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.tokens")
	if err != nil || len(paths) == 0 {
		t.Fatal("no captured exchanges", err)
	}
	out := map[string]peerExchange{}
	for _, p := range paths {
		content, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		var tokens [][]byte
		for i, line := range strings.Split(strings.TrimSpace(string(content)), "\n") {
			side, text, _ := strings.Cut(line, " ")
			if want := "SCSCS"[i : i+1]; side != want {
				t.Fatalf("%s: line %d is %s's, want %s", p, i+1, side, want)
			}
			b, err := hex.DecodeString(strings.TrimPrefix(text, "-"))
			if err != nil {
				t.Fatal(err)
			}
			tokens = append(tokens, b)
		}
		name := strings.TrimSuffix(filepath.Base(p), ".tokens")
		out[name] = peerExchange{name, tokens[0], tokens[1], tokens[2], tokens[3], tokens[4]}
	}
	return out
}

// peerAcceptor is an acceptor in the state in which smbd was after its challenge.
func peerAcceptor(t testing.TB, x peerExchange) *spnegoAcceptor {
	t.Helper()
	var init negTokenInit
	var resp negTokenResp
	if err := errors.Join(init.decode(x.init), resp.decode(x.challenge)); err != nil {
		t.Fatal(err)
	}
	var ch challengeMessage
	if err := ch.decode(resp.token); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig()
	cfg.Lookup = func(_, user string) (Credential, error) {
		if user != peerUser {
			return Credential{}, ErrUnknownUser
		}
		return Credential{NTHash: NTHash(peerPassword)}, nil
	}
	mech := newNTLMAcceptor(cfg)
	mech.state, mech.nonce, mech.flags = ntlmChallenged, ch.challenge, ch.flags
	mech.negotiate, mech.challenge = init.mechToken, resp.token
	return &spnegoAcceptor{cfg: cfg, state: spnegoRunning, mech: mech, mechOID: OIDNTLM, mechList: init.mechList}
}

func TestAcceptWhatSmbclientSends(t *testing.T) {
	xs := peerExchanges(t)

	x := xs["smbclient-samba-password"]
	a := peerAcceptor(t, x)
	out, done, err := a.Accept(x.answer)
	if err != nil || !done {
		t.Fatal(done, err)
	}
	if !bytes.Equal(out, x.end) { // state and mechListMIC
		t.Errorf("last token %x, smbd's %x", out, x.end)
	}
	if id := a.Identity(); id.User != peerUser || id.Domain != "WORKGROUP" || id.Workstation != "CLIGOLD" || id.Anonymous {
		t.Errorf("identity %+v", id)
	}

	x = xs["smbclient-samba-wrong-password"]
	if _, _, err := peerAcceptor(t, x).Accept(x.answer); !errors.Is(err, ErrWrongPassword) {
		t.Errorf("wrong password: %v", err)
	}

	x = xs["smbclient-samba-anonymous"]
	a = peerAcceptor(t, x)
	if out, done, err = a.Accept(x.answer); err != nil || !done || !a.Identity().Anonymous || a.Identity().User != "" {
		t.Errorf("anonymous: %v, %v, %+v", done, err, a.Identity())
	}
	if !bytes.Equal(out, x.end) {
		t.Errorf("anonymous: last token %x, smbd's %x", out, x.end)
	}
}

// A change anywhere in the client's last token is noticed: the response covers
// the attributes, the MIC all three messages, mechListMIC the rest.
func TestAlteredAnswersAreRefused(t *testing.T) {
	x := peerExchanges(t)["smbclient-samba-password"]
	for at := range x.answer {
		bad := bytes.Clone(x.answer)
		bad[at] ^= 1
		if _, done, err := peerAcceptor(t, x).Accept(bad); err == nil || done {
			t.Errorf("byte %d of %d changed: accepted", at, len(bad))
		}
	}
}

// Everything Samba encodes, we encode the same way.
func TestPeerTokensReencode(t *testing.T) {
	for name, x := range peerExchanges(t) {
		for _, b := range [][]byte{x.hint, x.init} {
			var m negTokenInit
			if err := m.decode(b); err != nil || !bytes.Equal(m.encode(), b) {
				t.Errorf("%s: NegTokenInit %x: %v, %x", name, b, err, m.encode())
			}
			if m.mechToken != nil {
				var neg negotiateMessage
				if err := neg.decode(m.mechToken); err != nil || neg.flags&flagUnicode == 0 {
					t.Errorf("%s: NEGOTIATE: %+v, %v", name, neg, err)
				}
			}
		}
		for _, b := range [][]byte{x.challenge, x.answer, x.end} {
			if len(b) == 0 {
				continue
			}
			var m negTokenResp
			if err := m.decode(b); err != nil || !bytes.Equal(m.encode(), b) {
				t.Errorf("%s: NegTokenResp %x: %v, %x", name, b, err, m.encode())
			}
		}
		var resp negTokenResp
		var ch challengeMessage
		if err := errors.Join(resp.decode(x.challenge), ch.decode(resp.token)); err != nil || ch.target != "FSGOLD" {
			t.Errorf("%s: CHALLENGE: %+v, %v", name, ch, err)
		}
		if got, _ := fromUTF16LE(ch.info.get(avNbComputerName)); got != "FSGOLD" {
			t.Errorf("%s: target information: %q", name, got)
		}
	}
}

// What Windows and Samba offer in the NEGOTIATE response (MS-SPNG 2.2.1) but for
// the mechanisms listed.
func TestNegTokenInit2IsSambas(t *testing.T) {
	x := peerExchanges(t)["smbclient-samba-password"]
	if got := NegTokenInit2(testConfig()); !bytes.Equal(got, x.hint) {
		t.Errorf("%x, smbd's %x", got, x.hint)
	}
}

// counting is a random source for an exchange that has to come out the same again.
type counting struct{}

func (counting) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(0x40 + i)
	}
	return len(b), nil
}

// An exchange of our client with smbd, which accepted it: the client says the same
// again, and smbd's mechListMIC is right.
func TestInitiateWhatSambaAccepted(t *testing.T) {
	x := peerExchanges(t)["lunless-samba-password"]
	cfg := &ClientConfig{
		User: peerUser, Domain: "WORKGROUP", NTHash: NTHash(peerPassword), Workstation: "HV1", TargetName: "cifs/fsgold",
		Rand: counting{}, Now: func() time.Time { return time.Unix(1700000000, 0) },
	}
	i := NewSPNEGOInitiator(cfg).(*spnegoInitiator)
	for _, step := range []struct {
		in, out []byte
		done    bool
	}{{x.hint, x.init, false}, {x.challenge, x.answer, false}, {x.end, nil, true}} {
		out, done, err := i.Init(step.in)
		if err != nil || done != step.done || !bytes.Equal(out, step.out) {
			t.Fatalf("%x, %v, %v, want %x", out, done, err, step.out)
		}
	}
	if !i.peerMIC {
		t.Error("smbd's mechListMIC was not there")
	}
}
