package nbd

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	sabotage = os.Getenv("SABOTAGE")
	os.Exit(m.Run())
}

// TestSabotage: the tests notice when a promise is broken.
func TestSabotage(t *testing.T) {
	for name, test := range map[string]string{
		"flush-early": "TestMultiConnFlush", // a flush is acknowledged before it is done
		"fua-dropped": "TestRequests",       // a FUA write is one like others
		"hold-leaks":  "TestHold",           // requests reach the device in standby
		"orphans":     "TestGoneClient",     // a dead client's requests are not waited for
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+test+"$", "-test.timeout", "60s", "-test.count", "1")
		cmd.Env = append(os.Environ(), "SABOTAGE="+name)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "--- FAIL: "+test) {
			t.Errorf("%s does not notice %s: %v\n%s", test, name, err, out)
		}
	}
}
