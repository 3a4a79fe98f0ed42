package fs

import (
	"unicode"
	"unicode/utf8"
)

// fold returns the key under which a component is the same name to Windows.
func fold(c string) string {
	for i := 0; i < len(c); i++ {
		if b := c[i]; b >= utf8.RuneSelf || 'a' <= b && b <= 'z' {
			return foldSlow(c)
		}
	}
	return c
}

func foldSlow(c string) string {
	out := make([]byte, 0, len(c))
	for i := 0; i < len(c); {
		r, size := utf8.DecodeRuneInString(c[i:])
		if r == utf8.RuneError && size == 1 {
			out = append(out, c[i])
			i++
			continue
		}
		if up := unicode.ToUpper(r); r <= 0xFFFF && up <= 0xFFFF {
			r = up
		}
		out = utf8.AppendRune(out, r)
		i += size
	}
	return string(out)
}
