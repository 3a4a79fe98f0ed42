package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lunless/shares/accounts"
	"lunless/shares/fs"
	"lunless/smbstore/fscc"
	"lunless/testdata/torture"
)

// tortureExpected is what each test of the curated list gave when it was last
// looked at, as torture.Write prints it.
//
//go:embed testdata/torture.expected
var tortureExpected string

// tortureSigned are the tests that are of a server which requires signing.
var tortureSigned = []string{"smb2.session-require-signing.bug15397.bug15397"}

// TestTorture runs the curated list of smbtorture's tests and fails on any
// change, for the better too: then the list is to be renewed.
func TestTorture(t *testing.T) {
	t.Parallel() // most of it waits
	expected, err := torture.Read(strings.NewReader(tortureExpected))
	if err != nil {
		t.Fatal(err)
	}
	names := slices.Sorted(maps.Keys(expected))
	signed := func(name string) bool { return slices.Contains(tortureSigned, name) }
	for _, tt := range []struct {
		signing string
		names   []string
	}{
		{"enabled", slices.DeleteFunc(slices.Clone(names), signed)},
		{"required", tortureSigned},
	} {
		t.Run("signing "+tt.signing, func(t *testing.T) {
			target := tortureTarget(t, tt.names, "--signing", tt.signing)
			logs := t.TempDir()
			results, err := torture.Run(t.Context(), target, tt.names,
				torture.Options{Jobs: 2, Limit: time.Minute, LogDir: logs, Args: torture.ScratchArgs()}, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range tt.names {
				if got := results[name]; got != expected[name] {
					log, _ := os.ReadFile(filepath.Join(logs, strings.ReplaceAll(name, " ", "_")+".log"))
					t.Errorf("%s: %s, expected %s\n%s", name, got, expected[name], tail(string(log)))
				}
			}
		})
	}
}

// tortureTarget is a server with a share for each test: what one leaves behind, such
// as a folder that nobody may delete, is none of the next one's business.
func tortureTarget(t *testing.T, tests []string, flags ...string) torture.Target {
	t.Helper()
	shares := make(map[string]string, len(tests))
	root := t.TempDir()
	for i, n := range tests {
		shares[n] = fmt.Sprintf("torture%d", i)
		dir := filepath.Join(root, shares[n])
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		flags = append(flags, "--share", shares[n]+"="+dir)
	}
	for n := range torture.ScratchArgs() {
		if dir, there := shares[n]; there {
			data := bytes.Repeat([]byte{1}, torture.Scratch)
			if err := os.WriteFile(filepath.Join(root, dir, torture.ScratchName), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	// The share whose listings leave out what cannot be read has this name, and who
	// runs the tests gives files to others, as Windows lets those who may restore.
	flags = append(flags, "--share", "hideunread="+t.TempDir()+",abe")
	flags = append(flags, "--share", "noperm="+closedFolder(t)) // so has the one in which nobody may do anything
	s := serve(t, append(flags, "--min-dialect", "2.0.2", "--log-level", "info")...)
	store, err := accounts.Open(s.data)
	if err == nil {
		err = store.AddMember("Backup Operators", testUser)
	}
	if err != nil {
		t.Fatal(err)
	}
	return torture.Target{Addr: net.JoinHostPort(s.host, s.port), User: testUser + "%" + testPassword,
		ShareOf: func(test string) string { return shares[test] }}
}

// closedFolder is a folder whose security descriptor grants nobody anything.
func closedFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	store, err := fs.NewPOSIX(dir, fs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	f, err := store.Open(t.Context(), "", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sd := fscc.SecurityDescriptor{
		Control: fscc.SE_DACL_PRESENT | fscc.SE_DACL_PROTECTED, Owner: fscc.SIDAdministrators, Group: fscc.SIDAdministrators, DACL: &fscc.ACL{},
	}
	b, err := sd.Marshal()
	if err == nil {
		err = f.SetSecurityDescriptor(t.Context(), b)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
