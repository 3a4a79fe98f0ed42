package smbstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"lunless/smbstore/block"
	"lunless/smbstore/vhd"
	"lunless/smbstore/vhdx"
)

// Errors of chains of differencing disks.
var (
	// ErrNoParent: the parent of a differencing disk is nowhere to be found.
	ErrNoParent = errors.New("the parent of a differencing disk cannot be found")
	// ErrParentChanged: a file is not the parent that a differencing disk was made
	// for, or has been written to since.
	ErrParentChanged = errors.New("not the parent it was made for, or changed since")
	// ErrNoChain: a disk cannot be merged, because it is not over the other.
	ErrNoChain = errors.New("no chain to merge")
	// ErrFarParent: a merge would change a disk whose other children nobody looked for.
	ErrFarParent = errors.New("the parent may be others' too")
	// ErrChainLoop: a disk is its own parent, at once or through others.
	ErrChainLoop = errors.New("a disk is its own parent")
	// ErrChainDepth: a chain has more than maxDepth images.
	ErrChainDepth = errors.New("too many images in a chain")

	errOtherServer = errors.New("not asked, because only the disk names that server (--other-servers allows it)")
	errNoDiskFile  = errors.New("neither a file nor a block device")
)

// maxDepth bounds a chain, in images.
const maxDepth = 256

// ParentError tells where the parent of a disk was looked for.
type ParentError struct {
	Child Location
	Tried []string // place: cause
	Err   error    // ErrNoParent, or the cause of the one place that had a disk
}

func (e *ParentError) Error() string {
	s := fmt.Sprintf("cannot open the parent of %s: %v", e.Child, e.Err)
	switch {
	case len(e.Tried) > 0:
		s += "; tried " + strings.Join(e.Tried, "; ")
	case errors.Is(e.Err, ErrNoParent):
		s += ": it names no place for it"
	}
	if errors.Is(e.Err, ErrSharing) {
		return s // it is where it should be
	}
	return s + fmt.Sprintf("; where it lies is told by `lunless disk rebase --unsafe --parent PARENT %q`", e.Child.String())
}

// Unwrap returns the cause.
func (e *ParentError) Unwrap() error { return e.Err }

// layerFile is an opened file of a chain.
type layerFile struct {
	at    Location
	store Store // that file was opened from
	name  string
	owned bool // the store is closed with the file
	file  File
	info  imageInfo
	by    candidate // how its child led here
}

func (l *layerFile) close() error {
	err := l.file.Close()
	if l.owned {
		err = errors.Join(err, l.store.Close())
	}
	return err
}

func closeLayers(layers []*layerFile) error {
	var errs []error
	for _, l := range layers {
		errs = append(errs, l.close())
	}
	return errors.Join(errs...)
}

// openLayer opens and examines one file.
func openLayer(s Store, name string, flags Flags) (*layerFile, error) {
	f, err := s.OpenFile(name, flags)
	if err != nil {
		return nil, err
	}
	l := &layerFile{at: s.Location().Join(name), store: s, name: name, file: f}
	if l.info, err = examine(f); err != nil {
		return nil, errors.Join(openError(l.at, err), f.Close())
	}
	return l, nil
}

// openError says what failed, and of a damaged disk what to do next.
func openError(at Location, err error) error {
	if errors.Is(err, vhdx.ErrCorrupt) || errors.Is(err, vhd.ErrCorrupt) {
		err = fmt.Errorf("%w; `lunless disk check %q` tells more, and with --repair mends what needs no guess", err, at.String())
	}
	return opError("open disk", at, err)
}

// walkChain opens the parents of a leaf, each with the flags, and returns them
// with the leaf in front. With an error it returns what it has opened, for the
// caller to close.
func walkChain(ctx context.Context, leaf *layerFile, flags Flags) ([]*layerFile, error) {
	layers := []*layerFile{leaf}
	for layers[len(layers)-1].info.Parent != nil {
		next, err := nextLayer(ctx, layers, flags)
		if err != nil {
			return layers, err
		}
		layers = append(layers, next)
	}
	return layers, nil
}

// nextLayer opens the parent of a chain's last image.
func nextLayer(ctx context.Context, layers []*layerFile, flags Flags) (*layerFile, error) {
	l := layers[len(layers)-1]
	if len(layers) == maxDepth {
		return nil, opError("open the parent of", l.at, fmt.Errorf("%w: more than %d", ErrChainDepth, maxDepth))
	}
	next, err := findParent(ctx, l, flags)
	if err != nil {
		return nil, err
	}
	for _, o := range layers {
		if sameFile(o, next) {
			err := fmt.Errorf("%w: %s comes again after %s", ErrChainLoop, o.at, l.at)
			return nil, errors.Join(opError("open the parent of", l.at, err), next.close())
		}
	}
	return next, nil
}

// findParent opens the first of the candidates that is what the child's link means.
func findParent(ctx context.Context, child *layerFile, flags Flags) (*layerFile, error) {
	failure := &ParentError{Child: child.at, Err: ErrNoParent}
	for _, c := range parentCandidates(child.at, child.info.Parent.parentPaths) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		l, err := openCandidate(ctx, child, c, flags)
		if err == nil {
			return l, nil
		}
		if failure.Err == ErrNoParent && c.Err == nil && !errors.Is(err, ErrNotExist) && !errors.Is(err, errOtherServer) {
			failure.Err = err
			continue
		}
		failure.Tried = append(failure.Tried, fmt.Sprintf("%s: %v", c, bareCause(err)))
	}
	return nil, failure
}

// bareCause leaves out what and where, which the text around it has already.
func bareCause(err error) error {
	for op := (*OpError)(nil); errors.As(err, &op); {
		err = op.Err
	}
	return err
}

func openCandidate(ctx context.Context, child *layerFile, c candidate, flags Flags) (*layerFile, error) {
	if c.Err != nil {
		return nil, c.Err
	}
	if c.Other && !optionsOf(child.store).OtherServers {
		return nil, errOtherServer
	}
	at, err := matchCase(c.At)
	if err != nil {
		return nil, err
	}
	l, err := openParent(ctx, child.store, at, flags)
	if err != nil {
		return nil, err
	}
	l.by = c
	if sameFile(child, l) {
		err = opError("open the parent of", child.at, fmt.Errorf("%w: the %s %s leads back to it", ErrChainLoop, c.By, c.Path))
	} else if err = child.info.Parent.admits(child.info, l.info); err != nil {
		err = opError("use as parent", at, err)
	}
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

// openParent opens a file at any location, with what s was opened with.
func openParent(ctx context.Context, s Store, at Location, flags Flags) (*layerFile, error) {
	if at.IsLocal() {
		// Opening a pipe would wait for who writes to it.
		st, err := os.Stat(at.Path)
		if err == nil && !st.Mode().IsRegular() && st.Mode()&(os.ModeDevice|os.ModeCharDevice) != os.ModeDevice {
			return nil, opError("open", at, errNoDiskFile)
		}
	}
	folder, err := openNeighbour(ctx, s, at.Dir())
	if err != nil {
		return nil, err
	}
	l, err := openLayer(folder, at.Base(), flags)
	if err != nil {
		return nil, errors.Join(err, folder.Close())
	}
	l.owned = true
	return l, nil
}

// sameFile tells whether two opened files are one, as far as their stores can tell.
func sameFile(a, b *layerFile) bool {
	if a.at.Equal(b.at) {
		return true
	}
	switch x := a.file.(type) {
	case *localFile:
		y, ok := b.file.(*localFile)
		if !ok {
			return false
		}
		sx, ex := x.f.Stat()
		sy, ey := y.f.Stat()
		return ex == nil && ey == nil && os.SameFile(sx, sy)
	case *smbFile:
		y, ok := b.file.(*smbFile)
		return ok && x.id != 0 && x.id == y.id && strings.EqualFold(x.store.loc.Addr(), y.store.loc.Addr()) &&
			strings.EqualFold(x.store.loc.Share, y.store.loc.Share)
	}
	return false
}

// cachePages shares the metadata cache's bound out over a chain.
func cachePages(depth int) int { return max(64, 4096/depth) }

// openStack opens the images of a chain as devices, each over its parent, as
// how says for its place. Each device owns its parent's: closing the first closes
// all. On an error all is closed.
func openStack(layers []*layerFile, how func(i int) imageOptions) ([]block.Device, error) {
	devs := make([]block.Device, len(layers))
	var below block.Device
	for i := len(layers) - 1; i >= 0; i-- {
		l, o := layers[i], how(i)
		o.parent, o.pages = below, cachePages(len(layers))
		d, err := openImage(l.file, l.info.Format, o)
		if err != nil {
			err = openError(l.at, err)
			if below != nil {
				err = errors.Join(err, below.Close())
			}
			return nil, errors.Join(err, closeLayers(layers[:i+1]))
		}
		devs[i], below = d, d
		if l.owned {
			below = storeOwner{d, l.store}
		}
	}
	devs[0] = below // with its store
	return devs, nil
}

// readOnly opens every image of a stack for reading.
func readOnly(int) imageOptions { return imageOptions{readOnly: true} }

// storeOwner is a parent's device that closes the store which its file came from.
type storeOwner struct {
	block.Device
	store Store
}

func (o storeOwner) Close() error { return errors.Join(o.Device.Close(), o.store.Close()) }

// Unwrap returns the format's own device.
func (o storeOwner) Unwrap() block.Device { return o.Device }

// unwrap is the format's own device.
func unwrap(d block.Device) block.Device {
	if o, ok := d.(storeOwner); ok {
		return o.Device
	}
	return d
}
