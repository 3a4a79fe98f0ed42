package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lunless/smbstore"
)

// Two checkpoints of a running guest are removed. Its agent is killed when the first
// merge has brought all over, and the next one goes on: the guest has one image a disk in
// the end, and all it wrote, also after it has been started anew.
func TestRemoveCheckpointsOfRunningGuest(t *testing.T) {
	t.Parallel()
	h := newRig(t, "hv1", nil)
	h.sizes, h.cfg.Staged = []int64{40 << 20, 24 << 20}, true
	at := h.makeGuest("web1", smbstore.Location{Path: t.TempDir()}, "disks=2", "span=8", "mem=4")
	h.startAgent()
	_, err := h.Start(h.ctx, at.String(), StartRequest{})
	h.must(err)
	c := h.console("web1")
	defer c.Close()
	for _, name := range []string{"a", "b"} {
		h.flushes(c, 2)
		_, err := h.Checkpoint(h.ctx, "web1", name)
		h.must(err)
	}
	h.flushes(c, 2)
	h.tellStage("stop merge-brought")
	v, err := h.RemoveCheckpoint(h.ctx, "web1", RemoveRequest{Name: "a"})
	h.must(err)
	if v.Merging == nil {
		t.Error("nothing is said to be merged")
	}
	select {
	case line := <-lines(h.out):
		if strings.TrimSpace(line) != "at merge-brought" {
			t.Fatalf("the agent says %q", line)
		}
	case <-h.ctx.Done():
		t.Fatal("it is not merged")
	}
	if v, err = h.Show(h.ctx, "web1"); err != nil || v.Merging == nil || !strings.HasPrefix(v.Merging.Into, smbstore.DisksDir) {
		t.Errorf("in the middle of a merge: %+v, %v", v.Merging, err)
	}
	h.kill()
	h.startAgent()
	h.await("web1", Running)
	h.reattach(c, "web1")
	if v, err = h.Merged(h.ctx, "web1", nil); err != nil || v.Merging != nil {
		t.Errorf("after a restart of the agent: %+v, %v", v.Merging, err)
	}
	for _, d := range v.Disks {
		if len(d.Images) != 2 {
			t.Errorf("%s is over %v", d.Path, d.Images[1:])
		}
	}
	h.must(c.Reset(h.ctx))
	_, err = h.RemoveCheckpoint(h.ctx, "web1", RemoveRequest{Name: "b"})
	h.must(err)
	if v, err = h.Merged(h.ctx, "web1", nil); err != nil || v.Merging != nil {
		t.Errorf("the second: %+v, %v", v.Merging, err)
	}
	for _, d := range v.Disks {
		if len(d.Images) != 1 || filepath.Dir(d.Path) != smbstore.DisksDir {
			t.Errorf("%s is over %v", d.Path, d.Images[1:])
		}
	}
	s, err := c.Stats(h.ctx)
	h.must(err)
	t.Logf("the longest request while the second was removed: %v (%s)", s.Stall.Round(time.Millisecond), s.StallOp)
	h.flushes(c, 2)
	if found, err := c.Verify(h.ctx); err != nil || found.Blocks == 0 {
		t.Errorf("verified: %+v, %v\n%s", found, err, c.Tail(20))
	}
	h.must(c.Quit(h.ctx))
	h.await("web1", Stopped)
	checkDisks(t, h, c, at)
	if left, err := os.ReadDir(filepath.Join(at.Path, smbstore.SnapshotsDir)); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	_, err = h.Start(h.ctx, "web1", StartRequest{})
	h.must(err)
	h.reattach(c, "web1")
	if _, err := c.Await(h.ctx); err != nil {
		t.Fatalf("%v\n%s", err, c.Tail(20))
	}
	h.flushes(c, 1)
	if found, err := c.Verify(h.ctx); err != nil || found.Blocks == 0 {
		t.Errorf("after it was started anew: %+v, %v\n%s", found, err, c.Tail(20))
	}
	if err := c.Err(); err != nil {
		t.Error(err)
	}
}
