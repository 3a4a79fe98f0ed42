package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// leaves waits until the agent has no connection to a server any more: a VM that has
// moved away needs none.
func (g *soakGuest) leaves(s site) {
	g.t.Helper()
	for until := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		n, err := connections(g.cmd.Process.Pid, s.server.Port)
		if err == nil && n == 0 {
			return
		}
		if err != nil || time.Now().After(until) {
			g.t.Errorf("the VM has moved away from %s, and its agent has %d connections to that, %v", s, n, err)
			return
		}
	}
}

// connections counts a process's TCP connections to a port.
func connections(pid, port int) (n int, err error) {
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return 0, err
	}
	own := map[string]bool{}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil { // else it was closed meanwhile
			own[to] = true
		}
	}
	b, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 9 && strings.HasSuffix(f[2], fmt.Sprintf(":%04X", port)) && own["socket:["+f[9]+"]"] {
			n++
		}
	}
	return n, nil
}
