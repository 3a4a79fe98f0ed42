package main

import (
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
	names := slices.Sorted(maps.Keys(expected))
	// A share for each test: what one leaves behind, such as a folder that nobody may
	// delete, is none of the next one's business.
	var flags []string
	shares := make(map[string]string, len(names))
	root := t.TempDir()
	for i, n := range names {
		shares[n] = fmt.Sprintf("torture%d", i)
		dir := filepath.Join(root, shares[n])
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		flags = append(flags, "--share", shares[n]+"="+dir)
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
	logs := t.TempDir()
	results, err := torture.Run(t.Context(), torture.Target{Addr: net.JoinHostPort(s.host, s.port),
		ShareOf: func(test string) string { return shares[test] }, User: testUser + "%" + testPassword},
		names, torture.Options{Jobs: 2, Limit: time.Minute, LogDir: logs}, nil)
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
