package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"lunless/smbstore"
)

// process is a QEMU held by a pidfd, so that no other process with its number is
// ever taken for it.
type process struct {
	pid  int
	fd   *os.File
	done chan struct{} // closed when it has ended
}

// openProcess holds a process that smbstore.Process names identity; ErrGone if
// there is none any more.
func openProcess(pid int, identity string) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	p := &process{pid: pid, fd: os.NewFile(uintptr(fd), "pidfd"), done: make(chan struct{})}
	// Whoever has the number now had it when the pidfd was made, or the one that the
	// pidfd holds has ended: either way what is compared here is what is held.
	if smbstore.Process(pid) != identity {
		p.fd.Close()
		return nil, ErrGone
	}
	raw, err := p.fd.SyscallConn()
	if err != nil {
		p.fd.Close()
		return nil, err
	}
	go func() { // ends with the process or with close
		if raw.Read(ended) == nil {
			close(p.done)
		}
	}()
	return p, nil
}

// ended tells whether a pidfd's process has: the descriptor is readable then
// (pidfd_open(2)).
func ended(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// close lets go of the process, which may go on.
func (p *process) close() { p.fd.Close() }

// kill ends the process at once; it need not be there any more.
func (p *process) kill() error {
	select {
	case <-p.done:
		return nil
	default:
	}
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	var killErr error
	err = raw.Control(func(fd uintptr) { killErr = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
	if errors.Is(killErr, unix.ESRCH) {
		killErr = nil
	}
	if err = errors.Join(err, killErr); err != nil {
		return fmt.Errorf("killing QEMU (process %d): %w", p.pid, err)
	}
	return nil
}

// wait returns nil when the process has ended.
func (p *process) wait(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// findQEMU looks through all processes for one that was started with a runtime
// folder's pidfile: 0 for none.
func findQEMU(dir string) (int, error) {
	want := []byte("\x00-pidfile\x00" + filepath.Join(dir, filePID) + "\x00")
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && bytes.Contains(line, want) && smbstore.Process(pid) != "" {
			return pid, nil
		}
	}
	return 0, nil
}
