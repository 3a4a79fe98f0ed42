package host

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"lunless/smbstore"
)

// What a cut operation announced goes, but for what the VM, or a chain of it, needs;
// with the fault switched on it stays, which the soak of kills sees.
func TestTidy(t *testing.T) {
	old := sabotage
	defer func() { sabotage = old }()
	for _, fault := range []string{"", sabotageTidy} {
		sabotage = func(name string) bool { return name == fault }
		ctx, dir := t.Context(), t.TempDir()
		s, err := smbstore.OpenPath(ctx, dir, smbstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		home, err := smbstore.CreateHomeWith(ctx, s, "vm", smbstore.Config{CPUs: 1, Memory: 1 << 20, Firmware: "bios"},
			smbstore.NewHome{Disks: []int64{4 << 20}})
		if err != nil {
			t.Fatal(err)
		}
		c, err := home.Config()
		if err != nil {
			t.Fatal(err)
		}
		// The second grows from the first, which no configuration names.
		var grown []smbstore.Disk
		parents := c.Disks
		for _, branch := range []string{"first", "second", "stray"} {
			children, err := grow(ctx, home, parents, branch)
			if err != nil {
				t.Fatal(err)
			}
			if grown = append(grown, children...); branch == "first" {
				parents = children
			}
		}
		state := smbstore.MachinesDir + "/stray.state"
		if err := os.WriteFile(filepath.Join(dir, "vm", state), []byte("state"), 0o600); err != nil {
			t.Fatal(err)
		}
		err = home.UpdateConfig(func(c *smbstore.Config) error {
			c.Disks = grown[1:2]
			c.Unfinished = append(paths(grown), state, "Snapshots/never-made.avhdx")
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if left, err := tidy(ctx, home); err != nil || len(left) != 0 {
			t.Errorf("fault %q: left %v, %v", fault, left, err)
		}
		var gone []string
		for _, f := range append(paths(grown), state) {
			if !exists(dir, "vm", f) {
				gone = append(gone, f)
			}
		}
		want := []string{grown[2].Path, state}
		if fault != "" {
			want = nil
		}
		if !slices.Equal(gone, want) {
			t.Errorf("fault %q: gone %v, want %v", fault, gone, want)
		}
		if c, err = home.Config(); err != nil || (len(c.Unfinished) == 0) != (fault == "") {
			t.Errorf("fault %q: unfinished %v, %v", fault, c.Unfinished, err)
		}
	}
}
