package shares

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"lunless/shares/fs"
	"lunless/smbstore/smb2"
)

func TestParsePath(t *testing.T) {
	tests := []struct {
		name string
		want pathName
		err  error
	}{
		{"", pathName{}, nil},
		{"a", pathName{path: "a"}, nil},
		{`a\b c\d.vhdx`, pathName{path: "a/b c/d.vhdx"}, nil},
		{`a\`, pathName{path: "a", trailing: true}, nil},
		{`a\\b`, pathName{path: "a/b"}, nil},
		{`a\b::$DATA`, pathName{path: "a/b", data: true}, nil},
		{`a::$data`, pathName{path: "a", data: true}, nil},
		{`a::$INDEX_ALLOCATION`, pathName{path: "a", index: true}, nil},
		{`a:$I30:$INDEX_ALLOCATION`, pathName{path: "a", index: true}, nil},
		{`a...`, pathName{path: "a..."}, nil},
		{`\a`, pathName{}, smb2.StatusInvalidParameter},
		{`\`, pathName{}, smb2.StatusInvalidParameter},
		{`a/b`, pathName{}, smb2.StatusObjectNameInvalid},
		{"a\x00b", pathName{}, smb2.StatusObjectNameInvalid},
		{`a:s`, pathName{path: "a", stream: "s"}, nil},
		{`a\b:s:$data`, pathName{path: "a/b", stream: "s"}, nil},
		{`:s`, pathName{stream: "s"}, nil},
		{`d:$I30:$INDEX_ALLOCATION\a:$I30`, pathName{path: "d/a", stream: "$I30"}, nil},
		{`d::$INDEX_ALLOCATION\a`, pathName{path: "d/a"}, nil},
		{`a:s:$INDEX_ALLOCATION`, pathName{}, smb2.StatusInvalidParameter},
		{`a:s:$EA`, pathName{}, smb2.StatusObjectNameInvalid},
		{`a:s:`, pathName{}, smb2.StatusObjectNameInvalid},
		{`a::`, pathName{}, smb2.StatusObjectNameInvalid},
		{`a:s:$DATA:`, pathName{}, smb2.StatusObjectNameInvalid},
		{`a:s:t:$DATA`, pathName{}, smb2.StatusObjectNameInvalid},
		{`a\:s`, pathName{}, smb2.StatusObjectNameInvalid},
		{`::$INDEX_ALLOCATION\a`, pathName{}, smb2.StatusObjectNameInvalid},
		{`a:s\`, pathName{}, smb2.StatusObjectNameInvalid},
		{`a:s\b`, pathName{}, smb2.StatusObjectNameInvalid},
		{`a:`, pathName{}, smb2.StatusObjectNameInvalid},
		{`a::$DATA\b`, pathName{}, smb2.StatusObjectNameInvalid},
		{`a\b::$DATA\`, pathName{}, smb2.StatusObjectNameInvalid},
		{`..`, pathName{}, smb2.StatusObjectPathSyntaxBad},
		{`a\..\b`, pathName{}, smb2.StatusObjectPathSyntaxBad},
		{`a\.\b`, pathName{}, smb2.StatusObjectPathSyntaxBad},
		{`..::$DATA`, pathName{}, smb2.StatusObjectPathSyntaxBad},
	}
	for _, tt := range tests {
		got, err := parsePath(tt.name)
		if tt.err != nil {
			if !errors.Is(err, tt.err) {
				t.Errorf("%q: %+v, %v; want %v", tt.name, got, err, tt.err)
			}
			continue
		}
		if err != nil || got != tt.want {
			t.Errorf("%q: %+v, %v; want %+v", tt.name, got, err, tt.want)
		}
	}
}

// What parsePath lets through has components only, none of which leads up.
func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"", `a\b`, `a::$DATA`, `..\a`, `\`, `a\\`, ":"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		p, err := parsePath(name)
		if err != nil {
			return
		}
		if p.path == "" {
			p.path = "root"
		}
		if strings.ContainsAny(p.stream, "\\/:\x00") || p.stream != "" && (p.data || p.index || p.trailing) {
			t.Errorf("%q became %+v", name, p)
		}
		parts := strings.Split(p.path, "/")
		if strings.ContainsAny(p.path, "\\:\x00") || slices.Contains(parts, "") || slices.Contains(parts, ".") || slices.Contains(parts, "..") {
			t.Errorf("%q became %q", name, p.path)
		}
	})
}

// What parseStreamRename lets through is a stream's name, or none.
func FuzzStreamRename(f *testing.F) {
	for _, s := range []string{":a", "::$DATA", ":a:$data", ":a:b:c", ":", "::"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if !strings.HasPrefix(name, ":") {
			return
		}
		got, err := parseStreamRename(name)
		if err == nil && got != "" && fs.CheckStreamName(got) != nil {
			t.Errorf("%q became %q", name, got)
		}
	})
}

func TestStatusOf(t *testing.T) {
	for _, s := range statuses {
		if got := statusOf(errors.Join(errors.New("while something was done"), s.err)); got != s.status {
			t.Errorf("%v: %v, want %v", s.err, got, s.status)
		}
	}
	if got := statusOf(errors.New("unheard of")); got != smb2.StatusUnexpectedIOError {
		t.Errorf("an unknown error: %v", got)
	}
	if got := statusOf(nil); got != smb2.StatusSuccess {
		t.Errorf("no error: %v", got)
	}
}
