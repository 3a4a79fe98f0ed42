package host

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// said is what an agent has said on its standard output.
type said struct {
	mu    sync.Mutex
	lines []string
	more  chan struct{} // closed and replaced when a line comes
}

func newSaid() *said { return &said{more: make(chan struct{})} }

// read takes lines until the agent ends.
func (s *said) read(r *bufio.Reader) {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		s.mu.Lock()
		s.lines = append(s.lines, strings.TrimSpace(line))
		close(s.more)
		s.more = make(chan struct{})
		s.mu.Unlock()
	}
}

// forget drops what has been said.
func (s *said) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = nil
}

// wait waits for a line that begins with one of the words.
func (s *said) wait(ctx context.Context, words ...string) (string, error) {
	for {
		s.mu.Lock()
		lines, more := s.lines, s.more
		s.mu.Unlock()
		for _, line := range lines {
			for _, w := range words {
				if strings.HasPrefix(line, w) {
					return line, nil
				}
			}
		}
		select {
		case <-more:
		case <-ctx.Done():
			return "", fmt.Errorf("the agent does not say %q; it said %q: %w", words, lines, ctx.Err())
		}
	}
}

// send sends the agent a signal that does not end it.
func (h *rig) send(s syscall.Signal) { h.cmd.Process.Signal(s) } //nolint:errcheck // it may have ended

// standsStill waits until the agent is stopped.
func (h *rig) standsStill(ctx context.Context) error {
	for {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.cmd.Process.Pid))
		if err != nil {
			return err
		}
		if i := strings.LastIndexByte(string(b), ')'); i >= 0 && strings.HasPrefix(string(b[i:]), ") T") {
			return nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the agent does not stop: %w", ctx.Err())
		}
	}
}

// becomes waits until the VM is in a state; also is asked meanwhile, and ends it.
func (h *rig) becomes(ctx context.Context, want State, also func() error) error {
	for {
		v, err := h.Show(ctx, "web1")
		if err == nil && v.State == want {
			return nil
		}
		if err := also(); err != nil {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("on %s the VM is %s (%s), %v: want %s", h.cfg.Config.Name, v.State, v.Reason, err, want)
		}
	}
}
