package migrate

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"lunless/smbstore"
)

// ends are the two homes of a migration, open. The source's may be gone.
type ends struct {
	stores   []smbstore.Store // to close
	src, dst smbstore.Store   // the homes' folders
	above    smbstore.Store   // the folder the source's home lies in; nil if that is a share's root
	srcName  string           // in above
	into     smbstore.Store   // the folder the destination's home lies in
	dstName  string           // in into
}

// openEnds opens both sides: over one session where they lie on one share, so
// that the server can copy; it is opened with the destination's options.
func openEnds(ctx context.Context, source, destination smbstore.Location, so, do smbstore.Options) (_ *ends, err error) {
	e := &ends{}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.close())
		}
	}()
	open := func(l smbstore.Location, o smbstore.Options) (smbstore.Store, error) {
		s, err := openStore(ctx, l, o)
		if err == nil {
			e.stores = append(e.stores, s)
		}
		return s, err
	}
	if destination.IsRoot() {
		return nil, fmt.Errorf("%s is no place for a home: name a folder below it", destination)
	}
	e.srcName, e.dstName = source.Base(), destination.Base()
	if !source.IsLocal() && source.SameServer(destination) && strings.EqualFold(source.Share, destination.Share) {
		root := source
		root.Path = ""
		s, err := open(root, do) // a guest's disks lie on it afterwards
		if err != nil {
			return nil, err
		}
		e.src, e.dst, e.into = smbstore.Sub(s, source.Path), smbstore.Sub(s, destination.Path), smbstore.Sub(s, destination.Dir().Path)
		if !source.IsRoot() {
			e.above = smbstore.Sub(s, source.Dir().Path)
		}
		return e, nil
	}
	if source.IsRoot() {
		e.src, err = open(source, so)
	} else if e.above, err = open(source.Dir(), so); err == nil {
		e.src = smbstore.Sub(e.above, e.srcName)
	}
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	if e.into, err = open(destination.Dir(), do); err != nil {
		return nil, fmt.Errorf("destination: %w", err)
	}
	e.dst = smbstore.Sub(e.into, e.dstName)
	return e, nil
}

func (e *ends) close() error {
	var errs []error
	for _, s := range e.stores {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// abandon closes the stores without waiting for their servers.
func (e *ends) abandon() {
	for _, s := range e.stores {
		smbstore.Abandon(s)
	}
}

// leaveSource closes the source's store, if that is not the destination's too.
func (e *ends) leaveSource() {
	if len(e.stores) < 2 {
		return
	}
	_ = e.stores[0].Close() // all that was to be written there is
	e.stores = e.stores[1:]
}

// apart refuses homes that are one, or lie in one another.
func apart(a, b smbstore.Location) error {
	if a.Contains(b) || b.Contains(a) {
		return fmt.Errorf("%s and %s: %w", a, b, ErrSamePlace)
	}
	return nil
}

// plainLocation is how records name a home: without the user.
func plainLocation(l smbstore.Location) smbstore.Location {
	l.User = ""
	return l
}
