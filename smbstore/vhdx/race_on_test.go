//go:build race

package vhdx

// layoutRounds: the detector needs the writers beside the changes, not many cuts.
const layoutRounds = 4
