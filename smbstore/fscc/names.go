package fscc

import "strings"

// Bounds of names in UTF-16 code units (MS-FSCC 2.1.5, 2.1.6).
const (
	MaxNameLength      = 255
	MaxPathLength      = 32760
	MaxShareNameLength = 80
)

// illegalInName tells what no file name may hold (MS-FSCC 2.1.5.2).
func illegalInName(u uint16) bool {
	if u < 0x20 {
		return true
	}
	switch u {
	case '"', '\\', '/', ':', '|', '<', '>', '*', '?':
		return true
	}
	return false
}

// ValidName reports whether one component may name a file or folder (MS-FSCC
// 2.1.5.2). "." and ".." may not.
func ValidName(name string) bool {
	if name == "" || name == "." || name == ".." || UTF16Len(name) > 2*MaxNameLength {
		return false
	}
	for i := 0; i < len(name); i++ {
		if illegalInName(uint16(name[i])) {
			return false
		}
	}
	return true
}

// ValidPath reports whether a path as SMB2 sends it, components separated by
// '\\' and no leading one, is valid without streams; "" is the root.
func ValidPath(path string) bool {
	if path == "" {
		return true
	}
	if UTF16Len(path) > 2*MaxPathLength {
		return false
	}
	for c := range strings.SplitSeq(path, `\`) {
		if !ValidName(c) {
			return false
		}
	}
	return true
}

// ValidStreamName reports whether name may name a stream (MS-FSCC 2.1.5.3); ""
// is the default one.
func ValidStreamName(name string) bool {
	return UTF16Len(name) <= 2*MaxNameLength && !strings.ContainsAny(name, "\\/:\x00")
}

// SplitStream takes the stream off the last component of a path: "f:s:$DATA"
// gives "f", "s", "$DATA". named is false if there is no colon. ok is false for
// more than two colons, a stream name that is not valid, an empty one without a
// type, and an empty type behind its colon (MS-FSCC 2.1.5).
func SplitStream(path string) (base, stream, streamType string, named, ok bool) {
	start := strings.LastIndexByte(path, '\\') + 1
	colon := strings.IndexByte(path[start:], ':')
	if colon < 0 {
		return path, "", "", false, true
	}
	base, rest := path[:start+colon], path[start+colon+1:]
	stream, streamType, typed := strings.Cut(rest, ":")
	ok = ValidStreamName(stream) && ValidStreamName(streamType) && (stream != "" || typed) && (!typed || streamType != "")
	return base, stream, streamType, true, ok
}

// ValidShareName reports whether name may name a share (MS-FSCC 2.1.6).
func ValidShareName(name string) bool {
	if name == "" || UTF16Len(name) > 2*MaxShareNameLength {
		return false
	}
	for i := 0; i < len(name); i++ {
		if name[i] < 0x20 {
			return false
		}
	}
	return !strings.ContainsAny(name, `"\/[]:|<>+=;,*?`)
}
