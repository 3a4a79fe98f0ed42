//go:build race

package smb2

// cryptoRace: under the race detector sync.Pool throws things away at random.
const cryptoRace = true
