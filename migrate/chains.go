package migrate

import (
	"context"
	"fmt"

	"lunless/smbstore"
)

// chains is ErrParentLeft if one of the VM's disks, copied with its home, cannot
// be opened there because a parent lies outside the home and cannot be reached.
// Other damage was there before and moves along.
func (m *migration) chains(ctx context.Context) error {
	home, err := smbstore.HomeIn(m.ends.dst)
	if err != nil {
		return err
	}
	c, err := home.Config()
	if err != nil {
		return err
	}
	for _, d := range c.Disks {
		if d.Format == smbstore.Raw {
			continue
		}
		images, err := smbstore.InspectChain(ctx, m.ends.dst, d.Path)
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			continue
		}
		for _, i := range images {
			switch {
			case i.ParentError != "":
				return fmt.Errorf("%w: %s", ErrParentLeft, i.ParentError)
			case m.home.Location().Contains(i.Location): // found by its old path, and about to go
				return fmt.Errorf("%w: %s, a parent of %s, is found in the old home alone", ErrParentLeft, i.Location, d.Path)
			}
		}
	}
	return nil
}
