//go:build race

package vhd

// powerCuts: the detector needs the writers beside one another, not many cuts.
const powerCuts = 5
