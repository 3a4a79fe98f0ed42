package smbstore

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"lunless/smbstore/vhd"
	"lunless/smbstore/vhdx"
)

// ErrHasChildren: a disk cannot be changed without breaking others.
var ErrHasChildren = errors.New("other differencing disks need it as it is")

// ChildrenError names the differencing disks whose parent was to be changed.
type ChildrenError struct {
	Parent   Location
	Children []string // what they are, and why they count if it is not plain
}

func (e *ChildrenError) Error() string {
	return fmt.Sprintf("cannot change %s: %v: %s; merge or remove them first, or go on with --force and lose what they hold",
		e.Parent, ErrHasChildren, strings.Join(e.Children, ", "))
}

// Unwrap returns ErrHasChildren.
func (e *ChildrenError) Unwrap() error { return ErrHasChildren }

// Bounds of a search for children.
const (
	maxSearched  = 10_000 // entries
	maxHomeDepth = 3      // folders below a home's
)

// childSearch looks for differencing disks in a disk's folder, and in the VM's
// home around it.
type childSearch struct {
	store   Store // opens the rest
	seen    map[string]bool
	entries int
	found   []*layerFile // differencing disks, opened for reading
	unknown []string     // disks that may be such, but cannot be examined
}

// searchChildren opens the differencing disks around the given ones. The caller
// closes it.
func searchChildren(ctx context.Context, s Store, around ...Location) (*childSearch, error) {
	c := &childSearch{store: s, seen: map[string]bool{}}
	for _, l := range around {
		err := c.folder(ctx, l.Dir(), 0)
		if home, ok := homeAround(ctx, s, l.Dir()); err == nil && ok {
			err = c.folder(ctx, home, maxHomeDepth)
		}
		if err != nil {
			return nil, errors.Join(err, c.close())
		}
	}
	return c, nil
}

func (c *childSearch) close() error { return closeLayers(c.found) }

// homeAround finds the VM's home that a folder lies in, if it does.
func homeAround(ctx context.Context, s Store, folder Location) (Location, bool) {
	for range maxHomeDepth {
		if at, err := openNeighbour(ctx, s, folder); err == nil {
			st, err := at.Stat(MachinesDir)
			at.Close()
			if err == nil && st.Dir {
				return folder, true
			}
		}
		if folder.IsRoot() {
			break
		}
		folder = folder.Dir()
	}
	return Location{}, false
}

// neighbours tells whether two disks lie in one folder or in the home of one VM,
// where the other children of one of them are looked for.
func neighbours(ctx context.Context, s Store, a, b Location) bool {
	if a.Dir().Equal(b.Dir()) {
		return true
	}
	home, ok := homeAround(ctx, s, a.Dir())
	return ok && home.Contains(b)
}

func (c *childSearch) folder(ctx context.Context, at Location, depth int) error {
	s, err := openNeighbour(ctx, c.store, at)
	if err != nil {
		return err
	}
	defer s.Close()
	infos, err := s.ReadDir("")
	if err != nil {
		return err
	}
	for _, i := range infos {
		if err := ctx.Err(); err != nil {
			return err
		}
		if c.entries++; c.entries > maxSearched {
			return opError("look for differencing disks in", at, ErrTooMany)
		}
		switch {
		case i.Dir && depth > 0:
			err = c.folder(ctx, at.Join(i.Name), depth-1)
		case !i.Dir && IsDiskName(i.Name):
			c.disk(ctx, at.Join(i.Name))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// IsDiskName tells whether a file's name says that it is a VHDX or a VHD.
func IsDiskName(name string) bool {
	switch strings.ToLower(path.Ext(name)) {
	case ".vhdx", ".avhdx", ".vhd", ".avhd":
		return !strings.Contains(name, buildMark)
	}
	return false
}

func (c *childSearch) disk(ctx context.Context, at Location) {
	key := strings.ToLower(at.String())
	if at.IsLocal() {
		key = at.String()
	}
	if c.seen[key] {
		return
	}
	c.seen[key] = true
	l, err := openParent(ctx, c.store, at, Read)
	switch {
	case err == nil && l.info.Parent == nil:
		_ = l.close() // was only read
	case err == nil:
		c.found = append(c.found, l)
	case errors.Is(err, vhdx.ErrNotVHDX), errors.Is(err, vhd.ErrNotVHD), errors.Is(err, ErrNotExist):
	default:
		c.unknown = append(c.unknown, fmt.Sprintf("perhaps %s, which cannot be examined (%v)", at, bareCause(err)))
	}
}

// refuse is a *ChildrenError if a disk has children beside the ones given.
func (c *childSearch) refuse(ctx context.Context, parent *layerFile, but ...*layerFile) error {
	names := append([]string(nil), c.unknown...)
next:
	for _, l := range c.found {
		for _, b := range append(but, parent) {
			if sameFile(l, b) {
				continue next
			}
		}
		p, err := findParent(ctx, l, Read)
		if err != nil {
			continue // it is nobody's child as it is
		}
		if sameFile(p, parent) {
			names = append(names, l.at.String())
		}
		_ = p.close() // was only read
	}
	if len(names) > 0 {
		return &ChildrenError{parent.at, names}
	}
	return nil
}

// refuseChildren is a *ChildrenError if an opened disk has children around it.
func refuseChildren(ctx context.Context, l *layerFile) error {
	c, err := searchChildren(ctx, l.store, l.at)
	if err != nil {
		return err
	}
	return errors.Join(c.refuse(ctx, l), c.close())
}
