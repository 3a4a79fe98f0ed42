//go:build !race

package host

import "testing"

// A cut before every flush.
func TestCheckpointsSurvivePowerCuts(t *testing.T) { survivePowerCuts(t, 1) }
