package smbstore

import (
	"testing"
	"time"
)

// All operations of one outage wait until one moment; the next outage has its own.
func TestOutageBound(t *testing.T) {
	var o outage
	never := time.Now().Add(time.Hour)
	first, once := o.bound(never, time.Minute)
	if once || first.After(never) {
		t.Errorf("the first waits until %v, once %v", first, once)
	}
	if next, once := o.bound(never.Add(time.Hour), time.Minute); once || !next.Equal(first) {
		t.Errorf("the next waits until %v, the first until %v; once %v", next, first, once)
	}
	sooner := first.Add(-time.Second)
	if until, _ := o.bound(sooner, time.Minute); !until.Equal(sooner) {
		t.Errorf("an operation's own bound %v became %v", sooner, until)
	}
	o.since = o.since.Add(-time.Minute)
	if _, once := o.bound(never, time.Minute); !once {
		t.Error("past the patience an operation still waits")
	}
	o.over()
	if again, once := o.bound(never, time.Minute); once || again.Before(first) {
		t.Errorf("a new outage is waited for until %v, once %v", again, once)
	}
}
