package migrate

import (
	"context"
	"fmt"
	"path"

	"lunless/smbstore"
)

// maxEntries bounds what one home may hold.
const maxEntries = 100_000

// plan lists all that a home owns, files nobody knows included, but for what is
// each home's own: ownership record, journal, leftovers of interrupted writes.
func plan(ctx context.Context, home smbstore.Store) (folders []string, files []*FileState, err error) {
	left := maxEntries
	var walk func(dir string, depth int) error
	walk = func(dir string, depth int) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		infos, err := home.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, i := range infos {
			name := path.Join(dir, i.Name)
			if left--; left < 0 || depth > 64 {
				return fmt.Errorf("%s: %w", home.Location(), smbstore.ErrTooMany)
			}
			switch {
			case ownEntry(name):
			case i.Dir:
				folders = append(folders, name)
				if err := walk(name, depth+1); err != nil {
					return err
				}
			default:
				files = append(files, &FileState{Name: name, Size: i.Size, ModTime: i.ModTime.UTC()})
			}
		}
		return nil
	}
	return folders, files, walk("", 0)
}

// ownEntry tells what belongs to one home alone and is not copied.
func ownEntry(name string) bool {
	return name == JournalName || smbstore.IsRecord(name) || smbstore.IsTemp(name)
}

// samePlan finds the first difference between what was planned and what is
// there now; "" if there is none.
func samePlan(planned, now []*FileState) string {
	have := make(map[string]*FileState, len(now))
	for _, f := range now {
		have[f.Name] = f
	}
	for _, f := range planned {
		n := have[f.Name]
		if n == nil || n.Size != f.Size || !n.ModTime.Equal(f.ModTime) {
			return f.Name
		}
		delete(have, f.Name)
	}
	for name := range have {
		return name
	}
	return ""
}

// keepDone carries over what is copied already to a new plan, for the files
// that are the same still.
func keepDone(planned, now []*FileState) {
	have := make(map[string]*FileState, len(planned))
	for _, f := range planned {
		have[f.Name] = f
	}
	for _, n := range now {
		if f := have[n.Name]; f != nil && f.Size == n.Size && f.ModTime.Equal(n.ModTime) {
			n.Copied, n.Verified = f.Copied, f.Verified
		}
	}
}
