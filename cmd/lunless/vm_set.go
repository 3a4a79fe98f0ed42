package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"lunless/migrate/host"
	"lunless/smbstore"
)

// troubleText is said where the policy can be set.
const troubleText = `

When its storage does not answer for --storage-patience, a VM is paused, and goes on
by itself when the storage is back: the guest sees a stall and no error. With
--storage-trouble report it runs on instead and gets I/O errors until then, for
guests that have something better to do: a cluster's node, a RAID over several
servers. A share that is full pauses the guest in either case.`

// troubleFlags are what becomes of a guest whose storage does not answer.
func troubleFlags(c *cobra.Command) (trouble *string, patience *time.Duration) {
	return c.Flags().String("storage-trouble", "", "when the storage does not answer: pause the guest, or report I/O errors to it (default pause)"),
		c.Flags().Duration("storage-patience", 0, "after how long without an answer that is, in whole seconds (default 1m0s)")
}

func checkTrouble(trouble string, patience time.Duration) error {
	if trouble != "" && trouble != smbstore.TroublePause && trouble != smbstore.TroubleReport {
		return usageError{fmt.Errorf("--storage-trouble %q: there are %s and %s", trouble, smbstore.TroublePause, smbstore.TroubleReport)}
	}
	if patience < 0 || patience > 7*24*time.Hour || patience%time.Second != 0 {
		return usageError{fmt.Errorf("--storage-patience %v: want whole seconds, a week at most", patience)}
	}
	return nil
}

func vmSet() *cobra.Command {
	c := &cobra.Command{Use: "set VM", Short: "Change a VM that is off", Args: takes(1),
		Long: `Changes what is given of a VM that is off, and leaves the rest; it holds from the
next start. Processors and memory of a saved VM stay as its state has them.` + troubleText + addressed,
		Example: `  lunless vm set web1 --cpus 4 --memory 8G
  lunless vm set web1 --storage-trouble report --storage-patience 30s
  lunless vm set web1 --storage-trouble pause --storage-patience 0s`}
	agent := agentFlags(c)
	var memory byteSize
	cpus := c.Flags().Int("cpus", 0, "virtual processors")
	c.Flags().Var(&memory, "memory", "RAM")
	notes := c.Flags().String("notes", "", "anything worth remembering")
	trouble, patience := troubleFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		var q host.SetRequest
		changed := c.Flags().Changed
		if changed("cpus") {
			q.CPUs = cpus
		}
		if changed("memory") {
			q.Memory = (*int64)(&memory)
		}
		if changed("notes") {
			q.Notes = notes
		}
		if changed("storage-trouble") {
			q.StorageTrouble = trouble
		}
		if changed("storage-patience") {
			seconds := int(*patience / time.Second)
			q.StoragePatience = &seconds
		}
		switch {
		case q == host.SetRequest{}:
			return usageError{fmt.Errorf("nothing to change: see `%s --help`", c.CommandPath())}
		case q.CPUs != nil && *cpus < 1:
			return usageError{fmt.Errorf("--cpus %d: a VM has at least one", *cpus)}
		case q.Memory != nil && memory < 1<<20:
			return usageError{fmt.Errorf("--memory %d: a VM has at least 1 MiB", memory)}
		}
		if err := checkTrouble(*trouble, *patience); err != nil {
			return err
		}
		v, err := agent.Set(c.Context(), args[0], q)
		if err != nil {
			return agentError(agent, err)
		}
		return show(c, v, func(w io.Writer) { fmt.Fprintf(w, "%s is changed\n", v.Name) })
	}
	return c
}

// troublePolicy is a VM's policy in words.
func troublePolicy(c *smbstore.Config) string {
	do, after := c.StorageTrouble, c.StoragePatience
	if do == "" {
		do = smbstore.TroublePause
	}
	if after == 0 {
		after = smbstore.DefaultStoragePatience
	}
	return fmt.Sprintf("%s after %v without an answer", do, time.Duration(after)*time.Second)
}
