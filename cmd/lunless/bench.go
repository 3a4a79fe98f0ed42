package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lunless/bench"
	"lunless/smbstore"
)

func newBench() *cobra.Command {
	c := group("bench", "Measure the I/O path as a VM uses it",
		`Drives a file or virtual disk, local or on a share, with the workloads of a
virtual machine and reports operations, bandwidth, latency, and CPU on both
sides. What is compared runs in turn, so that a noisy machine is noisy for both.

Workloads:
`+workloadList(),
		`  lunless bench run --target smb://hv@fs1/vms/bench.dat --workload randread-4k --duration 10s
  lunless bench compare --a smb://hv@fs1/vms/x --b smb://hv@fs2/vms/x --workload seqwrite-1m
  lunless bench fill --target d.vhdx --size 64G --block-size 2M --count 10000 --request 4K --step 2101248 --flush-every 64
  lunless bench report before.json after.json`)
	c.AddCommand(benchRun(), benchCompare(), benchFill(), benchReport())
	return c
}

func workloadList() string {
	var b strings.Builder
	for _, w := range bench.Workloads {
		fmt.Fprintf(&b, "  %-14s %s\n", w.Name, w.What)
	}
	return b.String()
}

// loadFlags are what run and compare have in common.
type loadFlags struct {
	workloads        []string
	depth            int
	duration, warmUp time.Duration
	seed             uint64
	verify, keep     bool
	size             byteSize
	store            *smbstore.Options
}

func addLoadFlags(c *cobra.Command) *loadFlags {
	f := &loadFlags{size: 1 << 30, store: storeFlags(c)}
	c.Flags().StringSliceVar(&f.workloads, "workload", []string{"randread-4k"}, "workloads to run, one after the other")
	c.Flags().IntVar(&f.depth, "depth", 0, "requests in flight (default the workload's)")
	c.Flags().DurationVar(&f.duration, "duration", 10*time.Second, "how long to measure")
	c.Flags().DurationVar(&f.warmUp, "warm-up", time.Second, "how long to run before measuring")
	c.Flags().Uint64Var(&f.seed, "seed", 1, "of offsets, mix and content")
	c.Flags().BoolVar(&f.verify, "verify", false, "stamp what is written and check what is read back")
	c.Flags().BoolVar(&f.keep, "keep", false, "leave a file that was made for the run")
	c.Flags().Var(&f.size, "size", "of the file, if it is missing and must be made")
	return f
}

// loads are the runs asked for, checked before any target is touched.
func (f *loadFlags) loads() ([]bench.Options, error) {
	switch {
	case f.duration <= 0:
		return nil, usageError{fmt.Errorf("--duration %v: it must be more than nothing", f.duration)}
	case f.warmUp < 0:
		return nil, usageError{fmt.Errorf("--warm-up %v is negative", f.warmUp)}
	case f.depth < 0:
		return nil, usageError{fmt.Errorf("--depth %d is negative", f.depth)}
	}
	var loads []bench.Options
	for _, name := range f.workloads {
		w, err := bench.FindWorkload(name)
		if err != nil {
			return nil, usageError{err}
		}
		if f.depth > 0 {
			w.Depth = f.depth
		}
		loads = append(loads, bench.Options{Workload: w, Duration: f.duration, WarmUp: f.warmUp, Seed: f.seed, Verify: f.verify})
	}
	return loads, nil
}

// clientFlag says who speaks SMB for a target.
func clientFlag(c *cobra.Command, name, of string) *string {
	return c.Flags().String(name, string(bench.Own), "SMB client for "+of+": lunless, go-smb2 or hirochachacha; the others need a raw file that exists")
}

func (f *loadFlags) open(c *cobra.Command, location, client string) (*bench.Target, error) {
	l, err := smbstore.ParseLocation(location)
	if err != nil {
		return nil, usageError{err}
	}
	if !slices.Contains(bench.Clients, bench.Client(client)) {
		return nil, usageError{fmt.Errorf("client %q: want one of %v", client, bench.Clients)}
	}
	bar := newProgress("filling "+l.Base(), size)
	defer bar.done()
	return bench.OpenTarget(c.Context(), l, bench.TargetOptions{Store: *f.store, Client: bench.Client(client), Connections: max(f.store.Connections, 1),
		Size: int64(f.size), Keep: f.keep, Seed: f.seed, Progress: bar.set})
}

func benchRun() *cobra.Command {
	c := &cobra.Command{Use: "run", Short: "Run workloads against one target", Args: takes(0),
		Long: `Runs workloads against a file or virtual disk. A file that is missing is made,
filled, and removed in the end. A file that exists is overwritten by workloads
that write: do not point them at a disk you need.`,
		Example: "  lunless bench run --target smb://hv@fs1/vms/bench.dat --workload randread-4k,randwrite-4k --duration 10s --json"}
	target := c.Flags().String("target", "", "location of the file or virtual disk (required)")
	client := clientFlag(c, "client", "the target")
	pid := c.Flags().Int("server-pid", 0, "server process on this machine whose CPU is reported, with its children's")
	f := addLoadFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) (err error) {
		if *target == "" {
			return usageError{fmt.Errorf("--target is missing")}
		}
		loads, err := f.loads()
		if err != nil {
			return err
		}
		t, err := f.open(c, *target, *client)
		if err != nil {
			return err
		}
		defer closing(&err, t)
		results := []bench.Result{}
		for _, o := range loads {
			o.ServerPID = *pid
			r, err := bench.Run(c.Context(), t.Devices, o)
			if err != nil {
				return fmt.Errorf("%s on %s: %w", o.Name, *target, err)
			}
			r.Target, r.Terms = sideName(*target, *client), t.Terms
			results = append(results, r)
		}
		if len(results) == 1 && wantJSON(c) {
			return show(c, results[0], nil)
		}
		return show(c, results, func(w io.Writer) {
			for _, r := range results {
				r.WriteText(w)
			}
		})
	}
	return c
}

func benchCompare() *cobra.Command {
	c := &cobra.Command{Use: "compare", Short: "Compare two targets in one run", Args: takes(0),
		Long: `Runs the same workloads against two targets in turn (A B, B A, …) and prints the
medians, and the ratio A/B with its least and greatest value over the rounds.`,
		Example: "  lunless bench compare --a smb://hv@127.0.0.1:4450/vms/a --b smb://hv@127.0.0.1:4451/vms/b --a-pid 100 --b-pid 200 --rounds 5"}
	a := c.Flags().String("a", "", "location of target A (required)")
	b := c.Flags().String("b", "", "location of target B (required)")
	aClient := clientFlag(c, "a-client", "A")
	bClient := clientFlag(c, "b-client", "B")
	aPID := c.Flags().Int("a-pid", 0, "server process of A on this machine")
	bPID := c.Flags().Int("b-pid", 0, "server process of B on this machine")
	rounds := c.Flags().Int("rounds", 5, "how often each is run")
	f := addLoadFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) (err error) {
		if *a == "" || *b == "" {
			return usageError{fmt.Errorf("--a and --b are both needed")}
		}
		if *rounds < 1 {
			return usageError{fmt.Errorf("--rounds %d: at least one is needed", *rounds)}
		}
		loads, err := f.loads()
		if err != nil {
			return err
		}
		ta, err := f.open(c, *a, *aClient)
		if err != nil {
			return err
		}
		defer closing(&err, ta)
		tb, err := f.open(c, *b, *bClient)
		if err != nil {
			return err
		}
		defer closing(&err, tb)
		results := []bench.Comparison{}
		for _, o := range loads {
			bar := newProgress(o.Name, func(n int64) string { return fmt.Sprint(n, " rounds") })
			r, err := bench.Compare(c.Context(), bench.Side{Name: sideName(*a, *aClient), Terms: ta.Terms, Devices: ta.Devices, ServerPID: *aPID},
				bench.Side{Name: sideName(*b, *bClient), Terms: tb.Terms, Devices: tb.Devices, ServerPID: *bPID}, o, *rounds,
				func(round int, _, _ bench.Result) { bar.set(int64(round), int64(*rounds)) })
			bar.done()
			if err != nil {
				return fmt.Errorf("%s: %w", o.Name, err)
			}
			results = append(results, r)
		}
		return show(c, results, func(w io.Writer) {
			for _, r := range results {
				r.WriteText(w)
			}
		})
	}
	return c
}

// sideName says of a target by whose client it is reached, if not by our own.
func sideName(location, client string) string {
	if bench.Client(client) == bench.Own {
		return location
	}
	return location + " by " + client
}

func benchReport() *cobra.Command {
	return &cobra.Command{Use: "report FILE...", Short: "Print saved results (bench run --json) side by side",
		Example: "  lunless bench report before.json after.json",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{fmt.Errorf("`%s` needs files that `lunless bench run --json` wrote", c.CommandPath())}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			var results []bench.Result
			for _, name := range args {
				b, err := os.ReadFile(name)
				if err != nil {
					return err
				}
				r, err := bench.ParseResults(b)
				if err != nil {
					return fmt.Errorf("%s is no result of `lunless bench run --json`: %w", name, err)
				}
				results = append(results, r...)
			}
			return show(c, results, func(w io.Writer) { bench.WriteTable(w, results) })
		}}
}

// closing closes what a command opened and lets its failure be the command's.
func closing(err *error, c io.Closer) {
	if cerr := c.Close(); *err == nil {
		*err = cerr
	}
}
