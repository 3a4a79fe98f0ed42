package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"lunless/migrate/host"
)

// addressed is said of every command that takes a VM.
const addressed = `

VM is its name on this host, its GUID, or its home's location.`

func vmStart() *cobra.Command {
	c := &cobra.Command{Use: "start VM", Short: "Start a VM on this host", Args: takes(1),
		Long: `Starts a VM under the host agent. It is refused while another host owns the VM;
--take-over is an administrator's word that this host shall have it: the other one's
guest, if it still runs, loses its disks.

A guest that was paused on its monitor goes on. One that stands for its storage does
so by itself when that works again: the command says what it waits for.` + addressed,
		Example: `  lunless vm start web1
  lunless vm start smb://hv@fs1/vms/web1 --take-over`}
	agent := agentFlags(c)
	var q host.StartRequest
	c.Flags().BoolVar(&q.TakeOver, "take-over", false, "take it from the host that owns it")
	c.Flags().BoolVar(&q.DiscardState, "discard-state", false, "boot a saved guest, whose state is lost")
	c.RunE = func(c *cobra.Command, args []string) error {
		before, _ := agent.Show(c.Context(), args[0]) // what is wrong the start says too
		v, err := agent.Start(c.Context(), args[0], q)
		if err == nil && before.State == host.Paused && !wantJSON(c) {
			fmt.Fprintf(c.OutOrStdout(), "%s was paused, and goes on\n", v.Name)
			return nil
		}
		return printVM(c, agent, v, err)
	}
	return c
}

func vmStop() *cobra.Command {
	c := &cobra.Command{Use: "stop VM", Short: "Stop a VM of this host", Args: takes(1),
		Long: `Presses the guest's power button and waits until it is off. --force ends it as a
loss of power would: what it had not flushed is lost. --save is ` + "`vm save`" + `.` + addressed,
		Example: `  lunless vm stop web1
  lunless vm stop web1 --force`}
	agent := agentFlags(c)
	var q host.StopRequest
	save := c.Flags().Bool("save", false, "save its state, to go on from there")
	c.Flags().BoolVar(&q.Force, "force", false, "end it at once")
	c.Flags().DurationVar(&q.Timeout, "timeout", time.Minute, "how long the guest may take")
	c.RunE = func(c *cobra.Command, args []string) error {
		if *save && q.Force {
			return usageError{fmt.Errorf("--save and --force exclude each other")}
		}
		if *save {
			v, err := agent.Save(c.Context(), args[0])
			return printVM(c, agent, v, err)
		}
		v, err := agent.Stop(c.Context(), args[0], q)
		return printVM(c, agent, v, err)
	}
	return c
}

func vmSave() *cobra.Command {
	c := &cobra.Command{Use: "save VM", Short: "Save a guest's state and stop it", Args: takes(1),
		Long: `Writes the guest's memory and devices into the VM's home and ends it; ` + "`vm start`" + ` goes
on from there, on this host or another with the same kind of processor.` + addressed,
		Example: "  lunless vm save web1"}
	agent := agentFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		v, err := agent.Save(c.Context(), args[0])
		return printVM(c, agent, v, err)
	}
	return c
}

func vmClaim() *cobra.Command {
	c := &cobra.Command{Use: "claim VM", Short: "Make this host a VM's owner", Args: takes(1),
		Long: `An administrator's word that this host owns the VM, whoever its record names: for
one whose host is gone for good. The epoch grows, so that an owner who comes back
finds that he is none any more. Of a VM with two homes (a copy, a restored backup)
the one whose location is given is the VM from then on, and the other is told so.` + addressed,
		Example: "  lunless vm claim smb://hv@fs1/vms/web1 --yes"}
	agent := agentFlags(c)
	sure := c.Flags().Bool("yes", false, "claim without being asked (required)")
	c.RunE = func(c *cobra.Command, args []string) error {
		if !*sure {
			return usageError{fmt.Errorf("claiming %s takes it from the host that has it, whose guest loses its disks: say --yes", args[0])}
		}
		v, err := agent.Claim(c.Context(), args[0])
		return printVM(c, agent, v, err)
	}
	return c
}

// printVM prints what became of a VM.
func printVM(c *cobra.Command, agent *host.Client, v host.VM, err error) error {
	if err != nil {
		return agentError(agent, err)
	}
	return show(c, v, func(w io.Writer) { fmt.Fprintf(w, "%s is %s\n", v.Name, v.State) })
}

// showVM prints what the host knows of a VM.
func showVM(c *cobra.Command, agent *host.Client, name string) error {
	v, err := agent.Show(c.Context(), name)
	if err != nil {
		return agentError(agent, err)
	}
	return show(c, v, func(w io.Writer) {
		fmt.Fprintf(w, "name      %s\nid        %s\nlocation  %s\nhost      %s\nstate     %s, since %s\n",
			v.Name, v.ID, v.Location, v.Host, v.State, v.Since.Local().Format(time.DateTime))
		if v.Reason != "" {
			fmt.Fprintf(w, "reason    %s\n", v.Reason)
		}
		if v.PID != 0 {
			fmt.Fprintf(w, "epoch     %d\nprocess   %d\nconsole   %s\n", v.Epoch, v.PID, v.Console)
		}
		for _, d := range v.Disks {
			fmt.Fprintf(w, "disk      %s (%s, %s), %d request(s) waiting, longest %s\n", d.Path, d.Format, size(d.Size), d.Waiting, d.Longest.Round(time.Millisecond))
			for _, i := range d.Images[1:] {
				fmt.Fprintf(w, "            over %s\n", i)
			}
		}
		if v.Merging != nil {
			fmt.Fprintf(w, "merging   %s\n", mergingText(v.Merging))
		}
		for _, u := range v.Unfinished {
			fmt.Fprintf(w, "unfinished %s\n", u)
		}
		for _, l := range v.Leftovers {
			fmt.Fprintf(w, "leftover  %s\n", l)
		}
	})
}
