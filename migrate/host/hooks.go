package host

// Hooks that only test binaries set: sabotage asks whether a named fault is
// switched on.
var sabotage = func(name string) bool { return false }

// The faults: each must be noticed.
const (
	sabotageRoom = "agent-keeps-room" // room given to a write is committed with the guest's next flush only
)
