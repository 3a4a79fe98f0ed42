package migrate

import (
	"errors"
	"testing"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/storetest"
)

// What a guest's disks lie on after a move within one share waits for its server as
// the destination's options have it: a host's for homes give up soon.
func TestEndsOnOneShareWait(t *testing.T) {
	server := storetest.StartLunless(t)
	so, do := server.Options(), server.Options()
	so.ReconnectTimeout, do.ReconnectTimeout = time.Millisecond, 3*time.Minute
	e, err := openEnds(t.Context(), server.Location("a/vm"), server.Location("b/vm"), so, do)
	must(t, err)
	defer e.close() //nolint:errcheck // nothing was written
	server.Kill()
	waits := make(chan error, 1)
	go func() {
		_, err := e.dst.Stat("")
		waits <- err
	}()
	select {
	case err := <-waits:
		t.Errorf("the server is away for a moment: %v", err)
		server.Start(t)
	case <-time.After(500 * time.Millisecond):
		server.Start(t)
		if err := <-waits; !errors.Is(err, smbstore.ErrNotExist) {
			t.Errorf("the server is back: %v", err)
		}
	}
}
