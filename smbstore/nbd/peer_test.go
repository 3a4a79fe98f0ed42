package nbd

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lunless/smbstore/block"
	"lunless/smbstore/vhdx"
)

// peer runs a program that testdata/peers.sh installs, and returns its output.
func peer(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	out, err := tryPeer(tb, name, args...)
	if err != nil {
		tb.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func tryPeer(tb testing.TB, name string, args ...string) (string, error) {
	tb.Helper()
	if _, err := exec.LookPath(name); err != nil {
		tb.Fatalf("%s is missing: install libnbd-bin and qemu-utils (testdata/peers.sh)", name)
	}
	cmd := exec.CommandContext(tb.Context(), name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil {
		return stdout.String() + stderr.String(), err
	}
	return stdout.String(), nil
}

func localFile(tb testing.TB, path string) block.File {
	tb.Helper()
	f, err := block.OpenLocal(path, os.O_RDWR|os.O_CREATE, 0o600)
	must(tb, err)
	return f
}

// scatter writes runs of random data, and zeroes, to a part of a device.
func scatter(tb testing.TB, dev block.Device, rng *rand.Rand) {
	tb.Helper()
	p := make([]byte, 200<<10)
	for range 40 {
		off := rng.Int64N(dev.Size())
		b := p[:min(rng.Int64N(int64(len(p))), dev.Size()-off)]
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		if rng.IntN(4) == 0 {
			must(tb, dev.WriteZeroes(tb.Context(), off, int64(len(b)), 0))
		} else {
			must(tb, dev.WriteAt(tb.Context(), b, off, 0))
		}
	}
}

func sumOf(tb testing.TB, dev block.Device) string {
	tb.Helper()
	p := make([]byte, dev.Size())
	must(tb, dev.ReadAt(tb.Context(), p, 0))
	return fmt.Sprintf("%x", sha256.Sum256(p))
}

func sumOfFile(tb testing.TB, path string) string {
	tb.Helper()
	b, err := os.ReadFile(path)
	must(tb, err)
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

// peerDevices are the kinds of devices that peers are let at, with some content.
func peerDevices(t *testing.T, rng *rand.Rand) map[string]block.Device {
	t.Helper()
	dir := t.TempDir()
	const size = 12 << 20
	f := localFile(t, filepath.Join(dir, "raw"))
	must(t, f.Truncate(size))
	raw, err := block.NewRaw(f, block.RawOptions{})
	must(t, err)
	f = localFile(t, filepath.Join(dir, "odd"))
	must(t, f.Truncate(5<<20+1234))
	odd, err := block.NewRaw(f, block.RawOptions{})
	must(t, err)
	dynamic, err := vhdx.Create(localFile(t, filepath.Join(dir, "d.vhdx")), vhdx.CreateOptions{Size: size, BlockSize: 1 << 20})
	must(t, err)
	sectors, err := vhdx.Create(localFile(t, filepath.Join(dir, "4k.vhdx")), vhdx.CreateOptions{Size: size, BlockSize: 1 << 20, LogicalSectorSize: 4096})
	must(t, err)
	parent, err := vhdx.Create(localFile(t, filepath.Join(dir, "parent.vhdx")), vhdx.CreateOptions{Size: size, BlockSize: 1 << 20})
	must(t, err)
	scatter(t, parent, rng)
	child, err := vhdx.Create(localFile(t, filepath.Join(dir, "child.vhdx")), vhdx.CreateOptions{Parent: &vhdx.ParentLink{Relative: "parent.vhdx"}, ParentDevice: parent, BlockSize: 1 << 20})
	must(t, err)
	all := map[string]block.Device{"raw": raw, "odd": odd, "dynamic": dynamic, "4k": sectors, "differencing": child}
	for _, name := range []string{"raw", "odd", "dynamic", "4k", "differencing"} {
		scatter(t, all[name], rng)
		t.Cleanup(func() { must(t, all[name].Close()) })
	}
	return all
}

// TestPeers has others' clients read, write and map devices of every kind.
func TestPeers(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for name, dev := range peerDevices(t, rng) {
		t.Run(name, func(t *testing.T) {
			_, path := startServer(t, Options{}, ExportOptions{Name: name, Description: "a disk", Device: block.NewSlot(dev), FastZero: true})
			uri := "nbd+unix:///" + name + "?socket=" + path
			dir := t.TempDir()
			file := func(s string) string { return filepath.Join(dir, s) }
			want := sumOf(t, dev)

			// Others read what the device holds.
			peer(t, "nbdcopy", "--requests=16", "--connections=4", uri, file("nbdcopy"))
			peer(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", uri, file("convert"))
			for _, f := range []string{"nbdcopy", "convert"} {
				st, err := os.Stat(file(f))
				must(t, err)
				must(t, os.Truncate(file(f), dev.Size())) // qemu-img rounds up to sectors
				if got := sumOfFile(t, file(f)); got != want || st.Size()-dev.Size() >= 512 {
					t.Errorf("%s reads something else, or %d bytes instead of %d", f, st.Size(), dev.Size())
				}
			}
			checkMaps(t, dev, uri)

			// They write, and the device holds it.
			src := file("src")
			must(t, os.WriteFile(src, nil, 0o600))
			must(t, os.Truncate(src, dev.Size()))
			other, err := block.NewRaw(localFile(t, src), block.RawOptions{})
			must(t, err)
			scatter(t, other, rng)
			peer(t, "nbdcopy", "--flush", "--requests=16", src, uri)
			if sumOf(t, dev) != sumOfFile(t, src) {
				t.Error("nbdcopy wrote something else")
			}
			scatter(t, other, rng)
			if dev.Size()%512 == 0 {
				peer(t, "qemu-img", "convert", "-n", "-W", "-m", "8", "-f", "raw", "-O", "raw", src, uri)
				if sumOf(t, dev) != sumOfFile(t, src) {
					t.Error("qemu-img convert wrote something else")
				}
			}
			checkMaps(t, dev, uri)
			qemuIO(t, dev, uri)
		})
	}
}

// checkMaps compares what nbdinfo and qemu-img say of data and holes with what
// the device says.
func checkMaps(t *testing.T, dev block.Device, uri string) {
	t.Helper()
	type run struct {
		Start, Length int64
		Data          bool
	}
	var want []run
	add := func(to *[]run, r run) {
		if n := len(*to); n > 0 && (*to)[n-1].Data == r.Data {
			(*to)[n-1].Length += r.Length
			return
		}
		*to = append(*to, r)
	}
	must(t, dev.Extents(t.Context(), 0, dev.Size(), func(e block.Extent) error {
		add(&want, run{e.Offset, e.Length, e.State == block.Data})
		return nil
	}))
	var theirs []struct {
		Offset, Start, Length int64
		Type                  int
		Data, Zero            bool
	}
	must(t, json.Unmarshal([]byte(peer(t, "nbdinfo", "--map", "--json", uri)), &theirs))
	var got []run
	for _, e := range theirs {
		if e.Type != 0 && e.Type != stateHole|stateZero {
			t.Errorf("nbdinfo: type %d", e.Type)
		}
		add(&got, run{e.Offset, e.Length, e.Type == 0})
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("nbdinfo --map: %s", d)
	}
	theirs, got = nil, nil
	must(t, json.Unmarshal([]byte(peer(t, "qemu-img", "map", "--output=json", "-f", "raw", uri)), &theirs))
	for _, e := range theirs {
		if e.Data == e.Zero {
			t.Errorf("qemu-img: %+v", e)
		}
		add(&got, run{e.Start, e.Length, e.Data})
	}
	if dev.Size()%512 != 0 { // it rounds the size up
		if got[len(got)-1].Start == dev.Size() {
			got = got[:len(got)-1]
		}
		last := &got[len(got)-1]
		last.Length = dev.Size() - last.Start
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("qemu-img map: %s", d)
	}
}

// qemuIO drives every kind of request from QEMU's side.
func qemuIO(t *testing.T, dev block.Device, uri string) {
	t.Helper()
	out := peer(t, "qemu-io", "-f", "raw", "-d", "unmap", "-c", "write -P 0x55 64k 128k", "-c", "write -f -P 0x66 1M 4k", "-c", "read -P 0x55 64k 128k",
		"-c", "write -z 96k 32k", "-c", "write -z -u 1M 1M", "-c", "flush", "-c", "read -P 0 96k 32k", "-c", "read -P 0x55 64k 32k", "-c", "read -P 0 1M 1M",
		"-c", "discard 2M 1M", "-c", "writev -P 0x77 3M 4k 8k 4k", "-c", "read -P 0x77 3M 16k", "-c", "aio_write -P 0x88 4M 64k", "-c", "aio_flush", "-c", "read -P 0x88 4M 64k", uri)
	if strings.Contains(out, "failed") || strings.Contains(out, "rror") {
		t.Errorf("qemu-io: %s", out)
	}
	p := make([]byte, 32<<10)
	must(t, dev.ReadAt(t.Context(), p, 64<<10))
	if !bytes.Equal(p, bytes.Repeat([]byte{0x55}, len(p))) {
		t.Error("qemu-io's pattern is not on the device")
	}
}

// TestNBDInfo: what nbdinfo sees of a list, of a read-only export, and that a
// refusal has a reason.
func TestNBDInfo(t *testing.T) {
	_, path := startServer(t, Options{}, ExportOptions{Name: "disk one", Description: "the first", Device: block.NewMem(1 << 20)},
		ExportOptions{Name: "zweite/Platte", Device: block.NewMem(2 << 20), ReadOnly: true})
	out := peer(t, "nbdinfo", "--list", "nbd+unix:///?socket="+path)
	for _, want := range []string{`export="disk one"`, "description: the first", `export="zweite/Platte"`, "export-size: 2097152", "is_read_only: true", "is_read_only: false",
		"can_multi_conn: true", "can_fua: true", "is_rotational: false", "base:allocation", "block_size_minimum: 512"} {
		if !strings.Contains(out, want) {
			t.Errorf("nbdinfo --list lacks %q:\n%s", want, out)
		}
	}
	if out, err := tryPeer(t, "nbdinfo", "nbd+unix:///none?socket="+path); err == nil || !strings.Contains(out, "for export: none") {
		t.Errorf("nbdinfo of no export: %v %s", err, out)
	}
	if out, err := tryPeer(t, "qemu-io", "-f", "raw", "-c", "write 0 4k", "nbd+unix:///zweite/Platte?socket="+path); err == nil && !strings.Contains(out, "failed") && !strings.Contains(out, "read-only") {
		t.Errorf("qemu-io writes to a read-only export: %s", out)
	}
	if !strings.Contains(peer(t, "qemu-img", "info", "nbd+unix:///disk%20one?socket="+path), "1 MiB") {
		t.Error("qemu-img info")
	}
}

// TestFaultsUnderPeers: an error of the device is an error of qemu-io's, and of
// the one request only.
func TestFaultsUnderPeers(t *testing.T) {
	dev := block.NewIntercept(block.NewMem(1<<20), block.FailNth(block.OpWrite, 2, errFull), block.FailIf(func(o block.Op) bool { return o.Kind == block.OpRead && o.Off == 8192 }, block.ErrFailed))
	_, path := startServer(t, Options{}, ExportOptions{Device: dev, Errno: func(err error) Errno {
		if err == errFull {
			return ENOSPC
		}
		return 0
	}})
	out, _ := tryPeer(t, "qemu-io", "-f", "raw", "-c", "write -P 1 0 4k", "-c", "write -P 2 4k 4k", "-c", "read 8k 4k", "-c", "write -P 3 4k 4k", "-c", "read -P 3 4k 4k", "-c", "flush", "nbd+unix:///?socket="+path)
	if strings.Count(out, "No space left on device") != 1 || strings.Count(out, "Input/output error") != 1 || strings.Count(out, "failed") != 2 {
		t.Errorf("qemu-io: %s", out)
	}
}

// TestTLSPeers: nbdinfo and nbdcopy over TLS; without it nothing is told.
func TestTLSPeers(t *testing.T) {
	certs, conf := certificates(t)
	s := NewServer(Options{TLS: conf})
	_, err := s.Add(ExportOptions{Name: "secret", Device: block.NewMem(3 << 20)})
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	serve(t, s, l)
	port := l.Addr().(*net.TCPAddr).Port
	uri := fmt.Sprintf("nbds://localhost:%d/secret?tls-certificates=%s", port, certs)
	if out := peer(t, "nbdinfo", uri); !strings.Contains(out, "with TLS") || !strings.Contains(out, "3145728") {
		t.Errorf("nbdinfo: %s", out)
	}
	src := filepath.Join(t.TempDir(), "src")
	must(t, os.WriteFile(src, bytes.Repeat([]byte("0123456789abcdef"), 3<<16), 0o600))
	peer(t, "nbdcopy", src, uri)
	peer(t, "nbdcopy", uri, src+".back")
	if sumOfFile(t, src) != sumOfFile(t, src+".back") {
		t.Error("what nbdcopy reads over TLS is not what it wrote")
	}
	if out, err := tryPeer(t, "nbdinfo", fmt.Sprintf("nbd://localhost:%d/secret", port)); err == nil {
		t.Errorf("nbdinfo without TLS: %s", out)
	}
	if out, err := tryPeer(t, "nbdinfo", "--list", fmt.Sprintf("nbd://localhost:%d", port)); err == nil || strings.Contains(out, "secret") {
		t.Errorf("nbdinfo --list without TLS: %s", out)
	}
}
