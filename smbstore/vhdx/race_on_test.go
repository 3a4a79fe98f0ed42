//go:build race

package vhdx

// The detector needs the writers beside the changes, not many cuts, nor rounds.
const (
	layoutRounds = 4
	liveRounds   = 15
)
