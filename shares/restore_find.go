package shares

import (
	"context"
	"errors"
	"io"

	"lunless/shares/fs"
)

// notThere says that an error tells of a name that leads nowhere, or to another file.
func notThere(err error) bool {
	for _, e := range []error{fs.ErrNotExist, fs.ErrPathNotExist, fs.ErrNotDir, errOtherFile} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// findFiles looks for files by their IDs, through all of the share: there is no
// other way to know where a file is that has been renamed. What is not found is not
// in the answer.
func findFiles(ctx context.Context, store fs.FS, ids []fs.FileID) (map[fs.FileID]string, error) {
	found, wanted := map[fs.FileID]string{}, map[fs.FileID]bool{}
	for _, id := range ids {
		wanted[id] = true
	}
	folders := []string{""}
	for len(folders) > 0 && len(found) < len(wanted) {
		path := folders[len(folders)-1]
		folders = folders[:len(folders)-1]
		err := listFolder(ctx, store, path, func(e fs.DirEntry) {
			name := e.Name
			if path != "" {
				name = path + "/" + name
			}
			if wanted[e.Info.ID] {
				found[e.Info.ID] = name
			}
			if e.Info.Dir {
				folders = append(folders, name)
			}
		})
		if err != nil && !notThere(err) {
			return found, err
		}
	}
	return found, nil
}

func listFolder(ctx context.Context, store fs.FS, path string, visit func(fs.DirEntry)) error {
	f, err := store.Open(ctx, path, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	d, err := f.ReadDir(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		e, err := d.Next(nil)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		visit(e)
	}
}
