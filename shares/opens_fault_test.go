package shares

import (
	"testing"
	"time"

	"lunless/smbstore/smb2"
)

// withFault runs the rest of a test with one of the named faults switched on.
func withFault(t *testing.T, name string) {
	t.Helper()
	fault.Store(&name)
	t.Cleanup(func() { fault.Store(nil) })
}

// checkBreak has a second client open what a first caches for writing, and returns
// what was wrong about that.
func checkBreak(t *testing.T) (wrong string) {
	srv := startServer(t, func(c *Config) { c.Limits.Break = time.Hour })
	one, two := loginAs(t, srv.addr, 1, testUser, "vms"), loginAs(t, srv.addr, 2, testUser, "vms")
	one.mustCreate(cached("disk", smb2.OplockLease, 7, leaseRWH))
	two.pending(smb2.CommandCreate, createRequest("disk"))
	if !one.hears() {
		return "the holder is not told"
	}
	if two.hears() {
		return "answered before the acknowledgment"
	}
	if st := one.ackLease(7, leaseRH); st != smb2.StatusSuccess {
		return "acknowledgment: " + st.String()
	}
	if r := two.response(); r.hdr.Status != smb2.StatusSuccess {
		return "open: " + r.hdr.Status.String()
	}
	return ""
}

// hears waits for a message, not for long, and keeps it.
func (c *rawClient) hears() bool {
	c.t.Helper()
	c.nc.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	defer c.nc.SetDeadline(time.Now().Add(30 * time.Second))
	list := c.tryReceive()
	if list == nil {
		return false
	}
	c.notices = append(c.notices, list...)
	return true
}

// Each fault of caching and of handles is noticed by a test that passes without it.
func TestFaultsOfOpensAreSeen(t *testing.T) {
	for _, tt := range []struct {
		fault string
		check func(t *testing.T) string
	}{
		{"break-not-sent", checkBreak},
		{"ack-early", checkBreak},
		{"lock-forgotten-on-reclaim", checkReclaim},
	} {
		t.Run(tt.fault, func(t *testing.T) {
			if wrong := tt.check(t); wrong != "" {
				t.Fatalf("without the fault: %s", wrong)
			}
			withFault(t, tt.fault)
			if tt.check(t) == "" {
				t.Error("the fault is not noticed")
			}
		})
	}
}
