package host

import (
	"testing"
	"time"
)

// Who looks after a guest is known to hang once it has not looked for long.
func TestUnwatched(t *testing.T) {
	r := &run{}
	for ago, want := range map[time.Duration]bool{0: false, hangs / 2: false, 2 * hangs: true} {
		r.looked.Store(time.Now().Add(-ago).UnixNano())
		if got := r.unwatched(); got != want {
			t.Errorf("looked %v ago: %v", ago, got)
		}
	}
}
