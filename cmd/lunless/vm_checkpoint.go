package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"lunless/migrate/host"
)

func vmCheckpoint() *cobra.Command {
	c := &cobra.Command{Use: "checkpoint VM [NAME]", Short: "Keep a VM as it is now, to go back to", Args: between(1, 2),
		Long: `Makes a checkpoint: the disks become the parents of differencing disks, which the
VM goes on with, and of a guest that runs the state is kept too; it stands while that
is written. Without a NAME it is called by the time.` + addressed,
		Example: `  lunless vm checkpoint web1 before-upgrade
  lunless vm checkpoint list web1`}
	agent := agentFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		name := ""
		if len(args) > 1 {
			name = args[1]
		}
		v, err := agent.Checkpoint(c.Context(), args[0], name)
		return printVM(c, agent, v, err)
	}
	c.AddCommand(vmCheckpointList(), vmCheckpointRemove())
	return c
}

func vmCheckpointList() *cobra.Command {
	c := &cobra.Command{Use: "list VM", Short: "List a VM's checkpoints", Args: takes(1),
		Long:    "Lists a VM's checkpoints with the ones they grew from; * is the one that the disks grow from now." + addressed,
		Example: "  lunless vm checkpoint list web1 --json"}
	agent := agentFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		l, err := agent.Checkpoints(c.Context(), args[0])
		if err != nil {
			return agentError(agent, err)
		}
		return show(c, l, func(w io.Writer) {
			names := map[string]string{}
			for _, k := range l.Checkpoints {
				names[k.ID] = k.Name
			}
			cells := [][]string{{"", "NAME", "ID", "MADE", "GREW FROM", "STATE"}}
			for _, k := range l.Checkpoints {
				now, state := "", "off"
				if k.ID == l.Current {
					now = "*"
				}
				if k.Saved != nil {
					state = size(k.Saved.Size)
				}
				cells = append(cells, []string{now, k.Name, k.ID, k.Created.Local().Format(time.DateTime), names[k.Parent], state})
			}
			table(w, cells)
		})
	}
	return c
}

func vmCheckpointRemove() *cobra.Command {
	c := &cobra.Command{Use: "remove VM CHECKPOINT", Short: "Forget a checkpoint", Args: takes(2),
		Long: `Forgets a checkpoint, by its name or id: there is no way back to it then. Its disks go
if nothing grows from them; else they stay as images of the chains that do, and
` + "`lunless disk merge`" + ` makes those shorter while the VM is off.` + addressed,
		Example: "  lunless vm checkpoint remove web1 before-upgrade"}
	agent := agentFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		v, err := agent.RemoveCheckpoint(c.Context(), args[0], args[1])
		return printVM(c, agent, v, err)
	}
	return c
}

func vmRestore() *cobra.Command {
	c := &cobra.Command{Use: "restore VM CHECKPOINT (--keep NAME | --discard)", Short: "Put a VM back to a checkpoint", Args: takes(2),
		Long: `Gives a VM the disks it had at a checkpoint, named by its name or id. What it is now
becomes a checkpoint with --keep, and is lost with --discard: one of them is needed.
A guest that runs is ended. From a checkpoint of a running guest it goes on with the
memory it had: at once if it ran, at the next start if the VM was off. From one of a
VM that was off, the VM is off.` + addressed,
		Example: `  lunless vm restore web1 before-upgrade --keep after-upgrade
  lunless vm restore web1 before-upgrade --discard`}
	agent := agentFlags(c)
	q := host.RestoreRequest{}
	c.Flags().StringVar(&q.As, "keep", "", "make a checkpoint of that `NAME` of what the VM is now (\"\": named by the time)")
	c.Flags().BoolVar(&q.Discard, "discard", false, "lose what the VM is now")
	c.RunE = func(c *cobra.Command, args []string) error {
		if q.Keep = c.Flags().Changed("keep"); q.Keep && q.Discard {
			return usageError{fmt.Errorf("--keep and --discard: what %s is now is either kept or lost", args[0])}
		}
		q.Name = args[1]
		v, err := agent.Restore(c.Context(), args[0], q)
		if errors.Is(err, host.ErrWouldLose) {
			return usageError{err}
		}
		return printVM(c, agent, v, err)
	}
	return c
}

// between is takes for a command with optional arguments.
func between(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return usageError{fmt.Errorf("`%s` takes %d to %d arguments, got %d (see `%s --help`)", c.CommandPath(), least, most, len(args), c.CommandPath())}
		}
		return nil
	}
}
