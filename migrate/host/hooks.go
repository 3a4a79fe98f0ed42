package host

import "lunless/migrate/internal/hooks"

// Hooks that only test binaries set: failpoint is called where a crash is worth a
// test, sabotage asks whether a named fault is switched on.
var (
	failpoint = func(name string) { hooks.Failpoint(name) }
	sabotage  = func(name string) bool { return hooks.Sabotage(name) }
)

// The faults: each must be noticed.
const (
	sabotageTidy  = "leftovers-kept"      // what a cut operation left stays in the home
	sabotageRoom  = "agent-keeps-room"    // room given to a write is committed with the guest's next flush only
	sabotageEpoch = "epoch-check-skipped" // who has the VM by now is not looked at before its disks are written to
	sabotageMerge = "merge-not-committed" // a merged image goes while the configuration names it
	sabotageGrown = "children-unsynced"   // new disks are committed to before their names are on stable storage
	sabotageFlash = "variables-unwritten" // changes of UEFI variables stay in the agent
	sabotageShare = "disk-left-to-others" // a disk is opened without its fence, and lets others write
)
