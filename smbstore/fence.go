package smbstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"lunless/smbstore/client"
	"lunless/smbstore/smb2"
)

// ErrTaken is what every *TakenError is.
var ErrTaken = errors.New("the handle was lost to another owner of the VM")

// Fence keeps a VM's earlier owners away from its disks, and this one once a later
// one has come: what is opened with it is the application instance of the VM's
// GUID, in the version that is the owner's epoch (MS-SMB2 3.3.5.9.13). A higher
// epoch has the server close what a lower one has open, after its writes in flight;
// a lower or the same epoch is refused. No ClientGuid is used twice, so that this
// holds between processes of one host as well.
//
// It goes with the opens that deny others to write. Before SMB 3.1.1, which has
// no versions, and on servers that know of none, their share mode alone keeps
// owners apart: then a later one waits until the server has dropped the handle of
// the earlier.
type Fence struct {
	Instance uuid.UUID // the VM's GUID; nil: no fence
	Epoch    uint64
	// Holds tells whether the epoch is still the VM's: nil, an error that wraps
	// ErrNotOwner or ErrEpoch and says whose it is, or another if that is not known
	// now. It is asked each time that a file is open for writing, before anything is
	// written: by then a later owner either shows, or will find this open. nil is
	// never asked.
	Holds func() error
}

// Fence is the fence of a VM that host owns in an epoch.
func (h *Home) Fence(host string, epoch uint64) (Fence, error) {
	id, err := uuid.Parse(h.id)
	if err != nil {
		return Fence{}, fmt.Errorf("%w: id %q", ErrBadConfig, h.id)
	}
	return Fence{Instance: id, Epoch: epoch, Holds: func() error {
		r, err := h.Record()
		if err != nil {
			return err
		}
		return r.ownedBy(host, epoch)
	}}, nil
}

// TakenError says that a file is another owner's now. What this one wrote and the
// server acknowledged is in it; nothing written since is.
type TakenError struct {
	Epoch uint64 // this owner's
	By    error  // whose the VM is, as Fence.Holds says it; nil if it does not
}

func (e *TakenError) Error() string {
	s := fmt.Sprintf("%v: held in epoch %d", ErrTaken, e.Epoch)
	if e.By != nil {
		s += ", " + e.By.Error()
	}
	return s
}

// Is matches ErrTaken.
func (e *TakenError) Is(target error) bool { return target == ErrTaken }

// Unwrap gives whose it is.
func (e *TakenError) Unwrap() error { return e.By }

// Fenced is a store whose opens that deny writing have the fence; those of the
// stores beside it that a chain leads to do as well. Closing it closes nothing.
func Fenced(s Store, f Fence) Store {
	if f.Instance == uuid.Nil {
		return s
	}
	switch s := s.(type) {
	case *smbStore:
		return &smbStore{smbShare: s.smbShare, loc: s.loc, borrowed: true, fence: f}
	case *localStore:
		return &localStore{loc: s.loc, opts: s.opts, fence: f}
	case *subStore:
		return &subStore{Store: Fenced(s.Store, f), prefix: s.prefix}
	case borrowed:
		return borrowed{Fenced(s.Store, f)}
	}
	return &fencedStore{s, f}
}

// Evict has the server close what earlier owners have open of files: each is opened
// with the fence, of a later epoch than theirs, and closed. Where that has no effect,
// whoever opens the file next is told.
func Evict(ctx context.Context, s Store, f Fence, names []string) {
	fenced := Fenced(s, f)
	for _, name := range names {
		if ctx.Err() != nil {
			return
		}
		if open, err := fenced.OpenFile(name, ReadWrite|DenyWrite); err == nil {
			open.Close() //nolint:errcheck // nothing was written
		}
	}
}

// fencedStore is a store of a kind that is not known here: what it opens is
// checked alone.
type fencedStore struct {
	Store
	fence Fence
}

func (s *fencedStore) Close() error { return nil }

func (s *fencedStore) OpenFile(name string, flags Flags) (File, error) {
	f, err := s.Store.OpenFile(name, flags)
	return s.fence.opened(f, err, flags, s.Location().Join(name))
}

func (s *fencedStore) openAt(ctx context.Context, l Location) (Store, error) {
	next, err := openNeighbour(ctx, s.Store, l)
	if err != nil {
		return nil, err
	}
	return &fencedNeighbour{Fenced(next, s.fence), next}, nil
}
func (s *fencedStore) options() Options { return optionsOf(s.Store) }

// fencedNeighbour closes the store that it fences.
type fencedNeighbour struct {
	Store
	inner Store
}

func (s *fencedNeighbour) Close() error { return s.inner.Close() }

func (s *fencedNeighbour) openAt(ctx context.Context, l Location) (Store, error) {
	return openNeighbour(ctx, s.Store, l)
}
func (s *fencedNeighbour) options() Options { return optionsOf(s.inner) }

// covers tells whether an open has the fence.
func (f *Fence) covers(flags Flags) bool { return f.Instance != uuid.Nil && flags&DenyWrite != 0 }

// opened is what becomes of a file that a store without instances has opened.
func (f *Fence) opened(file File, err error, flags Flags, at Location) (File, error) {
	if !f.covers(flags) {
		return file, err
	}
	if err != nil {
		return nil, f.explain(err, at)
	}
	if err := f.check(flags); err != nil {
		return nil, errors.Join(opError("open", at, err), file.Close())
	}
	return file, nil
}

// explain names the owner to whom a file was lost, if it was.
func (f *Fence) explain(err error, at Location) error {
	if errors.Is(err, ErrSharing) {
		if lost := f.check(Write); errors.Is(lost, ErrTaken) {
			return opError("open", at, lost)
		}
	}
	return err
}

// check asks whose the VM is, once a file is open for writing. Errors are
// *TakenError, or why it is not known.
func (f *Fence) check(flags Flags) error {
	if f.Holds == nil || flags&Write == 0 || sabotaged("fence-unchecked") {
		return nil
	}
	err := f.Holds()
	if errors.Is(err, ErrNotOwner) || errors.Is(err, ErrEpoch) {
		return &TakenError{f.Epoch, err}
	}
	return err
}

// refused is the error of an open that the server refused for the sake of one in a
// later epoch, or in this one.
func (f *Fence) refused() error {
	if err := f.check(Write); err != nil {
		return err
	}
	return fmt.Errorf("%w: it is open in epoch %d of its VM, or in a later one", ErrSharing, f.Epoch)
}

// apply adds the fence to what an open asks for.
func (f *Fence) apply(flags Flags, c *client.CreateOptions) {
	if !f.covers(flags) || sabotaged("fence-off") {
		return
	}
	c.AppInstanceID = wireGUID(f.Instance)
	c.AppInstanceVersion = &smb2.AppInstanceVersion{Low: f.Epoch}
}

// wireGUID is a GUID in the order that it travels in (MS-DTYP 2.3.4.2).
func wireGUID(u uuid.UUID) (g smb2.GUID) {
	binary.LittleEndian.PutUint32(g[0:], binary.BigEndian.Uint32(u[0:]))
	binary.LittleEndian.PutUint16(g[4:], binary.BigEndian.Uint16(u[4:]))
	binary.LittleEndian.PutUint16(g[6:], binary.BigEndian.Uint16(u[6:]))
	copy(g[8:], u[8:])
	return g
}

// forcedClosed tells that a server refused an open because a later, or the same,
// version of the application instance has the file.
func forcedClosed(err error) bool {
	status, ok := client.StatusOf(err)
	return ok && status == smb2.StatusFileForcedClosed
}
