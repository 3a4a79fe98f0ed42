package fs

import (
	"strings"
	"unicode/utf8"

	"lunless/smbstore/fscc"
)

const (
	maxComponent = 255  // bytes (NAME_MAX), and so at most 255 UTF-16 units
	maxPath      = 4095 // bytes: one path of the kernel's, PATH_MAX without its NUL
)

// CheckName says, to stores that are kept elsewhere, whether name may be one on a
// share: ErrBadName, ErrEscapes, ErrNameTooLong.
func CheckName(name string) error { return checkName(name) }

// FoldName is the key under which a component is the same name to Windows.
func FoldName(component string) string { return fold(component) }

// checkName says whether name may be given to the kernel: ErrBadName for what
// Windows forbids in a name (MS-FSCC 2.1.5), ErrEscapes for '..', ErrNameTooLong.
func checkName(name string) error {
	if name == "" {
		return nil
	}
	if len(name) > maxPath {
		return ErrNameTooLong
	}
	for rest, more := name, true; more; {
		var component string
		component, rest, more = strings.Cut(rest, "/")
		if err := checkComponent(component); err != nil {
			return err
		}
	}
	return nil
}

func checkComponent(c string) error {
	switch {
	case c == "" || c == ".":
		return ErrBadName
	case c == "..":
		return ErrEscapes
	case !expressible(c):
		return ErrBadName
	case len(c) > maxComponent:
		return ErrNameTooLong
	}
	return nil
}

// expressible tells whether a client can be shown the component c and give it
// back: no character that Windows forbids, and well-formed WTF-8. Dots and spaces at the
// end are valid on the wire.
func expressible(c string) bool {
	plain := true
	for i := 0; i < len(c); i++ {
		b := c[i]
		if b < 0x20 || forbidden[b] {
			return false
		}
		plain = plain && b < utf8.RuneSelf
	}
	return plain || wellFormed(c)
}

var forbidden = func() (set [256]bool) {
	for _, b := range []byte(`<>:"/\|?*`) {
		set[b] = true
	}
	return set
}()

// wellFormed tells whether s is WTF-8: UTF-8, or the three bytes of a surrogate
// that has no partner beside it. A pair spelled as two surrogates would be a
// second spelling of one name.
func wellFormed(s string) bool {
	afterHigh := false
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		if r != utf8.RuneError || size != 1 {
			afterHigh = false
			i += size
			continue
		}
		if i+3 > len(s) || s[i] != 0xED || s[i+1] < 0xA0 || s[i+1] > 0xBF || s[i+2]&0xC0 != 0x80 {
			return false
		}
		low := s[i+1] >= 0xB0
		if low && afterHigh {
			return false
		}
		afterHigh = !low
		i += 3
	}
	return true
}

// split cuts the last component off a name.
func split(name string) (parent, base string) {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return "", name
}

// join is split's inverse.
func join(parent, base string) string {
	if parent == "" {
		return base
	}
	return parent + "/" + base
}

// fold returns the key under which a component is the same name to Windows.
func fold(c string) string { return fscc.UpcaseName(c) }
