package nbd

import (
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// hungUp tells whether the peer of a socket has closed it, whatever there is
// still to be read.
func hungUp(nc net.Conn) bool {
	s, ok := nc.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return false
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(p, 0)
		gone = err == nil && n > 0 && p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	return gone || err != nil
}

// processOf says which process made a connection to a unix socket, "" if that is
// not known.
func processOf(nc net.Conn) string {
	s, ok := nc.(*net.UnixConn)
	if !ok {
		return ""
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return ""
	}
	who := ""
	_ = raw.Control(func(fd uintptr) { // a closed socket has nobody to tell of
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			who = fmt.Sprintf("pid %d, uid %d", cred.Pid, cred.Uid)
		}
	})
	return who
}
