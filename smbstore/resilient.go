package smbstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"lunless/smbstore/block"
)

// ResilientOptions say how a disk gets over trouble. The zero value is usable.
type ResilientOptions struct {
	// Patience is how long requests wait for a lost disk before they fail (default
	// 60 s). What the store's own reconnecting takes (Options.ReconnectTimeout) comes
	// before it: a store of a resilient disk has a short one.
	Patience time.Duration
	Keep     int64               // as block.ResilientOptions has it
	Notify   func(block.Trouble) // may be nil
}

// OpenResilient opens a disk with all its parents, as OpenChain does, as a device
// that outlasts the loss of its files: see block.Resilient. The store's own means,
// reconnecting, reclaiming its handles and sending again, come first; this is for
// when they are at their end, and for what a disk's format makes of that.
//
// A disk that is opened again is the one it was if its images are the same files, as
// far as the server numbers them, of the same size and identity: with each session
// of writing a VHDX takes another one, so that whoever wrote to it meanwhile shows,
// or to one of its parents. What has no such identity, raw disks and VHD, has the
// fence alone: without DiskOptions.Fence nothing keeps another writer from them while
// the server has no handle. The fence is checked before anything is written.
func OpenResilient(ctx context.Context, s Store, name string, o DiskOptions, r ResilientOptions) (*block.Resilient, error) {
	session := &resilientSession{id: identity(uuid.New())}
	open := func(ctx context.Context) (block.Device, error) {
		c, err := openChain(ctx, s, name, o, chainSession{admit: session.admit, id: session.id})
		if err != nil {
			return nil, session.lasting(err)
		}
		return c.Device(), nil
	}
	dev, err := open(ctx)
	if err != nil {
		return nil, err
	}
	session.begun = true
	return block.NewResilient(dev, block.ResilientOptions{
		Open: open, Lost: Lost, Stable: stableChain, Patience: r.Patience, Keep: r.Keep, Notify: r.Notify,
		NoSpace: func(err error) bool { return errors.Is(err, ErrNoSpace) },
	}), nil
}

// Lost tells the errors after which opening the file again may help: its handle or
// its server is lost. A sharing violation is one of them: a server keeps a lost
// handle for a time.
func Lost(err error) bool {
	return lost(err) || errors.Is(err, ErrUnreachable) || errors.Is(err, ErrUncertain) || errors.Is(err, ErrSharing)
}

// stableChain tells whether what a chain's leaf has acknowledged is on stable storage.
func stableChain(d block.Device) bool {
	c, ok := d.(chainDevice)
	if !ok {
		return false
	}
	f, ok := c.chain.layers[0].file.(interface{ Stable() bool })
	return ok && f.Stable()
}

// resilientSession is what the opens of one resilient disk have in common.
type resilientSession struct {
	id     identity // of the leaf once this session has changed it
	begun  bool     // the first open has succeeded
	images []imageMark
}

// imageMark is what an image of a chain is known by.
type imageMark struct {
	at   Location
	file uint64 // the server's number of it; 0 if it has none
	info imageInfo
}

// admit compares a chain with what it was; the first one is what it is.
func (s *resilientSession) admit(files []*layerFile) error {
	var images []imageMark
	for _, l := range files {
		m := imageMark{at: l.at, info: l.info}
		if f, ok := l.file.(*smbFile); ok {
			m.file = f.id
		}
		images = append(images, m)
	}
	if !s.begun {
		s.images = images
		return nil
	}
	if len(images) != len(s.images) {
		return opError("open again", images[0].at, fmt.Errorf("%w: the chain had %d images, and has %d", block.ErrChanged, len(s.images), len(images)))
	}
	for i := range images {
		if err := s.same(&images[i], &s.images[i], i == 0); err != nil {
			return opError("open again", images[i].at, fmt.Errorf("%w: %w", block.ErrChanged, err))
		}
	}
	return nil
}

// same compares an image with what it was. A leaf may have been changed by this session.
func (s *resilientSession) same(is, was *imageMark, leaf bool) error {
	switch {
	case is.at != was.at:
		return fmt.Errorf("its place was %s", was.at)
	case is.file != was.file && is.file != 0 && was.file != 0:
		return ErrReplaced
	case is.info.Format != was.info.Format:
		return fmt.Errorf("%w: it is %s, and was %s", ErrFormat, is.info.Format, was.info.Format)
	case is.info.Identity != was.info.Identity && (!leaf || is.info.Identity != s.id):
		return fmt.Errorf("somebody else has written to it, its identity is %s: see who has, then stop the VM and start it anew",
			is.info.Format.identityText(is.info.Identity))
	}
	return nil
}

// lasting marks the errors that no later attempt gets over.
func (s *resilientSession) lasting(err error) error {
	for _, e := range []error{ErrTaken, ErrReplaced, ErrParentChanged, ErrStoreClosed} {
		if s.begun && errors.Is(err, e) && !errors.Is(err, block.ErrChanged) {
			return fmt.Errorf("%w: %w", block.ErrChanged, err)
		}
	}
	return err
}
