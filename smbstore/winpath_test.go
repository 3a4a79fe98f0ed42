package smbstore

import (
	"slices"
	"strings"
	"testing"
)

func at(t *testing.T, s string) Location {
	t.Helper()
	l, err := ParseLocation(s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestParentCandidates has the places a locator leads to, in order.
func TestParentCandidates(t *testing.T) {
	const share = "smb://hv@fs1:4450/vms/web1/Snapshots/leaf.avhdx"
	for _, c := range []struct {
		name, child string
		paths       parentPaths
		want        []string // locations, or "by: cause"
	}{
		{"beside", share, parentPaths{Relative: `.\base.vhdx`}, []string{"smb://hv@fs1:4450/vms/web1/Snapshots/base.vhdx"}},
		{"bare name", share, parentPaths{Relative: `base.vhdx`}, []string{"smb://hv@fs1:4450/vms/web1/Snapshots/base.vhdx"}},
		{"other folder", share, parentPaths{Relative: `..\Virtual Hard Disks\base.vhdx`},
			[]string{"smb://hv@fs1:4450/vms/web1/Virtual Hard Disks/base.vhdx", "smb://hv@fs1:4450/vms/web1/Snapshots/base.vhdx"}},
		{"up to the share's root", share, parentPaths{Relative: `..\..\base.vhdx`},
			[]string{"smb://hv@fs1:4450/vms/base.vhdx", "smb://hv@fs1:4450/vms/web1/Snapshots/base.vhdx"}},
		{"above the share", share, parentPaths{Relative: `..\..\..\base.vhdx`},
			[]string{"relative path: leads above the root", "smb://hv@fs1:4450/vms/web1/Snapshots/base.vhdx"}},
		{"slashes", share, parentPaths{Relative: `../gold/base.vhdx`},
			[]string{"smb://hv@fs1:4450/vms/web1/gold/base.vhdx", "smb://hv@fs1:4450/vms/web1/Snapshots/base.vhdx"}},
		{"all of Hyper-V's", share, parentPaths{Relative: `..\d\base.vhdx`,
			Volume:   `\\?\Volume{26A21BDA-A627-11D7-9931-806E6F6E6963}\d\base.vhdx`,
			Absolute: `\\?\C:\d\base.vhdx`},
			[]string{"smb://hv@fs1:4450/vms/web1/d/base.vhdx", "volume path: a volume of the host that wrote it",
				"absolute path: a drive of the host that wrote it", "smb://hv@fs1:4450/vms/web1/Snapshots/base.vhdx"}},
		{"UNC of the same server", share, parentPaths{Absolute: `\\?\UNC\FS1\gold\2022\base.vhdx`},
			[]string{"smb://hv@FS1:4450/gold/2022/base.vhdx", "smb://hv@fs1:4450/vms/web1/Snapshots/base.vhdx"}},
		{"UNC without its name", share, parentPaths{Absolute: `\\?\fs1\gold\base.vhdx`},
			[]string{"smb://hv@fs1:4450/gold/base.vhdx", "smb://hv@fs1:4450/vms/web1/Snapshots/base.vhdx"}},
		{"plain UNC of another server, last", share, parentPaths{Absolute: `\\fs2\gold\base.vhdx`},
			[]string{"smb://hv@fs1:4450/vms/web1/Snapshots/base.vhdx", "other: smb://hv@fs2/gold/base.vhdx"}},
		{"drive relative", share, parentPaths{Absolute: `C:base.vhdx`},
			[]string{"absolute path: a drive of the host that wrote it", "smb://hv@fs1:4450/vms/web1/Snapshots/base.vhdx"}},
		{"rooted", share, parentPaths{Absolute: `\d\base.vhdx`},
			[]string{"absolute path: a drive of the host that wrote it", "smb://hv@fs1:4450/vms/web1/Snapshots/base.vhdx"}},
		{"UNC without file", share, parentPaths{Absolute: `\\fs1\gold`},
			[]string{"absolute path: names no file", "smb://hv@fs1:4450/vms/web1/Snapshots/gold"}},
		{"UNC above its share", share, parentPaths{Absolute: `\\fs1\gold\..\..\x`},
			[]string{"absolute path: leads above the root", "smb://hv@fs1:4450/vms/web1/Snapshots/x"}},
		{"a folder", share, parentPaths{Relative: `..\..`}, []string{"relative path: names no file"}},
		{"a bad name", share, parentPaths{Relative: `a|b`}, []string{`relative path: not a valid name on a share: "a|b"`}},
		{"POSIX path on a share", share, parentPaths{Absolute: `/srv/base.vhdx`},
			[]string{"absolute path: a path of the machine that wrote it", "smb://hv@fs1:4450/vms/web1/Snapshots/base.vhdx"}},
		{"name of a VHD's parent", share, parentPaths{Name: `C:\x\base.vhd`}, []string{"smb://hv@fs1:4450/vms/web1/Snapshots/base.vhd"}},
		{"nothing", share, parentPaths{}, nil},

		{"local beside", "/srv/a/leaf.vhdx", parentPaths{Relative: `.\base.vhdx`}, []string{"/srv/a/base.vhdx"}},
		{"local above", "/srv/a/leaf.vhdx", parentPaths{Relative: `..\..\base.vhdx`}, []string{"/base.vhdx", "/srv/a/base.vhdx"}},
		{"local above the root", "/srv/leaf.vhdx", parentPaths{Relative: `..\..\base.vhdx`},
			[]string{"relative path: leads above the root", "/srv/base.vhdx"}},
		{"local absolute", "/srv/a/leaf.vhdx", parentPaths{Absolute: `/gold/base.vhdx`}, []string{"/gold/base.vhdx", "/srv/a/base.vhdx"}},
		{"local, as we write it", "/srv/a/leaf.vhdx", parentPaths{Absolute: `\\?\POSIX\gold\base.vhdx`}, []string{"/gold/base.vhdx", "/srv/a/base.vhdx"}},
		{"local, UNC", "/srv/a/leaf.vhdx", parentPaths{Absolute: `\\?\UNC\fs1\gold\base.vhdx`},
			[]string{"/srv/a/base.vhdx", "other: smb://fs1/gold/base.vhdx"}},
		{"local, drive", "/srv/a/leaf.vhdx", parentPaths{Absolute: `\\?\d:\path2\sub3\parent.vhdx`},
			[]string{"absolute path: a drive of the host that wrote it", "/srv/a/parent.vhdx"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, k := range parentCandidates(at(t, c.child), c.paths) {
				switch {
				case k.Err != nil:
					got = append(got, k.By+": "+k.Err.Error())
				case k.Other:
					got = append(got, "other: "+k.At.String())
				default:
					got = append(got, k.At.String())
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(c.want, "\n  "))
			}
		})
	}
}

// TestPathsTo: what is written leads back to the parent, and is what Windows takes.
func TestPathsTo(t *testing.T) {
	for _, c := range []struct{ child, parent, relative, absolute string }{
		{"smb://hv@fs1:4450/vms/web1/leaf.vhdx", "smb://hv@fs1:4450/vms/web1/base.vhdx", `.\base.vhdx`, `\\?\UNC\fs1\vms\web1\base.vhdx`},
		{"smb://fs1/vms/web1/Snapshots/l.avhdx", "smb://fs1/VMS/WEB1/Virtual Hard Disks/b.vhdx", `..\Virtual Hard Disks\b.vhdx`,
			`\\?\UNC\fs1\VMS\WEB1\Virtual Hard Disks\b.vhdx`},
		{"smb://fs1/vms/l.avhdx", "smb://fs1/vms/gold/x/b.vhdx", `.\gold\x\b.vhdx`, `\\?\UNC\fs1\vms\gold\x\b.vhdx`},
		{"smb://fs1/vms/l.avhdx", "smb://fs1/gold/b.vhdx", "", `\\?\UNC\fs1\gold\b.vhdx`},
		{"/srv/a/l.vhdx", "/srv/b/b.vhdx", `..\b\b.vhdx`, `\\?\POSIX\srv\b\b.vhdx`},
		{"/srv/a/l.vhdx", "/b.vhdx", `..\..\b.vhdx`, `\\?\POSIX\b.vhdx`},
		{"/l.vhdx", "/b.vhdx", `.\b.vhdx`, `\\?\POSIX\b.vhdx`},
		{"/a/a/l.vhdx", "/a/b.vhdx", `..\b.vhdx`, `\\?\POSIX\a\b.vhdx`},
		{"/a/l.vhdx", "/a/a", `.\a`, `\\?\POSIX\a\a`},
		{"/srv/l.vhdx", "/SRV/b.vhdx", `..\SRV\b.vhdx`, `\\?\POSIX\SRV\b.vhdx`},
	} {
		child, parent := at(t, c.child), at(t, c.parent)
		p := pathsTo(child, parent)
		if p.Relative != c.relative || p.Absolute != c.absolute {
			t.Errorf("from %s to %s: %q and %q, want %q and %q", c.child, c.parent, p.Relative, p.Absolute, c.relative, c.absolute)
		}
		for _, one := range []string{p.Relative, p.Absolute} {
			if one == "" {
				continue
			}
			if got, _, err := locate(child, one); err != nil || !got.Equal(parent) {
				t.Errorf("%q of %s leads to %s (%v), want %s", one, c.child, got, err, c.parent)
			}
		}
	}
}
