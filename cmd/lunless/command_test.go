package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestCommands walks all commands: each says what it does and shows how, each
// with more to it than a line explains it, and each minds its arguments.
func TestCommands(t *testing.T) {
	selfEvident := map[string]bool{
		"lunless user add": true, "lunless user password": true, "lunless user remove": true, "lunless user list": true,
		"lunless share create": true, "lunless share remove": true, "lunless share show": true, "lunless share list": true,
		"lunless host show":    true,
		"lunless bench report": true, "lunless help": true, "lunless completion bash": true, "lunless completion zsh": true,
		"lunless completion fish": true,
	}
	root := newRoot()
	root.InitDefaultHelpCmd()
	seen := 0
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		seen++
		path := c.CommandPath()
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: Short is %q, want a line without a full stop", path, c.Short)
		}
		if !strings.Contains(c.Example, path) && c != root {
			t.Errorf("%s: its example %q does not show it", path, c.Example)
		}
		if c.Long == "" && !selfEvident[path] {
			t.Errorf("%s: Long is missing", path)
		}
		if c.Long != "" && selfEvident[path] {
			t.Errorf("%s: has a Long, take it off the list", path)
		}
		if c.Args == nil {
			t.Errorf("%s: takes any arguments", path)
		}
		if c.RunE == nil || c.Run != nil {
			t.Errorf("%s: wants RunE alone, so that failures set the exit status", path)
		}
		for _, line := range strings.Split(c.Long+"\n"+c.Example, "\n") {
			if len([]rune(line)) > 140 {
				t.Errorf("%s: a line of %d characters: %s", path, len([]rune(line)), line)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	if seen < 35 {
		t.Errorf("only %d commands", seen)
	}
}

// TestExamplesParse runs each example's flags through the parser.
func TestExamplesParse(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, line := range strings.Split(c.Example, "\n") {
			_, args, ok := strings.Cut(line, "lunless ")
			if !ok {
				continue
			}
			args, _, _ = strings.Cut(args, " > ")
			root := newRoot()
			cmd, rest, err := root.Find(strings.Fields(args))
			if err == nil {
				err = cmd.ParseFlags(rest)
			}
			if err == nil && cmd.Args != nil {
				err = cmd.ValidateArgs(cmd.Flags().Args())
			}
			if err != nil {
				t.Errorf("%s: example %q: %v", c.CommandPath(), strings.TrimSpace(line), err)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRoot())
}

// TestNegativeFlags gives each flag that takes a number a negative one.
func TestNegativeFlags(t *testing.T) {
	seen := map[string]bool{}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.PersistentPreRunE != nil && c.HasParent() {
			t.Errorf("%s: its PersistentPreRunE replaces that of all commands", c.CommandPath())
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			bad := map[string]string{"duration": "-5s", "int": "-5", "int64": "-5", "uint64": "-5", "size": "-5M"}[f.Value.Type()]
			if bad == "" {
				if !slices.Contains([]string{"string", "stringArray", "stringSlice", "bool"}, f.Value.Type()) {
					t.Errorf("%s: --%s takes a %s, which is not known here", c.CommandPath(), f.Name, f.Value.Type())
				}
				return
			}
			seen[f.Name] = true
			args := append(strings.Fields(c.CommandPath())[1:], "--"+f.Name+"="+bad)
			for _, word := range strings.Fields(c.Use)[1:] {
				if strings.ToUpper(word) != word || strings.ContainsAny(word, "[(") {
					break
				}
				args = append(args, "x")
			}
			root := newRoot()
			root.SetArgs(args)
			root.SetOut(io.Discard)
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // were it taken, nothing comes of it
			err := root.ExecuteContext(ctx)
			if usage := (usageError{}); !errors.As(err, &usage) || !strings.Contains(err.Error(), "--"+f.Name) {
				t.Errorf("lunless %q: %v", args, err)
			}
		})
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRoot())
	for _, name := range []string{"grace", "timeout", "limit", "parallel", "storage-patience", "linger", "connections"} {
		if !seen[name] {
			t.Errorf("no command has --%s", name)
		}
	}
}

func TestByteSize(t *testing.T) {
	for in, want := range map[string]int64{
		"0": 0, "4096": 4096, "4K": 4096, "4k": 4096, "32M": 32 << 20, "1.5G": 3 << 29, "2T": 2 << 40, "64GiB": 64 << 30, "1MB": 1 << 20, " 7 ": 7,
	} {
		var b byteSize
		if err := b.Set(in); err != nil || int64(b) != want {
			t.Errorf("%q: %d, %v, want %d", in, b, err, want)
		}
	}
	for _, in := range []string{"", "K", "x", "-1", "1X", "0.3", "1e30", "NaN", "Inf", "9E", "8192P", "1 2", "0x10p-1K", "1e3"} {
		var b byteSize
		if err := b.Set(in); err == nil {
			t.Errorf("%q was taken as %d", in, b)
		}
	}
}

func TestSizeText(t *testing.T) {
	for in, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 3 << 29: "1.5 GiB", 64 << 40: "64 TiB"} {
		if got := size(in); got != want {
			t.Errorf("%d: %q, want %q", in, got, want)
		}
	}
}
