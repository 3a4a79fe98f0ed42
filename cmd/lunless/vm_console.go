package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"lunless/migrate/host"
)

// escapeKey is Ctrl-], as in telnet.
const escapeKey = 0x1d

func vmConsole() *cobra.Command {
	c := &cobra.Command{Use: "console VM", Short: "Use a guest's serial console", Args: takes(1),
		Long: `Connects the terminal with the guest's first serial port. Ctrl-] leaves it; all
other keys are the guest's. One at a time can be connected; what the guest writes
is also in the file that ` + "`lunless vm show`" + ` names.

In a pipe, what is read goes to the guest and what it writes is printed, until
--linger after the input's end, or until the guest ends.` + addressed,
		Example: `  lunless vm console web1
  echo uptime | lunless vm console web1 --linger 5s`}
	agent := agentFlags(c)
	linger := c.Flags().Duration("linger", 2*time.Second, "in a pipe: how long to go on after the input's end")
	c.RunE = func(c *cobra.Command, args []string) error {
		conn, err := agent.Console(c.Context(), args[0])
		if err != nil {
			return agentError(agent, err)
		}
		defer conn.Close()
		stdin := int(os.Stdin.Fd())
		if !term.IsTerminal(stdin) {
			return host.Pipe(c.Context(), conn, c.InOrStdin(), c.OutOrStdout(), *linger)
		}
		fmt.Fprintf(os.Stderr, "connected with %s; Ctrl-] leaves\n", args[0])
		old, err := term.MakeRaw(stdin)
		if err != nil {
			return err
		}
		defer fmt.Fprintln(os.Stderr)
		defer term.Restore(stdin, old) //nolint:errcheck // nothing is left to be done
		return host.Pipe(c.Context(), conn, &untilKey{r: os.Stdin, key: escapeKey}, c.OutOrStdout(), 0)
	}
	return c
}

// untilKey ends at a key.
type untilKey struct {
	r    io.Reader
	key  byte
	done bool
}

func (u *untilKey) Read(p []byte) (int, error) {
	if u.done {
		return 0, io.EOF
	}
	n, err := u.r.Read(p)
	for i, b := range p[:n] {
		if b == u.key {
			u.done = true
			return i, nil
		}
	}
	return n, err
}
