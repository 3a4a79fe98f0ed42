package auth

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"encoding/binary"
	"errors"
	"fmt"
)

// acceptableFlags are the capabilities a server grants when a client asks.
const acceptableFlags = flagUnicode | flagSign | flagSeal | flagExtendedSecurity |
	flagVersion | flag128 | flag56 | flagKeyExch

// ntlmAcceptor is the server's side of NTLM (MS-NLMP 3.2.5.1).
type ntlmAcceptor struct {
	ntlmSession
	cfg       *Config
	state     ntlmState
	negotiate []byte // messages as they were sent: the MIC covers them
	challenge []byte
	nonce     [8]byte // ServerChallenge
	identity  Identity
}

type ntlmState int

const (
	ntlmStart ntlmState = iota
	ntlmChallenged
	ntlmDone
	ntlmFailed
)

// NewNTLMAcceptor accepts NTLMv2 messages that are not wrapped in SPNEGO.
func NewNTLMAcceptor(cfg *Config) Acceptor { return newNTLMAcceptor(cfg) }

func newNTLMAcceptor(cfg *Config) *ntlmAcceptor {
	return &ntlmAcceptor{cfg: cfg, ntlmSession: ntlmSession{server: true}}
}

func (a *ntlmAcceptor) SessionKey() []byte { return a.key }
func (a *ntlmAcceptor) Identity() Identity { return a.identity }

// Accept implements Acceptor. Its errors are ErrMalformed, ErrNTLMv1,
// ErrLogonFailure, ErrIntegrity, Credential.Denied and what Lookup returned, in a
// LogonError where the client has said who it is.
func (a *ntlmAcceptor) Accept(in []byte) (out []byte, done bool, err error) {
	state := a.state
	a.state = ntlmFailed // unless what follows succeeds
	switch state {
	case ntlmStart:
		if out, err = a.acceptNegotiate(in); err == nil {
			a.state = ntlmChallenged
		}
		return out, false, err
	case ntlmChallenged:
		if err = a.acceptAuthenticate(in); err != nil {
			a.key, a.identity = nil, Identity{}
			return nil, false, err
		}
		a.state = ntlmDone
		return nil, true, nil
	}
	return nil, false, malformed("NTLM message after the end")
}

func (a *ntlmAcceptor) acceptNegotiate(in []byte) ([]byte, error) {
	var neg negotiateMessage
	if err := neg.decode(in); err != nil {
		return nil, err
	}
	if neg.flags&flagUnicode == 0 {
		return nil, malformed("NTLM NEGOTIATE without Unicode")
	}
	a.negotiate = bytes.Clone(in)
	if err := a.cfg.random(a.nonce[:]); err != nil {
		return nil, err
	}
	m := challengeMessage{
		target:    a.cfg.ComputerName,
		flags:     neg.flags&acceptableFlags | flagRequestTarget | flagNTLM | flagAlwaysSign | flagTargetInfo | flagTargetServer,
		challenge: a.nonce,
		info:      a.targetInfo(),
	}
	if m.flags&flagVersion != 0 {
		m.version = ourVersion
	}
	a.flags = m.flags
	a.challenge = m.encode()
	return a.challenge, nil
}

// targetInfo is what the client binds its answer to. The timestamp makes it send
// a MIC (MS-NLMP 3.1.5.1.2).
func (a *ntlmAcceptor) targetInfo() avPairs {
	pairs := avPairs{}
	for _, p := range []struct {
		id   avID
		name string
	}{
		{avNbDomainName, a.cfg.DomainName}, {avNbComputerName, a.cfg.ComputerName},
		{avDNSDomainName, a.cfg.DNSDomain}, {avDNSComputerName, a.cfg.DNSComputer},
		{avDNSTreeName, a.cfg.DNSForest},
	} {
		if p.name != "" {
			pairs = append(pairs, avPair{p.id, utf16le(p.name)})
		}
	}
	return append(pairs, avPair{avTimestamp, binary.LittleEndian.AppendUint64(nil, filetime(a.cfg.now()))})
}

func (a *ntlmAcceptor) acceptAuthenticate(in []byte) error {
	var m authenticateMessage
	if err := m.decode(in); err != nil {
		return err
	}
	// What counts is what both sides asked for.
	a.flags &= m.flags
	anonymous := m.user == "" && len(m.nt) == 0 && (len(m.lm) == 0 || bytes.Equal(m.lm, []byte{0}))
	if anonymous {
		a.identity = Identity{Workstation: m.workstation, Anonymous: true}
		return a.takeKey(&m, make([]byte, 16))
	}
	if err := a.verify(&m, in); err != nil {
		return &LogonError{Domain: m.domain, User: m.user, Workstation: m.workstation, Err: err}
	}
	return nil
}

// verify checks the response, if it is NTLMv2's.
func (a *ntlmAcceptor) verify(m *authenticateMessage, in []byte) error {
	switch {
	case len(m.nt) == 0 && len(m.lm) == 0:
		return malformed("NTLM AUTHENTICATE without a response")
	case len(m.nt) <= 24:
		return ErrNTLMv1
	}
	return a.verifyV2(m, in)
}

// verifyV2 checks an NTLMv2 response. The work is the same whether the user
// exists or not, and whichever check fails.
func (a *ntlmAcceptor) verifyV2(m *authenticateMessage, in []byte) error {
	if len(m.nt) < 16+clientChallengeSize {
		return malformed("NTLMv2 response of %d bytes", len(m.nt))
	}
	proof, temp := m.nt[:16], m.nt[16:]
	var client clientChallenge
	if err := client.decode(temp); err != nil {
		return err
	}
	cred, err := a.cfg.Lookup(m.domain, m.user)
	unknown := errors.Is(err, ErrUnknownUser)
	if err != nil && !unknown {
		return fmt.Errorf("auth: look up: %w", err)
	}
	if unknown {
		cred = Credential{}
		if err := a.cfg.random(cred.NTHash[:]); err != nil {
			return err
		}
	}

	// Some clients leave the domain out of the response key (MS-NLMP 3.2.5.1.2).
	base, ok := a.tryResponse(cred, m.user, m.domain, proof, temp)
	bare, okBare := a.tryResponse(cred, m.user, "", proof, temp)
	if !ok && okBare {
		base, ok = bare, true
	}
	keyErr := a.takeKey(m, base)
	micErr := a.checkMIC(m, client.pairs, in)
	bindErr := a.checkBindings(client.pairs)
	switch {
	case unknown:
		return ErrUnknownUser
	case !ok:
		return ErrWrongPassword
	}
	if err := errors.Join(keyErr, micErr, bindErr); err != nil {
		return err
	}
	if cred.Denied != nil {
		return cred.Denied
	}
	a.identity = Identity{Domain: m.domain, User: m.user, Workstation: m.workstation, Account: cred.Account}
	if client.pairs.flags()&avFlagUnverifiedTarget == 0 {
		a.identity.TargetName, _ = fromUTF16LE(client.pairs.get(avTargetName))
	}
	return nil
}

// tryResponse computes NTProofStr and SessionBaseKey (MS-NLMP 3.3.2) and compares
// the former with the client's.
func (a *ntlmAcceptor) tryResponse(c Credential, user, domain string, proof, temp []byte) (base []byte, ok bool) {
	key := ntowfv2(c.NTHash, user, domain)
	want := hmacMD5(key, a.nonce[:], temp)
	return hmacMD5(key, want), hmac.Equal(want, proof)
}

// takeKey sets ExportedSessionKey from the key exchange key.
func (a *ntlmAcceptor) takeKey(m *authenticateMessage, exchange []byte) error {
	a.key = exchange
	switch {
	case a.flags&flagKeyExch == 0, a.flags&(flagSign|flagSeal) == 0 && len(m.encryptedKey) == 0:
		return nil
	case len(m.encryptedKey) != 16:
		return malformed("NTLM session key of %d bytes", len(m.encryptedKey))
	}
	a.key = rc4Once(exchange, m.encryptedKey)
	return nil
}

// checkMIC checks the code over all three messages, if the client says there is
// one. The attribute that says so is covered by the response, so that nobody on
// the way can take it out.
func (a *ntlmAcceptor) checkMIC(m *authenticateMessage, pairs avPairs, in []byte) error {
	if pairs.flags()&avFlagMIC == 0 {
		return nil
	}
	if !m.hasMIC {
		return malformed("NTLM AUTHENTICATE without the MIC it announces")
	}
	want := ntlmMIC(a.key, a.negotiate, a.challenge, in)
	if !hmac.Equal(want, m.mic[:]) {
		return fmt.Errorf("%w: NTLM MIC", ErrIntegrity)
	}
	return nil
}

// ntlmMIC is the code of the exchange, with the MIC field of the last message
// taken as zero (MS-NLMP 3.1.5.1.2).
func ntlmMIC(key, negotiate, challenge, authenticate []byte) []byte {
	var zero [16]byte
	return hmacMD5(key, negotiate, challenge, authenticate[:72], zero[:], authenticate[authenticateMIC:])
}

// checkBindings compares the client's channel bindings with the transport's.
func (a *ntlmAcceptor) checkBindings(pairs avPairs) error {
	if a.cfg.ChannelBindings == nil {
		return nil
	}
	if want := md5.Sum(a.cfg.ChannelBindings); !hmac.Equal(want[:], pairs.bindings()) {
		return fmt.Errorf("%w: channel bindings", ErrIntegrity)
	}
	return nil
}
