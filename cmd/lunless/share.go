package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

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

// shareProperties are the flags of create and set.
func shareProperties(c *cobra.Command) func(*admin.Share) {
	comment := c.Flags().String("comment", "", "what clients see beside the name")
	encrypt := c.Flags().Bool("encrypt", false, "refuse clients that do not encrypt")
	readOnly := c.Flags().Bool("read-only", false, "nobody may change anything")
	ca := c.Flags().Bool("ca", false, "continuously available: clients may keep their files over a restart, and what is acknowledged is on the disk")
	return func(s *admin.Share) {
		if c.Flags().Changed("ca") {
			s.ContinuouslyAvailable = *ca
		}
		if c.Flags().Changed("comment") {
			s.Comment = *comment
		}
		if c.Flags().Changed("encrypt") {
			s.Encrypt = *encrypt
		}
		if c.Flags().Changed("read-only") {
			s.ReadOnly = *readOnly
		}
	}
}

func shareCreate(data *string) *cobra.Command {
	c := &cobra.Command{Use: "create NAME PATH", Short: "Serve a folder as a share", Args: takes(2),
		Example: "  lunless share create vms /srv/vms --encrypt"}
	apply := shareProperties(c)
	c.RunE = func(_ *cobra.Command, args []string) error {
		catalogue, err := admin.OpenCatalogue(*data)
		if err != nil {
			return err
		}
		s := admin.Share{Name: args[0], Path: args[1]}
		apply(&s)
		return catalogue.Create(s)
	}
	return c
}

func shareSet(data *string) *cobra.Command {
	c := &cobra.Command{Use: "set NAME", Short: "Change a share's properties", Args: takes(1),
		Long: `Changes a share's properties. Clients connected to it keep what they were
promised when they connected; new ones get what is set here.`,
		Example: "  lunless share set vms --read-only=false"}
	apply := shareProperties(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if f := c.Flags(); !f.Changed("comment") && !f.Changed("encrypt") && !f.Changed("read-only") && !f.Changed("ca") {
			return usageError{errors.New("nothing to set: give --ca, --comment, --encrypt or --read-only")}
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
			return show(c, s, func(w io.Writer) {
				fmt.Fprintf(w, "name       %s\npath       %s\ncomment    %s\nread-only  %s\nencrypted  %s\nca         %s\n",
					s.Name, s.Path, s.Comment, yes(s.ReadOnly), yes(s.Encrypt), yes(s.ContinuouslyAvailable))
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
