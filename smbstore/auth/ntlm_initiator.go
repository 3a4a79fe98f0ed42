package auth

import (
	"bytes"
	"crypto/md5"
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// ClientConfig describes a client to its initiators.
type ClientConfig struct {
	User        string // empty for an anonymous log-on
	Domain      string
	NTHash      [16]byte // of the password: see NTHash
	Workstation string   // may be empty
	TargetName  string   // service principal to reach, such as cifs/server; may be empty

	// ChannelBindings is the gss_channel_bindings_struct of the transport, or nil.
	ChannelBindings []byte

	Now  func() time.Time // time.Now if nil
	Rand io.Reader        // crypto/rand.Reader if nil
}

// initiatorFlags is what the client asks for, and what it cannot do without.
const (
	initiatorFlags = flagUnicode | flagRequestTarget | flagSign | flagNTLM | flagAlwaysSign |
		flagExtendedSecurity | flagVersion | flag128 | flagKeyExch | flag56
	requiredFlags = flagUnicode | flagExtendedSecurity | flag128
)

// ntlmInitiator is the client's side of NTLM (MS-NLMP 3.1.5.1).
type ntlmInitiator struct {
	ntlmSession
	cfg       *ClientConfig
	state     ntlmState
	negotiate []byte
}

// NewNTLMInitiator logs on with NTLMv2 outside of SPNEGO. The first Init wants no
// token.
func NewNTLMInitiator(cfg *ClientConfig) Initiator { return newNTLMInitiator(cfg) }

func newNTLMInitiator(cfg *ClientConfig) *ntlmInitiator { return &ntlmInitiator{cfg: cfg} }

func (c *ntlmInitiator) SessionKey() []byte { return c.key }

// Init implements Initiator. Its errors are ErrMalformed and ErrNoMechanism, for a
// server that does not do what NTLMv2 needs.
func (c *ntlmInitiator) Init(in []byte) (out []byte, done bool, err error) {
	state := c.state
	c.state = ntlmFailed
	switch state {
	case ntlmStart:
		m := negotiateMessage{flags: initiatorFlags, version: ourVersion}
		c.negotiate = m.encode()
		c.state = ntlmChallenged
		return c.negotiate, false, nil
	case ntlmChallenged:
		if out, err = c.answer(in); err == nil {
			c.state = ntlmDone
		}
		return out, err == nil, err
	}
	return nil, false, malformed("NTLM message after the end")
}

// answer makes the AUTHENTICATE message for a challenge.
func (c *ntlmInitiator) answer(in []byte) ([]byte, error) {
	var ch challengeMessage
	if err := ch.decode(in); err != nil {
		return nil, err
	}
	if ch.flags&requiredFlags != requiredFlags {
		return nil, fmt.Errorf("%w: server grants NTLM flags %#x", ErrNoMechanism, uint32(ch.flags))
	}
	c.flags = ch.flags & initiatorFlags
	m := authenticateMessage{
		flags:       c.flags | ch.flags&flagTargetInfo,
		domain:      c.cfg.Domain,
		user:        c.cfg.User,
		workstation: c.cfg.Workstation,
		version:     ourVersion,
		hasMIC:      true,
	}
	base, mic, err := c.respond(&ch, &m)
	if err != nil {
		return nil, err
	}
	c.key = base
	if c.flags&flagKeyExch != 0 && c.flags&(flagSign|flagSeal) != 0 {
		c.key = make([]byte, 16)
		if err := readRandom(c.cfg.Rand, c.key); err != nil {
			return nil, err
		}
		m.encryptedKey = rc4Once(base, c.key)
	}
	out := m.encode()
	if mic {
		copy(out[72:], ntlmMIC(c.key, c.negotiate, in, out))
	}
	return out, nil
}

// respond fills in the responses (MS-NLMP 3.3.2) and returns SessionBaseKey, and
// whether the message carries a MIC.
func (c *ntlmInitiator) respond(ch *challengeMessage, m *authenticateMessage) (base []byte, mic bool, err error) {
	if c.cfg.User == "" {
		m.domain, m.lm = "", []byte{0}
		m.flags |= flagAnonymous
		return make([]byte, 16), false, nil
	}
	cc := clientChallenge{time: filetime(orNow(c.cfg.Now)), tail: make([]byte, 4)}
	if err := readRandom(c.cfg.Rand, cc.challenge[:]); err != nil {
		return nil, false, err
	}
	cc.pairs = append(avPairs{}, ch.info...)
	if ts := cc.pairs.get(avTimestamp); len(ts) == 8 {
		cc.time, mic = binary.LittleEndian.Uint64(ts), true
		cc.pairs.set(avFlags, binary.LittleEndian.AppendUint32(nil, cc.pairs.flags()|avFlagMIC))
	}
	if ch.info != nil {
		bindings := make([]byte, md5.Size)
		if c.cfg.ChannelBindings != nil {
			sum := md5.Sum(c.cfg.ChannelBindings)
			bindings = sum[:]
		}
		cc.pairs.set(avChannelBindings, bindings)
		cc.pairs.set(avTargetName, utf16le(c.cfg.TargetName))
	}
	temp := cc.encode()
	key := ntowfv2(c.cfg.NTHash, c.cfg.User, c.cfg.Domain)
	proof := hmacMD5(key, ch.challenge[:], temp)
	m.nt = append(bytes.Clone(proof), temp...)
	m.lm = make([]byte, 24)
	if !mic {
		m.lm = append(hmacMD5(key, ch.challenge[:], cc.challenge[:]), cc.challenge[:]...)
	}
	return hmacMD5(key, proof), mic, nil
}
