package fs

import (
	"hash/crc32"
	"strings"
)

// A short name is what programs of old call a file whose name has not their
// form, 8.3 (MS-FSCC 2.1.5.2.1). Ours are computed, not stored: up to three
// characters of the name, '~', four of a hash of all of it, and the extension's
// first three. Two names of one folder may thus share one, which then leads to
// the one that sorts first.
const (
	shortBase = 8
	shortExt  = 3
	shortHash = 4
)

// ShortName is the 8.3 name of what is called name: name itself if it has that
// form, else one that look-ups find it by as well.
func ShortName(name string) string {
	if isShort(name) {
		return name
	}
	base, ext := name, ""
	if dot := strings.LastIndexByte(name, '.'); dot > 0 {
		base, ext = name[:dot], shortened(name[dot+1:], shortExt)
	}
	short := shortened(base, shortBase-shortHash-1) + "~" + hashOf(name)
	if ext != "" {
		short += "." + ext
	}
	return short
}

// shortened is the first n characters of s that a short name may have.
func shortened(s string, n int) string {
	var b strings.Builder
	for i := 0; i < len(s) && b.Len() < n; i++ {
		if c := s[i]; shortChar(c) {
			if 'a' <= c && c <= 'z' {
				c -= 'a' - 'A'
			}
			b.WriteByte(c)
		}
	}
	return b.String()
}

func shortChar(c byte) bool {
	return c > ' ' && c < 0x7f && !strings.ContainsRune(`.~"/\[]:;|=,+*?<>`, rune(c))
}

func hashOf(name string) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	h := crc32.ChecksumIEEE([]byte(fold(name)))
	var b [shortHash]byte
	for i := range b {
		b[i] = digits[h%36]
		h /= 36
	}
	return string(b[:])
}

func isShort(name string) bool {
	base, ext, dot := strings.Cut(name, ".")
	if len(base) == 0 || len(base) > shortBase || dot && len(ext) == 0 || len(ext) > shortExt {
		return false
	}
	for i := 0; i < len(name); i++ {
		if c := name[i]; !shortChar(c) && c != '.' && c != '~' || c == '.' && i != len(base) {
			return false
		}
	}
	return true
}

// mayBeComputed tells names that ShortName may have computed, so that no other
// look-up goes through a folder's names.
func mayBeComputed(name string) bool {
	base, _, _ := strings.Cut(name, ".")
	return isShort(name) && len(base) > shortHash && base[len(base)-shortHash-1] == '~'
}

// findShort is the stored name that the short name belongs to, or "".
func (f *folder) findShort(short string) string {
	short = fold(short)
	found := ""
	try := func(stored string) {
		if !isShort(stored) && (found == "" || stored < found) && fold(ShortName(stored)) == short {
			found = stored
		}
	}
	for key, stored := range f.names {
		try(stored)
		for _, n := range f.more[key] {
			try(n)
		}
	}
	return found
}
