package nbd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"lunless/smbstore/block"
)

// Errors of exports.
var (
	// ErrExists: the server has an export of that name.
	ErrExists = errors.New("an export of that name exists")
	// ErrUnknown: the server has no export of that name.
	ErrUnknown = errors.New("no such export")
	// ErrBadExport: the description of an export cannot be used.
	ErrBadExport = errors.New("bad export")
	// ErrNotHeld: the export is not in standby.
	ErrNotHeld = errors.New("export is not held")
	// ErrBusy: requests are still at the device that was to be exchanged.
	ErrBusy = errors.New("requests are still at the export's device")
)

// ExportOptions describe an export.
type ExportOptions struct {
	// Name is what clients ask for, "" the default export's. UTF-8, at most 4096 bytes.
	Name string
	// Description is shown to people who list exports.
	Description string
	// Device is what is exported. It stays the caller's, to be closed after
	// Server.Remove, Shutdown or Serve has returned. nil makes an export in standby,
	// of Size and Geometry.
	Device   block.Device
	Size     int64          // bytes; only without Device
	Geometry block.Geometry // only without Device
	// ReadOnly refuses what changes the device.
	ReadOnly bool
	// FastZero: the device makes zeroes faster than it writes them, as long as they
	// may become holes. Clients that ask for fast zeroes are refused else.
	FastZero bool
	// Errno tells how an error of the device is reported, 0 for what it does not
	// know. It is asked first, and may be nil: then syscall's ENOSPC, EDQUOT and
	// EFBIG are ENOSPC, block.ErrReadOnly is EPERM, and what has no value is EIO.
	Errno func(error) Errno
	// OnFailure is told of every request that is answered with an error, concurrently
	// and before the answer, which it must not hold up. It may be nil. The log is told
	// too, within bounds.
	OnFailure func(Failure)
}

// Failure is a request that is answered with an error.
type Failure struct {
	Export  string
	Peer    string // the client: its address, or on a unix socket its process and user
	Request string // what was asked: "read", "write", "write zeroes"…
	Offset  uint64 // bytes, as asked
	Length  uint32
	FUA     bool
	Errno   Errno
	Err     error // the device's; nil if the request never came that far
}

func (f Failure) String() string {
	s := fmt.Sprintf("%s of %d bytes at %d: %v", f.Request, f.Length, f.Offset, f.Errno)
	if f.Err != nil {
		s += ": " + f.Err.Error()
	}
	return s
}

// Export is a device that a Server offers under a name. All methods may be called
// concurrently.
type Export struct {
	opts     ExportOptions
	size     int64
	geo      block.Geometry
	gate     gate
	counters counters
	log      limitedLog

	mu     sync.Mutex
	conns  map[*conn]struct{} // guarded by mu
	closed bool               // guarded by mu
}

func newExport(o ExportOptions) (*Export, error) {
	e := &Export{opts: o, size: o.Size, geo: o.Geometry, conns: map[*conn]struct{}{}}
	if o.Device != nil {
		e.size, e.geo = o.Device.Size(), o.Device.Geometry()
	}
	for _, s := range []string{o.Name, o.Description} {
		if len(s) > maxString || !utf8.ValidString(s) {
			return nil, fmt.Errorf("%w: names and descriptions are UTF-8 of at most %d bytes", ErrBadExport, maxString)
		}
	}
	if e.size < 0 {
		return nil, fmt.Errorf("%w: %q has a size of %d bytes", ErrBadExport, o.Name, e.size)
	}
	e.gate.drained = make(chan struct{}, 1)
	s := &gateState{dev: o.Device}
	if o.Device == nil {
		s.open = make(chan struct{})
	}
	e.gate.state.Store(s)
	return e, nil
}

// Name is the export's name.
func (e *Export) Name() string { return e.opts.Name }

// Size is the export's size in bytes.
func (e *Export) Size() int64 { return e.size }

// Hold puts the export into standby: clients connect and negotiate, and their
// requests wait, however long it takes; beyond a bound they are left unread. Hold
// returns when no request is at the device any more, so that the caller may
// exchange it. If ctx ends first, its error is returned and the export is held
// nevertheless; Hold may be called again to wait on.
func (e *Export) Hold(ctx context.Context) error {
	e.gate.hold()
	if err := e.gate.drain(ctx); err != nil {
		return fmt.Errorf("hold export %q: %d requests at its device: %w", e.opts.Name, e.gate.active.Load(), err)
	}
	return nil
}

// Release ends the standby: requests go on, at dev if it is not nil, else at the
// device there was. A new device has the size of the old one. Errors: ErrNotHeld;
// ErrBusy if requests are still at another device.
func (e *Export) Release(dev block.Device) error {
	if dev != nil && dev.Size() != e.size {
		return fmt.Errorf("release export %q of %d bytes to a device of %d: %w", e.opts.Name, e.size, dev.Size(), block.ErrOutOfRange)
	}
	if err := e.gate.release(dev); err != nil {
		return fmt.Errorf("release export %q: %w", e.opts.Name, err)
	}
	return nil
}

// Fail ends the standby with an error: the requests that wait and all later ones
// fail with it, until Hold is called again. ErrNotHeld if the export is not held.
func (e *Export) Fail(err error) error {
	if err == nil {
		err = block.ErrFailed
	}
	if gerr := e.gate.fail(err); gerr != nil {
		return fmt.Errorf("fail export %q: %w", e.opts.Name, gerr)
	}
	return nil
}

// flags are the transmission flags a client is told.
//
// CAN_MULTI_CONN is true because all connections use the one device without a
// cache between, and block.Device.Flush covers every write that returned before
// it was called, whichever connection that was on.
func (e *Export) flags(structured bool) uint16 {
	f := uint16(txHasFlags | txSendFlush | txCanMultiConn | txSendCache)
	if structured {
		f |= txSendDF
	}
	if e.opts.ReadOnly {
		return f | txReadOnly
	}
	f |= txSendFUA | txSendTrim | txSendWriteZeroes
	if e.opts.FastZero {
		f |= txSendFastZero
	}
	return f
}

// blockSizes are the minimum, the preferred and the maximum length of a request.
func (e *Export) blockSizes() (least, preferred, most uint32) {
	least = 1
	if s := e.geo.LogicalSectorSize; s > 0 && s <= 1<<16 && s&(s-1) == 0 && e.size%int64(s) == 0 {
		least = uint32(s)
	}
	preferred = max(4096, least)
	if s := e.geo.PhysicalSectorSize; s > 0 && s <= 1<<20 && s&(s-1) == 0 {
		preferred = max(uint32(s), least, 512)
	}
	return least, preferred, maxPayload
}

// gate lets requests through to a device, or holds them.
type gate struct {
	state   atomic.Pointer[gateState]
	active  atomic.Int64 // requests that have passed and not left
	drained chan struct{}
	mu      sync.Mutex // orders changes of state
}

// gateState is never changed once it is in a gate.
type gateState struct {
	dev block.Device // nil of an export that never had one
	err error        // what requests fail with, if not nil
	// open is closed when the gate is held no more; nil if it is not held.
	open chan struct{}
	// clear: held, and what was at the device has left.
	clear atomic.Bool
}

// tryEnter is enter for a request that will not wait. ok is false if the gate is held.
func (g *gate) tryEnter() (dev block.Device, err error, ok bool) {
	g.active.Add(1)
	s := g.state.Load()
	if s.open != nil && !(sabotaged("hold-leaks") && s.dev != nil) {
		g.leave()
		return nil, nil, false
	}
	return s.dev, s.err, true
}

// enter waits until the gate is open or ctx ends. A request that has a device or
// an error of the gate's must leave; ctx's error is told by ok being false.
func (g *gate) enter(ctx context.Context) (dev block.Device, err error, ok bool) {
	for {
		if dev, err, ok = g.tryEnter(); ok {
			return dev, err, true
		}
		s := g.state.Load()
		if s.open == nil {
			continue
		}
		select {
		case <-s.open:
		case <-ctx.Done():
			return nil, nil, false
		}
	}
}

func (g *gate) leave() {
	if g.active.Add(-1) == 0 && g.state.Load().open != nil {
		g.wake()
	}
}

func (g *gate) wake() {
	select {
	case g.drained <- struct{}{}:
	default:
	}
}

func (g *gate) held() bool { return g.state.Load().open != nil }

func (g *gate) hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s := g.state.Load(); s.open == nil {
		g.state.Store(&gateState{dev: s.dev, open: make(chan struct{})})
	}
}

// drain waits until nothing is at the device, or somebody ended the hold.
func (g *gate) drain(ctx context.Context) error {
	s := g.state.Load() // before active: what passes later sees that the gate is held
	for s.open != nil && g.active.Load() != 0 && g.state.Load() == s {
		select {
		case <-g.drained:
		case <-s.open:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.clear.Store(true)
	g.wake() // another one may wait
	return nil
}

func (g *gate) release(dev block.Device) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.state.Load()
	switch {
	case s.open == nil:
		return ErrNotHeld
	case dev == nil && s.dev == nil:
		return fmt.Errorf("%w: it has no device", ErrBadExport)
	case dev == nil:
		dev = s.dev
	case s.dev != nil && !s.clear.Load():
		return ErrBusy
	}
	g.state.Store(&gateState{dev: dev})
	close(s.open)
	return nil
}

func (g *gate) fail(err error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.state.Load()
	if s.open == nil {
		return ErrNotHeld
	}
	g.state.Store(&gateState{dev: s.dev, err: err})
	close(s.open)
	return nil
}
