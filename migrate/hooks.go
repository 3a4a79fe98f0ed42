package migrate

import (
	"lunless/migrate/internal/hooks"
	"lunless/smbstore"
)

// Hooks that only test binaries set: this package's here, others' in package hooks.
// failpoint is called at each place where a crash is worth a test, sabotage asks
// whether a named fault is switched on.
var (
	failpoint = func(name string) { hooks.Failpoint(name) }
	sabotage  = func(name string) bool { return hooks.Sabotage(name) }
	openStore = smbstore.Open
	// atSwitch is asked while the guest is held and both sides have all.
	atSwitch = func(l *liveDisks) error {
		var all []hooks.Disk
		for _, d := range l.disks {
			all = append(all, hooks.Disk{Name: d.name, Chain: d.moved})
		}
		return hooks.AtSwitch(all)
	}
)

// The faults a soak run can switch on: each must turn it red.
const (
	sabotageMirror      = "mirror-write-dropped" // the destination misses some mirrored writes
	sabotageRemoveEarly = "source-removed-early" // the source goes before the switch
	sabotageFlush       = "switch-before-flush"  // the destination is not flushed before the switch
	sabotageEpoch       = "epoch-check-skipped"  // the switch ignores that the record changed meanwhile
)
