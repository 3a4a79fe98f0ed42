package bench

import (
	"context"
	"errors"
	"fmt"

	"lunless/smbstore"
	"lunless/smbstore/block"
)

// TargetOptions say how a target is opened.
type TargetOptions struct {
	Store       smbstore.Options
	Client      Client // Own if ""; the file must be there for others
	Connections int    // TCP connections, each with an open of its own; 1 for a local file or a virtual disk
	Size        int64  // of a file that must be made; 0 demands that it exists
	Keep        bool   // leave a file that was made
	Seed        uint64
	Progress    func(done, total int64) // of filling a file that was made
}

// Target is a file or virtual disk opened for a run.
type Target struct {
	Devices []block.Device // one a connection, all the same disk
	Made    bool           // the file was not there before
	Terms   string         // dialect and protection of the connection, where the store tells
	close   []func() error // in reverse order
}

// OpenTarget opens the file at l: a raw file, or a virtual disk by its content.
// One that is missing is made as a raw file of the size given and filled, so
// that reads find data.
func OpenTarget(ctx context.Context, l smbstore.Location, o TargetOptions) (t *Target, err error) {
	t = &Target{}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	if o.Client != "" && o.Client != Own {
		if l.IsLocal() {
			return t, fmt.Errorf("%s is not on a share, %s has no use for it", l, o.Client)
		}
		return t, t.openForeign(ctx, l, o)
	}
	first, err := t.openStore(ctx, l, o.Store)
	if err != nil {
		return t, err
	}
	if c, ok := first.(interface{ Connection() string }); ok {
		t.Terms = c.Connection()
	}
	name := l.Base()
	if _, err := first.Stat(name); errors.Is(err, smbstore.ErrNotExist) && o.Size > 0 {
		if err := t.make(ctx, first, name, o); err != nil {
			return t, err
		}
	} else if err != nil {
		return t, err
	}
	dev, format, err := smbstore.OpenDisk(ctx, first, name, smbstore.DiskOptions{})
	if err != nil {
		return t, err
	}
	t.addDevice(dev)
	if l.IsLocal() || format != smbstore.Raw {
		return t, nil
	}
	for len(t.Devices) < o.Connections {
		s, err := t.openStore(ctx, l, o.Store)
		if err != nil {
			return t, err
		}
		dev, _, err := smbstore.OpenDisk(ctx, s, name, smbstore.DiskOptions{})
		if err != nil {
			return t, err
		}
		t.addDevice(dev)
	}
	return t, nil
}

func (t *Target) openStore(ctx context.Context, l smbstore.Location, o smbstore.Options) (smbstore.Store, error) {
	o.Connections = 1
	s, err := smbstore.Open(ctx, l.Dir(), o)
	if err != nil {
		return nil, err
	}
	t.close = append(t.close, s.Close)
	return s, nil
}

func (t *Target) addDevice(d block.Device) {
	t.Devices = append(t.Devices, d)
	t.close = append(t.close, d.Close)
}

// make creates and fills the file, and sees to its removal.
func (t *Target) make(ctx context.Context, s smbstore.Store, name string, o TargetOptions) error {
	f, err := s.OpenFile(name, smbstore.ReadWrite|smbstore.Create|smbstore.Exclusive)
	if err != nil {
		return err
	}
	t.Made = true
	if !o.Keep {
		t.close = append(t.close, func() error { return s.Remove(name) })
	}
	if err := f.Truncate(o.Size); err != nil {
		return errors.Join(err, f.Close())
	}
	dev, err := block.NewRaw(f, block.RawOptions{})
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if err := Prepare(ctx, dev, o.Seed, o.Progress); err != nil {
		return errors.Join(fmt.Errorf("%s: %w", name, err), dev.Close())
	}
	return dev.Close()
}

// Close closes the devices, removes the file if it was made not to be kept, and
// ends the connections.
func (t *Target) Close() error {
	var errs []error
	for i := len(t.close) - 1; i >= 0; i-- {
		errs = append(errs, t.close[i]())
	}
	t.close = nil
	return errors.Join(errs...)
}
