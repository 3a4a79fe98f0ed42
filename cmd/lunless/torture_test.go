package main

import (
	_ "embed"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lunless/shares/accounts"
	"lunless/testdata/torture"
)

// tortureExpected is what each test of the curated list gave when it was last
// looked at, as torture.Write prints it.
//
//go:embed testdata/torture.expected
var tortureExpected string

// TestTorture runs the curated list of smbtorture's tests and fails on any
// change, for the better too: then the list is to be renewed.
func TestTorture(t *testing.T) {
	expected, err := torture.Read(strings.NewReader(tortureExpected))
	if err != nil {
		t.Fatal(err)
	}
	const jobs = 2
	var flags []string
	for _, n := range []string{"torture0", "torture1"} {
		flags = append(flags, "--share", n+"="+t.TempDir())
	}
	// The share whose listings leave out what cannot be read has this name, and who
	// runs the tests gives files to others, as Windows lets those who may restore.
	flags = append(flags, "--share", "hideunread="+t.TempDir()+",abe")
	s := serve(t, append(flags, "--min-dialect", "2.0.2", "--signing", "enabled", "--log-level", "info")...)
	store, err := accounts.Open(s.data)
	if err == nil {
		err = store.AddMember("Backup Operators", testUser)
	}
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, 0, len(expected))
	for n := range expected {
		names = append(names, n)
	}
	slices.Sort(names) // some tests leave behind what a later one of their group meets
	logs := t.TempDir()
	results, err := torture.Run(t.Context(), torture.Target{Addr: net.JoinHostPort(s.host, s.port), Share: "torture%d",
		User: testUser + "%" + testPassword}, names, torture.Options{Jobs: jobs, Limit: time.Minute, LogDir: logs}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range results {
		if got != expected[name] {
			log, _ := os.ReadFile(filepath.Join(logs, strings.ReplaceAll(name, " ", "_")+".log"))
			t.Errorf("%s: %s, expected %s\n%s", name, got, expected[name], tail(string(log)))
		}
	}
}
