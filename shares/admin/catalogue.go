package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CatalogueName is the file in a data folder that `lunless share` keeps.
const CatalogueName = "shares.json"

// catalogueVersion is the layout written; files of a later one are refused.
const catalogueVersion = 1

// Catalogue is the list of shares in a data folder. Processes may use it side
// by side: each change holds a lock on the folder and replaces the file whole.
type Catalogue struct{ dir string }

type catalogueFile struct {
	Version int     `json:"version"`
	Shares  []Share `json:"shares"`
}

// OpenCatalogue makes the data folder if it is missing.
func OpenCatalogue(dir string) (*Catalogue, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make data folder: %w", err)
	}
	return &Catalogue{dir}, nil
}

func (c *Catalogue) file() string { return filepath.Join(c.dir, CatalogueName) }

// List returns the shares, sorted by name.
func (c *Catalogue) List() ([]Share, error) {
	b, err := os.ReadFile(c.file())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the shares: %w", err)
	}
	var f catalogueFile
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w (mend it, or remove it and create the shares again)", c.file(), err)
	}
	if f.Version != catalogueVersion {
		return nil, fmt.Errorf("%s has version %d, this program knows %d: use the newer program", c.file(), f.Version, catalogueVersion)
	}
	slices.SortFunc(f.Shares, func(a, b Share) int { return strings.Compare(strings.ToUpper(a.Name), strings.ToUpper(b.Name)) })
	return Merge(f.Shares)
}

// Get returns one share. ErrNoShare.
func (c *Catalogue) Get(name string) (Share, error) {
	shares, err := c.List()
	if err != nil {
		return Share{}, err
	}
	i := find(shares, name)
	if i < 0 {
		return Share{}, noShare(name)
	}
	return shares[i], nil
}

func noShare(name string) error {
	return fmt.Errorf("%w: %s (`lunless share list` shows those in the data folder)", ErrNoShare, name)
}

// Create adds a share. ErrShareTaken, ErrBadShare.
func (c *Catalogue) Create(s Share) error {
	if err := s.Check(); err != nil {
		return err
	}
	var err error
	if s.Path, err = filepath.Abs(s.Path); err != nil {
		return err
	}
	if err := s.CheckPath(); err != nil {
		return err
	}
	if err := s.CheckApart(c.dir); err != nil {
		return err
	}
	return c.change(func(shares []Share) ([]Share, error) {
		if find(shares, s.Name) >= 0 {
			return nil, fmt.Errorf("%w: %s (change it with `lunless share set`, or choose another name)", ErrShareTaken, s.Name)
		}
		return append(shares, s), nil
	})
}

// Set changes a share. ErrNoShare, ErrBadShare; an error of change leaves it as it is.
func (c *Catalogue) Set(name string, change func(*Share) error) error {
	return c.change(func(shares []Share) ([]Share, error) {
		i := find(shares, name)
		if i < 0 {
			return nil, noShare(name)
		}
		if err := change(&shares[i]); err != nil {
			return nil, err
		}
		if err := shares[i].Check(); err != nil {
			return nil, err
		}
		if err := shares[i].CheckPath(); err != nil {
			return nil, err
		}
		return shares, shares[i].CheckApart(c.dir)
	})
}

// Remove takes a share out; its files stay. ErrNoShare.
func (c *Catalogue) Remove(name string) error {
	return c.change(func(shares []Share) ([]Share, error) {
		i := find(shares, name)
		if i < 0 {
			return nil, noShare(name)
		}
		return slices.Delete(shares, i, i+1), nil
	})
}

func (c *Catalogue) change(f func([]Share) ([]Share, error)) error {
	dir, err := os.Open(c.dir)
	if err != nil {
		return fmt.Errorf("cannot open data folder: %w", err)
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("cannot lock %s: %w", c.dir, err)
	}
	shares, err := c.List()
	if err != nil {
		return err
	}
	if shares, err = f(shares); err != nil {
		return err
	}
	b, err := json.MarshalIndent(catalogueFile{catalogueVersion, shares}, "", "  ")
	if err != nil {
		return err
	}
	if err := replaceFile(dir, c.file(), append(b, '\n')); err != nil {
		return fmt.Errorf("cannot keep the shares in %s: %w", c.dir, err)
	}
	return nil
}

// replaceFile leaves either the old content or the new, on stable storage.
func replaceFile(dir *os.File, name string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone once renamed
	if _, err = tmp.Write(content); err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), name); err != nil {
		return err
	}
	return dir.Sync()
}

// Watch calls changed with the new list whenever the catalogue has changed,
// until ctx ends. It looks once a second: cheap, and right on every file system.
// A catalogue that cannot be read is reported through failed, and what was
// served before goes on.
func (c *Catalogue) Watch(ctx context.Context, changed func([]Share), failed func(error)) {
	stamp := c.stamp()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := c.stamp()
		if now == stamp {
			continue
		}
		stamp = now
		if shares, err := c.List(); err != nil {
			failed(err)
		} else {
			changed(shares)
		}
	}
}

// stamp tells one state of the file from another: replaceFile makes a new inode each time.
func (c *Catalogue) stamp() (s struct{ inode, time, size int64 }) {
	var st unix.Stat_t
	if unix.Stat(c.file(), &st) == nil {
		s.inode, s.time, s.size = int64(st.Ino), st.Mtim.Nano(), st.Size
	}
	return s
}
