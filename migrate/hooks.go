package migrate

import "lunless/smbstore"

// Hooks that only test binaries set. failpoint is called at each place where a
// crash is worth a test, sabotage asks whether a named fault is switched on.
var (
	failpoint = func(name string) {}
	sabotage  = func(name string) bool { return false }
	openStore = smbstore.Open
	// atSwitch is asked while the guest is held and both sides have all.
	atSwitch = func(*liveDisks) error { return nil }
)

// The faults a soak run can switch on: each must turn it red.
const (
	sabotageMirror      = "mirror-write-dropped" // the destination misses some mirrored writes
	sabotageRemoveEarly = "source-removed-early" // the source goes before the switch
	sabotageFlush       = "switch-before-flush"  // the destination is not flushed before the switch
	sabotageEpoch       = "epoch-check-skipped"  // the switch ignores that the record changed meanwhile
)
