package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"lunless/testdata/guest"
)

// fromEnv is a number of the environment, or def.
func fromEnv(t *testing.T, name string, def int) int {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		return def
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestKernelClientChurn has Linux's own SMB client do random operations on a
// share, past its cache and through it, and compares every byte.
func TestKernelClientChurn(t *testing.T) {
	t.Parallel()
	s := serve(t)
	port, err := strconv.Atoi(s.port)
	if err != nil {
		t.Fatal(err)
	}
	seconds := fromEnv(t, "GUEST_SECONDS", 10)
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(seconds)*time.Second+3*time.Minute)
	defer cancel()
	seed := time.Now().UnixNano() % 1e9
	o, err := guest.Do(ctx, "../..", guest.Work{
		Share:   guest.Share{Port: port, Name: "vms", User: testUser, Password: testPassword},
		Options: "vers=3.1.1",
		Run:     fmt.Sprintf("/guestio churn /mnt %d %d", seed, seconds), Complaints: guest.AnyComplaint,
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, tail(o.Console))
	}
	t.Logf("seed %d: %s", seed, o.Line)
	if !strings.HasPrefix(o.Line, "ok") || o.Kernel != "ok" {
		t.Errorf("guest: %q, kernel: %q\n%s", o.Line, o.Kernel, o.Console)
	}
}
