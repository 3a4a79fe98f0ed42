package vm

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lunless/smbstore"
	"lunless/testdata/guest/stamp"
)

// Two raw disks, a blank one and one that holds data, under a guest booted directly: it works, notices what is done to
// its disks behind its back, survives being killed, and notices when it did not.
func TestGuest(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	g, err := Build(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	images := []string{filepath.Join(dir, "0.raw"), filepath.Join(dir, "1.raw")}
	for _, p := range images {
		blank(t, p, 32*mib)
	}
	prepare(t, images[1], 32*mib)
	args := slices.Concat(direct(g, "span=8", "mem=4", "rate=300"), disk(0, rawFile(images[0])), disk(1, rawFile(images[1])))
	console := NewConsole()
	m, ready, err := boot(t, console, args...)
	m.must(err)
	t.Logf("ready after %v of the guest's time", ready.Up)
	worksAndVerifies(t, m)
	if _, err := CheckFiles(ctx, console.Records(), images...); err != nil {
		t.Error(err)
	}
	before := readFile(t, images[0])
	m.must(console.Resume(m.ctx))
	m.flushes(30)
	m.must(console.Pause(m.ctx))
	for name, do := range damages {
		t.Run(name, func(t *testing.T) { noticed(t, m, images, before, do) })
	}
	if v, err := console.Verify(m.ctx); err != nil {
		t.Errorf("after all was put right: %+v, %v", v, err)
	}
	m.must(console.Resume(m.ctx))
	m.flushes(10)
	m.kill()
	if _, err := CheckFiles(ctx, console.Records(), images...); err != nil {
		t.Errorf("after the kill: %v", err)
	}
	m, ready, err = boot(t, console, args...)
	m.must(err)
	if ready.Boots != 3 {
		t.Errorf("%+v", ready)
	}
	m.flushes(10)
	m.quit()
	if r, err := CheckFiles(ctx, console.Records(), images...); err != nil || r.Runs != 3 {
		t.Errorf("at the end: %+v, %v", r, err)
	}
	putBack(t, images[0], before)
	if _, _, err = boot(t, console, args...); err == nil || !strings.Contains(err.Error(), stamp.ErrLost.Error()) {
		t.Errorf("a disk of before the restart: the guest says %v", err)
	}
}

func blank(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func prepare(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := stamp.Prepare(f, size, stamp.PrepareOptions{Set: 1, Disk: 1, Span: 8 * mib, Spread: true, Filled: 0.5}); err != nil {
		t.Fatal(err)
	}
}

// worksAndVerifies leaves the guest paused.
func worksAndVerifies(t *testing.T, m *machine) {
	c := m.console
	m.must(c.Reset(m.ctx))
	c.ResetBeats()
	m.flushes(30)
	s, err := c.Stats(m.ctx)
	m.must(err)
	if s.Writes == 0 || s.Reads == 0 || s.Flushes == 0 || s.Zeroes == 0 || s.Trims == 0 || s.Errors != 0 || s.IOErrors != 0 || s.Stall == 0 {
		t.Errorf("statistics %+v", s)
	}
	b := c.Beats()
	if b.Count < 10 || b.Longest == 0 {
		t.Errorf("heartbeats %+v", b)
	}
	v, err := c.Verify(m.ctx)
	if err != nil || v.Blocks != 2*8*mib/stamp.BlockSize || v.Pages != 4*mib/4096 {
		t.Errorf("%+v, %v", v, err)
	}
	m.must(c.Pause(m.ctx))
	m.must(c.Err())
	t.Logf("in %v: %d writes, %d flushes, longest stall %v (%s); %d heartbeats, longest gap %v, %d lost",
		s.Since, s.Writes, s.Flushes, s.Stall, s.StallOp, b.Count, b.Longest, b.Lost)
}

// damages change a disk, of which before is an older state.
var damages = map[string]func(image, before []byte, a, b int64){
	"a byte flipped":       func(image, _ []byte, a, _ int64) { image[a+777] ^= 1 },
	"an old block is back": func(image, before []byte, a, _ int64) { copy(image[a:a+stamp.BlockSize], before[a:]) },
	"a write is missing":   func(image, _ []byte, a, _ int64) { clear(image[a : a+stamp.BlockSize]) },
	"two blocks swapped": func(image, _ []byte, a, b int64) {
		was := bytes.Clone(image[a : a+stamp.BlockSize])
		copy(image[a:a+stamp.BlockSize], image[b:])
		copy(image[b:b+stamp.BlockSize], was)
	},
}

// noticed damages the first disk under the paused guest, and mends it after.
func noticed(t *testing.T, m *machine, images []string, before []byte, do func(image, before []byte, a, b int64)) {
	good := readFile(t, images[0])
	a, b := written(t, good, before)
	bad := bytes.Clone(good)
	do(bad, before, a, b)
	putBack(t, images[0], bad)
	defer putBack(t, images[0], good)
	if v, err := m.console.Verify(m.ctx); err == nil || v.Errors == 0 || v.Errors > 2 {
		t.Errorf("the guest says %+v, %v", v, err)
	}
	if _, err := CheckFiles(m.ctx, m.console.Records(), images...); err == nil {
		t.Error("the check from outside says nothing")
	}
}

// written finds two blocks that bear stamps, other ones than before.
func written(t *testing.T, image, before []byte) (a, b int64) {
	var found []int64
	for off := int64(stamp.Reserved * stamp.BlockSize); off < int64(len(image)) && len(found) < 2; off += stamp.BlockSize {
		now, zeroNow, err := stamp.Read(image[off : off+stamp.BlockSize])
		old, zeroOld, _ := stamp.Read(before[off : off+stamp.BlockSize])
		if err == nil && !zeroNow && !zeroOld && now.Seq != old.Seq {
			found = append(found, off)
		}
	}
	if len(found) < 2 {
		t.Fatal("no two blocks were written twice")
	}
	return found[0], found[1]
}

func readFile(t *testing.T, path string) []byte {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// putBack writes over an image in place: the guest has it open.
func putBack(t *testing.T, path string, content []byte) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(content, 0); err != nil {
		t.Fatal(err)
	}
}

// The guest boots through the BIOS from a disk image that was made a VHDX, and
// works on the same disk. A request that fails below it is told, by the writer and
// by the kernel, and done again.
func TestGuestBootsFromVHDX(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	g, err := Build(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	raw, disk0, disk1 := filepath.Join(dir, "boot.raw"), filepath.Join(dir, "boot.vhdx"), filepath.Join(dir, "data.raw")
	if err := g.BootDisk(ctx, raw, BootOptions{Size: 96 * mib, Params: []string{"span=8", "mem=4", "rate=300", "disks=2"}}); err != nil {
		t.Fatal(err)
	}
	convert(t, raw, disk0)
	blank(t, disk1, 32*mib)
	failing := "driver=raw,file.driver=blkdebug,file.inject-error.0.event=pwritev,file.inject-error.0.once=on,file.inject-error.0.errno=5," +
		"file.image.driver=file,file.image.filename=" + disk1
	m, ready, err := boot(t, NewConsole(), append(disk(0, "driver=vhdx,file.driver=file,file.filename="+disk0), disk(1, failing)...)...)
	m.must(err)
	t.Logf("ready after %v of the guest's time", ready.Up)
	m.flushes(20)
	v, err := m.console.Verify(m.ctx)
	if err != nil || v.Blocks != 2*8*mib/stamp.BlockSize {
		t.Errorf("%+v, %v", v, err)
	}
	s, err := m.console.Stats(m.ctx)
	m.must(err)
	lines, n := m.console.Complaints()
	text := join(lines)
	if s.IOErrors != 1 || n != 2 || !strings.Contains(text, "IOERR 1 write") || !strings.Contains(text, "KMSG") {
		t.Errorf("one request failed; %d errors were counted, and the guest said\n%s", s.IOErrors, text)
	}
	m.powerButton()
	if _, err := CheckFiles(ctx, m.console.Records(), disk0, disk1); err != nil {
		t.Error(err)
	}
}

func convert(t *testing.T, src, dst string) {
	t.Helper()
	var o smbstore.ConvertDiskOptions
	for to, p := range map[*smbstore.Location]string{&o.Source: src, &o.Destination: dst} {
		l, err := smbstore.ParseLocation(p)
		if err != nil {
			t.Fatal(err)
		}
		*to = l
	}
	if err := smbstore.ConvertDisk(context.Background(), o); err != nil {
		t.Fatal(err)
	}
}
