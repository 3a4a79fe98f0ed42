package smbstore

import "testing"

// Sabotage switches a named fault on for the rest of a test.
func Sabotage(t *testing.T, name string) {
	old := sabotage
	sabotage = name
	t.Cleanup(func() { sabotage = old })
}
