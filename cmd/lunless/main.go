// Command lunless serves shares for virtual machines, keeps the machines'
// homes on them, and moves those between shares while the machines run.
//
// This package holds flags, wiring and printing. What is done is done in
// shares, smbstore, migrate and bench.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Exit statuses.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a command line that was not understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// errReported is a failure whose report has been printed already.
var errReported = errors.New("failed")

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var usage usageError
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errReported):
		return exitFailed
	case errors.As(err, &usage):
		fmt.Fprintln(os.Stderr, "lunless:", err)
		return exitUsage
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "lunless: interrupted:", err)
		return exitFailed
	}
	fmt.Fprintln(os.Stderr, "lunless:", err)
	if next := nextStep(err); next != "" {
		fmt.Fprintln(os.Stderr, "        ", next)
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "lunless",
		Short: "SMB3 shares for virtual machines, and their storage moved while they run",
		Long: `Lunless keeps virtual machines on file shares instead of SAN LUNs.

It serves SMB 3 shares (serve, user, share), keeps machines' homes on them
(vm), makes and checks their disks (disk), moves homes between shares (migrate)
and measures the I/O path (bench). Other servers' shares will do as well.

A location is smb://[user@]host[:port]/share/path, \\host\share\path or a local
path. Passwords come from LUNLESS_PASSWORD, from --credentials FILE (the format
of mount.cifs) or from a prompt, never from the command line.

Exit status: 0 done, 1 failed, 2 wrong usage.`,
		Example: `  lunless demo
  LUNLESS_PASSWORD=… lunless user add hv --data /var/lib/lunless
  lunless serve --data /var/lib/lunless --share vms=/srv/vms,encrypt`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          subcommandOnly,
		// Commands have none of their own, in whose favour cobra would leave this one out.
		PersistentPreRunE: func(c *cobra.Command, _ []string) error { return notNegative(c) },
		RunE:              func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w (see `%s --help`)", err, c.CommandPath())}
	})
	root.SetHelpCommand(newHelp())
	root.CompletionOptions.DisableDefaultCmd = true // ours refuses a wrong shell
	root.PersistentFlags().Bool("json", false, "print JSON instead of text")
	root.AddCommand(newServe(), newUser(), newShare(), newSession(), newOpen(), newDisk(), newVM(), newHost(), newMigrate(), newBench(), newDemo(), newCompletion())
	return root
}

// group is a command that only holds others.
func group(use, short, long, example string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Long: long, Example: example, Args: subcommandOnly,
		RunE: func(c *cobra.Command, _ []string) error {
			return usageError{fmt.Errorf("`%s` needs a subcommand (see `%s --help`)", c.CommandPath(), c.CommandPath())}
		}}
	c.AddCommand(commands...)
	return c
}

func subcommandOnly(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("`%s` has no subcommand %q (see `%s --help`)", c.CommandPath(), args[0], c.CommandPath())}
	}
	return nil
}

// notNegative refuses durations and counts below zero: no flag has a meaning for them.
func notNegative(c *cobra.Command) (err error) {
	c.Flags().Visit(func(f *pflag.Flag) {
		switch f.Value.Type() {
		case "duration", "int", "int64":
			if s := f.Value.String(); err == nil && strings.HasPrefix(s, "-") {
				err = usageError{fmt.Errorf("--%s %s: it cannot be negative (see `%s --help`)", f.Name, s, c.CommandPath())}
			}
		}
	})
	return err
}

// takes is a command's number of arguments, with the wrong number a usage error.
func takes(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return usageError{fmt.Errorf("`%s` takes %d argument(s), got %d (see `%s --help`)", c.CommandPath(), n, len(args), c.CommandPath())}
		}
		return nil
	}
}
