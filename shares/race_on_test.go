//go:build race

package shares

// raceEnabled: under the race detector sync.Pool forgets at random.
const raceEnabled = true
