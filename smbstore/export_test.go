package smbstore

import "testing"

// Sabotage switches a named fault on for the rest of a test.
func Sabotage(t *testing.T, name string) {
	old := sabotage
	sabotage = name
	t.Cleanup(func() { sabotage = old })
}

// LogFill is how much a file of a share keeps of its writes, in bytes.
func LogFill(f File) int64 { return f.(*smbFile).fill() }
