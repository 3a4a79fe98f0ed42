package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strconv"
	"testing"
	"time"
)

// The watchdog is told that all is well again and again, and not while it is not.
func TestWatchdog(t *testing.T) {
	said := systemd(t)
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	ctx, end := context.WithCancel(t.Context())
	ill, asked := make(chan error, 1), make(chan bool)
	done := make(chan bool)
	go func() {
		defer close(done)
		keepWatchdog(ctx, slog.New(slog.DiscardHandler), func(ctx context.Context) error {
			select {
			case asked <- true:
				return <-ill
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	isAsked := func() {
		t.Helper()
		select {
		case <-asked:
		case <-time.After(time.Minute):
			t.Fatal("nobody is asked how the service is")
		}
	}
	for range 3 {
		isAsked()
		ill <- nil
		if got := said(); got != "WATCHDOG=1" {
			t.Errorf("told %q", got)
		}
	}
	for range 3 {
		isAsked()
		ill <- errors.New("hangs")
	}
	isAsked() // nothing was told meanwhile: what comes is told of this
	tellSystemd(slog.New(slog.DiscardHandler), "STATUS=asked")
	ill <- nil
	for _, want := range []string{"STATUS=asked", "WATCHDOG=1"} {
		if got := said(); got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	}
	end()
	<-done
}

// It is somebody else's watchdog, or none.
func TestNoWatchdog(t *testing.T) {
	for _, env := range [][2]string{{"", ""}, {"20000", "1"}, {"soon", ""}, {"-1", ""}} {
		t.Setenv("WATCHDOG_USEC", env[0])
		t.Setenv("WATCHDOG_PID", env[1])
		keepWatchdog(t.Context(), slog.New(slog.DiscardHandler), func(context.Context) error {
			t.Errorf("asked with %q", env)
			return nil
		})
	}
}

// Both services answer their watchdog once they are ready.
func TestServicesKeepWatchdog(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", strconv.FormatInt(time.Minute.Microseconds(), 10))
	told := func(t *testing.T, said func() string) {
		t.Helper()
		for _, want := range []string{"READY=1", "WATCHDOG=1"} {
			if got := said(); got != want {
				t.Errorf("told %q, want %q", got, want)
			}
		}
	}
	t.Run("serve", func(t *testing.T) {
		said := systemd(t)
		serve(t)
		told(t, said)
	})
	t.Run("host run", func(t *testing.T) {
		said := systemd(t)
		data, err := os.MkdirTemp("", "h")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(data) })
		startHost(t, data, t.TempDir())
		told(t, said)
	})
}
