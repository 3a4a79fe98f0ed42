package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"lunless/smbstore"
)

// storeFlags adds the flags of every command that opens locations.
func storeFlags(c *cobra.Command) *smbstore.Options {
	o := &smbstore.Options{}
	c.Flags().StringVar(&o.CredentialsFile, "credentials", "", "file with username=, password= and domain= lines, as mount.cifs takes it")
	c.Flags().BoolVar(&o.RequireSigning, "require-signing", false, "sign every message, and refuse servers that do not")
	c.Flags().IntVar(&o.Connections, "connections", 0, "TCP connections to a server (default 2)")
	c.Flags().BoolVar(&o.OtherServers, "other-servers", false, "look for a disk's parents also on servers that only the disk names, with the same user")
	o.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil)) // a lost server is said at once, not when the wait for it ends
	o.Prompt = func(_ context.Context, l smbstore.Location) (string, error) {
		return askPassword(fmt.Sprintf("Password for %s: ", l))
	}
	return o
}

// newPassword takes a password for an account: from LUNLESS_PASSWORD, else it
// is asked for twice on a terminal, or read as a line from standard input.
func newPassword() (string, error) {
	if p, ok := os.LookupEnv(smbstore.PasswordVariable); ok {
		return p, nil
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		line, err := bufio.NewReader(os.Stdin).ReadString('\n')
		if line = strings.TrimRight(line, "\r\n"); line == "" {
			return "", errors.Join(errors.New("no password: set LUNLESS_PASSWORD, or give it as a line on standard input"), err)
		}
		return line, nil
	}
	first, err := askPassword("New password: ")
	if err != nil {
		return "", err
	}
	again, err := askPassword("The same again: ")
	if err != nil {
		return "", err
	}
	if first != again {
		return "", errors.New("the two passwords differ: nothing was changed")
	}
	return first, nil
}

func askPassword(prompt string) (string, error) {
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return "", errors.New("no terminal to ask on: set LUNLESS_PASSWORD or use --credentials FILE")
	}
	fmt.Fprint(os.Stderr, prompt)
	b, err := term.ReadPassword(int(os.Stdin.Fd()))
	fmt.Fprintln(os.Stderr)
	return string(b), err
}
