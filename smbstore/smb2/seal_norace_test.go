//go:build !race

package smb2

const cryptoRace = false
