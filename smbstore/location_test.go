package smbstore

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseLocation(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Location
		out  string
		err  error
	}{
		{"smb://fs1/vms", Location{Host: "fs1", Share: "vms"}, "smb://fs1/vms", nil},
		{"smb://hv@fs1:4455/vms/web 1/Virtual Hard Disks/", Location{Host: "fs1", Port: 4455, User: "hv", Share: "vms", Path: "web 1/Virtual Hard Disks"}, "smb://hv@fs1:4455/vms/web 1/Virtual Hard Disks", nil},
		{"smb://corp;hv@fs1:445/vms", Location{Host: "fs1", User: `corp\hv`, Share: "vms"}, "smb://corp;hv@fs1/vms", nil},
		{"smb://hv@[::1]:445/v/x", Location{Host: "::1", User: "hv", Share: "v", Path: "x"}, "smb://hv@[::1]/v/x", nil},
		{"smb://h/s/100%25", Location{Host: "h", Share: "s", Path: "100%"}, "smb://h/s/100%25", nil},
		{"smb://u%40corp@h/s/a@b", Location{Host: "h", User: "u@corp", Share: "s", Path: "a@b"}, "smb://u%40corp@h/s/a%40b", nil},
		{`\\fs1\vms\web1\Virtual Machines`, Location{Host: "fs1", Share: "vms", Path: "web1/Virtual Machines"}, "smb://fs1/vms/web1/Virtual Machines", nil},
		{"/srv/vms", Location{Path: "/srv/vms"}, "/srv/vms", nil},
		{"smb://hv:secret@fs1/vms", Location{}, "", ErrPasswordInLocation},
		{"smb://hv%3Asecret@fs1/vms", Location{}, "", ErrPasswordInLocation},
		{"smb://hv:se/secret@fs1/vms", Location{}, "", ErrPasswordInLocation},
		{"cifs://hv:secret@fs1/vms", Location{}, "", ErrPasswordInLocation},
		{`\\hv:secret@fs1\vms`, Location{}, "", ErrPasswordInLocation},
		{"smb://fs1", Location{}, "", ErrBadLocation},
		{"smb:///x", Location{}, "", ErrBadLocation},
		{"smb://fs1:0/x", Location{}, "", ErrBadLocation},
		{"smb://fs1:70000/x", Location{}, "", ErrBadLocation},
		{"smb://fs1/vms/../etc", Location{}, "", ErrBadName},
		{"smb://fs1/vms/a%2f..%2fb", Location{}, "", ErrBadName},
		{`\\fs1\vms\..\x`, Location{}, "", ErrBadName},
		{`\\hv@fs1\vms`, Location{}, "", ErrBadLocation},
		{"ftp://x/y", Location{}, "", ErrBadLocation},
		{"", Location{}, "", ErrBadLocation},
	} {
		got, err := ParseLocation(c.in)
		if !errors.Is(err, c.err) || got != c.want {
			t.Errorf("ParseLocation(%q) = %+v, %v; want %+v, %v", c.in, got, err, c.want, c.err)
			continue
		}
		if err != nil {
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("ParseLocation(%q) shows the password: %v", c.in, err)
			}
			continue
		}
		if got.String() != c.out {
			t.Errorf("ParseLocation(%q).String() = %q, want %q", c.in, got.String(), c.out)
		}
		if again, err := ParseLocation(got.String()); err != nil || again != got {
			t.Errorf("%q does not read back: %+v, %v", got.String(), again, err)
		}
	}
}

func FuzzLocation(f *testing.F) {
	for _, s := range []string{"smb://u@h:1/s/p", `\\h\s\p`, "/x", "smb://h/s/%41%25", "smb://a;b@[::1]/s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseLocation(s)
		if err != nil {
			return
		}
		again, err := ParseLocation(l.String())
		if err != nil || again != l {
			t.Fatalf("%q: %+v prints %q, which reads %+v, %v", s, l, l.String(), again, err)
		}
	})
}

func TestLocationPaths(t *testing.T) {
	l, _ := ParseLocation("smb://hv@fs1/vms/a")
	if got := l.Join("b c", "d").String(); got != "smb://hv@fs1/vms/a/b c/d" {
		t.Error(got)
	}
	if got := l.Dir().Dir(); !got.IsRoot() || got.Base() != "vms" {
		t.Error(got)
	}
	if !l.Contains(l.Join("x/y")) || l.Contains(l.Dir()) {
		t.Error("Contains")
	}
	o, _ := ParseLocation(`\\FS1\VMS\A`)
	if !l.Equal(o) {
		t.Error("locations that differ in case and user name one place")
	}
}

func TestLoadCredentials(t *testing.T) {
	p := filepath.Join(t.TempDir(), "cred")
	write := func(s string) {
		if err := os.WriteFile(p, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# hosts\nusername=hv\npassword= a=b # \r\n domain=CORP\n\n")
	c, err := LoadCredentials(p)
	if err != nil || c != (Credentials{User: "hv", Domain: "CORP", Password: " a=b # "}) {
		t.Errorf("%#v %v", c, err)
	}
	write("username=CORP\\hv\npassword=x\n")
	if c, err := LoadCredentials(p); err != nil || c.String() != `CORP\hv` {
		t.Errorf("%v %v", c, err)
	}
	for _, bad := range []string{"username", "colour=red"} {
		write(bad)
		if _, err := LoadCredentials(p); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestResolveCredentials(t *testing.T) {
	t.Setenv(PasswordVariable, "fromenv")
	l, _ := ParseLocation("smb://hv@h/s")
	if c, err := (&Options{}).ResolveCredentials(t.Context(), l); err != nil || c.User != "hv" || c.Password != "fromenv" {
		t.Errorf("%#v %v", c, err)
	}
	l.User = ""
	if _, err := (&Options{}).ResolveCredentials(t.Context(), l); !errors.Is(err, ErrNoCredentials) {
		t.Errorf("no user: %v", err)
	}
}
