package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func newCompletion() *cobra.Command {
	c := group("completion", "Print what makes a shell complete lunless's commands",
		"Prints a script for the shell to source.",
		`  lunless completion bash > /etc/bash_completion.d/lunless
  lunless completion zsh > "${fpath[1]}/_lunless"
  lunless completion fish > ~/.config/fish/completions/lunless.fish`)
	for _, shell := range []struct {
		name  string
		print func(root *cobra.Command, w io.Writer) error
	}{
		{"bash", func(root *cobra.Command, w io.Writer) error { return root.GenBashCompletionV2(w, true) }},
		{"zsh", (*cobra.Command).GenZshCompletion},
		{"fish", func(root *cobra.Command, w io.Writer) error { return root.GenFishCompletion(w, true) }},
	} {
		c.AddCommand(&cobra.Command{Use: shell.name, Short: "Print the script for " + shell.name, Args: takes(0),
			Example: "  lunless completion " + shell.name,
			RunE:    func(c *cobra.Command, _ []string) error { return shell.print(c.Root(), c.OutOrStdout()) }})
	}
	return c
}

// newHelp is cobra's help command, but for refusing commands there are not.
func newHelp() *cobra.Command {
	return &cobra.Command{Use: "help [COMMAND...]", Short: "Help about any command", Example: "  lunless help migrate storage",
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			found, rest, err := c.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return usageError{fmt.Errorf("there is no command `%s`", strings.Join(slices.Concat([]string{"lunless"}, args), " "))}
			}
			return found.Help()
		}}
}
