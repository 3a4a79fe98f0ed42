package auth

import (
	"bytes"
	"errors"
	"testing"
)

// The NegTokenInit2 of MS-SPNG 4.
const specNegTokenInit2 = `
	6082015d06062b0601050502a08201513082014da01a3018060a2b06010401823702021e060a2b06010401823702020a
	a28201010481fe4e45474f4558545301000000000000006000000070000000cffa11765e12599a347d766852bfce7097
	458710bb8242b4c7dfbad2da897aa311a7d868463430952562dc13c554f2010000000000000000600000000100000000
	000000000000005c33530deaf90d4db2ec4ae3786ec3084e45474f455854530300000001000000400000008e000000cf
	fa11765e12599a347d766852bfce705c33530deaf90d4db2ec4ae3786ec308400000004e000000304ca04a3048302a80
	283026312430220603550403131b584d4c50726f766964657220496e7465726d656469617465204341301a8018301631
	1430120603550403130b584d4c50726f7669646572a32a3028a0261b246e6f745f646566696e65645f696e5f52464334
	31373840706c656173655f69676e6f7265`

func TestSpecNegTokenInit2(t *testing.T) {
	b := unhex(t, specNegTokenInit2)
	var m negTokenInit
	if err := m.decode(b); err != nil {
		t.Fatal(err)
	}
	if len(m.mechs) != 2 || m.mechs[1] != OIDNTLM || !bytes.HasPrefix(m.mechToken, []byte("NEGOEXTS")) ||
		!bytes.HasSuffix(m.hints, []byte(hintName)) || m.mic != nil {
		t.Errorf("%+v", m)
	}
	if !bytes.Equal(m.encode(), b) {
		t.Errorf("encodes to %x", m.encode())
	}
}

// A client that would rather have had Kerberos: NTLM is chosen, and then both
// sides have to prove that nobody struck Kerberos off the list.
func TestMechanismListIsProtected(t *testing.T) {
	list := mechTypeList([]OID{OIDMSKerberos, OIDKerberos, OIDNTLM})
	for name, tc := range map[string]struct {
		signed []byte // what the client's MIC covers; nil for none with the last token
		late   []byte // sent after the server's MIC
		want   error
	}{
		"MIC with the last token":  {signed: list},
		"MIC after the last token": {late: list},
		"MIC of another list":      {signed: mechTypeList([]OID{OIDNTLM}), want: ErrIntegrity},
		"late MIC of another list": {late: mechTypeList([]OID{OIDNTLM}), want: ErrIntegrity},
		"no MIC at all":            {want: ErrIntegrity},
	} {
		a := NewSPNEGOAcceptor(testConfig())
		ntlm := newNTLMInitiator(testClient("hv", "Passw0rd!"))
		init := negTokenInit{mechList: list, mechToken: []byte("a ticket")}
		resp := exchange(t, name, a, init.encode())
		if resp.state != requestMIC || resp.mech != OIDNTLM || resp.token != nil {
			t.Errorf("%s: first answer %+v", name, resp)
		}
		neg, _, err := ntlm.Init(nil)
		if err != nil {
			t.Fatal(err)
		}
		resp = exchange(t, name, a, (&negTokenResp{state: negStateAbsent, token: neg}).encode())
		answer, _, err := ntlm.Init(resp.token)
		if err != nil {
			t.Fatal(err)
		}
		last := negTokenResp{state: negStateAbsent, token: answer}
		if tc.signed != nil {
			last.mic = ntlm.MIC(tc.signed)
		}
		out, done, err := a.Accept(last.encode())
		if tc.signed == nil && err == nil {
			if done {
				t.Errorf("%s: done without a MIC", name)
				continue
			}
			late := negTokenResp{state: acceptIncomplete}
			if tc.late != nil {
				late.mic = ntlm.MIC(tc.late)
			}
			if err := resp.decode(out); err != nil || !ntlm.VerifyMIC(list, resp.mic) {
				t.Errorf("%s: server's MIC: %v, %+v", name, err, resp)
			}
			out, done, err = a.Accept(late.encode())
		}
		if !errors.Is(err, tc.want) || done != (tc.want == nil) {
			t.Errorf("%s: %v, %v, want %v", name, done, err, tc.want)
			continue
		}
		if tc.want != nil {
			continue
		}
		if err := resp.decode(out); err != nil || resp.state != acceptCompleted {
			t.Errorf("%s: last answer %+v, %v", name, resp, err)
		}
		if tc.signed != nil && !ntlm.VerifyMIC(list, resp.mic) {
			t.Errorf("%s: server's MIC is wrong", name)
		}
	}
}

func exchange(t *testing.T, name string, a Acceptor, in []byte) (out negTokenResp) {
	t.Helper()
	b, done, err := a.Accept(in)
	if err != nil || done {
		t.Fatalf("%s: %v, %v", name, done, err)
	}
	if err := out.decode(b); err != nil {
		t.Fatal(err)
	}
	return out
}

// Someone on the way who strikes a mechanism off the client's list is noticed by
// both sides.
func TestStrippedMechanismIsNoticed(t *testing.T) {
	list := mechTypeList([]OID{OIDNTLM, OIDKerberos})
	a := NewSPNEGOAcceptor(testConfig())
	i := NewSPNEGOInitiator(testClient("hv", "Passw0rd!")).(*spnegoInitiator)
	i.mechList = list // what the client sent; the server sees NTLM alone
	first, _, err := i.Init(nil)
	if err != nil {
		t.Fatal(err)
	}
	var seen negTokenInit
	if err := seen.decode(first); err != nil {
		t.Fatal(err)
	}
	seen.mechList = mechTypeList([]OID{OIDNTLM})
	ch, _, err := a.Accept(seen.encode())
	if err != nil {
		t.Fatal(err)
	}
	answer, _, err := i.Init(ch)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.Accept(answer); !errors.Is(err, ErrIntegrity) {
		t.Errorf("server: %v", err)
	}
	end := negTokenResp{state: acceptCompleted, mic: i.mech.(*ntlmInitiator).mac(true, seen.mechList)}
	if _, _, err := i.Init(end.encode()); !errors.Is(err, ErrIntegrity) {
		t.Errorf("client: %v", err)
	}
}

// ticket is a mechanism that is done after one token.
type ticket struct{ MechAcceptor }

func (ticket) Accept(in []byte) ([]byte, bool, error) { return []byte("re:" + string(in)), true, nil }
func (ticket) SessionKey() []byte                     { return []byte("key") }
func (ticket) Identity() Identity                     { return Identity{User: "by ticket"} }
func (ticket) HasIntegrity() bool                     { return false }

func TestOtherMechanismsComeFirst(t *testing.T) {
	cfg := testConfig()
	cfg.Mechanisms = []Mechanism{{OID: OIDKerberos, Aliases: []OID{OIDMSKerberos}, Accept: func() MechAcceptor { return ticket{} }}}
	var offer negTokenInit
	if err := offer.decode(NegTokenInit2(cfg)); err != nil || len(offer.mechs) != 3 || offer.mechs[0] != OIDKerberos || offer.mechs[2] != OIDNTLM {
		t.Errorf("offer %+v, %v", offer, err)
	}
	a := NewSPNEGOAcceptor(cfg)
	in := negTokenInit{mechList: mechTypeList([]OID{OIDMSKerberos, OIDNTLM}), mechToken: []byte("x")}
	out, done, err := a.Accept(in.encode())
	var resp negTokenResp
	if err != nil || !done || resp.decode(out) != nil || resp.state != acceptCompleted || resp.mech != OIDMSKerberos || string(resp.token) != "re:x" {
		t.Errorf("%v, %v, %+v", done, err, resp)
	}
	if a.Identity().User != "by ticket" || string(a.SessionKey()) != "key" {
		t.Errorf("%+v", a.Identity())
	}
}

func TestTokensRefused(t *testing.T) {
	good := negTokenInit{mechList: mechTypeList([]OID{OIDNTLM}), mechToken: (&negotiateMessage{flags: initiatorFlags}).encode()}
	for name, tc := range map[string]struct {
		token []byte
		want  error
	}{
		"empty":               {nil, ErrMalformed},
		"garbage":             {[]byte("garbage"), ErrMalformed},
		"too long":            {append(good.encode(), make([]byte, MaxToken)...), ErrMalformed},
		"trailing byte":       {append(good.encode(), 0), ErrMalformed},
		"no mechanisms":       {(&negTokenInit{mechToken: []byte("x")}).encode(), ErrMalformed},
		"too many mechanisms": {(&negTokenInit{mechList: mechTypeList(make([]OID, maxMechs+1))}).encode(), ErrMalformed},
		"Kerberos only":       {(&negTokenInit{mechList: mechTypeList([]OID{OIDKerberos})}).encode(), ErrNoMechanism},
		"response first":      {(&negTokenResp{token: []byte("x")}).encode(), ErrMalformed},
		"another GSS token":   {der(tagApplication0, der(tagOID, []byte(OIDKerberos)), []byte{1, 0}), ErrMalformed},
		"NTLM challenge":      {unhex(t, specChallenge), ErrMalformed},
		"NTLM, no Unicode":    {(&negotiateMessage{flags: flagOEM | flagNTLM}).encode(), ErrMalformed},
	} {
		a := NewSPNEGOAcceptor(testConfig())
		if _, _, err := a.Accept(tc.token); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
		if _, _, err := a.Accept(good.encode()); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: goes on after an error: %v", name, err)
		}
	}
}

func TestStrictDER(t *testing.T) {
	for name, tc := range map[string]struct {
		in   string
		good bool
	}{
		"short":                {"0401aa", true},
		"empty":                {"0400", true},
		"long form":            {"048180" + string(bytes.Repeat([]byte("00"), 0x80)), true},
		"long form, too short": {"047f", false},
		"not minimal":          {"048101aa", false},
		"leading zero":         {"04820001aa", false},
		"indefinite":           {"0480aa0000", false},
		"huge":                 {"0483ffffff00", false},
		"four length bytes":    {"048400000001aa", false},
		"high tag number":      {"1f8101aa", false},
		"no length":            {"04", false},
	} {
		r := derReader{b: unhex(t, tc.in)}
		if r.next(); r.bad == tc.good {
			t.Errorf("%s: bad = %v", name, r.bad)
		}
	}
}

// The initiator does not answer a server that declines, changes the mechanism or
// ends early.
func TestInitiatorRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		hint, answer []byte
		want         error
	}{
		"hint without NTLM":    {hint: (&negTokenInit{mechList: mechTypeList([]OID{OIDKerberos})}).encode(), want: ErrNoMechanism},
		"garbled hint":         {hint: []byte("x"), want: ErrMalformed},
		"rejected":             {answer: (&negTokenResp{state: rejected}).encode(), want: ErrNoMechanism},
		"other mechanism":      {answer: (&negTokenResp{state: acceptIncomplete, mech: OIDKerberos}).encode(), want: ErrNoMechanism},
		"completed at once":    {answer: (&negTokenResp{state: acceptCompleted}).encode(), want: ErrMalformed},
		"empty":                {answer: []byte{}, want: ErrMalformed},
		"not a challenge":      {answer: (&negTokenResp{token: []byte("x")}).encode(), want: ErrMalformed},
		"challenge, no 128bit": {answer: (&negTokenResp{state: 1, token: (&challengeMessage{flags: flagUnicode | flagExtendedSecurity}).encode()}).encode(), want: ErrNoMechanism},
	} {
		i := NewSPNEGOInitiator(testClient("hv", "x"))
		_, _, err := i.Init(tc.hint)
		if err == nil && tc.answer != nil {
			_, _, err = i.Init(tc.answer)
		}
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}
