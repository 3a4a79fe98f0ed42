package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

func ioctlRange(fd int, req uint, r *[2]uint64) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(unsafe.Pointer(r))); errno != 0 {
		return errno
	}
	return nil
}

// watchKernel tells of warnings and worse in the kernel's log. What is said
// before the writer starts must be an error; a kernel under an emulator has much
// to warn of while it boots.
func watchKernel(path string, con *console) {
	f, err := os.Open(path)
	if err != nil {
		con.Say("KMSG cannot be read: %v", err)
		return
	}
	started := uptime().Microseconds()
	b := make([]byte, 8192)
	for {
		n, err := f.Read(b)
		if err != nil {
			if pe, ok := err.(*os.PathError); ok && pe.Err == unix.EPIPE {
				continue // some were overwritten
			}
			return
		}
		head, text, _ := strings.Cut(string(b[:n]), ";")
		text, _, _ = strings.Cut(text, "\n")
		part := strings.Split(head, ",")
		if len(part) < 3 {
			continue
		}
		priority, _ := strconv.Atoi(part[0])
		at, _ := strconv.ParseInt(part[2], 10, 64)
		if complaint(priority&7, at >= started, text) {
			con.Say("KMSG %s", text)
		}
	}
}

func complaint(level int, running bool, text string) bool {
	for _, harmless := range []string{"hrtimer: interrupt took", "Unknown kernel command line"} {
		if strings.Contains(text, harmless) {
			return false
		}
	}
	for _, bad := range []string{"Call Trace", "BUG:", "I/O error", "blocked for more than", "rcu_sched", "rcu_preempt", "Oops", "WARNING:"} {
		if strings.Contains(text, bad) {
			return true
		}
	}
	return level <= 3 || running && level <= 4
}

// powerButton calls pressed when the host asks for a power-off.
func powerButton(pressed func()) {
	names, _ := filepath.Glob("/dev/input/event*")
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		go func() {
			b := make([]byte, 24) // struct input_event
			for {
				if n, err := f.Read(b); err != nil || n != len(b) {
					return
				}
				const key, power = 1, 116
				if binary.LittleEndian.Uint16(b[16:]) == key && binary.LittleEndian.Uint16(b[18:]) == power &&
					!bytes.Equal(b[20:24], make([]byte, 4)) {
					pressed()
				}
			}
		}()
	}
}
