package smbstore

import (
	"strings"
	"testing"
)

// FuzzParentCandidates: wherever a locator leads, it is to few places, each of
// which reads back as it prints, never above a share's root; and what lies on a
// server that the child does not name is marked.
func FuzzParentCandidates(f *testing.F) {
	for _, s := range []string{`.\base.vhdx`, `..\..\..\x`, `\\?\UNC\fs1\gold\base.vhdx`, `\\fs2\a\..\..\b`, `\\?\Volume{1}\a`, `/srv/../x`, `C:x`, "a\x00b", `..\CON`} {
		f.Add(s, s, s, s, true)
		f.Add(s, "", `\\?\`+s, `x\`+s, false)
	}
	f.Fuzz(func(t *testing.T, relative, volume, absolute, name string, local bool) {
		child := Location{Host: "fs1", Port: 4450, User: "hv", Share: "vms", Path: "web1/Snapshots/leaf.avhdx"}
		if local {
			child = Location{Path: "/srv/vms/leaf.vhdx"}
		}
		p := parentPaths{Relative: relative, Volume: volume, Absolute: absolute, Name: name}
		list := parentCandidates(child, p)
		if len(list) > 7 {
			t.Fatalf("%d candidates", len(list))
		}
		for _, c := range list {
			if c.Err != nil {
				if c.At != (Location{}) {
					t.Fatalf("%+v has both a place and an error", c)
				}
				continue
			}
			again, err := ParseLocation(c.At.String())
			if err != nil || again != c.At {
				t.Fatalf("%q leads to %+v, which reads back as %+v, %v", c.Path, c.At, again, err)
			}
			for e := range strings.SplitSeq(c.At.Path, "/") {
				if e == ".." {
					t.Fatalf("%q leads to %v", c.Path, c.At)
				}
			}
			if c.By == byName || c.By == "relative path" && !strings.HasPrefix(relative, `\`) && !strings.HasPrefix(relative, "/") {
				if c.At.Host != child.Host || c.At.Share != child.Share {
					t.Fatalf("%s %q leads away, to %v", c.By, c.Path, c.At)
				}
			}
			if other := !strings.EqualFold(c.At.Host, child.Host) && !c.At.IsLocal(); other != c.Other {
				t.Fatalf("%q leads to %v, of another server: %v", c.Path, c.At, c.Other)
			}
		}
	})
}
