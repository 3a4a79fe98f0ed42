package smb2

import (
	"unicode/utf16"
	"unicode/utf8"
)

// Names travel as UTF-16LE and live here as Go strings. Windows names may hold
// surrogates without a partner; those become the three bytes that UTF-8 would
// give their code point (WTF-8: https://simonsapin.github.io/wtf-8), so that
// EncodeUTF16(DecodeUTF16(b)) is b for every b. Nothing else in the result is
// invalid UTF-8.

// SizeUTF16 is the number of bytes EncodeUTF16 writes for s.
func SizeUTF16(s string) int {
	n := 0
	for i := 0; i < len(s); {
		r, w := decodeWTF8(s[i:])
		i += w
		if r >= 0x10000 {
			n += 4
		} else {
			n += 2
		}
	}
	return n
}

// EncodeUTF16 writes s as UTF-16LE, without a terminator, into dst, which must
// hold SizeUTF16(s) bytes, and returns their number. Bytes of s that are neither
// UTF-8 nor WTF-8 become U+FFFD.
func EncodeUTF16(dst []byte, s string) int {
	n := 0
	for i := 0; i < len(s); {
		r, w := decodeWTF8(s[i:])
		i += w
		if r >= 0x10000 {
			hi, lo := utf16.EncodeRune(r)
			le.PutUint16(dst[n:], uint16(hi))
			le.PutUint16(dst[n+2:], uint16(lo))
			n += 4
		} else {
			le.PutUint16(dst[n:], uint16(r))
			n += 2
		}
	}
	return n
}

// AppendUTF16 appends s as UTF-16LE to dst.
func AppendUTF16(dst []byte, s string) []byte {
	n := len(dst)
	dst = append(dst, make([]byte, SizeUTF16(s))...)
	EncodeUTF16(dst[n:], s)
	return dst
}

// DecodeUTF16 reads UTF-16LE. An odd last byte is left out; who cares checks
// the length before. It allocates the string and, for short names, nothing else.
func DecodeUTF16(b []byte) string {
	var short [256]byte
	out := short[:0]
	for i := 0; i+1 < len(b); i += 2 {
		r := rune(le.Uint16(b[i:]))
		if utf16.IsSurrogate(r) {
			if i+3 < len(b) {
				if pair := utf16.DecodeRune(r, rune(le.Uint16(b[i+2:]))); pair != utf8.RuneError {
					out = utf8.AppendRune(out, pair)
					i += 2
					continue
				}
			}
			out = append(out, 0xE0|byte(r>>12), 0x80|byte(r>>6)&0x3F, 0x80|byte(r)&0x3F)
			continue
		}
		out = utf8.AppendRune(out, r)
	}
	return string(out)
}

// decodeWTF8 is utf8.DecodeRuneInString that also knows surrogates.
func decodeWTF8(s string) (rune, int) {
	if s[0] < utf8.RuneSelf {
		return rune(s[0]), 1
	}
	r, w := utf8.DecodeRuneInString(s)
	if r == utf8.RuneError && w == 1 && len(s) >= 3 && s[0] == 0xED && s[1]&0xE0 == 0xA0 && s[2]&0xC0 == 0x80 {
		return 0xD000 | rune(s[1]&0x3F)<<6 | rune(s[2]&0x3F), 3
	}
	return r, w
}
