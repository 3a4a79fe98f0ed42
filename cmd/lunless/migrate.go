package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lunless/migrate"
	"lunless/smbstore"
)

func newMigrate() *cobra.Command {
	return group("migrate", "Move virtual machines",
		`Moves a VM's home with all it owns: disks, checkpoints, configuration. The
source is removed only after the copy was compared and the ownership record
says that the VM lives at the destination. What is interrupted is continued
with resume, or undone with cancel; the VM is in one place all the while.`,
		`  lunless migrate storage smb://hv@fs1/vms/web1 --to smb://hv@fs2/vms
  lunless migrate list --storage smb://hv@fs2/vms
  lunless migrate resume smb://hv@fs2/vms/web1`,
		migrateStorage(), migrateResume(), migrateCancel(), migrateList(), migrateShow(), migrateResolve())
}

// jobFlags are those of commands that run a job.
func jobFlags(c *cobra.Command) func() migrate.Options {
	var rate byteSize
	c.Flags().Var(&rate, "limit", "bandwidth, in bytes a second (default no limit)")
	c.Flags().Var(&rate, "rate-limit", "another name of --limit")
	_ = c.Flags().MarkHidden("rate-limit")
	parallel := c.Flags().Int("parallel", 0, "requests in flight, at most 32 (default as many as bring more)")
	store := storeFlags(c)
	return func() migrate.Options {
		return migrate.Options{SourceOptions: *store, ToOptions: *store, Parallel: *parallel, RateLimit: int64(rate)}
	}
}

// runJob starts a job, shows its progress and waits for its end. An interrupt
// leaves it to be resumed.
func runJob(c *cobra.Command, o migrate.Options, start func(context.Context, migrate.Options) (*migrate.Job, error)) error {
	var bar *progress
	var phase migrate.Phase
	o.Progress = func(s migrate.Status) {
		if s.Phase != phase {
			if bar != nil {
				bar.done()
			}
			phase, bar = s.Phase, newProgress(string(s.Phase), size)
		}
		if s.Total > 0 {
			bar.estimate(s.Done, s.Total, s.Rate, s.Remaining)
		}
	}
	job, err := start(c.Context(), o)
	if err != nil {
		return err
	}
	err = job.Wait(context.WithoutCancel(c.Context()))
	if bar != nil {
		bar.done()
	}
	s := job.Status()
	if err != nil {
		if c.Context().Err() != nil {
			return fmt.Errorf("interrupted: go on with `lunless migrate resume %s`, or undo with `lunless migrate cancel %s`", s.Destination, s.Destination)
		}
		return err
	}
	return show(c, s, func(w io.Writer) { writeJob(w, s) })
}

func writeJob(w io.Writer, s migrate.Status) {
	fmt.Fprintf(w, "%s is at %s (job %s): %s copied, %s holes and zeroes skipped, %v\n", s.Source.Base(), s.Destination, s.ID,
		size(s.Copied), size(s.Skipped), time.Since(s.Started).Round(time.Millisecond))
	if s.Guest != nil {
		fmt.Fprintf(w, "the guest waited %v at most at the switch, %v in the whole job; before, %v on average\n", tenth(s.Guest.AtSwitch), tenth(s.Guest.Worst), tenth(s.Guest.Usual))
	}
}

// tenth rounds to tenths of a millisecond.
func tenth(d time.Duration) time.Duration { return d.Round(time.Millisecond / 10) }

func migrateStorage() *cobra.Command {
	c := &cobra.Command{Use: "storage VM", Short: "Move a VM's home to another location", Args: takes(1),
		Long: `Moves the home of a VM to another storage location, under its own name: copies
everything it owns, compares both sides, hands over through the ownership record,
then removes the source. With --keep-source its files stay: its record says where
the VM is, so that nobody starts it there. Interrupted, it leaves a journal at the
destination; see resume and cancel.

A VM that runs under this machine's host agent is moved by the agent, while the
guest works on: what it writes goes to both sides until the switch. The agent opens
the locations, with its own credentials; the migration goes on when this command is
interrupted.` + addressed,
		Example: `  lunless migrate storage smb://hv@fs1/vms/web1 --to smb://hv@fs2/vms --limit 100M
  lunless migrate storage web1 --to smb://hv@fs2/vms`}
	to := c.Flags().String("to", "", "storage location to move to (required)")
	keep := c.Flags().Bool("keep-source", false, "leave the source's files")
	live := liveFlags(c)
	agent, name := agentFlags(c), nameFlag(c)
	options := jobFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if *to == "" {
			return usageError{errors.New("--to is missing")}
		}
		o := options()
		o.KeepSource = *keep
		var err error
		if o.To, err = smbstore.ParseLocation(*to); err != nil {
			return usageError{err}
		}
		var id string
		if id, o.Source, err = runsHere(c.Context(), agent, args[0]); err != nil {
			return err
		}
		if id == "" {
			if o.Host = *name; o.Host == "" {
				o.Host = ownedByAgent(c.Context(), agent, o.Source, o.SourceOptions)
			}
			return runJob(c, o, migrate.Storage)
		}
		live.To, live.KeepSource, live.RateLimit, live.Parallel = o.To, o.KeepSource, o.RateLimit, o.Parallel
		return moveRunning(c, agent, id, *live)
	}
	return c
}

func migrateResume() *cobra.Command {
	c := &cobra.Command{Use: "resume HOME", Short: "Go on with an interrupted migration", Args: takes(1),
		Long: `Goes on with the migration whose destination home is named; its journal says
from where and how far. What is copied already is not copied again.

A migration of the host that this machine's agent runs as is finished by the agent.
While no agent runs, --name gives its name, if that is not this machine's.`,
		Example: "  lunless migrate resume smb://hv@fs2/vms/web1"}
	agent, name := agentFlags(c), nameFlag(c)
	options := jobFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		l, err := smbstore.ParseLocation(args[0])
		if err != nil {
			return usageError{err}
		}
		o := options()
		if o.Host = *name; o.Host == "" {
			m, asked, err := askAgent(c.Context(), agent, l, o.ToOptions, false)
			if asked {
				if err != nil {
					return err
				}
				return show(c, m, func(w io.Writer) { writeJob(w, m.Status) })
			}
		}
		return runJob(c, o, func(ctx context.Context, o migrate.Options) (*migrate.Job, error) {
			return migrate.Resume(ctx, l, o)
		})
	}
	return c
}

func migrateCancel() *cobra.Command {
	c := &cobra.Command{Use: "cancel HOME|JOB", Short: "Undo a migration", Args: takes(1),
		Long: `Undoes the interrupted migration whose destination home is named, or one that the
host agent runs, by its id: the VM is the source's again and the partial copy is
removed. It says so once that is done, and fails once the VM has moved; a migration
of the host agent goes on being undone when this command is interrupted.

A migration of the host that this machine's agent runs as is undone by the agent.
While no agent runs, --name gives its name, if that is not this machine's.`,
		Example: "  lunless migrate cancel smb://hv@fs2/vms/web1\n  lunless migrate cancel 2b6b1f8e-0c3e-4d55-9a40-6d5b6f3c1e77"}
	agent, name := agentFlags(c), nameFlag(c)
	options := jobFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if isJob(args[0]) {
			return cancelRunning(c, agent, args[0])
		}
		l, err := smbstore.ParseLocation(args[0])
		if err != nil {
			return usageError{err}
		}
		o := options()
		if o.Host = *name; o.Host == "" {
			m, asked, err := askAgent(c.Context(), agent, l, o.ToOptions, true)
			if asked {
				if err != nil {
					return err
				}
				return show(c, m, func(w io.Writer) { writeUndone(w, m.Status) })
			}
		}
		s, err := migrate.Cancel(c.Context(), l, o)
		if err != nil {
			return err
		}
		return show(c, s, func(w io.Writer) { writeUndone(w, s) })
	}
	return c
}

func migrateList() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List migrations", Args: takes(0),
		Long:    "Lists the unfinished migrations to a --storage location; without, those of the host agent.",
		Example: "  lunless migrate list\n  lunless migrate list --storage smb://hv@fs2/vms --json"}
	storage := c.Flags().String("storage", "", "location that is moved to")
	agent := agentFlags(c)
	store := storeFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *storage == "" {
			return listRunning(c, agent)
		}
		l, err := smbstore.ParseLocation(*storage)
		if err != nil {
			return usageError{err}
		}
		jobs, err := migrate.List(c.Context(), l, *store)
		if err != nil {
			return err
		}
		if jobs == nil {
			jobs = []migrate.Status{}
		}
		return show(c, jobs, func(w io.Writer) {
			cells := [][]string{{"JOB", "PHASE", "DONE", "FROM", "TO", "PROCESS", "ERROR"}}
			for _, j := range jobs {
				cells = append(cells, []string{j.ID, string(j.Phase), fmt.Sprintf("%s of %s", size(j.Done), size(j.Total)),
					j.Source.String(), j.Destination.String(), worker(j.Process), firstLine(j.Error)})
			}
			table(w, cells)
			for _, j := range jobs {
				writeNext(w, j)
			}
		})
	}
	return c
}

func migrateShow() *cobra.Command {
	c := &cobra.Command{Use: "show HOME|JOB", Short: "Show one migration", Args: takes(1),
		Long:    "Shows the unfinished migration whose destination home is named, or one of the host agent, by its id.",
		Example: "  lunless migrate show smb://hv@fs2/vms/web1 --json"}
	agent := agentFlags(c)
	store := storeFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if isJob(args[0]) {
			m, err := agent.Migration(c.Context(), args[0])
			return printMigration(c, agent, m, err)
		}
		l, err := smbstore.ParseLocation(args[0])
		if err != nil {
			return usageError{err}
		}
		s, err := migrate.Show(c.Context(), l, *store)
		if err != nil {
			return err
		}
		return show(c, s, func(w io.Writer) {
			fmt.Fprintf(w, "job    %s (%s)\nphase  %s, %s of %s\nfrom   %s\nto     %s\nbegun  %s\n", s.ID, s.Kind, s.Phase,
				size(s.Done), size(s.Total), s.Source, s.Destination, s.Started.Local().Format(time.DateTime))
			fmt.Fprintf(w, "by     %s\n", worker(s.Process))
			for i, e := range s.Ends {
				fmt.Fprintf(w, "%s %s\n", []string{"source record ", "dest.  record "}[i], e.Record)
				if e.Lock != nil {
					fmt.Fprintf(w, "  locked by %s\n", holder(e.Lock))
				}
			}
			if s.Error != "" {
				fmt.Fprintf(w, "error  %s\n", s.Error)
			}
			writeNext(w, s.Status)
		})
	}
	return c
}

// worker says whose a job is, and since when it was not heard of.
func worker(p *migrate.Worker) string {
	if p == nil {
		return ""
	}
	since := p.Updated.Local().Format(time.DateTime)
	switch p.State {
	case "running":
		return fmt.Sprintf("process %d on %s, running", p.PID, p.Host)
	case "stopped":
		return fmt.Sprintf("stopped on %s at %s", p.Host, since)
	case "unknown":
		return fmt.Sprintf("process %d on %s, last heard of at %s", p.PID, p.Host, since)
	}
	return fmt.Sprintf("process %d on %s, gone; last heard of at %s", p.PID, p.Host, since)
}

func holder(h *smbstore.Holder) string {
	if h.Host == "" {
		return "somebody who did not come to leave a name"
	}
	who := fmt.Sprintf("process %d on %s since %s", h.PID, h.Host, h.Time.Local().Format(time.DateTime))
	if h.Job != "" {
		who += " for job " + h.Job
	}
	return who
}

func writeNext(w io.Writer, s migrate.Status) {
	word := "next "
	if s.Process != nil && s.Process.State == "running" {
		word = "wait, or"
	}
	for _, n := range s.Next {
		fmt.Fprintf(w, "%s  %s\n", word, n)
		word = "or   "
	}
}

func firstLine(s string) string {
	first, _, _ := strings.Cut(s, "\n")
	return first
}

func migrateResolve() *cobra.Command {
	c := &cobra.Command{Use: "resolve HOME", Short: "Decide by hand that a VM lives here", Args: takes(1),
		Long: `An administrator's word on a VM that is in doubt: this host owns it, in the home
named, from now on. It breaks the record's lock and outdates every other claim.
The other home of the migration, where it can be reached, is told.

Before: see to it that no host runs the VM and that no migration of it is under
way, and look at both homes.`,
		Example: "  lunless migrate resolve smb://hv@fs1/vms/web1 --yes"}
	sure := c.Flags().Bool("yes", false, "the VM runs nowhere and this home is the right one (required)")
	options := jobFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if !*sure {
			return usageError{errors.New("a wrong word here loses data: read `lunless migrate resolve --help`, then say --yes")}
		}
		l, err := smbstore.ParseLocation(args[0])
		if err != nil {
			return usageError{err}
		}
		r, err := migrate.Resolve(c.Context(), l, options())
		if err != nil {
			return err
		}
		return show(c, r.Record, func(w io.Writer) {
			fmt.Fprintf(w, "%s: %s\n", l, r.Record)
			if r.OtherErr != nil {
				fmt.Fprintf(w, "%s could not be told (%v): remove it before its host starts the VM\n", r.Other, r.OtherErr)
			}
		})
	}
	return c
}
