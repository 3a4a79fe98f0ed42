package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lunless/shares/accounts"
	"lunless/shares/admin"
)

// dataFlag adds --data, the folder a node keeps its accounts and shares in.
func dataFlag(c *cobra.Command) *string {
	return c.PersistentFlags().String("data", defaultData(), "the node's data folder: accounts, shares, state")
}

func defaultData() string {
	if os.Geteuid() == 0 {
		return "/var/lib/lunless"
	}
	if d := os.Getenv("XDG_DATA_HOME"); d != "" {
		return filepath.Join(d, "lunless")
	}
	return filepath.Join(os.Getenv("HOME"), ".local/share/lunless")
}

func newShare() *cobra.Command {
	c := group("share", "Create, change and list the shares of this node",
		`Shares made here are kept in the data folder and served by every `+"`lunless serve`"+`
with the same --data, a running one included: it notices within a second.`,
		`  lunless share create vms /srv/vms --encrypt
  lunless share set vms --comment "production"
  lunless share list`)
	data := dataFlag(c)
	c.AddCommand(shareCreate(data), shareSet(data), shareRemove(data), shareShow(data), shareList(data))
	return c
}

// shareProperties are the flags of create and set. The function it returns applies
// those that were given; changed says whether there are any.
func shareProperties(c *cobra.Command, data *string) (apply func(*admin.Share) error, changed func() bool) {
	comment := c.Flags().String("comment", "", "what clients see beside the name")
	encrypt := c.Flags().Bool("encrypt", false, "refuse clients that do not encrypt")
	readOnly := c.Flags().Bool("read-only", false, "nobody may change anything")
	ca := c.Flags().Bool("ca", false, "continuously available: clients may keep their files over a restart, and what is acknowledged is on the disk")
	abe := c.Flags().Bool("abe", false, "list to each user only what he may read (access-based enumeration)")
	grant := c.Flags().StringArray("grant", nil, "WHO:read, WHO:change or WHO:full: let a user or group use the share, and nobody who is not named; may be given more than once")
	revoke := c.Flags().StringArray("revoke", nil, "WHO: take a grant back; may be given more than once")
	everybody := c.Flags().Bool("everybody", false, "take all grants back: every account may use the share, as without any")
	apply = func(s *admin.Share) error {
		for _, f := range []struct {
			name     string
			from, to *bool
		}{{"ca", ca, &s.ContinuouslyAvailable}, {"encrypt", encrypt, &s.Encrypt}, {"read-only", readOnly, &s.ReadOnly}, {"abe", abe, &s.AccessBased}} {
			if c.Flags().Changed(f.name) {
				*f.to = *f.from
			}
		}
		if c.Flags().Changed("comment") {
			s.Comment = *comment
		}
		if *everybody {
			s.Grants = nil
		}
		return changeGrants(s, *data, *grant, *revoke)
	}
	return apply, func() bool {
		return slices.ContainsFunc([]string{"abe", "ca", "comment", "encrypt", "everybody", "grant", "read-only", "revoke"}, c.Flags().Changed)
	}
}

// changeGrants adds and takes back what was given by name.
func changeGrants(s *admin.Share, data string, grant, revoke []string) error {
	if len(grant) == 0 && len(revoke) == 0 {
		return nil
	}
	store, err := accounts.Open(data)
	if err != nil {
		return err
	}
	for _, text := range grant {
		g, err := admin.ParseGrant(text)
		if err != nil {
			return usageError{err}
		}
		if g, err = g.Resolved(store); err != nil {
			return err
		}
		s.Allow(g)
	}
	for _, who := range revoke {
		g, err := admin.Grant{Who: who}.Resolved(store)
		if err != nil {
			return err
		}
		if !s.Disallow(g.Who) {
			return fmt.Errorf("share %s grants nothing to %s (`lunless share show %s` shows whom it does)", s.Name, who, s.Name)
		}
	}
	if len(revoke) > 0 && len(s.Grants) == 0 {
		return fmt.Errorf("that was the last grant of share %s, and without any every account may use it: grant it to somebody else, or say --everybody", s.Name)
	}
	return nil
}

func shareCreate(data *string) *cobra.Command {
	c := &cobra.Command{Use: "create NAME PATH", Short: "Serve a folder as a share", Args: takes(2),
		Example: `  lunless share create vms /srv/vms --encrypt
  lunless share create iso /srv/iso --grant Everyone:read --grant Administrators:full`}
	apply, _ := shareProperties(c, data)
	c.RunE = func(_ *cobra.Command, args []string) error {
		catalogue, err := admin.OpenCatalogue(*data)
		if err != nil {
			return err
		}
		s := admin.Share{Name: args[0], Path: args[1]}
		if err := apply(&s); err != nil {
			return err
		}
		return catalogue.Create(s)
	}
	return c
}

func shareSet(data *string) *cobra.Command {
	c := &cobra.Command{Use: "set NAME", Short: "Change a share's properties", Args: takes(1),
		Long: `Changes a share's properties. Clients connected to it keep what they were
promised when they connected; new ones get what is set here.

A grant says what an account may do on the share at most: read, change (write,
make and delete too) or full (security descriptors and owners too). What a file's
own security descriptor does not allow stays refused. A share without grants is
every account's. Grants go by the account's SID: one made anew under the same
name has none.`,
		Example: `  lunless share set vms --read-only=false
  lunless share set vms --grant hv:full --grant Users:read
  lunless share set vms --revoke Users`}
	apply, changed := shareProperties(c, data)
	c.RunE = func(_ *cobra.Command, args []string) error {
		if !changed() {
			return usageError{errors.New("nothing to set: give --abe, --ca, --comment, --encrypt, --everybody, --grant, --read-only or --revoke")}
		}
		catalogue, err := admin.OpenCatalogue(*data)
		if err != nil {
			return err
		}
		return catalogue.Set(args[0], apply)
	}
	return c
}

func shareRemove(data *string) *cobra.Command {
	return &cobra.Command{Use: "remove NAME", Short: "Stop serving a share; its files stay", Args: takes(1),
		Example: "  lunless share remove vms",
		RunE: func(_ *cobra.Command, args []string) error {
			catalogue, err := admin.OpenCatalogue(*data)
			if err != nil {
				return err
			}
			return catalogue.Remove(args[0])
		}}
}

func shareShow(data *string) *cobra.Command {
	return &cobra.Command{Use: "show NAME", Short: "Show one share", Args: takes(1), Example: "  lunless share show vms --json",
		RunE: func(c *cobra.Command, args []string) error {
			catalogue, err := admin.OpenCatalogue(*data)
			if err != nil {
				return err
			}
			s, err := catalogue.Get(args[0])
			if err != nil {
				return err
			}
			store, err := accounts.Open(*data)
			if err != nil {
				return err
			}
			return show(c, s, func(w io.Writer) {
				grants := []string{"every account: full"}
				for i, g := range s.Grants {
					grants = append(grants[:i], g.Named(store))
				}
				fmt.Fprintf(w, "name       %s\npath       %s\ncomment    %s\nread-only  %s\nencrypted  %s\nca         %s\nabe        %s\ngranted    %s\n",
					s.Name, s.Path, s.Comment, yes(s.ReadOnly), yes(s.Encrypt), yes(s.ContinuouslyAvailable), yes(s.AccessBased), strings.Join(grants, ", "))
			})
		}}
}

func shareList(data *string) *cobra.Command {
	return &cobra.Command{Use: "list", Short: "List the shares kept in the data folder", Args: takes(0), Example: "  lunless share list --json",
		RunE: func(c *cobra.Command, _ []string) error {
			catalogue, err := admin.OpenCatalogue(*data)
			if err != nil {
				return err
			}
			shares, err := catalogue.List()
			if err != nil {
				return err
			}
			if shares == nil {
				shares = []admin.Share{} // JSON: [], not null
			}
			return show(c, shares, func(w io.Writer) {
				rows := [][]string{{"NAME", "PATH", "ENCRYPTED", "READ-ONLY", "COMMENT"}}
				for _, s := range shares {
					rows = append(rows, []string{s.Name, s.Path, yes(s.Encrypt), yes(s.ReadOnly), s.Comment})
				}
				table(w, rows)
			})
		}}
}
