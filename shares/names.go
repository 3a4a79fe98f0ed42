package shares

import (
	"strings"

	"lunless/smbstore/fscc"
	"lunless/smbstore/smb2"
)

// pathName is the name of a CREATE, taken apart (MS-FSCC 2.1.5).
type pathName struct {
	path     string // for fs.FS: from the share's root, separated by '/', "" for the root
	stream   string // an alternate data stream of that
	trailing bool   // ended in a backslash: names a folder
	data     bool   // said ::$DATA: names the bytes of a file
	index    bool   // said ::$INDEX_ALLOCATION: names the entries of a folder
}

// parsePath takes a name of the wire apart (MS-FSA 2.1.5.1 phases 5 to 7). The
// file system checks what each component holds.
func parsePath(name string) (p pathName, err error) {
	if strings.HasPrefix(name, `\`) {
		return p, smb2.StatusInvalidParameter
	}
	if strings.ContainsAny(name, "/\x00") {
		return p, smb2.StatusObjectNameInvalid
	}
	p.trailing = strings.HasSuffix(name, `\`)
	var components []string
	rest := strings.TrimRight(name, `\`)
	for more := true; more; {
		var c string
		c, rest, more = strings.Cut(rest, `\`)
		if c == "" && (more || len(components) > 0) {
			continue // redundant separators (MS-FSA 2.1.5.1 phase 3)
		}
		file, suffix, err := splitStream(c)
		if err != nil {
			return p, err
		}
		if more && (suffix.data || suffix.stream != "") {
			return p, smb2.StatusObjectNameInvalid // no folder
		}
		if file == "" && c != "" && (more || len(components) > 0) {
			return p, smb2.StatusObjectNameInvalid // a stream of nothing
		}
		if file == "." || file == ".." {
			return p, smb2.StatusObjectPathSyntaxBad // not to be sent (MS-FSCC 2.1.5.1), and not resolved
		}
		components = append(components, file)
		p.stream, p.data, p.index = suffix.stream, suffix.data, suffix.index && !more
	}
	if p.trailing && (p.data || p.stream != "") {
		return p, smb2.StatusObjectNameInvalid
	}
	p.path = strings.Join(components, "/")
	return p, nil
}

// streamSuffix is what may follow the name of a file in a component.
type streamSuffix struct {
	stream      string // named
	data, index bool   // the unnamed stream of that type
}

// splitStream cuts a component into the name of a file and what it says of a stream.
func splitStream(component string) (file string, s streamSuffix, err error) {
	file, rest, ok := strings.Cut(component, ":")
	if !ok {
		return file, s, nil
	}
	s, err = parseStream(rest)
	return file, s, err
}

// parseStream takes apart what follows the first colon: name, name:type or :type.
// A stream's name is checked where it is looked up, but for its length: a name
// too long is none.
func parseStream(rest string) (s streamSuffix, err error) {
	name, kind, typed := strings.Cut(rest, ":")
	if strings.HasSuffix(rest, ":") || rest == "" || strings.Contains(kind, ":") {
		return s, smb2.StatusObjectNameInvalid
	}
	switch kind = strings.ToUpper(kind); {
	case !typed || kind == "$DATA" && name != "":
		s.stream = name
	case kind == "$DATA":
		s.data = true
	case kind != "$INDEX_ALLOCATION":
		return s, smb2.StatusObjectNameInvalid
	case name != "" && !strings.EqualFold(name, "$I30"):
		return s, smb2.StatusInvalidParameter // MS-FSA 2.1.5.1 phase 7
	default:
		s.index = true
	}
	return s, nil
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
