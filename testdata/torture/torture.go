// Package torture runs Samba's smbtorture against a server, one process a
// test, and compares what passes with what passes against Samba itself.
package torture

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Outcome of one test.
type Outcome string

// The outcomes there are.
const (
	Pass    Outcome = "pass"
	Fail    Outcome = "fail"
	Skip    Outcome = "skip"
	TimeOut Outcome = "timeout"
)

// Target is the server under test. Share may hold %d for the job's number:
// tests of one share disturb each other, so jobs want a share each. Tests also leave
// things behind that later ones stumble over: for a result that does not depend on
// which ran before, ShareOf gives each an empty share of its own.
type Target struct {
	Addr    string // host:port
	Share   string
	ShareOf func(test string) string // instead of Share; or nil
	User    string                   // user%password, as smbtorture takes it
}

// share is what the test runs on.
func (t *Target) share(job int, test string) string {
	switch {
	case t.ShareOf != nil:
		return t.ShareOf(test)
	case strings.Contains(t.Share, "%d"):
		return fmt.Sprintf(t.Share, job)
	}
	return t.Share
}

// Options of a run.
type Options struct {
	Jobs    int           // side by side; default 1
	Limit   time.Duration // a test's; default 60 s
	LogDir  string        // one log a test; "" keeps none
	Command string        // default smbtorture

	// Args are further arguments of smbtorture for a test, by its name.
	Args map[string][]string
}

// ScratchArgs are arguments (Options.Args) for the tests that work on a file of the
// share and have to be told of it. It has to be there, Scratch bytes of data.
func ScratchArgs() map[string][]string {
	args := []string{"--option=torture:filename=" + ScratchName, "--option=torture:offset=4096", "--option=torture:beyond_final_zero=8192"}
	return map[string][]string{
		"smb2.set-sparse-ioctl.set-sparse-ioctl": args,
		"smb2.zero-data-ioctl.zero-data-ioctl":   args,
	}
}

// The file that ScratchArgs name, and how long it must be at least.
const (
	ScratchName = "scratch.dat"
	Scratch     = 8192
)

//go:embed smb2.tests
var allTests string

//go:embed samba-4.17.results
var sambaResults string

// Tests returns the names of smbtorture's smb2 tests that match, in order.
func Tests(match *regexp.Regexp) []string {
	var names []string
	for name := range strings.Lines(allTests) {
		if name = strings.TrimSpace(name); name != "" && match.MatchString(name) {
			names = append(names, name)
		}
	}
	return names
}

// Samba is the outcome of each test against Samba 4.17 on ext4.
func Samba() map[string]Outcome {
	results, err := Read(strings.NewReader(sambaResults))
	if err != nil {
		panic(err) // the file is part of the package
	}
	return results
}

// Read reads results: a line "outcome name" each.
func Read(r io.Reader) (map[string]Outcome, error) {
	results := map[string]Outcome{}
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		outcome, name, ok := strings.Cut(sc.Text(), " ")
		if !ok {
			return nil, fmt.Errorf("no result: %q", sc.Text())
		}
		results[name] = Outcome(outcome)
	}
	return results, sc.Err()
}

// Write writes results as Read reads them, sorted by name.
func Write(w io.Writer, results map[string]Outcome) error {
	for _, name := range sorted(results) {
		if _, err := fmt.Fprintln(w, results[name], name); err != nil {
			return err
		}
	}
	return nil
}

func sorted(results map[string]Outcome) []string {
	names := make([]string, 0, len(results))
	for n := range results {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Run runs the tests; done, if not nil, is told of each as it ends.
func Run(ctx context.Context, t Target, tests []string, o Options, done func(name string, out Outcome)) (map[string]Outcome, error) {
	if o.Jobs < 1 {
		o.Jobs = 1
	}
	if o.Limit == 0 {
		o.Limit = time.Minute
	}
	if o.Command == "" {
		o.Command = "smbtorture"
	}
	if _, err := exec.LookPath(o.Command); err != nil {
		return nil, fmt.Errorf("%w (install samba-testsuite)", err)
	}
	var mu sync.Mutex
	results := map[string]Outcome{}
	var errs []error
	var wg sync.WaitGroup
	queue := make(chan string)
	for job := range o.Jobs {
		wg.Go(func() {
			for name := range queue {
				out, err := runOne(ctx, t, job, name, o)
				mu.Lock()
				results[name] = out
				if err != nil {
					errs = append(errs, err)
				}
				if done != nil {
					done(name, out)
				}
				mu.Unlock()
			}
		})
	}
	for _, name := range tests {
		if ctx.Err() != nil {
			break
		}
		queue <- name
	}
	close(queue)
	wg.Wait()
	return results, errors.Join(append(errs, ctx.Err())...)
}

func runOne(ctx context.Context, t Target, job int, name string, o Options) (Outcome, error) {
	host, port, err := net.SplitHostPort(t.Addr)
	if err != nil {
		return Fail, err
	}
	share := t.share(job, name)
	limited, cancel := context.WithTimeout(ctx, o.Limit)
	defer cancel()
	args := []string{"//" + host + "/" + share, "-p", port, "-U", t.User,
		"--option=client max protocol=SMB3_11", "--option=client min protocol=SMB2_02",
		"--option=torture:share2=" + share}
	args = append(append(args, o.Args[name]...), name)
	cmd := exec.CommandContext(limited, o.Command, args...)
	cmd.WaitDelay = 5 * time.Second
	output, err := cmd.CombinedOutput()
	if o.LogDir != "" {
		file := filepath.Join(o.LogDir, strings.NewReplacer(" ", "_", "/", "_").Replace(name)+".log")
		if err := os.WriteFile(file, output, 0o644); err != nil {
			return Fail, err
		}
	}
	lines := "\n" + string(output)
	switch {
	case limited.Err() != nil:
		return TimeOut, nil
	case err == nil && strings.Contains(lines, "\nsuccess:"):
		return Pass, nil
	case err == nil && strings.Contains(lines, "\nskip:"):
		return Skip, nil
	}
	return Fail, nil
}

// Report prints pass counts by group beside Samba's, then each test that
// passes there and not here.
func Report(w io.Writer, ours map[string]Outcome) {
	samba := Samba()
	type row struct{ pass, fail, skip, timeout, samba int }
	groups := map[string]*row{}
	var total row
	var worse []string
	for _, name := range sorted(ours) {
		group, _, _ := strings.Cut(strings.TrimPrefix(name, "smb2."), ".")
		r := groups[group]
		if r == nil {
			r = &row{}
			groups[group] = r
		}
		for _, r := range []*row{r, &total} {
			switch ours[name] {
			case Pass:
				r.pass++
			case Skip:
				r.skip++
			case TimeOut:
				r.timeout++
			default:
				r.fail++
			}
			if samba[name] == Pass {
				r.samba++
			}
		}
		if ours[name] != Pass && samba[name] == Pass {
			worse = append(worse, name)
		}
	}
	line := func(name string, r row) {
		fmt.Fprintf(w, "%-26s%6d%6d%6d%8d%12d\n", name, r.pass, r.fail, r.skip, r.timeout, r.samba)
	}
	fmt.Fprintf(w, "%-26s%6s%6s%6s%8s%12s\n", "group", "pass", "fail", "skip", "timeout", "Samba pass")
	names := make([]string, 0, len(groups))
	for g := range groups {
		names = append(names, g)
	}
	slices.Sort(names)
	for _, g := range names {
		line(g, *groups[g])
	}
	line("total", total)
	if len(worse) > 0 {
		fmt.Fprintln(w, "Samba passes, this server does not:")
		for _, n := range worse {
			fmt.Fprintln(w, "  "+n)
		}
	}
}
