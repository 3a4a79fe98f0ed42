// Package hooks lets the test binaries of packages above migrate watch and break
// migrations that run in their process. They are set before any runs; nothing but a
// test sets them.
package hooks

import "lunless/smbstore"

// Disk is a disk in use at a live migration's switch.
type Disk struct {
	Name  string          // in the home at the source
	Chain *smbstore.Chain // what the guest is about to go on with
}

var (
	// Failpoint is called at each place where a crash is worth a test.
	Failpoint = func(name string) {}
	// Sabotage tells whether a named fault is switched on.
	Sabotage = func(name string) bool { return false }
	// AtSwitch is asked while the guest is held and both sides have all. An error
	// ends the migration.
	AtSwitch = func([]Disk) error { return nil }
)
