package auth

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/rc4"
	"encoding/binary"
	"unicode"
	"unicode/utf16"

	"golang.org/x/crypto/md4" //lint:ignore SA1019 NTLM is defined with MD4

	"lunless/smbstore/fscc"
)

// NTHash is NTOWFv1: MD4 of the password in UTF-16LE (MS-NLMP 3.3.1). Whoever has
// it can log on: it is as good as the password.
func NTHash(password string) (h [16]byte) {
	d := md4.New()
	d.Write(utf16le(password))
	d.Sum(h[:0])
	return h
}

// ntowfv2 is the response key of NTLMv2 (MS-NLMP 3.3.2).
func ntowfv2(ntHash [16]byte, user, domain string) []byte {
	return hmacMD5(ntHash[:], utf16le(fscc.UpcaseName(user)), utf16le(domain))
}

// SameName reports whether two user names are one. Names are not case-sensitive.
func SameName(a, b string) bool { return fscc.UpcaseName(a) == fscc.UpcaseName(b) }

func hmacMD5(key []byte, parts ...[]byte) []byte {
	h := hmac.New(md5.New, key)
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

func rc4Once(key, in []byte) []byte {
	c, err := rc4.NewCipher(key)
	if err != nil {
		return nil // only for keys RC4 does not have: ours are 16 bytes
	}
	out := make([]byte, len(in))
	c.XORKeyStream(out, in)
	return out
}

// utf16le encodes a string; what is not UTF-8 in it becomes U+FFFD.
func utf16le(s string) []byte {
	u := utf16.Encode([]rune(s))
	out := make([]byte, 0, 2*len(u))
	for _, c := range u {
		out = binary.LittleEndian.AppendUint16(out, c)
	}
	return out
}

// fromUTF16LE decodes a string, if it is one.
func fromUTF16LE(b []byte) (string, bool) {
	if len(b)%2 != 0 {
		return "", false
	}
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	for i := 0; i < len(u); i++ {
		if !utf16.IsSurrogate(rune(u[i])) {
			continue
		}
		if i+1 == len(u) || utf16.DecodeRune(rune(u[i]), rune(u[i+1])) == unicode.ReplacementChar {
			return "", false
		}
		i++
	}
	return string(utf16.Decode(u)), true
}

// ntlmSession is the session security of a finished exchange, as far as SPNEGO
// needs it: the first signature each way (MS-NLMP 3.4.4.2). MS-SPNG 3.2.5.1 puts
// the RC4 state back after it, so that none need be kept here.
type ntlmSession struct {
	key    []byte // ExportedSessionKey
	flags  ntlmFlags
	server bool // this side
}

const (
	magicClientSign = "session key to client-to-server signing key magic constant\x00"
	magicServerSign = "session key to server-to-client signing key magic constant\x00"
	magicClientSeal = "session key to client-to-server sealing key magic constant\x00"
	magicServerSeal = "session key to server-to-client sealing key magic constant\x00"
)

// signKey is SIGNKEY (MS-NLMP 3.4.5.2) for one direction.
func (s *ntlmSession) signKey(fromServer bool) []byte {
	magic := magicClientSign
	if fromServer {
		magic = magicServerSign
	}
	h := md5.Sum(append(append([]byte(nil), s.key...), magic...))
	return h[:]
}

// sealKey is SEALKEY (MS-NLMP 3.4.5.3) for one direction, with extended session
// security.
func (s *ntlmSession) sealKey(fromServer bool) []byte {
	key, magic := s.key, magicClientSeal
	switch {
	case s.flags&flag128 != 0:
	case s.flags&flag56 != 0:
		key = key[:7]
	default:
		key = key[:5]
	}
	if fromServer {
		magic = magicServerSeal
	}
	h := md5.Sum(append(append([]byte(nil), key...), magic...))
	return h[:]
}

// mac is the NTLMSSP_MESSAGE_SIGNATURE of message number 0 in one direction.
func (s *ntlmSession) mac(fromServer bool, msg []byte) []byte {
	var seq [4]byte
	sum := hmacMD5(s.signKey(fromServer), seq[:], msg)[:8]
	if s.flags&flagKeyExch != 0 {
		sum = rc4Once(s.sealKey(fromServer), sum)
	}
	out := make([]byte, 0, 16)
	out = append(out, 1, 0, 0, 0)
	out = append(out, sum...)
	return append(out, seq[:]...)
}

// HasIntegrity implements Integrity. Without extended session security there are
// no signing keys.
func (s *ntlmSession) HasIntegrity() bool {
	return len(s.key) == 16 && s.flags&flagExtendedSecurity != 0
}

// MIC implements Integrity.
func (s *ntlmSession) MIC(msg []byte) []byte {
	if !s.HasIntegrity() {
		return nil
	}
	return s.mac(s.server, msg)
}

// VerifyMIC implements Integrity.
func (s *ntlmSession) VerifyMIC(msg, mic []byte) bool {
	return s.HasIntegrity() && hmac.Equal(mic, s.mac(!s.server, msg))
}
