package qemu

import (
	"errors"
	"fmt"
	"strings"
)

// Errors of finding a VM again.
var (
	// ErrGone: the VM's QEMU has ended, or there never was one.
	ErrGone = errors.New("QEMU is gone")
	// ErrNotAnswering: QEMU is there and says nothing: it is stopped or stuck, or
	// another agent is connected with it.
	ErrNotAnswering = errors.New("QEMU does not answer")
	// ErrRunning: the runtime folder has a QEMU already.
	ErrRunning = errors.New("the VM's QEMU runs already")
	// ErrOtherVM: what answers is not the VM that was started here.
	ErrOtherVM = errors.New("another VM answers")
)

// ErrNoKVM: KVM does not run guests here; the error it is wrapped in says why.
var ErrNoKVM = errors.New("KVM does not work")

// ExitError is a QEMU that ended before it should have. It is ErrGone, too.
type ExitError struct {
	Name   string // the VM's
	Status string // as the kernel has it; "" when somebody else was its parent
	Log    string // the last lines of what it wrote
}

func (e *ExitError) Error() string {
	s := fmt.Sprintf("QEMU of VM %q ended", e.Name)
	if e.Status != "" {
		s += " (" + e.Status + ")"
	}
	if log := strings.TrimSpace(e.Log); log != "" {
		s += ": " + log
	}
	return s
}

// Is makes it ErrGone.
func (e *ExitError) Is(target error) bool { return target == ErrGone }
