package auth

import (
	"encoding/binary"
)

// ntlmSignature begins every NTLM message.
const ntlmSignature = "NTLMSSP\x00"

// ntlmFlags is NegotiateFlags (MS-NLMP 2.2.2.5).
type ntlmFlags uint32

const (
	flagUnicode          ntlmFlags = 0x00000001
	flagOEM              ntlmFlags = 0x00000002
	flagRequestTarget    ntlmFlags = 0x00000004
	flagSign             ntlmFlags = 0x00000010
	flagSeal             ntlmFlags = 0x00000020
	flagNTLM             ntlmFlags = 0x00000200
	flagAnonymous        ntlmFlags = 0x00000800
	flagOEMDomain        ntlmFlags = 0x00001000
	flagOEMWorkstation   ntlmFlags = 0x00002000
	flagAlwaysSign       ntlmFlags = 0x00008000
	flagTargetServer     ntlmFlags = 0x00020000
	flagExtendedSecurity ntlmFlags = 0x00080000
	flagTargetInfo       ntlmFlags = 0x00800000
	flagVersion          ntlmFlags = 0x02000000
	flag128              ntlmFlags = 0x20000000
	flagKeyExch          ntlmFlags = 0x40000000
	flag56               ntlmFlags = 0x80000000
)

// Message types and the sizes of their fixed parts.
const (
	ntlmNegotiate    = 1
	ntlmChallenge    = 2
	ntlmAuthenticate = 3

	negotiateShort    = 16 // signature, type and flags: all that some clients send
	negotiateSize     = 40
	challengeShort    = 48
	challengeSize     = 56
	authenticateShort = 64
	authenticateSize  = 72 // with Version
	authenticateMIC   = 88 // with MIC too
)

// ntlmVersion is VERSION (MS-NLMP 2.2.2.10). It is for debugging only.
type ntlmVersion [8]byte

// ourVersion names a Windows version, for want of another numbering, and the
// revision of NTLMSSP, 15.
var ourVersion = ntlmVersion{6, 1, 0, 0, 0, 0, 0, 15}

// ntlmReader reads a message's fixed part and the fields it points to.
type ntlmReader struct {
	b     []byte
	first int // where the earliest payload begins
	bad   bool
}

// open checks signature and type.
func (r *ntlmReader) open(b []byte, kind uint32, size int) bool {
	*r = ntlmReader{b: b, first: len(b)}
	return len(b) >= size && len(b) <= MaxToken && isNTLM(b) && binary.LittleEndian.Uint32(b[8:]) == kind
}

// field reads the bytes that the length and offset at at describe.
func (r *ntlmReader) field(at int) []byte {
	n := int(binary.LittleEndian.Uint16(r.b[at:]))
	off := binary.LittleEndian.Uint32(r.b[at+4:])
	if n == 0 {
		return nil
	}
	if uint64(off)+uint64(n) > uint64(len(r.b)) || off < negotiateShort {
		r.bad = true
		return nil
	}
	r.first = min(r.first, int(off))
	return r.b[off : int(off)+n : int(off)+n]
}

// text reads a string in UTF-16, or in ASCII where Unicode was not negotiated.
func (r *ntlmReader) text(at int, flags ntlmFlags) string {
	b := r.field(at)
	if flags&flagUnicode == 0 {
		for _, c := range b {
			r.bad = r.bad || c >= 0x80
		}
		return string(b)
	}
	s, ok := fromUTF16LE(b)
	r.bad = r.bad || !ok
	return s
}

// ntlmWriter writes a message: fixed part first, fields after it in order.
type ntlmWriter []byte

func newNTLMWriter(kind uint32, size int) ntlmWriter {
	w := make(ntlmWriter, size, size+256)
	copy(w, ntlmSignature)
	binary.LittleEndian.PutUint32(w[8:], kind)
	return w
}

func (w *ntlmWriter) field(at int, b []byte) {
	binary.LittleEndian.PutUint16((*w)[at:], uint16(len(b)))
	binary.LittleEndian.PutUint16((*w)[at+2:], uint16(len(b)))
	binary.LittleEndian.PutUint32((*w)[at+4:], uint32(len(*w)))
	*w = append(*w, b...)
}

func (w *ntlmWriter) text(at int, s string, flags ntlmFlags) {
	if flags&flagUnicode == 0 {
		w.field(at, []byte(s))
		return
	}
	w.field(at, utf16le(s))
}

// negotiateMessage is NEGOTIATE_MESSAGE (MS-NLMP 2.2.1.1). The names in it are in
// a character set nobody states, and nothing depends on them.
type negotiateMessage struct {
	flags       ntlmFlags
	domain      []byte
	workstation []byte
	version     ntlmVersion
}

func (m *negotiateMessage) encode() []byte {
	w := newNTLMWriter(ntlmNegotiate, negotiateSize)
	binary.LittleEndian.PutUint32(w[12:], uint32(m.flags))
	copy(w[32:], m.version[:])
	w.field(16, m.domain)
	w.field(24, m.workstation)
	return w
}

func (m *negotiateMessage) decode(b []byte) error {
	var r ntlmReader
	if !r.open(b, ntlmNegotiate, negotiateShort) {
		return malformed("NTLM NEGOTIATE of %d bytes", len(b))
	}
	*m = negotiateMessage{flags: ntlmFlags(binary.LittleEndian.Uint32(b[12:]))}
	if m.flags&flagOEMDomain != 0 && len(b) >= 24 {
		m.domain = r.field(16)
	}
	if m.flags&flagOEMWorkstation != 0 && len(b) >= 32 {
		m.workstation = r.field(24)
	}
	if m.flags&flagVersion != 0 && len(b) >= negotiateSize && r.first >= negotiateSize {
		m.version = ntlmVersion(b[32:40])
	}
	if r.bad {
		return malformed("NTLM NEGOTIATE: a field lies outside")
	}
	return nil
}

// challengeMessage is CHALLENGE_MESSAGE (MS-NLMP 2.2.1.2).
type challengeMessage struct {
	target    string
	flags     ntlmFlags
	challenge [8]byte
	info      avPairs // nil if absent
	version   ntlmVersion
}

func (m *challengeMessage) encode() []byte {
	w := newNTLMWriter(ntlmChallenge, challengeSize)
	binary.LittleEndian.PutUint32(w[20:], uint32(m.flags))
	copy(w[24:], m.challenge[:])
	copy(w[48:], m.version[:])
	w.text(12, m.target, m.flags)
	if m.info != nil {
		w.field(40, m.info.encode())
	}
	return w
}

func (m *challengeMessage) decode(b []byte) error {
	var r ntlmReader
	if !r.open(b, ntlmChallenge, challengeShort) {
		return malformed("NTLM CHALLENGE of %d bytes", len(b))
	}
	*m = challengeMessage{
		flags:     ntlmFlags(binary.LittleEndian.Uint32(b[20:])),
		challenge: [8]byte(b[24:32]),
	}
	m.target = r.text(12, m.flags)
	if info := r.field(40); m.flags&flagTargetInfo != 0 && info != nil {
		var rest []byte
		if m.info, rest = decodeAVPairs(info); m.info == nil || len(rest) != 0 {
			r.bad = true
		}
	}
	if m.flags&flagVersion != 0 && r.first >= challengeSize {
		m.version = ntlmVersion(b[48:56])
	}
	if r.bad {
		return malformed("NTLM CHALLENGE: a field is outside or damaged")
	}
	return nil
}

// authenticateMessage is AUTHENTICATE_MESSAGE (MS-NLMP 2.2.1.3).
type authenticateMessage struct {
	lm, nt       []byte
	domain       string
	user         string
	workstation  string
	encryptedKey []byte
	flags        ntlmFlags
	version      ntlmVersion
	hasMIC       bool // there is room for one; whether it counts, MsvAvFlags say
	mic          [16]byte
}

func (m *authenticateMessage) encode() []byte {
	size := authenticateSize
	if m.hasMIC {
		size = authenticateMIC
	}
	w := newNTLMWriter(ntlmAuthenticate, size)
	binary.LittleEndian.PutUint32(w[60:], uint32(m.flags))
	copy(w[64:], m.version[:])
	if m.hasMIC {
		copy(w[72:], m.mic[:])
	}
	w.text(28, m.domain, m.flags)
	w.text(36, m.user, m.flags)
	w.text(44, m.workstation, m.flags)
	w.field(12, m.lm)
	w.field(20, m.nt)
	w.field(52, m.encryptedKey)
	return w
}

func (m *authenticateMessage) decode(b []byte) error {
	var r ntlmReader
	if !r.open(b, ntlmAuthenticate, authenticateShort) {
		return malformed("NTLM AUTHENTICATE of %d bytes", len(b))
	}
	*m = authenticateMessage{flags: ntlmFlags(binary.LittleEndian.Uint32(b[60:]))}
	m.lm, m.nt = r.field(12), r.field(20)
	m.domain = r.text(28, m.flags)
	m.user = r.text(36, m.flags)
	m.workstation = r.text(44, m.flags)
	m.encryptedKey = r.field(52)
	if r.bad || r.first < authenticateShort {
		return malformed("NTLM AUTHENTICATE: a field is outside or damaged")
	}
	// What is before the first payload tells which of the later fields exist: old
	// clients have neither Version nor MIC.
	if r.first >= authenticateSize {
		m.version = ntlmVersion(b[64:72])
	}
	if m.hasMIC = r.first >= authenticateMIC; m.hasMIC {
		m.mic = [16]byte(b[72:88])
	}
	return nil
}

// clientChallenge is NTLMv2_CLIENT_CHALLENGE (MS-NLMP 2.2.2.7), what follows the
// proof in an NTLMv2 response.
type clientChallenge struct {
	time      uint64 // FILETIME
	challenge [8]byte
	pairs     avPairs
	tail      []byte // after the pairs; clients send four zero bytes
}

const clientChallengeSize = 28 // up to the pairs

func (c *clientChallenge) encode() []byte {
	b := make([]byte, clientChallengeSize, clientChallengeSize+128)
	b[0], b[1] = 1, 1
	binary.LittleEndian.PutUint64(b[8:], c.time)
	copy(b[16:], c.challenge[:])
	return append(append(b, c.pairs.encode()...), c.tail...)
}

func (c *clientChallenge) decode(b []byte) error {
	if len(b) < clientChallengeSize || b[0] != 1 || b[1] != 1 {
		return malformed("NTLMv2 response of %d bytes", len(b))
	}
	*c = clientChallenge{time: binary.LittleEndian.Uint64(b[8:]), challenge: [8]byte(b[16:24])}
	if c.pairs, c.tail = decodeAVPairs(b[clientChallengeSize:]); c.pairs == nil {
		return malformed("NTLMv2 response: AV pairs")
	}
	return nil
}
