package host

import (
	"fmt"
	"slices"
	"testing"

	"lunless/migrate/qemu"
)

// What a guest is told again and again is counted.
func TestTellings(t *testing.T) {
	var all tellings
	firsts := 0
	for i := range 100 {
		for _, op := range []string{"read", "write"} {
			if all.count(qemu.Event{Node: "disk0", Operation: op}) {
				if firsts++; i > 0 {
					t.Errorf("%s is the first after %d", op, i)
				}
			}
		}
	}
	var told []string
	tell := func(disk, operation string, n int) { told = append(told, fmt.Sprint(disk, " ", operation, " ", n)) }
	all.look(calm, tell)
	if len(told) != 0 || firsts != 2 {
		t.Errorf("told at once: %d and %v", firsts, told)
	}
	all.look(0, tell)
	slices.Sort(told)
	if want := []string{"disk0 read 99", "disk0 write 99"}; !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
	if all.look(0, tell); len(told) != 2 || len(all) != 0 {
		t.Errorf("told of nothing: %v, kept %v", told, all)
	}
}
