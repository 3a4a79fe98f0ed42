package shares

import (
	"strings"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// pathName is the name of a CREATE, taken apart (MS-FSCC 2.1.5).
type pathName struct {
	path     string // for fs.FS: from the share's root, separated by '/', "" for the root
	trailing bool   // ended in a backslash: names a folder
	data     bool   // said ::$DATA: names the bytes of a file
	index    bool   // said ::$INDEX_ALLOCATION: names the entries of a folder
}

// parsePath takes a name of the wire apart. The file system checks what each
// component holds; streams other than the file's own do not exist here, so they
// are no names (MS-FSA 2.1.5.1 phase 6).
func parsePath(name string) (p pathName, err error) {
	if strings.HasPrefix(name, `\`) {
		return p, smb2.StatusInvalidParameter
	}
	if strings.ContainsAny(name, "/\x00") {
		return p, smb2.StatusObjectNameInvalid
	}
	p.trailing = strings.HasSuffix(name, `\`)
	name = strings.TrimRight(name, `\`)
	folder, last := splitPath(name, '\\')
	if base, stream, ok := strings.Cut(last, ":"); ok {
		last = base
		switch strings.ToUpper(stream) {
		case ":$DATA":
			p.data = true
		case ":$INDEX_ALLOCATION", "$I30:$INDEX_ALLOCATION":
			p.index = true
		default:
			return p, smb2.StatusObjectNameInvalid
		}
	}
	name = last
	if folder != "" {
		name = folder + `\` + last
	}
	if strings.Contains(folder, ":") || p.trailing && p.data {
		return p, smb2.StatusObjectNameInvalid
	}
	for c := range strings.SplitSeq(name, `\`) {
		if c == "." || c == ".." {
			return p, smb2.StatusObjectPathSyntaxBad // not to be sent (MS-FSCC 2.1.5.1), and not resolved
		}
	}
	p.path = strings.ReplaceAll(name, `\`, "/")
	for strings.Contains(p.path, "//") { // redundant separators (MS-FSA 2.1.5.1 phase 3)
		p.path = strings.ReplaceAll(p.path, "//", "/")
	}
	return p, nil
}

// splitPath cuts a path before its last component.
func splitPath(name string, sep byte) (folder, last string) {
	if i := strings.LastIndexByte(name, sep); i >= 0 {
		return name[:i], name[i+1:]
	}
	return "", name
}

// wirePath is the form names take in responses.
func wirePath(path string) string { return strings.ReplaceAll(path, "/", `\`) }

// link is the form of state.Open.Link: the share, and the path without case.
func (s *share) link(path string) string { return shareKey(s.Name) + "/" + fscc.UpcaseName(path) }
