//go:build !race

package smbstore_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lunless/smbstore"
	"lunless/smbstore/block"
	"lunless/smbstore/vhdx"
)

// TestInteropLogOfQEMU: what a killed QEMU left. Reading replays its log in
// memory and leaves the file alone, opening for writing replays it in the file.
func TestInteropLogOfQEMU(t *testing.T) {
	const want = "1739218f1b0d7789bb1e5056a5d6e978ae4a291ca60ec3254bdab15e04f6f88f"
	all := []window{{0, 20 * mib}}
	img := sample(t, "qemu-dirty-log.vhdx")
	before := fileHash(t, img)
	if got, err := ours(t, img, all); err != nil || got != want {
		t.Errorf("read-only: sha256 %s, %v", got, err)
	}
	if fileHash(t, img) != before {
		t.Error("reading has changed the file")
	}
	if _, err := byQEMU(t, "vhdx", img, all); err == nil || !strings.Contains(err.Error(), "log that needs to be replayed") {
		t.Errorf("qemu-img reads the image without a replay: %v", err)
	}
	must(t, open(t, img).Close())
	if in, err := vhdx.Inspect(local(t, img, os.O_RDONLY)); err != nil || in.LogInUse {
		t.Errorf("after opening for writing: %v, %+v", err, in)
	}
	mustBeSound(t, img, smbstore.VHDX, true)
	for who, read := range map[string]func() (string, error){
		"lunless": func() (string, error) { return ours(t, img, all) }, "qemu-img": func() (string, error) { return byQEMU(t, "vhdx", img, all) },
		"libvhdi": func() (string, error) { return byVHDI(t, all, img) },
	} {
		if got, err := read(); err != nil || got != want {
			t.Errorf("%s, after the replay: sha256 %s, %v", who, got, err)
		}
	}
	// A log in use without a valid entry: MS-VHDX 2.3.3 has it refused.
	img = sample(t, "qemu-log-without-entry.vhdx")
	before = fileHash(t, img)
	for _, readOnly := range []bool{true, false} {
		_, err := vhdx.Open(local(t, img, os.O_RDWR), vhdx.OpenOptions{ReadOnly: readOnly})
		var fe *vhdx.FormatError
		if !errors.Is(err, vhdx.ErrCorrupt) || !errors.As(err, &fe) || fe.Offset != mib {
			t.Errorf("a log without an entry: %v", err)
		}
	}
	if fileHash(t, img) != before {
		t.Error("refusing has changed the file")
	}
	// Repair finds that nothing was ever written to that log.
	f := local(t, img, os.O_RDWR)
	if r, err := vhdx.Repair(f); err != nil || len(r.Mended) == 0 || !r.Clean() {
		t.Errorf("repair: %v, %+v", err, r)
	}
	must(t, f.Close())
	if got, err := ours(t, img, all); err != nil || got != want {
		t.Errorf("repaired: sha256 %s, %v", got, err)
	}
}

// TestInteropKilledQEMU kills QEMU as it allocates, and compares what we read
// with what it reads after its own replay.
func TestInteropKilledQEMU(t *testing.T) {
	dir := t.TempDir()
	img, copied := filepath.Join(dir, "a.vhdx"), filepath.Join(dir, "copy.vhdx")
	all := []window{{0, 60 * mib}}
	for round := range 6 {
		must(t, os.RemoveAll(img))
		qemuImg(t, "create", "-q", "-f", "vhdx", "-o", "block_size=1M", img, "60M")
		args := []string{"-f", "vhdx", "-t", "none"}
		for i := range 60 {
			args = append(args, "-c", fmt.Sprintf("write -q -P %d %dM 4k", i+1, i*37%60))
		}
		cmd := exec.Command("qemu-io", append(args, img)...)
		must(t, cmd.Start())
		time.Sleep(time.Duration(20+30*round) * time.Millisecond)
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		copyFile(t, img, copied)
		got, err := ours(t, img, all)
		if errors.Is(err, vhdx.ErrCorrupt) && strings.Contains(err.Error(), "without a valid sequence") {
			t.Logf("round %d: killed before the log's first entry", round)
			continue
		}
		must(t, err)
		qemuImg(t, "check", "-q", "-r", "all", "-f", "vhdx", copied)
		want, err := byQEMU(t, "vhdx", copied, all)
		must(t, err)
		if got != want {
			t.Errorf("round %d: we read sha256 %s, qemu-img %s", round, got, want)
		}
	}
}

// TestInteropOurLog has QEMU replay our logs, as power cuts leave them: it must
// come to what we come to.
func TestInteropOurLog(t *testing.T) {
	const size, cuts = 24 * mib, 10
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	mem := block.NewMemFile(0)
	d, err := vhdx.Create(keptFile{mem}, vhdx.CreateOptions{Size: size, BlockSize: mib})
	must(t, err)
	must(t, d.Close())
	power := block.NewPowerCut(mem)
	d, err = vhdx.Open(power, vhdx.OpenOptions{})
	must(t, err)
	var left []*block.MemFile
	power.Watch(func() {
		if len(left) == cuts || rnd.IntN(3) != 0 {
			return
		}
		f := power.Cut(rnd)
		if in, err := vhdx.Inspect(f); err == nil && in.LogInUse {
			left = append(left, f)
		}
	})
	p := make([]byte, 3*mib)
	for i := 0; len(left) < cuts && i < 2000; i++ {
		at, n := rnd.Int64N(size), 1+rnd.Int64N(3*mib)
		n = min(n, size-at)
		for k := range p[:n] {
			p[k] = byte(i + k>>12)
		}
		switch i % 5 {
		case 0:
			err = d.Trim(t.Context(), at, n)
		case 1:
			err = d.WriteZeroes(t.Context(), at, n, 0)
		default:
			err = d.WriteAt(t.Context(), p[:n], at, 0)
		}
		must(t, err)
		must(t, d.Flush(t.Context()))
	}
	if len(left) < cuts {
		t.Fatalf("%d images with a log in use", len(left))
	}
	all := []window{{0, size}}
	for i, f := range left {
		img := filepath.Join(t.TempDir(), "a.vhdx")
		store(t, f, img)
		want, err := ours(t, img, all)
		must(t, err)
		qemuImg(t, "check", "-q", "-r", "all", "-f", "vhdx", img)
		if got, err := byQEMU(t, "vhdx", img, all); err != nil || got != want {
			t.Errorf("cut %d: qemu-img reads sha256 %s, we %s; %v", i, got, want, err)
		}
	}
}

// keptFile is a file in memory that outlives its disk.
type keptFile struct{ *block.MemFile }

func (keptFile) Close() error { return nil }

// store writes a file in memory to a real one, with its holes.
func store(t testing.TB, f *block.MemFile, path string) {
	t.Helper()
	size, err := f.Size()
	must(t, err)
	out := local(t, path, os.O_RDWR|os.O_CREATE)
	defer out.Close()
	must(t, out.Truncate(size))
	must(t, f.FileExtents(0, size, func(e block.Extent) error {
		if e.State != block.Data {
			return nil
		}
		p := make([]byte, e.Length)
		if n, err := f.ReadAt(p, e.Offset); n < len(p) {
			return err
		}
		_, err := out.WriteAt(p, e.Offset)
		return err
	}))
}
