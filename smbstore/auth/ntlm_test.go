package auth

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func wantHex(t *testing.T, what string, got []byte, want string) {
	t.Helper()
	if w := unhex(t, want); !bytes.Equal(got, w) {
		t.Errorf("%s = %x, want %x", what, got, w)
	}
}

// The messages of MS-NLMP 4.2.4.3.
const (
	specChallenge = `4e544c4d53535000 02000000 0c000c0038000000 33828ae2 0123456789abcdef
		0000000000000000 2400240044000000 060070170000000f 530065007200760065007200
		02000c0044006f006d00610069006e00 01000c00530065007200760065007200 00000000`
	specAuthenticate = `4e544c4d53535000 03000000 180018006c000000 5400540084000000
		0c000c0048000000 0800080054000000 100010005c000000 10001000d8000000 35828 8e2
		0501280a0000000f 44006f006d00610069006e00 5500730065007200
		43004f004d0050005500540045005200 86c35097ac9cec102554764a57cccc19aaaaaaaaaaaaaaaa
		68cd0ab851e51c96aabc927bebef6a1c 0101000000000000 0000000000000000 aaaaaaaaaaaaaaaa 00000000
		02000c0044006f006d00610069006e00 01000c00530065007200760065007200 00000000 00000000
		c5dad2544fc979909 4ce1ce90bc9d03e`
)

// MS-NLMP 4.2.4.
func TestNTLMv2Vectors(t *testing.T) {
	nt := NTHash("Password")
	key := ntowfv2(nt, "User", "Domain")
	wantHex(t, "NTOWFv2", key, "0c868a403bfd7a93a3001ef22ef02e3f")
	server := unhex(t, "0123456789abcdef")

	var ch challengeMessage
	if err := ch.decode(unhex(t, specChallenge)); err != nil {
		t.Fatal(err)
	}
	if ch.target != "Server" || !bytes.Equal(ch.challenge[:], server) || ch.flags != 0xe28a8233 {
		t.Errorf("challenge = %+v", ch)
	}
	client := clientChallenge{challenge: [8]byte(bytes.Repeat([]byte{0xaa}, 8)), pairs: ch.info, tail: make([]byte, 4)}
	temp := client.encode()
	proof := hmacMD5(key, server, temp)
	wantHex(t, "NTProofStr", proof, "68cd0ab851e51c96aabc927bebef6a1c")
	base := hmacMD5(key, proof)
	wantHex(t, "SessionBaseKey", base, "8de40ccadbc14a82f15cb0ad0de95ca3")
	random := bytes.Repeat([]byte{0x55}, 16)
	wantHex(t, "EncryptedRandomSessionKey", rc4Once(base, random), "c5dad2544fc9799094ce1ce90bc9d03e")

	s := ntlmSession{key: random, flags: ch.flags}
	wantHex(t, "SEALKEY", s.sealKey(false), "59f600973cc4960a25480a7c196e4c58")
	wantHex(t, "SIGNKEY", s.signKey(false), "4788dc861b4782f35d43fd98fe1a2d39")
	// GSS_WrapEx encrypts the 18 bytes of data first; the signature's checksum takes
	// the key stream after them.
	plain := unhex(t, "50006c00610069006e007400650078007400")
	sum := hmacMD5(s.signKey(false), make([]byte, 4), plain)[:8]
	wantHex(t, "checksum", sum, "7035285 1f2564309")
	stream := rc4Once(s.sealKey(false), append(bytes.Clone(plain), sum...))
	wantHex(t, "sealed", stream, "54e50165bf1936dc996020c1811b0f06fb5f 7fb38ec5c55d4976")

	var au authenticateMessage
	if err := au.decode(unhex(t, specAuthenticate)); err != nil {
		t.Fatal(err)
	}
	if au.user != "User" || au.domain != "Domain" || au.workstation != "COMPUTER" || au.hasMIC {
		t.Errorf("authenticate = %+v", au)
	}
	if !bytes.Equal(au.nt, append(bytes.Clone(proof), temp...)) {
		t.Errorf("NT response = %x", au.nt)
	}
	wantHex(t, "the messages encode to themselves", au.encode(), specAuthenticate)
	wantHex(t, "the messages encode to themselves", ch.encode(), specChallenge)
}

// testConfig is a server with one user, hv with the password Passw0rd!.
func testConfig() *Config {
	return &Config{
		ComputerName: "FS1", DomainName: "FS1", DNSComputer: "fs1.example",
		Lookup: func(domain, user string) (Credential, error) {
			if !SameName(user, "hv") {
				return Credential{}, ErrUnknownUser
			}
			return Credential{NTHash: NTHash("Passw0rd!"), Account: 7}, nil
		},
		Now: func() time.Time { return time.Unix(1700000000, 0) },
	}
}

func testClient(user, password string) *ClientConfig {
	return &ClientConfig{User: user, Domain: "WORKGROUP", NTHash: NTHash(password), Workstation: "HV1", TargetName: "cifs/fs1"}
}

// converse runs both sides to the end. It returns the first error.
func converse(i Initiator, a Acceptor, hint []byte) error {
	in := hint
	for range 8 {
		out, clientDone, err := i.Init(in)
		if err != nil {
			return fmt.Errorf("client: %w", err)
		}
		if clientDone && out == nil {
			return nil
		}
		var serverDone bool
		if in, serverDone, err = a.Accept(out); err != nil {
			return fmt.Errorf("server: %w", err)
		}
		if clientDone != serverDone && clientDone {
			return errors.New("client is done, server is not")
		}
		if clientDone {
			return nil
		}
	}
	return errors.New("no end")
}

func TestLogOn(t *testing.T) {
	denied := errors.New("account disabled")
	for name, mech := range map[string]struct {
		acceptor  func(*Config) Acceptor
		initiator func(*ClientConfig) Initiator
		hint      []byte
	}{
		"NTLM":               {NewNTLMAcceptor, NewNTLMInitiator, nil},
		"NTLM, SPNEGO":       {NewSPNEGOAcceptor, NewNTLMInitiator, nil},
		"SPNEGO":             {NewSPNEGOAcceptor, NewSPNEGOInitiator, nil},
		"SPNEGO with a hint": {NewSPNEGOAcceptor, NewSPNEGOInitiator, NegTokenInit2(testConfig())},
	} {
		for _, tc := range []struct {
			what           string
			user, password string
			change         func(*Config, *ClientConfig)
			want           error
		}{
			{"right", "hv", "Passw0rd!", nil, nil},
			{"right, other case", "HV", "Passw0rd!", nil, nil},
			{"wrong password", "hv", "passw0rd!", nil, ErrWrongPassword},
			{"unknown user", "hw", "Passw0rd!", nil, ErrUnknownUser},
			{"denied", "hv", "Passw0rd!", func(c *Config, _ *ClientConfig) { denyAll(c, denied) }, denied},
			{"denied, wrong password", "hv", "x", func(c *Config, _ *ClientConfig) { denyAll(c, denied) }, ErrWrongPassword},
			{"bindings", "hv", "Passw0rd!", func(c *Config, cc *ClientConfig) {
				c.ChannelBindings, cc.ChannelBindings = []byte("tls"), []byte("tls")
			}, nil},
			{"other bindings", "hv", "Passw0rd!", func(c *Config, cc *ClientConfig) {
				c.ChannelBindings, cc.ChannelBindings = []byte("tls"), []byte("tsl")
			}, ErrIntegrity},
			{"no bindings", "hv", "Passw0rd!", func(c *Config, _ *ClientConfig) { c.ChannelBindings = []byte("tls") }, ErrIntegrity},
		} {
			cfg, client := testConfig(), testClient(tc.user, tc.password)
			if tc.change != nil {
				tc.change(cfg, client)
			}
			i, a := mech.initiator(client), mech.acceptor(cfg)
			err := converse(i, a, mech.hint)
			if !errors.Is(err, tc.want) || (tc.want == nil) != (err == nil) {
				t.Errorf("%s, %s: %v, want %v", name, tc.what, err, tc.want)
				continue
			}
			if err != nil {
				var logon *LogonError
				if !errors.As(err, &logon) || logon.User != tc.user || logon.Domain != "WORKGROUP" || logon.Workstation != "HV1" {
					t.Errorf("%s, %s: %#v does not say whose log-on failed", name, tc.what, err)
				}
				if a.SessionKey() != nil || a.Identity() != (Identity{}) {
					t.Errorf("%s, %s: key or identity after an error", name, tc.what)
				}
				continue
			}
			if len(a.SessionKey()) != 16 || !bytes.Equal(a.SessionKey(), i.SessionKey()) {
				t.Errorf("%s, %s: keys %x and %x", name, tc.what, a.SessionKey(), i.SessionKey())
			}
			want := Identity{Domain: "WORKGROUP", User: tc.user, Workstation: "HV1", TargetName: "cifs/fs1", Account: 7}
			if a.Identity() != want {
				t.Errorf("%s, %s: identity %+v", name, tc.what, a.Identity())
			}
			if _, _, err := a.Accept(nil); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s, %s: Accept after the end: %v", name, tc.what, err)
			}
		}
	}
}

// What a client claims to be called fills no log.
func TestLogonErrorIsShort(t *testing.T) {
	long := strings.Repeat("\n", MaxToken)
	err := &LogonError{Domain: long, User: "hv", Workstation: long, Err: ErrUnknownUser}
	if s := err.Error(); len(s) > 512 || strings.Contains(s, "\n") || !strings.Contains(s, `"hv"`) {
		t.Errorf("%d bytes: %.600s", len(s), s)
	}
}

func denyAll(c *Config, why error) {
	lookup := c.Lookup
	c.Lookup = func(domain, user string) (Credential, error) {
		cred, err := lookup(domain, user)
		cred.Denied = why
		return cred, err
	}
}

func TestAnonymousIsNobody(t *testing.T) {
	for name, pair := range map[string][2]any{
		"NTLM":   {NewNTLMAcceptor(testConfig()), NewNTLMInitiator(&ClientConfig{Workstation: "HV1"})},
		"SPNEGO": {NewSPNEGOAcceptor(testConfig()), NewSPNEGOInitiator(&ClientConfig{Workstation: "HV1"})},
	} {
		a, i := pair[0].(Acceptor), pair[1].(Initiator)
		if err := converse(i, a, nil); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if a.Identity() != (Identity{Workstation: "HV1", Anonymous: true}) {
			t.Errorf("%s: %+v", name, a.Identity())
		}
	}
}

func TestLookupErrorEndsTheLogOn(t *testing.T) {
	cfg := testConfig()
	broken := errors.New("disk on fire")
	cfg.Lookup = func(string, string) (Credential, error) { return Credential{}, broken }
	err := converse(NewSPNEGOInitiator(testClient("hv", "Passw0rd!")), NewSPNEGOAcceptor(cfg), nil)
	if !errors.Is(err, broken) || errors.Is(err, ErrLogonFailure) {
		t.Errorf("%v", err)
	}
}

// authenticateWith sends an AUTHENTICATE message that edit has changed.
func authenticateWith(t *testing.T, edit func(*authenticateMessage)) error {
	t.Helper()
	i, a := newNTLMInitiator(testClient("hv", "Passw0rd!")), newNTLMAcceptor(testConfig())
	neg, _, err := i.Init(nil)
	if err != nil {
		t.Fatal(err)
	}
	ch, _, err := a.Accept(neg)
	if err != nil {
		t.Fatal(err)
	}
	raw, _, err := i.Init(ch)
	if err != nil {
		t.Fatal(err)
	}
	var m authenticateMessage
	if err := m.decode(raw); err != nil {
		t.Fatal(err)
	}
	edit(&m)
	_, _, err = a.Accept(m.encode())
	return err
}

func TestAuthenticateRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(*authenticateMessage)
		want error
	}{
		"unchanged":         {func(*authenticateMessage) {}, nil},
		"NTLMv1":            {func(m *authenticateMessage) { m.nt = m.nt[:24] }, ErrNTLMv1},
		"LMv2 only":         {func(m *authenticateMessage) { m.nt = nil }, ErrNTLMv1},
		"no response":       {func(m *authenticateMessage) { m.nt, m.lm = nil, nil }, ErrMalformed},
		"no user":           {func(m *authenticateMessage) { m.user = "" }, ErrUnknownUser},
		"truncated":         {func(m *authenticateMessage) { m.nt = m.nt[:40] }, ErrMalformed},
		"changed proof":     {func(m *authenticateMessage) { m.nt[3] ^= 1 }, ErrWrongPassword},
		"changed pairs":     {func(m *authenticateMessage) { m.nt[16+clientChallengeSize+4] ^= 1 }, ErrWrongPassword},
		"changed MIC":       {func(m *authenticateMessage) { m.mic[0] ^= 1 }, ErrIntegrity},
		"removed MIC":       {func(m *authenticateMessage) { m.hasMIC = false }, ErrMalformed},
		"changed flags":     {func(m *authenticateMessage) { m.flags &^= flag128 }, ErrIntegrity},
		"no key exchange":   {func(m *authenticateMessage) { m.flags &^= flagKeyExch }, ErrIntegrity},
		"short session key": {func(m *authenticateMessage) { m.encryptedKey = m.encryptedKey[:8] }, ErrMalformed},
		"other workstation": {func(m *authenticateMessage) { m.workstation = "X" }, ErrIntegrity},
	} {
		if err := authenticateWith(t, tc.edit); !errors.Is(err, tc.want) || (tc.want == nil) != (err == nil) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}

// A response key without the domain, as some clients make it (MS-NLMP 3.2.5.1.2).
func TestResponseWithoutDomain(t *testing.T) {
	a := newNTLMAcceptor(testConfig())
	i := newNTLMInitiator(testClient("hv", "Passw0rd!"))
	i.cfg.Domain = ""
	neg, _, _ := i.Init(nil)
	ch, _, err := a.Accept(neg)
	if err != nil {
		t.Fatal(err)
	}
	out, _, err := i.Init(ch)
	if err != nil {
		t.Fatal(err)
	}
	var m authenticateMessage
	if err := m.decode(out); err != nil {
		t.Fatal(err)
	}
	m.domain, m.mic = "WORKGROUP", [16]byte{}
	out = m.encode()
	copy(out[72:], ntlmMIC(i.key, neg, ch, out))
	if _, done, err := a.Accept(out); !done || err != nil {
		t.Errorf("%v, %v", done, err)
	}
}
