package smbstore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	"lunless/smbstore/block"
	"lunless/smbstore/vhdx"
)

// MergeOptions describe a merge. The zero value merges a disk into its parent
// and removes it.
type MergeOptions struct {
	Into     Location   // an ancestor, whose layers between go too; zero is the parent
	Children []Location // differencing disks of the merged one, which get the ancestor as their parent
	Keep     bool       // the merged file stays; not with layers between
	Force    bool       // even if other disks need what is changed
	Convert  ConvertOptions
	Progress func(ConvertProgress)
	// Merged tells that an earlier run has brought all of the disk into its parent, as
	// it has when one of its children has that for its parent already: what is left is
	// done, and the parent is not written to. What Children show by themselves need not
	// be told.
	Merged bool
	// Commit, if not nil, is called when into holds all of a merged disk, and its
	// children use that: whoever names the merged one names the other from then on. If
	// it fails, the merge does, with all disks there. Not with Keep.
	Commit func(ctx context.Context, merged, into Location) error
}

// MergeResult says what a merge did.
type MergeResult struct {
	Into     Location   `json:"into"`
	Copied   int64      `json:"copied"` // bytes
	Removed  []Location `json:"removed"`
	Relinked []Location `json:"relinked"` // disks that have a new parent
}

// MergeError is a merge that ended early. Nothing is lost by it: the disks that
// are there open as before, and the same merge can be begun again.
type MergeError struct {
	Child, Parent Location
	State         string
	Err           error
}

func (e *MergeError) Error() string {
	return fmt.Sprintf("cannot merge %s into %s: %v; %s", e.Child, e.Parent, e.Err, e.State)
}

// Unwrap returns the cause.
func (e *MergeError) Unwrap() error { return e.Err }

// merge is a MergeDisk under way.
type merge struct {
	o      MergeOptions
	s      Store
	result MergeResult
}

// MergeDisk copies what a differencing disk holds into its parent, or with the
// layers between into an ancestor, has the disk's children use that, and removes
// what was merged. The parent grows if it is the smaller, and becomes as small as
// the child if it is the larger, as far as its format allows; what the child does
// not reach reads as zeroes then.
//
// The chain can be opened, with the same content, at every moment, whenever the
// run ends. Of a VHD, which has no log, a copy is changed, and takes its place in
// the end. Errors: *MergeError, *ChildrenError, and those of OpenDisk.
func MergeDisk(ctx context.Context, s Store, name string, o MergeOptions) (MergeResult, error) {
	m := &merge{o: o, s: s, result: MergeResult{Removed: []Location{}, Relinked: []Location{}}} // JSON: [], not null
	chain, err := m.plan(ctx, name)
	if err != nil {
		return m.result, err
	}
	m.result.Into = chain[len(chain)-1]
	for i := len(chain) - 2; i >= 0; i-- {
		children := o.Children
		if i > 0 {
			children = []Location{chain[i-1]}
		}
		if err := m.one(ctx, chain[i], m.result.Into, children); err != nil {
			return m.result, err
		}
	}
	return m.result, nil
}

// plan checks what is asked for and returns the chain's places from the disk to
// the ancestor.
func (m *merge) plan(ctx context.Context, name string) (chain []Location, err error) {
	leaf, err := openLayer(m.s, name, Read)
	if err != nil {
		return nil, err
	}
	layers, err := walkChain(ctx, leaf, Read)
	defer func() { _ = closeLayers(layers) }() // were only read
	if err != nil {
		return nil, err
	}
	fail := func(err error) error { return opError("merge", leaf.at, err) }
	if len(layers) == 1 {
		return nil, fail(fmt.Errorf("%w: it is no differencing disk", ErrNoChain))
	}
	depth := 1
	if m.o.Into != (Location{}) {
		for depth < len(layers) && !layers[depth].at.Equal(m.o.Into) {
			depth++
		}
		if depth == len(layers) {
			return nil, fail(fmt.Errorf("%w: %s is not among its parents, which `lunless disk info --chain` lists", ErrNoChain, m.o.Into))
		}
	}
	if m.o.Into == (Location{}) && !m.o.Force && !neighbours(ctx, m.s, leaf.at, layers[1].at) {
		return nil, fail(fmt.Errorf("%w: its parent %s lies neither in its folder nor in its VM's home: disks elsewhere may need it, and are not looked for; if none does, say --into %q",
			ErrFarParent, layers[1].at, layers[1].at.String()))
	}
	if m.o.Keep && depth > 1 {
		return nil, fail(errors.New("a disk that is kept can only be merged into its own parent"))
	}
	for _, l := range layers[:depth+1] {
		chain = append(chain, l.at)
	}
	if depth == 1 && !m.o.Merged {
		if m.o.Merged, err = m.adopted(ctx, layers[1]); err != nil {
			return nil, err
		}
	}
	if m.o.Force {
		return chain, nil
	}
	return chain, m.refuse(ctx, layers[:depth+1])
}

// adopted tells whether an earlier run has given one of the children its new parent.
func (m *merge) adopted(ctx context.Context, parent *layerFile) (bool, error) {
	for _, at := range m.o.Children {
		l, err := openParent(ctx, m.s, at, Read)
		if err != nil {
			return false, err
		}
		next, err := nextLayer(ctx, []*layerFile{l}, Read)
		if err != nil {
			return false, errors.Join(err, l.close())
		}
		is := sameFile(next, parent)
		if err := errors.Join(next.close(), l.close()); err != nil || is {
			return is, err
		}
	}
	return false, nil
}

// refuse is an error if a disk that is not part of the merge needs one that is.
func (m *merge) refuse(ctx context.Context, layers []*layerFile) error {
	var around []Location
	for _, l := range layers {
		around = append(around, l.at)
	}
	search, err := searchChildren(ctx, m.s, around...)
	if err != nil {
		return err
	}
	defer search.close()
	for i, l := range layers {
		if i == 0 && m.o.Keep {
			continue // it stays what it is
		}
		if i > 0 && m.o.Merged {
			continue // likewise
		}
		known := layers[:i:i]
		for _, f := range search.found { // an earlier run may have given them their new parent
			if slices.ContainsFunc(m.o.Children, f.at.Equal) {
				known = append(known, f)
			}
		}
		if err := search.refuse(ctx, l, known...); err != nil {
			return err
		}
	}
	return nil
}

// one merges a disk into its parent.
func (m *merge) one(ctx context.Context, child, parent Location, children []Location) error {
	state := "nothing was changed"
	fail := func(err error) error {
		if err == nil {
			return nil
		}
		return &MergeError{child, parent, state, LeadFull(err)}
	}
	was, err := m.bring(ctx, child, &state)
	if err != nil {
		return fail(err)
	}
	for _, c := range children {
		if err := m.adopt(ctx, c, child, parent); err != nil {
			return fail(err)
		}
		m.result.Relinked = append(m.result.Relinked, c)
	}
	if m.o.Keep {
		return fail(m.reannounce(ctx, child))
	}
	if err := m.untouched(ctx, child, was); err != nil {
		return fail(err)
	}
	if m.o.Commit != nil {
		if err := m.o.Commit(ctx, child, parent); err != nil {
			return fail(err)
		}
	}
	state = "it is merged, and only its file is left over: remove that, or run it again"
	if err := removeAt(ctx, m.s, child); err != nil {
		return fail(err)
	}
	m.result.Removed = append(m.result.Removed, child)
	return nil
}

// bring brings a disk's content into its parent, and returns what the disk is.
func (m *merge) bring(ctx context.Context, child Location, state *string) (was imageInfo, err error) {
	if m.o.Merged {
		l, err := openParent(ctx, m.s, child, Read|DenyWrite)
		if err != nil {
			return was, err
		}
		*state = "all disks open as before; run it again to go on"
		return l.info, l.close()
	}
	was, next, err := m.announce(ctx, child)
	if err != nil {
		return was, err
	}
	*state = "all disks open as before; run it again to go on"
	if was.Format == VHD {
		return was, m.intoCopy(ctx, child)
	}
	return was, m.intoParent(ctx, child, next)
}

// untouched is an error if somebody has the merged disk open, or has written to it
// since it was announced.
func (m *merge) untouched(ctx context.Context, at Location, was imageInfo) error {
	l, err := openParent(ctx, m.s, at, ReadWrite|DenyWrite)
	if err != nil {
		return err
	}
	if l.info.Identity != was.Identity {
		err = opError("remove", at, errors.New("it has been written to since it was merged"))
	}
	return errors.Join(err, l.close())
}

// open opens the chain of a disk with flags and options for its first images; the
// rest is read.
func (m *merge) open(ctx context.Context, at Location, flags []Flags, how func(i int) imageOptions) ([]*layerFile, []block.Device, error) {
	layers, err := openChainFiles(ctx, m.s, at, flags)
	if err != nil {
		return nil, nil, err
	}
	devs, err := openStack(layers, how)
	return layers, devs, err
}

// openChainFiles opens the files of a chain, the first ones with the flags
// given, the rest for reading.
func openChainFiles(ctx context.Context, s Store, at Location, flags []Flags) ([]*layerFile, error) {
	leaf, err := openParent(ctx, s, at, flags[0])
	if err != nil {
		return nil, err
	}
	layers := []*layerFile{leaf}
	for len(layers) < len(flags) && layers[len(layers)-1].info.Parent != nil {
		next, err := nextLayer(ctx, layers, flags[len(layers)])
		if err != nil {
			return nil, errors.Join(err, closeLayers(layers))
		}
		layers = append(layers, next)
	}
	rest, err := walkChain(ctx, layers[len(layers)-1], Read|DenyWrite)
	layers = append(layers[:len(layers)-1], rest...)
	if err != nil {
		return nil, errors.Join(err, closeLayers(layers))
	}
	return layers, nil
}

// writable opens the first image of a stack for writing.
func writable(i int) imageOptions { return imageOptions{readOnly: i > 0} }

// announce writes into a VHDX child what its parent's identity will be as soon as
// the parent has changed (MS-VHDX 2.6.2.6.3, note 12), and returns what the child is.
func (m *merge) announce(ctx context.Context, child Location) (is imageInfo, next identity, err error) {
	layers, devs, err := m.open(ctx, child, []Flags{ReadWrite | DenyWrite}, writable)
	if err != nil {
		return is, next, err
	}
	is = layers[0].info
	if is.Format == VHDX {
		next = identity(uuid.New())
		var link newLink
		if link, err = linkTo(child, layers[1]); err == nil {
			link.next = next
			err = relink(ctx, devs[0], link)
		}
	}
	return is, next, errors.Join(err, devs[0].Close())
}

// reannounce leaves a child that is kept with the one identity its parent has.
func (m *merge) reannounce(ctx context.Context, child Location) error {
	layers, devs, err := m.open(ctx, child, []Flags{ReadWrite | DenyWrite}, writable)
	if err != nil {
		return err
	}
	if layers[0].info.Format == VHDX {
		var link newLink
		if link, err = linkTo(child, layers[1]); err == nil {
			err = relink(ctx, devs[0], link)
		}
	}
	return errors.Join(err, devs[0].Close())
}

// intoParent copies a VHDX child's content into its parent, whose identity
// becomes next.
func (m *merge) intoParent(ctx context.Context, child Location, next identity) error {
	_, devs, err := m.open(ctx, child, []Flags{Read | DenyWrite, ReadWrite | DenyWrite}, func(i int) imageOptions {
		return imageOptions{readOnly: i != 1, dataWrite: vhdx.GUID(next)}
	})
	if err != nil {
		return err
	}
	parent := unwrap(devs[1]).(*vhdx.Disk)
	if parent.Size() < devs[0].Size() {
		err = parent.Resize(ctx, devs[0].Size())
	}
	if err == nil {
		err = m.copy(ctx, unwrap(devs[0]), parent)
	}
	if err == nil {
		err = fitParent(ctx, parent, devs[0].Size())
	}
	return errors.Join(err, devs[0].Close())
}

// fitParent makes a parent that is larger than its merged child show no more than
// the child did: the rest is zero, and cut off where it can be.
func fitParent(ctx context.Context, parent *vhdx.Disk, size int64) error {
	rest := parent.Size() - size
	if rest <= 0 {
		return nil
	}
	if err := parent.WriteZeroes(ctx, size, rest, 0); err != nil {
		return err
	}
	if err := parent.Flush(ctx); err != nil {
		return err
	}
	err := parent.Resize(ctx, size)
	if errors.Is(err, vhdx.ErrTailInUse) || errors.Is(err, vhdx.ErrUnsupported) { // a differencing disk does not shrink
		return nil
	}
	return err
}

// copy brings a layer's own content into its parent and flushes that.
func (m *merge) copy(ctx context.Context, child, parent block.Device) error {
	layer, ok := child.(block.Layered)
	if !ok {
		return fmt.Errorf("%T has no layers: %w", child, block.ErrNotSupported)
	}
	copied, err := copyLayer(ctx, layer, parent, m.o.Convert, m.o.Progress)
	m.result.Copied += copied
	return err
}

// copyLayer brings what a layer itself holds into another device, which reads as
// the layer's parent, or is going to, and flushes it. What the layer lacks is not
// touched.
func copyLayer(ctx context.Context, layer block.Layered, dst block.Device, o ConvertOptions, progress func(ConvertProgress)) (copied int64, err error) {
	total := layer.Size()
	mirror, err := block.NewMirror(layer, front{dst, total}, block.MirrorOptions{Granularity: block.MergeGranularity(total)})
	if err != nil {
		return 0, err
	}
	if copied, err = mergePass(ctx, mirror, layer, o, progress); err != nil {
		return copied, err
	}
	return copied, dst.Flush(ctx)
}

// mergePass has a mirror of a layer and its parent bring the layer's content over.
func mergePass(ctx context.Context, m *block.Mirror, layer block.Layered, o ConvertOptions, progress func(ConvertProgress)) (copied int64, err error) {
	total := layer.Size()
	pass := block.CopyOptions{Parallel: o.Parallel, Pace: o.Pace, Progress: func(p block.CopyProgress) {
		copied = p.Copied
		if progress != nil {
			progress(ConvertProgress{Total: total, Done: max(total-p.Remaining, 0), Copied: p.Copied})
		}
	}}
	if o.Rate > 0 {
		pass.Limit = rate.NewLimiter(rate.Limit(o.Rate), int(max(o.Rate/4, 1<<20)))
	}
	err = m.MergePass(ctx, layer, pass)
	return copied, err
}

// adopt gives a merged disk's child its new parent.
func (m *merge) adopt(ctx context.Context, at, merged, parent Location) error {
	layers, devs, err := m.open(ctx, at, []Flags{ReadWrite | DenyWrite}, writable)
	if err != nil {
		return err
	}
	switch {
	case len(layers) > 1 && layers[1].at.Equal(parent): // an earlier run did it
	case len(layers) < 3 || !layers[1].at.Equal(merged) || !layers[2].at.Equal(parent):
		err = opError("give a new parent to", at, fmt.Errorf("%w: its parent is not %s", ErrParentChanged, merged))
	default:
		var link newLink
		if link, err = linkTo(at, layers[2]); err == nil {
			err = relink(ctx, devs[0], link)
		}
	}
	return errors.Join(err, devs[0].Close())
}
