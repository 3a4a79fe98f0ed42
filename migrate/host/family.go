package host

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"lunless/smbstore"
)

// family is what grows from what in a home, as far as the VM and its checkpoints need
// it. Images are named by their paths in the home.
type family struct {
	there    map[string]bool
	children map[string][]string
	format   map[string]smbstore.Format
}

// outside stands for images that are not in the home.
const outside = ""

// familyOf follows the chains of all disks of a configuration to their ends.
func familyOf(ctx context.Context, home *smbstore.Home, c *smbstore.Config) (*family, error) {
	f := &family{map[string]bool{}, map[string][]string{}, map[string]smbstore.Format{}}
	disks := slices.Clone(c.Disks)
	for _, k := range c.Checkpoints {
		disks = append(disks, k.Disks...)
	}
	for _, d := range disks {
		if f.there[d.Path] && len(f.format[d.Path]) > 0 {
			continue
		}
		f.there[d.Path] = true
		if d.Format == smbstore.Raw {
			continue
		}
		images, err := smbstore.InspectChain(ctx, home.Store(), d.Path)
		if err != nil {
			return nil, err
		}
		if err := f.add(home, c, images); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func (f *family) add(home *smbstore.Home, c *smbstore.Config, images []smbstore.ChainImage) error {
	child := outside
	for i, image := range images {
		if image.ParentError != "" {
			return fmt.Errorf("%s: %s", image.Location, image.ParentError)
		}
		name := nameIn(home, c, image.Location)
		f.there[name], f.format[name] = true, image.Format
		if i > 0 && !slices.Contains(f.children[name], child) {
			f.children[name] = append(f.children[name], child)
		}
		child = name
	}
	return nil
}

// nameIn is the path in the home of what lies at a location, outside if it lies
// elsewhere.
func nameIn(home *smbstore.Home, c *smbstore.Config, l smbstore.Location) string {
	known := paths(c.Disks)
	for _, k := range c.Checkpoints {
		known = append(known, paths(k.Disks)...)
	}
	for _, u := range c.Unmerged {
		known = append(known, u.Path)
	}
	at := home.Location()
	for _, name := range known {
		if at.Join(name).Equal(l) {
			return name
		}
	}
	if !at.Contains(l) || len(l.Path) <= len(at.Path) {
		return outside
	}
	return strings.TrimPrefix(l.Path[len(at.Path):], "/")
}

// step is a merge to be done: all of child into the image it grows from.
type step struct {
	child, into string
	format      smbstore.Format
	children    []string // of child
	merged      bool     // a merge that was cut has brought all over
}

// next says what is to be done about a configuration's unmerged images: settled are
// named by a disk again, gone are needed by nothing, and steps are merges. The first
// step's image grows from none that a later one changes.
func (f *family) next(c *smbstore.Config) (settled, gone []string, steps []step) {
	for _, u := range c.Unmerged {
		children := f.children[u.Path]
		s := step{into: u.Path}
		switch {
		case uses(c, u.Path):
			settled = append(settled, u.Path)
			continue
		case !f.there[u.Path]:
			gone = append(gone, u.Path)
			continue
		case len(children) == 1:
			s.child = children[0]
		case u.Child != "" && slices.Contains(children, u.Child):
			s.child, s.merged = u.Child, true
		}
		if s.child == outside || slices.Contains(f.children[s.child], outside) {
			continue // several need it, or one that is not ours to change
		}
		s.format, s.children = f.format[s.child], f.children[s.child]
		steps = append(steps, s)
	}
	slices.SortStableFunc(steps, func(a, b step) int { return f.depth(a.into) - f.depth(b.into) })
	return settled, gone, steps
}

// left are images that are to go, and were not removed when they were merged.
func (f *family) left(c *smbstore.Config) (files []string) {
	for _, u := range c.Unfinished {
		if smbstore.IsDiskName(u) && !f.there[u] && !sabotage(sabotageTidy) {
			files = append(files, u)
		}
	}
	return files
}

// depth is how many images lie below one.
func (f *family) depth(name string) (n int) {
	for range len(f.there) {
		below := outside
		for parent, children := range f.children {
			if parent != outside && slices.Contains(children, name) {
				below = parent
			}
		}
		if below == outside {
			break
		}
		n, name = n+1, below
	}
	return n
}
