package fscc

import (
	"encoding/binary"
	"unicode/utf16"
	"unicode/utf8"
)

// Windows names are sequences of 16-bit units that need not be valid UTF-16.
// A surrogate without its partner becomes the three bytes UTF-8 would have
// given its code point (WTF-8), so that every name survives the way into a Go
// string and back. Bytes that are neither UTF-8 nor such a surrogate become
// U+FFFD when a string is encoded.

// UTF16Len returns the bytes s takes in UTF-16.
func UTF16Len(s string) int {
	n := 0
	for i := 0; i < len(s); {
		r, size := decodeWTF8(s[i:])
		i += size
		n += 2
		if r > 0xFFFF {
			n += 2
		}
	}
	return n
}

// PutUTF16 writes s as UTF-16LE, without terminator, and returns the bytes
// written. dst must hold UTF16Len(s) bytes.
func PutUTF16(dst []byte, s string) int {
	n := 0
	for i := 0; i < len(s); {
		r, size := decodeWTF8(s[i:])
		i += size
		if r > 0xFFFF {
			hi, lo := utf16.EncodeRune(r)
			binary.LittleEndian.PutUint16(dst[n:], uint16(hi))
			binary.LittleEndian.PutUint16(dst[n+2:], uint16(lo))
			n += 4
			continue
		}
		binary.LittleEndian.PutUint16(dst[n:], uint16(r))
		n += 2
	}
	return n
}

// EncodeUTF16 returns s as UTF-16LE without terminator.
func EncodeUTF16(s string) []byte {
	b := make([]byte, UTF16Len(s))
	PutUTF16(b, s)
	return b
}

// DecodeUTF16 returns the string UTF-16LE bytes hold. A last odd byte is
// ignored; decoders refuse odd lengths before they call it.
func DecodeUTF16(b []byte) string {
	out := make([]byte, 0, len(b)/2)
	for i := 0; i+1 < len(b); i += 2 {
		u := rune(binary.LittleEndian.Uint16(b[i:]))
		if utf16.IsSurrogate(u) && i+3 < len(b) {
			if r := utf16.DecodeRune(u, rune(binary.LittleEndian.Uint16(b[i+2:]))); r != utf8.RuneError {
				out = utf8.AppendRune(out, r)
				i += 2
				continue
			}
		}
		out = appendWTF8(out, u)
	}
	return string(out)
}

// appendWTF8 appends one code point of the basic plane, surrogates included.
func appendWTF8(out []byte, u rune) []byte {
	if utf16.IsSurrogate(u) {
		return append(out, 0xE0|byte(u>>12), 0x80|byte(u>>6)&0x3F, 0x80|byte(u)&0x3F)
	}
	return utf8.AppendRune(out, u)
}

// decodeWTF8 returns the first code point of s, which is not empty, and its length in bytes.
func decodeWTF8(s string) (rune, int) {
	if s[0] < utf8.RuneSelf {
		return rune(s[0]), 1
	}
	r, size := utf8.DecodeRuneInString(s)
	if r == utf8.RuneError && size == 1 && len(s) >= 3 &&
		s[0] == 0xED && s[1] >= 0xA0 && s[1] <= 0xBF && s[2]&0xC0 == 0x80 {
		return rune(s[0]&0x0F)<<12 | rune(s[1]&0x3F)<<6 | rune(s[2]&0x3F), 3
	}
	return r, size
}
