//go:build race

package host

import "testing"

// Under the race detector, which makes it ten times as long, fewer cuts.
func TestCheckpointsSurviveSomePowerCuts(t *testing.T) { survivePowerCuts(t, 8) }
