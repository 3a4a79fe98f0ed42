package fscc

import (
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// UpcaseUnit is the upper case of one UTF-16 code unit as Windows compares
// names: one unit to one unit, no locale. It is Unicode's simple mapping where
// that can be undone, which keeps U+00B5, U+0131 and U+017F distinct from their
// look-alikes as Windows does, and the final sigma, which Windows maps as well.
// Code points beyond the basic plane have no case.
func UpcaseUnit(u uint16) uint16 {
	if u < utf8.RuneSelf {
		if 'a' <= u && u <= 'z' {
			u -= 'a' - 'A'
		}
		return u
	}
	r := rune(u)
	up := unicode.ToUpper(r)
	if up == r || up > 0xFFFF || unicode.ToLower(up) != r && r != finalSigma {
		return u
	}
	return uint16(up)
}

const finalSigma = 'ς'

// UpcaseName is name with every unit upcased: two names are one to Windows if
// theirs are equal.
func UpcaseName(name string) string {
	for i := 0; i < len(name); i++ {
		if c := name[i]; c >= utf8.RuneSelf || 'a' <= c && c <= 'z' {
			return upcaseSlow(name)
		}
	}
	return name
}

func upcaseSlow(name string) string {
	out := make([]byte, 0, len(name)+len(name)/8)
	for i := 0; i < len(name); {
		r, size := decodeWTF8(name[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			out = append(out, name[i]) // a byte that is no text stays as it is
		case r > 0xFFFF:
			out = utf8.AppendRune(out, r)
		default:
			out = appendWTF8(out, rune(UpcaseUnit(uint16(r))))
		}
		i += size
	}
	return string(out)
}

// EqualNames reports whether Windows takes two names for one.
func EqualNames(a, b string) bool { return a == b || UpcaseName(a) == UpcaseName(b) }

// appendUpcased appends the upcased UTF-16 units of name.
func appendUpcased(dst []uint16, name string) []uint16 {
	for i := 0; i < len(name); {
		r, size := decodeWTF8(name[i:])
		i += size
		if r > 0xFFFF {
			hi, lo := utf16.EncodeRune(r)
			dst = append(dst, uint16(hi), uint16(lo))
			continue
		}
		dst = append(dst, UpcaseUnit(uint16(r)))
	}
	return dst
}
