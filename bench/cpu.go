package bench

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// selfCPU is the CPU time this process has used, user and system.
func selfCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// maxRSS is the most memory this process has had resident since it started, in bytes.
func maxRSS() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Maxrss << 10 // getrusage(2): KiB
}

// meter measures the CPU time of a process and its descendants (Samba forks
// one a connection). Descendants are found at both ends; one that ended in
// between takes its time with it, so connections must outlive the run.
type meter struct {
	pid   int
	start time.Duration
}

func newMeter(pid int) (*meter, error) {
	m := &meter{pid: pid}
	if pid == 0 {
		return m, nil
	}
	var err error
	m.start, err = treeCPU(pid)
	return m, err
}

func (m *meter) since() (time.Duration, error) {
	if m.pid == 0 {
		return 0, nil
	}
	now, err := treeCPU(m.pid)
	return now - m.start, err
}

func treeCPU(root int) (time.Duration, error) {
	children, err := childrenOf()
	if err != nil {
		return 0, err
	}
	total, err := processCPU(root)
	if err != nil {
		return 0, fmt.Errorf("server process %d: %w", root, err)
	}
	queue := children[root]
	for len(queue) > 0 {
		pid := queue[0]
		queue = append(queue[1:], children[pid]...)
		if t, err := processCPU(pid); err == nil { // one may just have ended
			total += t
		}
	}
	return total, nil
}

// childrenOf reads every process's parent from field 4 of /proc/PID/stat, which
// follows the command's name in parentheses (proc(5)).
func childrenOf() (map[int][]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, s := range stats {
		b, err := os.ReadFile(s)
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(s)))
		if err != nil {
			continue
		}
		if i := bytes.LastIndexByte(b, ')'); i >= 0 {
			if f := bytes.Fields(b[i+1:]); len(f) > 1 {
				if parent, err := strconv.Atoi(string(f[1])); err == nil {
					children[parent] = append(children[parent], pid)
				}
			}
		}
	}
	return children, nil
}

// processCPU adds up the threads' time on a CPU in ns, the first field of
// schedstat: /proc/PID/stat counts ticks of 10 ms, too coarse for short runs.
func processCPU(pid int) (time.Duration, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0, err
	}
	if len(threads) == 0 {
		return 0, os.ErrNotExist
	}
	var total time.Duration
	for _, t := range threads {
		b, err := os.ReadFile(t)
		if err != nil {
			continue
		}
		if f := bytes.Fields(b); len(f) > 0 {
			if ns, err := strconv.ParseInt(string(f[0]), 10, 64); err == nil {
				total += time.Duration(ns)
			}
		}
	}
	return total, nil
}
