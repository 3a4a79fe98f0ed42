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
	c := &cobra.Command{Use: "remove VM CHECKPOINT", Short: "Remove a checkpoint and merge its disks", Args: takes(2),
		Long: `Removes a checkpoint, by its name or id: there is no way back to it then. The VM stays
what it is, and so do the other checkpoints. Images that one other image alone still
needs take that in, so that the chains become as short as they can be; those that
several need stay. That goes on while the guest runs, and gives way to it; a VHD, which
has no log, is merged once the VM is off. The command waits for it, and shows how far it
is. It goes on if the command is ended, and after other operations on the VM, which
interrupt it: ` + "`lunless vm show`" + ` tells of it.` + addressed,
		Example: `  lunless vm checkpoint remove web1 before-upgrade
  lunless vm checkpoint remove web1 monday --subtree --no-wait`}
	agent := agentFlags(c)
	q := host.RemoveRequest{}
	c.Flags().BoolVar(&q.Subtree, "subtree", false, "those that grew from it too")
	noWait := c.Flags().Bool("no-wait", false, "do not wait until its disks are merged")
	c.RunE = func(c *cobra.Command, args []string) error {
		q.Name = args[1]
		v, err := agent.RemoveCheckpoint(c.Context(), args[0], q)
		if err == nil && !*noWait {
			v, err = awaitMerged(c, agent, v)
		}
		if err != nil {
			return agentError(agent, err)
		}
		return show(c, v, func(w io.Writer) {
			fmt.Fprintf(w, "%s is %s\n", v.Name, v.State)
			if v.Merging != nil {
				fmt.Fprintln(w, mergingText(v.Merging))
			}
		})
	}
	return c
}

// awaitMerged waits until a VM's images are merged, as far as they can be now.
func awaitMerged(c *cobra.Command, agent *host.Client, v host.VM) (host.VM, error) {
	bar := newProgress("merging the disks of "+v.Name, size)
	defer bar.done()
	v, err := agent.Merged(c.Context(), v.ID, func(m host.Merging) { bar.set(m.Done, m.Total) })
	if err != nil && c.Context().Err() != nil {
		err = fmt.Errorf("the checkpoint is removed, and its disks go on being merged (`lunless vm show %s` tells of it): %w", v.Name, err)
	}
	return v, err
}

// mergingText says what becomes of images of removed checkpoints.
func mergingText(m *host.Merging) string {
	switch {
	case m.Waits != "":
		return "images of removed checkpoints are still to be merged: " + m.Waits
	case m.Image != "":
		return fmt.Sprintf("%s is being merged into %s: %s of %s, %d to go", m.Image, m.Into, size(m.Done), size(m.Total), m.Left)
	}
	return "images of removed checkpoints are going to be merged"
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
