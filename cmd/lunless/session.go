package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"lunless/shares/admin"
)

func newSession() *cobra.Command {
	c := group("session", "List and close the sessions of the running node",
		`A session is one user on one client, on one connection or several. Closing it ends
what it has open: its client logs on again, and finds its files closed.`,
		`  lunless session list --data /var/lib/lunless
  lunless session close 5a3f09c1`)
	data := dataFlag(c)
	c.AddCommand(sessionList(data), closer("session", data, admin.Control.CloseSession))
	return c
}

func newOpen() *cobra.Command {
	c := group("open", "List and close what clients of the running node have open",
		`Opens are listed with who has them, what they may do (r read, w write, d delete,
x execute), what they let others do meanwhile, what their client caches (R read,
W write, H handle; RWH>R is being taken back), whether they outlive their
connection, their locks, and the requests that have been waiting for long.

Closing one takes it from its client, and gives way to whoever waits for it.`,
		`  lunless open list --data /var/lib/lunless
  lunless open list --json
  lunless open close 9c31f0aa00000017`)
	data := dataFlag(c)
	c.AddCommand(openList(data), closer("open", data, admin.Control.CloseOpen))
	return c
}

// closer is the command that closes one thing by its id.
func closer(what string, data *string, f func(admin.Control, context.Context, string) error) *cobra.Command {
	return &cobra.Command{Use: "close ID", Short: "Close one, by the id that list shows", Args: takes(1),
		Long: `Closes one, by the id that list shows. What its client has in flight is waited
for; then what it had open is closed, and its locks and leases are gone: the client
finds no handle any more, and data it has not written yet is lost to it.`,
		Example: "  lunless " + what + " close 9c31f0aa00000017",
		RunE: func(c *cobra.Command, args []string) error {
			return controlError(what, *data, f(admin.Control{Data: *data}, c.Context(), args[0]))
		}}
}

// controlError says what to do about a node that does not answer.
func controlError(what, data string, err error) error {
	switch {
	case errors.Is(err, admin.ErrNotRunning):
		return fmt.Errorf("%w: %s (give the --data of `lunless serve`)", admin.ErrNotRunning, data)
	case errors.Is(err, admin.ErrNotThere):
		return fmt.Errorf("%w (`lunless %s list` shows what there is)", err, what)
	}
	return err
}

func sessionList(data *string) *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List the sessions", Args: takes(0),
		Long: `Lists the sessions of the running node: who, from where, over how many
connections, how they are protected, and what they wait for.`,
		Example: "  lunless session list --json",
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := admin.Control{Data: *data}.Sessions(c.Context())
			if err != nil {
				return controlError("session", *data, err)
			}
			return show(c, list, func(w io.Writer) {
				cells := [][]string{{"ID", "USER", "FROM", "DIALECT", "PROTECTED", "OPENS", "SINCE", "SHARES"}}
				for _, s := range list {
					cells = append(cells, []string{s.ID, s.User, channels(s.Channels), s.Dialect, protection(&s), fmt.Sprint(s.Opens),
						s.Since.Local().Format(time.DateTime), strings.Join(s.Shares, ",")})
				}
				table(w, cells)
				for _, s := range list {
					waits(w, s.ID, s.Waits)
				}
			})
		}}
}

// channels is where a session comes from: its first connection, and how many more.
func channels(list []admin.Channel) string {
	switch len(list) {
	case 0:
		return "-"
	case 1:
		return list[0].Client
	}
	return fmt.Sprintf("%s +%d", list[0].Client, len(list)-1)
}

func protection(s *admin.Session) string {
	switch {
	case s.Encrypted:
		return s.Cipher
	case s.Signed:
		return s.Signing
	}
	return "no"
}

// waits prints the requests of something that have been waiting for long.
func waits(w io.Writer, of string, list []admin.Wait) {
	for _, one := range list {
		fmt.Fprintf(w, "%s: %s of %q waits for %s, %.1f s\n", of, one.Command, one.Path, one.For, one.Seconds)
	}
}

func openList(data *string) *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List what is open", Args: takes(0),
		Long: `Lists what clients of the running node have open: with which rights and sharing,
what they cache, whether it outlives their connection, since when that is gone, and
every wait for a lock, a lease break or a disk with its age.`,
		Example: "  lunless open list --json",
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := admin.Control{Data: *data}.Opens(c.Context())
			if err != nil {
				return controlError("open", *data, err)
			}
			return show(c, list, func(w io.Writer) {
				cells := [][]string{{"ID", "USER", "FROM", "ACCESS", "SHARING", "CACHING", "DURABLE", "LOCKS", "SHARE", "PATH"}}
				for _, o := range list {
					from := o.Client
					if o.Session == "" {
						from = "disconnected until " + o.Until.Local().Format(time.TimeOnly)
					}
					cells = append(cells, []string{o.ID, o.User, from, o.Access, o.Sharing, o.Caching, o.Durable, fmt.Sprint(len(o.Locks)), o.Share, printable(o.Path)})
				}
				table(w, cells)
				for _, o := range list {
					waits(w, o.ID, o.Waits)
				}
			})
		}}
}

// printable is a name as a terminal may see it.
func printable(name string) string {
	for _, r := range name {
		if !unicode.IsGraphic(r) {
			return strconv.QuoteToGraphic(name)
		}
	}
	return name
}
