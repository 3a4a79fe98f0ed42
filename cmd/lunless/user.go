package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lunless/shares/accounts"
)

func newUser() *cobra.Command {
	c := group("user", "Create and change the accounts of this node",
		`Accounts are kept in the data folder. A running `+"`lunless serve`"+` with the same
--data sees changes at once: a removed or changed account cannot log on again;
sessions that are open stay.

The password comes from LUNLESS_PASSWORD, from a prompt, or as one line on
standard input. What is kept of it is its NT hash, which is as good as the
password to whoever reads it: the data folder is for its owner alone.`,
		`  LUNLESS_PASSWORD=… lunless user add hv --data /var/lib/lunless
  lunless user password hv
  lunless user list`)
	data := dataFlag(c)
	c.AddCommand(userAdd(data), userPassword(data), userRemove(data), userList(data))
	return c
}

func userAdd(data *string) *cobra.Command {
	c := &cobra.Command{Use: "add NAME", Short: "Make an account", Args: takes(1),
		Example: "  LUNLESS_PASSWORD=… lunless user add hv --data /var/lib/lunless"}
	admin := c.Flags().Bool("admin", false, "put the account into the Administrators group")
	groups := c.Flags().StringSlice("group", nil, "put the account into this group: Administrators, \"Backup Operators\" (may read and write every file to back up and restore)")
	c.RunE = func(_ *cobra.Command, args []string) error {
		store, err := accounts.Open(*data)
		if err != nil {
			return err
		}
		if *admin {
			*groups = append(*groups, "Administrators")
		}
		if err := checkGroups(store, *groups); err != nil {
			return err
		}
		password, err := newPassword()
		if err != nil {
			return err
		}
		if err := store.AddUser(args[0], password); err != nil {
			return err
		}
		for _, g := range *groups {
			if err := store.AddMember(g, args[0]); err != nil {
				return err
			}
		}
		return nil
	}
	return c
}

// checkGroups refuses groups there are none of, before anything is changed.
func checkGroups(store *accounts.Store, want []string) error {
	have, err := store.Groups()
	if err != nil {
		return err
	}
	for _, name := range want {
		if !slices.ContainsFunc(have, func(g accounts.Group) bool { return strings.EqualFold(g.Name, name) }) {
			return fmt.Errorf("group %q: %w (there are Administrators, Users and Backup Operators)", name, accounts.ErrNoGroup)
		}
	}
	return nil
}

func userPassword(data *string) *cobra.Command {
	return &cobra.Command{Use: "password NAME", Short: "Set an account's password", Args: takes(1),
		Example: "  lunless user password hv",
		RunE: func(_ *cobra.Command, args []string) error {
			store, err := accounts.Open(*data)
			if err != nil {
				return err
			}
			password, err := newPassword()
			if err != nil {
				return err
			}
			return store.SetPassword(args[0], password)
		}}
}

func userRemove(data *string) *cobra.Command {
	return &cobra.Command{Use: "remove NAME", Short: "Remove an account", Args: takes(1),
		Example: "  lunless user remove hv",
		RunE: func(_ *cobra.Command, args []string) error {
			store, err := accounts.Open(*data)
			if err != nil {
				return err
			}
			return store.RemoveUser(args[0])
		}}
}

func userList(data *string) *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List the accounts", Args: takes(0), Example: "  lunless user list --json",
		RunE: func(c *cobra.Command, _ []string) error {
			store, err := accounts.Open(*data)
			if err != nil {
				return err
			}
			users, err := store.List()
			if err != nil {
				return err
			}
			type row struct {
				Name        string    `json:"name"`
				SID         string    `json:"sid"`
				Disabled    bool      `json:"disabled"`
				PasswordSet time.Time `json:"password_set"`
			}
			rows := []row{}
			for _, u := range users {
				rows = append(rows, row{u.Name, u.SID.String(), u.Disabled, u.PasswordSet})
			}
			return show(c, rows, func(w io.Writer) {
				cells := [][]string{{"NAME", "SID", "DISABLED", "PASSWORD SET"}}
				for _, r := range rows {
					cells = append(cells, []string{r.Name, r.SID, yes(r.Disabled), fmt.Sprint(r.PasswordSet.Local().Format(time.DateTime))})
				}
				table(w, cells)
			})
		}}
}
