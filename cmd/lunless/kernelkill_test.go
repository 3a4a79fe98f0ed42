package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"lunless/testdata/guest"
)

// TestKernelClientRidesOverKills has Linux's own SMB client write and verify
// stamped blocks through persistent handles (MS-SMB2 3.3.5.9.12) on a share whose
// server is killed and started again KILLS times: nothing acknowledged is lost.
func TestKernelClientRidesOverKills(t *testing.T) {
	t.Parallel()
	ca := t.TempDir()
	s := serve(t, "--share", "ca="+ca+",ca")
	file, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(s.port)
	if err != nil {
		t.Fatal(err)
	}
	kills := fromEnv(t, "KILLS", 2)
	seconds := 60 * (kills + 1) // at most: it is told when it may end
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(seconds)*time.Second+4*time.Minute)
	defer cancel()
	done := make(chan guest.Outcome, 1)
	var failed error
	go func() {
		var o guest.Outcome
		o, failed = guest.Do(ctx, "../..", guest.Work{
			Share:   guest.Share{Port: port, Name: "ca", User: testUser, Password: testPassword},
			Options: "vers=3.1.1,persistenthandles,hard,cache=none",
			Run:     fmt.Sprintf("/guestio stamp /mnt/stamp.dat %d", seconds), Complaints: guest.Crashes,
		})
		done <- o
	}()
	began := func() bool {
		st, err := os.Stat(filepath.Join(ca, "stamp.dat"))
		return err == nil && st.Size() > 1<<20
	}
	var o guest.Outcome
	ended := false
	wait := func(d time.Duration) bool {
		select {
		case o = <-done:
			ended = true
		case <-time.After(d):
		}
		return !ended
	}
	for !began() && wait(100*time.Millisecond) {
	}
	written := func() time.Time {
		st, err := os.Stat(filepath.Join(ca, "stamp.dat"))
		if err != nil {
			return time.Time{}
		}
		return st.ModTime()
	}
	killed := 0
	for ; killed < kills && wait(time.Duration(1000+rand.IntN(2000))*time.Millisecond); killed++ {
		s.kill(t)
		time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond)
		before := written()
		s.start(t, file)
		for !written().After(before) && wait(100*time.Millisecond) { // until the client has come back
		}
	}
	if err := os.WriteFile(filepath.Join(ca, "stamp.dat.stop"), nil, 0o644); err != nil {
		t.Error(err)
	}
	if !ended {
		o = <-done
	}
	if failed != nil {
		t.Fatalf("%v\n%s", failed, tail(o.Console))
	}
	passed := 0
	if strings.HasPrefix(o.Line, "ok") && o.Kernel == "ok" && killed == kills {
		passed = kills
	} else {
		t.Errorf("after %d kills, guest: %q, kernel: %q\n%s\nserver:\n%s", killed, o.Line, o.Kernel, o.Console, tail(s.log.String()))
	}
	fmt.Printf("kernel client: %s\n%d passed, %d failed\n", o.Line, passed, kills-passed)
}
