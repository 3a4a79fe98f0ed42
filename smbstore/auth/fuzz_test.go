package auth

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// DER has one encoding a value: what parses, encodes to itself, byte for byte.

func FuzzNegTokenInit(f *testing.F) {
	for _, x := range peerExchanges(f) {
		f.Add(x.hint)
		f.Add(x.init)
	}
	f.Add(unhex(f, specNegTokenInit2))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m negTokenInit
		if m.decode(b) == nil && !bytes.Equal(m.encode(), b) {
			t.Errorf("%x encodes to %x", b, m.encode())
		}
	})
}

func FuzzNegTokenResp(f *testing.F) {
	for _, x := range peerExchanges(f) {
		f.Add(x.challenge)
		f.Add(x.answer)
		f.Add(x.end)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m negTokenResp
		if m.decode(b) == nil && !bytes.Equal(m.encode(), b) {
			t.Errorf("%x encodes to %x", b, m.encode())
		}
	})
}

// An NTLM message may hold its fields in any order, with gaps: what parses encodes
// to something that parses to the same.
type ntlmCodec interface {
	encode() []byte
	decode([]byte) error
}

func fuzzNTLM[M any, P interface {
	*M
	ntlmCodec
}](f *testing.F, seeds ...[]byte) {
	for _, s := range seeds {
		f.Add(s)
	}
	opts := cmp.AllowUnexported(negotiateMessage{}, challengeMessage{}, authenticateMessage{}, clientChallenge{}, avPair{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var m, again M
		if P(&m).decode(b) != nil {
			return
		}
		e := P(&m).encode()
		if len(e) > MaxToken { // fields that shared their bytes
			return
		}
		if err := P(&again).decode(e); err != nil {
			t.Fatalf("%x does not parse: %v", e, err)
		}
		if d := cmp.Diff(m, again, opts); d != "" {
			t.Error(d)
		}
	})
}

// peerNTLM are the NTLM messages inside the captured tokens: the n-th of each.
func peerNTLM(f *testing.F, n int) (out [][]byte) {
	for _, x := range peerExchanges(f) {
		var init negTokenInit
		if err := init.decode(x.init); err != nil {
			f.Fatal(err)
		}
		out = append(out, init.mechToken)
		for _, b := range [][]byte{x.challenge, x.answer} {
			var resp negTokenResp
			if err := resp.decode(b); err != nil {
				f.Fatal(err)
			}
			out = append(out, resp.token)
		}
	}
	for i := 0; i < len(out); i += 3 {
		out[i/3] = out[i+n]
	}
	return out[:len(out)/3]
}

func FuzzNegotiate(f *testing.F) { fuzzNTLM[negotiateMessage](f, peerNTLM(f, 0)...) }

func FuzzChallenge(f *testing.F) {
	fuzzNTLM[challengeMessage](f, append(peerNTLM(f, 1), unhex(f, specChallenge))...)
}

func FuzzAuthenticate(f *testing.F) {
	fuzzNTLM[authenticateMessage](f, append(peerNTLM(f, 2), unhex(f, specAuthenticate))...)
}

func FuzzClientChallenge(f *testing.F) {
	var seeds [][]byte
	for _, b := range append(peerNTLM(f, 2), unhex(f, specAuthenticate)) {
		var m authenticateMessage
		if err := m.decode(b); err != nil {
			f.Fatal(err)
		}
		if len(m.nt) > 16 {
			seeds = append(seeds, m.nt[16:])
		}
	}
	fuzzNTLM[clientChallenge](f, seeds...)
}

// Whatever a client sends, first or second, it gets an error or an answer; and
// nothing but the password logs on.
func FuzzAccept(f *testing.F) {
	for _, x := range peerExchanges(f) {
		f.Add(x.init, x.answer)
	}
	for _, b := range peerNTLM(f, 2) {
		f.Add(peerNTLM(f, 0)[0], b)
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		a := NewSPNEGOAcceptor(testConfig())
		if _, done, err := a.Accept(first); err != nil || done {
			if done {
				t.Fatal("done after one token")
			}
			return
		}
		if _, done, err := a.Accept(second); done && err == nil && !a.Identity().Anonymous {
			t.Fatal("logged on without a password")
		}
	})
}

// Whatever a server answers, the client has an error or an answer.
func FuzzInit(f *testing.F) {
	for _, x := range peerExchanges(f) {
		f.Add(x.hint, x.challenge, x.end)
	}
	f.Fuzz(func(t *testing.T, hint, challenge, end []byte) {
		i := NewSPNEGOInitiator(testClient("hv", "x"))
		for _, in := range [][]byte{hint, challenge, end} {
			if _, _, err := i.Init(in); err != nil {
				return
			}
		}
	})
}
