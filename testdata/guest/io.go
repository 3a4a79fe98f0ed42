package guest

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
)

//go:embed io-init.sh
var ioInit []byte

// What of the kernel's log counts as a complaint.
const (
	// AnyComplaint is for a run on which nothing was done to the server.
	AnyComplaint = `CIFS: VFS|BUG|WARNING|Call Trace|cifs.*error`
	// Crashes alone count where the server was killed: the client may say that it
	// has lost its connection.
	Crashes = `BUG|WARNING|Call Trace|lost handle|stale|mismatch`
)

// Work is what a guest does with a share.
type Work struct {
	Share      Share
	Options    string // of mount.cifs
	Run        string // shell command; the share is at /mnt, the program at /guestio
	Complaints string // extended regular expression: lines of the kernel's log that fail the run
}

// Outcome of a Work.
type Outcome struct {
	Line    string // guestio's last line, without its name: "ok …" or "FAIL …"
	Kernel  string // "ok" or "FAIL …"
	Console string
}

var (
	guestioLine = regexp.MustCompile(`(?m)^GUESTIO (.*?)\r?$`)
	kernelLine  = regexp.MustCompile(`(?m)^KERNEL (.*?)\r?$`)
)

// Do boots a guest that does the work. moduleRoot is the folder that go.mod lies
// in: guestio is built from there.
func Do(ctx context.Context, moduleRoot string, w Work) (o Outcome, err error) {
	vmlinuz, modules, err := Kernel(filepath.Join(moduleRoot, ".work/kernel"))
	if err != nil {
		return o, err
	}
	program, err := Program(ctx, moduleRoot, "./testdata/guest/guestio")
	if err != nil {
		return o, err
	}
	s := w.Share
	cfg := fmt.Sprintf("SRV=10.0.2.2 SHARE='%s' PORT=%d USER='%s' PASS='%s' OPTIONS='%s' RUN='%s' COMPLAINTS='%s'\n",
		s.Name, s.Port, s.User, s.Password, w.Options, w.Run, w.Complaints)
	image, err := Initramfs(Spec{ModuleDir: modules, Modules: cifsModules, Init: ioInit,
		Files: map[string][]byte{"cfg": []byte(cfg), "guestio": program}})
	if err != nil {
		return o, err
	}
	o.Console, err = Run(ctx, vmlinuz, image)
	o.Line, o.Kernel = last(guestioLine, o.Console), last(kernelLine, o.Console)
	return o, err
}

func last(re *regexp.Regexp, s string) string {
	m := re.FindAllStringSubmatch(s, -1)
	if len(m) == 0 {
		return ""
	}
	return m[len(m)-1][1]
}

// Program builds a program for the guest, which has no shared libraries. The
// binary depends on the sources alone.
func Program(ctx context.Context, moduleRoot, pkg string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "lunless-guest-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "program")
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Dir, cmd.Env = moduleRoot, append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building %s: %w\n%s", pkg, err, bytes.TrimSpace(msg))
	}
	return os.ReadFile(out)
}
