package auth

import "bytes"

// hintName is what NegTokenInit2 says instead of a principal (MS-SPNG 2.2.1).
const hintName = "not_defined_in_RFC4178@please_ignore"

// maxMechs is how many mechanisms a token may list.
const maxMechs = 64

// negState is the acceptor's verdict (RFC 4178 4.2.2).
type negState int

const (
	negStateAbsent   negState = -1
	acceptCompleted  negState = 0
	acceptIncomplete negState = 1
	rejected         negState = 2
	requestMIC       negState = 3
)

// negTokenInit is NegTokenInit (RFC 4178 4.2.1) and NegTokenInit2 (MS-SPNG
// 2.2.1), which differ in the number of mechListMIC and in the hints.
type negTokenInit struct {
	mechs     []OID
	mechList  []byte // DER of the MechTypeList, what mechListMIC covers
	reqFlags  []byte // content of the BIT STRING, nil if absent; to be ignored
	mechToken []byte // nil if absent
	hints     []byte // content of NegHints, nil if absent
	mic       []byte // mechListMIC, nil if absent
}

// mechTypeList encodes a MechTypeList.
func mechTypeList(mechs []OID) []byte {
	var list []byte
	for _, m := range mechs {
		list = append(list, der(tagOID, []byte(m))...)
	}
	return der(tagSequence, list)
}

// encode wraps the token as GSS-API's first one (RFC 2743 3.1). Hints make it a
// NegTokenInit2.
func (t *negTokenInit) encode() []byte {
	var body []byte
	field := func(n byte, present bool, tag byte, content []byte) {
		if present {
			body = append(body, der(tagContext+n, der(tag, content))...)
		}
	}
	if t.mechList != nil {
		body = append(body, der(tagContext+0, t.mechList)...)
	}
	field(1, t.reqFlags != nil, tagBitString, t.reqFlags)
	field(2, t.mechToken != nil, tagOctetString, t.mechToken)
	field(3, t.hints != nil, tagSequence, t.hints)
	micAt := byte(3)
	if t.hints != nil {
		micAt = 4
	}
	field(micAt, t.mic != nil, tagOctetString, t.mic)
	return der(tagApplication0, der(tagOID, []byte(OIDSPNEGO)), der(tagContext+0, der(tagSequence, body)))
}

// decode reads a GSS-API first token. Errors wrap ErrMalformed.
func (t *negTokenInit) decode(b []byte) error {
	*t = negTokenInit{}
	in := enter(b, tagApplication0)
	if OID(in.want(tagOID)) != OIDSPNEGO {
		return malformed("not a SPNEGO token")
	}
	s := enter(in.want(tagContext+0), tagSequence)
	in.end()
	if body, ok := s.optional(tagContext + 0); ok {
		t.mechList = body
		s.readMechs(body, &t.mechs)
	}
	if body, ok := s.optional(tagContext + 1); ok {
		t.reqFlags = present(s.only(body, tagBitString))
	}
	if body, ok := s.optional(tagContext + 2); ok {
		t.mechToken = present(s.only(body, tagOctetString))
	}
	if body, ok := s.optional(tagContext + 3); ok {
		if len(body) > 0 && body[0] == tagSequence {
			t.hints = present(s.only(body, tagSequence))
		} else {
			t.mic = present(s.only(body, tagOctetString))
		}
	}
	if t.hints != nil {
		if body, ok := s.optional(tagContext + 4); ok {
			t.mic = present(s.only(body, tagOctetString))
		}
	}
	s.end()
	if in.bad || s.bad {
		return malformed("NegTokenInit")
	}
	return nil
}

// readMechs reads a MechTypeList.
func (r *derReader) readMechs(b []byte, mechs *[]OID) {
	in := enter(b, tagSequence)
	for len(in.b) > 0 {
		*mechs = append(*mechs, OID(in.want(tagOID)))
		if len(*mechs) > maxMechs {
			in.fail()
		}
	}
	if in.bad {
		r.fail()
	}
}

// present keeps an empty field apart from a missing one.
func present(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// negTokenResp is NegTokenResp (RFC 4178 4.2.2).
type negTokenResp struct {
	state negState
	mech  OID    // supportedMech, empty if absent
	token []byte // responseToken, nil if absent
	mic   []byte // mechListMIC, nil if absent
}

func (t *negTokenResp) encode() []byte {
	var body []byte
	if t.state != negStateAbsent {
		body = append(body, der(tagContext+0, der(tagEnumerated, []byte{byte(t.state)}))...)
	}
	if t.mech != "" {
		body = append(body, der(tagContext+1, der(tagOID, []byte(t.mech)))...)
	}
	if t.token != nil {
		body = append(body, der(tagContext+2, der(tagOctetString, t.token))...)
	}
	if t.mic != nil {
		body = append(body, der(tagContext+3, der(tagOctetString, t.mic))...)
	}
	return der(tagContext+1, der(tagSequence, body))
}

// decode reads a NegTokenResp. Errors wrap ErrMalformed.
func (t *negTokenResp) decode(b []byte) error {
	*t = negTokenResp{state: negStateAbsent}
	outer := enter(b, tagContext+1)
	s := enter(outer.b, tagSequence)
	if body, ok := s.optional(tagContext + 0); ok {
		v := s.only(body, tagEnumerated)
		if len(v) != 1 || v[0] > byte(requestMIC) {
			return malformed("NegTokenResp: state %x", v)
		}
		t.state = negState(v[0])
	}
	if body, ok := s.optional(tagContext + 1); ok {
		if t.mech = OID(s.only(body, tagOID)); t.mech == "" {
			s.fail()
		}
	}
	if body, ok := s.optional(tagContext + 2); ok {
		t.token = present(s.only(body, tagOctetString))
	}
	if body, ok := s.optional(tagContext + 3); ok {
		t.mic = present(s.only(body, tagOctetString))
	}
	s.end()
	if s.bad {
		return malformed("NegTokenResp")
	}
	return nil
}

// isNTLM reports whether b is an NTLM message outside of SPNEGO.
func isNTLM(b []byte) bool { return bytes.HasPrefix(b, []byte(ntlmSignature)) }

// NegTokenInit2 is what a server with this configuration offers in its NEGOTIATE
// response (MS-SPNG 3.2.5.2).
func NegTokenInit2(cfg *Config) []byte {
	var mechs []OID
	for _, m := range cfg.mechanisms() {
		mechs = append(append(mechs, m.OID), m.Aliases...)
	}
	t := negTokenInit{
		mechs:    mechs,
		mechList: mechTypeList(mechs),
		hints:    der(tagContext+0, der(tagGeneralString, []byte(hintName))),
	}
	return t.encode()
}
