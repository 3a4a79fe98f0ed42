//go:build !race

package shares

const raceEnabled = false
