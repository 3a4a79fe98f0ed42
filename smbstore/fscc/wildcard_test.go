package fscc

import (
	"strings"
	"testing"
	"time"
)

// TestPattern follows MS-FSA 2.1.4.4.
func TestPattern(t *testing.T) {
	for _, c := range []struct {
		pattern string
		yes, no []string
	}{
		{"*", []string{"a", "a.b", ".", "x."}, nil},
		{"*.*", []string{"a", "a.b", "noext"}, nil},
		{"file.txt", []string{"file.txt", "FILE.TXT"}, []string{"file.tx", "file.txt2", "afile.txt"}},
		{"*.txt", []string{"a.txt", ".txt", "a.b.TXT"}, []string{"a.txt2", "txt", "atxt"}},
		{"a*", []string{"a", "A.b", "abc"}, []string{"ba"}},
		{"*a*", []string{"a", "bab", "ba", "ab"}, []string{"b", ""}},
		{"a*b*c", []string{"abc", "aXbYc", "abbcc", "a.b.c"}, []string{"ab", "acb", "abcd"}},
		{"???", []string{"abc", "a.c", "..."}, []string{"ab", "abcd"}},
		{"?.txt", []string{"a.txt"}, []string{".txt", "ab.txt"}},
		{"*.?", []string{"a.c", "a.b.c"}, []string{"a.", "abc", "a.bc"}},
		// DOS_STAR: up to and including the final period
		{"<", []string{"abc"}, []string{"a.b"}},
		{"<.txt", []string{"a.txt", "a.b.txt", ".txt"}, []string{"a.txt.b", "atxt"}},
		{"<.b", []string{"a.b", "a.b.b"}, []string{"a.b.c"}},
		{"<.", []string{"a.", "a.b."}, []string{"a", "a.b"}},
		{"<\"*", []string{"a", "a.b", "a.b.c"}, nil},
		{"a<.*", []string{"a.", "ab.c", "a.b.c"}, []string{"ab", "b.c"}},
		// DOS_QM: a character, or nothing at a period or the end
		{">>>", []string{"a", "ab", "abc"}, []string{"abcd", "a.b"}},
		{">>>.txt", []string{"a.txt", "abc.txt", ".txt"}, []string{"abcd.txt", "a.b.txt"}},
		{"a>", []string{"a", "ab"}, []string{"abc", "b", "a."}},
		{">>>>.>>>", []string{"a.b", "abcd.efg", "abc."}, []string{"abcde.f", "a.bcde", "abc"}},
		{">>>\">>>", []string{"a.b", "abc", "abc.def"}, []string{"abcd"}},
		// DOS_DOT: a period, or nothing at the end
		{"a\"", []string{"a", "a."}, []string{"ab", "a.b"}},
		{"a\"b", []string{"a.b"}, []string{"ab", "a"}},
		{"a\"\"\"", []string{"a", "a.", "a..", "a..."}, []string{"a...."}},
		// case, beyond ASCII
		{"ä*", []string{"Äpfel", "äpfel"}, []string{"apfel"}},
		{"σ?", []string{"ΣΑ", "ςα"}, []string{"σ"}},
		// a code point beyond the basic plane is two characters to Windows
		{"??", []string{"😀", "ab"}, []string{"a"}},
	} {
		p, err := CompilePattern(c.pattern)
		if err != nil {
			t.Fatalf("CompilePattern(%q): %v", c.pattern, err)
		}
		for _, n := range c.yes {
			if !p.Match(n) {
				t.Errorf("%q does not match %q", c.pattern, n)
			}
		}
		for _, n := range c.no {
			if p.Match(n) {
				t.Errorf("%q matches %q", c.pattern, n)
			}
		}
	}
}

func TestCompilePatternRefuses(t *testing.T) {
	for _, text := range []string{"", "a/b", `a\b`, "a:b", "a|b", "a\x01", strings.Repeat("*a", 600)} {
		if _, err := CompilePattern(text); err == nil {
			t.Errorf("CompilePattern(%q) succeeds", text)
		}
	}
}

// TestPatternTime matches what makes a backtracking matcher take the age of the universe.
func TestPatternTime(t *testing.T) {
	start := time.Now()
	for _, unit := range []string{"*a", "<a", ">", "<*", "*?"} {
		p, err := CompilePattern(strings.Repeat(unit, 1000/len(unit)) + "b")
		if err != nil {
			t.Fatal(err)
		}
		if p.Match(strings.Repeat("a", 255)) {
			t.Errorf("repeated %q with a b at its end matches a name without one", unit)
		}
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestPatternDoesNotAllocate(t *testing.T) {
	p, err := CompilePattern("*disk?.vh<")
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { p.Match("web server disk0.vhdx") }); n != 0 {
		t.Errorf("%v allocations a match", n)
	}
}

func TestUpcase(t *testing.T) {
	for in, want := range map[string]string{
		"abcXYZ09": "ABCXYZ09", "äöüß": "ÄÖÜß", "éèÿ": "ÉÈŸ", "αβγς": "ΑΒΓΣ", "дом": "ДОМ",
		"µ": "µ", "ı": "ı", "ſ": "ſ", "İ": "İ", "😀": "😀", "日本": "日本", "\xff": "\xff", "\xed\xa0\x80a": "\xed\xa0\x80A",
	} {
		if got := UpcaseName(in); got != want {
			t.Errorf("UpcaseName(%q) = %q, want %q", in, got, want)
		}
	}
	if !EqualNames("Disk0.VHDX", "disk0.vhdx") || EqualNames("a", "b") {
		t.Error("EqualNames")
	}
}

func TestNames(t *testing.T) {
	long := strings.Repeat("n", 255)
	for name, want := range map[string]bool{
		"a": true, "a b": true, "ä": true, "...": true, long: true,
		"": false, ".": false, "..": false, "a/b": false, `a\b`: false, "a:b": false, "a*": false, "a\x1f": false, long + "n": false,
	} {
		if ValidName(name) != want {
			t.Errorf("ValidName(%q) = %v", name, !want)
		}
	}
	for path, want := range map[string]bool{"": true, `a\b`: true, `\a`: false, `a\`: false, `a\\b`: false, `a\..\b`: false} {
		if ValidPath(path) != want {
			t.Errorf("ValidPath(%q) = %v", path, !want)
		}
	}
	for name, want := range map[string]bool{"vms": true, "vms$": true, "": false, "a/b": false, "a+b": false, strings.Repeat("s", 81): false} {
		if ValidShareName(name) != want {
			t.Errorf("ValidShareName(%q) = %v", name, !want)
		}
	}
}

func TestSplitStream(t *testing.T) {
	for _, c := range []struct {
		path, base, stream, typ string
		named, ok               bool
	}{
		{`a\b`, `a\b`, "", "", false, true},
		{`a\b:s`, `a\b`, "s", "", true, true},
		{`b:s:$DATA`, `b`, "s", "$DATA", true, true},
		{`b::$DATA`, `b`, "", "$DATA", true, true},
		{`b:`, `b`, "", "", true, false},
		{`b::`, `b`, "", "", true, false},
		{`b:s:`, `b`, "s", "", true, false},
		{`b:s:t:u`, `b`, "s", "t:u", true, false},
		{`a:x\b`, `a:x\b`, "", "", false, true}, // ValidPath refuses the folder's colon
	} {
		base, stream, typ, named, ok := SplitStream(c.path)
		if base != c.base || stream != c.stream || typ != c.typ || named != c.named || ok != c.ok {
			t.Errorf("SplitStream(%q) = %q, %q, %q, %v, %v", c.path, base, stream, typ, named, ok)
		}
	}
}
