package auth

// The part of DER that SPNEGO uses: definite lengths in their shortest form,
// one-byte tags. Every nested element is a sub-slice, so that parsing is linear.

const (
	tagBitString     = 0x03
	tagOctetString   = 0x04
	tagOID           = 0x06
	tagEnumerated    = 0x0a
	tagGeneralString = 0x1b
	tagSequence      = 0x30
	tagApplication0  = 0x60
	tagContext       = 0xa0 // + the number
)

// derReader reads elements one after the other. The first malformed one sets bad,
// after which nothing more is read.
type derReader struct {
	b   []byte
	bad bool
}

// next reads one element. whole is the element with its tag and length.
func (r *derReader) next() (tag byte, body, whole []byte) {
	b := r.b
	if r.bad || len(b) < 2 || b[0]&0x1f == 0x1f {
		r.fail()
		return 0, nil, nil
	}
	n, head := int(b[1]), 2
	if n >= 0x80 {
		k := n & 0x7f
		if k == 0 || k > 3 || len(b) < 2+k { // 3 bytes are far beyond MaxToken
			r.fail()
			return 0, nil, nil
		}
		n = 0
		for _, c := range b[2 : 2+k] {
			n = n<<8 | int(c)
		}
		if n < 0x80 || k > 1 && n>>(8*(k-1)) == 0 { // not the shortest form
			r.fail()
			return 0, nil, nil
		}
		head += k
	}
	if len(b)-head < n {
		r.fail()
		return 0, nil, nil
	}
	r.b = b[head+n:]
	return b[0], b[head : head+n : head+n], b[: head+n : head+n]
}

func (r *derReader) fail() { r.bad, r.b = true, nil }

// want reads an element that must have this tag.
func (r *derReader) want(tag byte) []byte {
	t, body, _ := r.next()
	if t != tag {
		r.fail()
		return nil
	}
	return body
}

// optional reads an element if it has this tag.
func (r *derReader) optional(tag byte) (body []byte, ok bool) {
	if r.bad || len(r.b) == 0 || r.b[0] != tag {
		return nil, false
	}
	body = r.want(tag)
	return body, !r.bad
}

// enter reads the one element that b must consist of, for its content to be read.
func enter(b []byte, tag byte) derReader {
	r := derReader{b: b}
	body := r.want(tag)
	if r.end(); r.bad {
		return derReader{bad: true}
	}
	return derReader{b: body}
}

// only is the content of the one element that b must consist of.
func (r *derReader) only(b []byte, tag byte) []byte {
	in := enter(b, tag)
	if in.bad {
		r.fail()
	}
	return in.b
}

// end demands that nothing is left.
func (r *derReader) end() {
	if len(r.b) != 0 {
		r.fail()
	}
}

// der encodes an element around the parts.
func der(tag byte, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	out := make([]byte, 0, n+5)
	switch {
	case n < 0x80:
		out = append(out, tag, byte(n))
	case n < 1<<8:
		out = append(out, tag, 0x81, byte(n))
	case n < 1<<16:
		out = append(out, tag, 0x82, byte(n>>8), byte(n))
	default:
		out = append(out, tag, 0x83, byte(n>>16), byte(n>>8), byte(n))
	}
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// OID is an object identifier's DER content, comparable.
type OID string

// The mechanisms' identifiers.
const (
	OIDSPNEGO     OID = "\x2b\x06\x01\x05\x05\x02"                 // 1.3.6.1.5.5.2
	OIDNTLM       OID = "\x2b\x06\x01\x04\x01\x82\x37\x02\x02\x0a" // 1.3.6.1.4.1.311.2.2.10
	OIDKerberos   OID = "\x2a\x86\x48\x86\xf7\x12\x01\x02\x02"     // 1.2.840.113554.1.2.2
	OIDMSKerberos OID = "\x2a\x86\x48\x82\xf7\x12\x01\x02\x02"     // 1.2.840.48018.1.2.2, MS-SPNG 3.2.5
)
