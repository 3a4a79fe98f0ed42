package nbd

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// Of failures that are alike the first is logged at once, and the others as a count;
// one of another kind is not kept back by them.
func TestFailuresAreCounted(t *testing.T) {
	var out bytes.Buffer
	l := limitedLog{to: slog.New(slog.NewTextHandler(&out, nil)), every: time.Hour} // looked at by hand
	lines := func() []string {
		defer out.Reset()
		return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	}
	full := Failure{Export: "disk0", Request: "write", Errno: ENOSPC, Err: errors.New("full")}
	for range 1000 {
		l.failure(full)
	}
	l.failure(Failure{Export: "disk0", Request: "read", Errno: EIO, Err: errors.New("bad sector")})
	if got := lines(); len(got) != 2 || !strings.Contains(got[0], "error=full") || !strings.Contains(got[1], "bad sector") {
		t.Errorf("logged %q", got)
	}
	kind := failureKind{"write", ENOSPC, true}
	l.look(kind)
	if got := lines(); len(got) != 1 || !strings.Contains(got[0], "failed=999") || !strings.Contains(got[0], "level=ERROR") {
		t.Errorf("logged afterwards %q", got)
	}
	l.look(kind) // nothing since
	if out.Len() != 0 || l.kinds[kind] != nil {
		t.Errorf("logged of nothing: %q", out.String())
	}
	l.failure(full)
	if got := lines(); len(got) != 1 || !strings.Contains(got[0], "an NBD request failed") {
		t.Errorf("logged when it fails again %q", got)
	}
}
