package smbstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"lunless/smbstore/block"
	"lunless/smbstore/vhdx"
)

// RebaseOptions describe a rebase.
type RebaseOptions struct {
	Parent Location // the new one
	// Unsafe changes the link alone: for a parent that was moved or renamed, whose
	// old place leads nowhere any more. It must be the parent the disk was made
	// for, unless Force is set: then the disk's content becomes whatever it is over
	// the new one.
	Unsafe, Force bool
	Convert       ConvertOptions // Parallel is used
	Progress      func(ConvertProgress)
}

// RebaseResult says what a rebase did.
type RebaseResult struct {
	Parent Location `json:"parent"`
	Copied int64    `json:"copied"` // bytes in which the parents differ, now in the disk
}

// RebaseDisk gives a differencing disk another parent of the same format. Its
// content stays: where the parents differ, the disk gets what the old one has.
// The content is the same at every moment, whenever the run ends; what was done
// of it then is found done by the next.
func RebaseDisk(ctx context.Context, s Store, name string, o RebaseOptions) (RebaseResult, error) {
	at := s.Location().Join(name)
	result, err := rebase(ctx, s, name, o)
	if err != nil {
		err = opError("rebase", at, LeadFull(err))
	}
	return result, err
}

func rebase(ctx context.Context, s Store, name string, o RebaseOptions) (RebaseResult, error) {
	leaf, err := openLayer(s, name, ReadWrite|DenyWrite)
	if err != nil {
		return RebaseResult{}, err
	}
	if leaf.info.Parent == nil {
		return RebaseResult{}, errors.Join(fmt.Errorf("%w: it is no differencing disk", ErrNoParent), leaf.close())
	}
	layers, err := openRebased(ctx, s, leaf, o)
	if err != nil {
		return RebaseResult{}, errors.Join(err, leaf.close())
	}
	result := RebaseResult{Parent: layers[0].at}
	link, err := linkTo(leaf.at, layers[0])
	if err != nil {
		return result, errors.Join(err, closeLayers(layers), leaf.close())
	}
	parents, err := openStack(layers, readOnly)
	if err != nil {
		return result, errors.Join(err, leaf.close())
	}
	if o.Unsafe {
		dev, err := openImage(leaf.file, leaf.info.Format, imageOptions{parent: parents[0]})
		if err != nil {
			return result, errors.Join(err, parents[0].Close(), leaf.close())
		}
		return result, errors.Join(relink(ctx, dev, link), dev.Close())
	}
	result.Copied, err = rebaseSafely(ctx, leaf, parents[0], link, o)
	return result, errors.Join(err, parents[0].Close())
}

// openRebased opens the files of the new parent's chain.
func openRebased(ctx context.Context, s Store, leaf *layerFile, o RebaseOptions) ([]*layerFile, error) {
	parent, err := openParent(ctx, s, o.Parent, Read|DenyWrite)
	if err != nil {
		return nil, err
	}
	layers, err := walkChain(ctx, parent, Read|DenyWrite)
	for _, l := range layers {
		if err == nil && sameFile(l, leaf) {
			err = fmt.Errorf("%w: %s is, or has as a parent, the disk itself", ErrChainLoop, o.Parent)
		}
	}
	switch {
	case err != nil:
	case len(layers) >= maxDepth:
		err = fmt.Errorf("%w: more than %d", ErrChainDepth, maxDepth)
	case parent.info.Format != leaf.info.Format:
		err = leaf.info.Parent.admits(leaf.info, parent.info)
	case o.Unsafe && !o.Force:
		if err = leaf.info.Parent.admits(leaf.info, parent.info); err != nil {
			err = fmt.Errorf("%s: %w; without --unsafe the content is kept whatever the new parent holds, with --force as well it is not", o.Parent, err)
		}
	}
	if err != nil {
		return nil, errors.Join(err, closeLayers(layers))
	}
	return layers, nil
}

// rebaseSafely opens the disk over its old parents, copies what the new one lacks
// and changes the link. It owns leaf's file.
func rebaseSafely(ctx context.Context, leaf *layerFile, parent block.Device, link newLink, o RebaseOptions) (int64, error) {
	layers, err := walkChain(ctx, leaf, Read|DenyWrite)
	if err != nil {
		return 0, errors.Join(err, closeLayers(layers))
	}
	devs, err := openStack(layers, func(i int) imageOptions {
		// What a guest sees stays the same, and so does what children know the disk by.
		return imageOptions{readOnly: i > 0, dataWrite: vhdx.GUID(leaf.info.Identity)}
	})
	if err != nil {
		return 0, err
	}
	layer, ok := devs[0].(block.Layered)
	if !ok {
		return 0, errors.Join(fmt.Errorf("%T has no layers: %w", devs[0], block.ErrNotSupported), devs[0].Close())
	}
	size := layer.Size()
	r := &rebasing{layer: layer, old: padded{devs[1], size}, new: padded{parent, size}, o: o}
	err = r.run(ctx)
	if err == nil {
		err = layer.Flush(ctx)
	}
	if err == nil {
		err = relink(ctx, layer, link)
	}
	return r.copied.Load(), errors.Join(err, devs[0].Close())
}

// rebasing is a safe rebase under way.
type rebasing struct {
	layer    block.Layered
	old, new padded
	o        RebaseOptions
	bufs     chan [2][]byte
	copied   atomic.Int64 // bytes
}

// Units of a rebase, in bytes: what is compared at a time, and what is copied
// where it differs.
const rebaseChunk, rebaseUnit = 1 << 20, 4096

// run walks what the disk lacks and hands what the parents may differ in to
// workers.
func (r *rebasing) run(ctx context.Context) error {
	parallel := r.o.Convert.Parallel
	if parallel <= 0 {
		parallel = 8
	}
	r.bufs = make(chan [2][]byte, parallel)
	for range parallel {
		r.bufs <- [2][]byte{make([]byte, rebaseChunk), make([]byte, rebaseChunk)}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	err := r.walk(ctx, func(off, n int64) {
		g.Go(func() error { return r.chunk(ctx, off, n) })
	})
	if gErr := g.Wait(); gErr != nil {
		err = gErr
	}
	return err
}

func (r *rebasing) walk(ctx context.Context, spawn func(off, n int64)) error {
	size := r.layer.Size()
	streams := [2]*extentStream{newExtentStream(ctx, r.old, size), newExtentStream(ctx, r.new, size)}
	defer streams[0].stop()
	defer streams[1].stop()
	const window = 1 << 30
	for at := int64(0); at < size; at += window {
		var lacks []block.Extent
		err := r.layer.LayerExtents(ctx, at, min(window, size-at), func(e block.Extent) error {
			if e.State == block.Unallocated {
				lacks = append(lacks, e)
			}
			return ctx.Err()
		})
		if err != nil {
			return err
		}
		for _, e := range lacks {
			if err := r.gap(ctx, streams, e.Offset, e.Offset+e.Length, spawn); err != nil {
				return err
			}
		}
		if r.o.Progress != nil {
			r.o.Progress(ConvertProgress{Total: size, Done: min(at+window, size), Copied: r.copied.Load()})
		}
	}
	return nil
}

// gap spawns the parts of a range in which a parent may have data.
func (r *rebasing) gap(ctx context.Context, streams [2]*extentStream, off, end int64, spawn func(off, n int64)) error {
	for off < end {
		next, data := end, false
		for _, s := range streams {
			e, err := s.at(off)
			if err != nil {
				return err
			}
			next, data = min(next, e.Offset+e.Length), data || e.State == block.Data
		}
		if data {
			next = min(next, off-off%rebaseChunk+rebaseChunk)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			spawn(off, next-off)
		}
		off = next
	}
	return nil
}

// chunk copies what differs in a range that the disk lacks.
func (r *rebasing) chunk(ctx context.Context, off, n int64) error {
	bufs := <-r.bufs
	defer func() { r.bufs <- bufs }()
	was, is := bufs[0][:n], bufs[1][:n]
	if err := r.old.ReadAt(ctx, was, off); err != nil {
		return err
	}
	if err := r.new.ReadAt(ctx, is, off); err != nil {
		return err
	}
	for from := int64(0); from < n; {
		to := min(n, from+rebaseUnit-(off+from)%rebaseUnit)
		if bytes.Equal(was[from:to], is[from:to]) {
			from = to
			continue
		}
		for to < n { // all that differs in one write
			next := min(n, to+rebaseUnit)
			if bytes.Equal(was[to:next], is[to:next]) {
				break
			}
			to = next
		}
		if err := r.layer.WriteAt(ctx, was[from:to], off+from, 0); err != nil {
			return err
		}
		r.copied.Add(to - from)
		from = to
	}
	return nil
}
