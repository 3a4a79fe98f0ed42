package smbstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
)

// neighbour is a Store that can open other locations with what it was opened
// with. Closing what it opened leaves the store itself open.
type neighbour interface {
	openAt(ctx context.Context, l Location) (Store, error)
	options() Options
}

func (s *localStore) options() Options { return s.opts }
func (s *localStore) openAt(ctx context.Context, l Location) (Store, error) {
	return openFenced(ctx, l, s.opts, s.fence)
}

// openFenced is Open with a fence that the store has of another.
func openFenced(ctx context.Context, l Location, o Options, f Fence) (Store, error) {
	s, err := Open(ctx, l, o)
	if err != nil || f.Instance == uuid.Nil {
		return s, err
	}
	return &fencedNeighbour{Fenced(s, f), s}, nil
}

func (s *smbStore) options() Options { return s.opts }
func (s *smbStore) openAt(ctx context.Context, l Location) (Store, error) {
	if !l.IsLocal() && l.SameServer(s.loc) && strings.EqualFold(l.Share, s.loc.Share) {
		return &smbStore{smbShare: s.smbShare, loc: l, borrowed: true, fence: s.fence}, nil
	}
	o := s.opts
	o.Credentials = &s.cred
	return openFenced(ctx, l, o, s.fence)
}

func (s *subStore) openAt(ctx context.Context, l Location) (Store, error) {
	return openNeighbour(ctx, s.Store, l)
}
func (s *subStore) options() Options { return optionsOf(s.Store) }

// borrowed is a store whose Close leaves it open.
type borrowed struct{ Store }

func (borrowed) Close() error { return nil }

func (s borrowed) openAt(ctx context.Context, l Location) (Store, error) {
	return openNeighbour(ctx, s.Store, l)
}
func (s borrowed) options() Options { return optionsOf(s.Store) }

// openNeighbour opens a folder with the connections and credentials of s, where
// they serve. The caller closes it, and not before s is done with.
func openNeighbour(ctx context.Context, s Store, folder Location) (Store, error) {
	if at := s.Location(); at.Contains(folder) {
		name, err := nameBelow(at, folder)
		if err == nil && name == "" {
			return borrowed{s}, nil
		} else if err == nil {
			return Sub(s, name), nil
		}
	}
	if n, ok := s.(neighbour); ok {
		return n.openAt(ctx, folder)
	}
	return nil, opError("open", folder, fmt.Errorf("%w: it lies outside %s", ErrBadName, s.Location()))
}

// optionsOf are what a store was opened with, as far as it tells.
func optionsOf(s Store) Options {
	if n, ok := s.(neighbour); ok {
		return n.options()
	}
	return Options{}
}

// nameBelow is the name in a store at a location of what lies below it.
func nameBelow(at, l Location) (string, error) {
	if at.IsLocal() {
		rel, err := filepath.Rel(at.Path, l.Path)
		if err == nil && rel == "." {
			rel = ""
		}
		return filepath.ToSlash(rel), err
	}
	if len(l.Path) < len(at.Path) || !strings.EqualFold(l.Path[:len(at.Path)], at.Path) {
		return "", ErrBadName
	}
	return strings.TrimPrefix(l.Path[len(at.Path):], "/"), nil
}

// matchCase finds the name that is there for one that differs from it in case
// alone: chains of Windows hosts are written without regard to it. l itself is
// returned where it exists, where nothing like it does, and for a share, whose
// server matches names itself.
func matchCase(l Location) (Location, error) {
	if !l.IsLocal() {
		return l, nil
	}
	if _, err := os.Lstat(l.Path); err == nil || !errors.Is(err, os.ErrNotExist) || l.IsRoot() {
		return l, nil
	}
	folder, err := matchCase(l.Dir())
	if err != nil {
		return l, err
	}
	entries, err := os.ReadDir(folder.Path)
	if err != nil {
		return l, nil // opening it will tell
	}
	found := ""
	for _, e := range entries {
		if !strings.EqualFold(e.Name(), l.Base()) {
			continue
		}
		if found != "" {
			return l, fmt.Errorf("both %s and %s match %s in %s", found, e.Name(), l.Base(), folder)
		}
		found = e.Name()
	}
	if found == "" {
		return l, nil
	}
	return folder.Join(found), nil
}
