package smbstore

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Folders of a VM's home, as Hyper-V names them.
const (
	MachinesDir  = "Virtual Machines"
	DisksDir     = "Virtual Hard Disks"
	SnapshotsDir = "Snapshots"
)

// Suffixes of the files in MachinesDir.
const (
	configSuffix = ".json"
	recordSuffix = ".owner.json"
)

// Errors of homes.
var (
	// ErrNotHome: the folder holds no VM.
	ErrNotHome = errors.New("not a VM's home: no `Virtual Machines` folder with a <GUID>.json in it")
	// ErrMoved: the VM has moved away; the record says where.
	ErrMoved = errors.New("the VM has moved")
	// ErrNoRecord: the home has no ownership record; errors that wrap it wrap
	// ErrNotExist too.
	ErrNoRecord = errors.New("no ownership record: a migration to here is unfinished (see `lunless migrate list`), or the record was " +
		"removed (`lunless migrate resolve` makes a new one)")
)

// Home is a VM's home: a folder of a store. All methods may be called
// concurrently, in any number of processes.
type Home struct {
	store Store
	id    string
	owns  bool // Close closes the store

	mu sync.Mutex // one change of the configuration at a time in this process
}

// Store is the home's own folder as a store.
func (h *Home) Store() Store { return h.store }

// Location is where the home lies.
func (h *Home) Location() Location { return h.store.Location() }

// ID is the VM's GUID.
func (h *Home) ID() string { return h.id }

// ConfigName is the configuration's name in the home.
func (h *Home) ConfigName() string { return path.Join(MachinesDir, h.id+configSuffix) }

// RecordName is the ownership record's name in the home.
func (h *Home) RecordName() string { return path.Join(MachinesDir, h.id+recordSuffix) }

// IsRecord tells whether a name in a home belongs to the ownership record: the
// record itself, its lock, or what waits for the lock. Such files are each
// home's own and never copied.
func IsRecord(name string) bool {
	return strings.HasPrefix(name, MachinesDir+"/") && strings.Contains(path.Base(name), recordSuffix)
}

// Close closes the store if OpenHome opened it.
func (h *Home) Close() error {
	if h.owns {
		return h.store.Close()
	}
	return nil
}

// Abandon is Close without waiting for the home's server.
func (h *Home) Abandon() {
	if h.owns {
		Abandon(h.store)
	}
}

// OpenHome opens the home at a location. Errors: ErrNotHome, and those of Open.
func OpenHome(ctx context.Context, l Location, o Options) (*Home, error) {
	s, err := Open(ctx, l, o)
	if err != nil {
		return nil, err
	}
	h, err := HomeIn(s)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	h.owns = true
	return h, nil
}

// HomeIn is the home whose folder the store is. The caller closes the store.
func HomeIn(s Store) (*Home, error) {
	infos, err := s.ReadDir(MachinesDir)
	if errors.Is(err, ErrNotExist) {
		return nil, opError("open", s.Location(), ErrNotHome)
	}
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, i := range infos {
		if id, ok := strings.CutSuffix(i.Name, configSuffix); ok && !i.Dir && isGUID(id) {
			ids = append(ids, id)
		}
	}
	switch len(ids) {
	case 0:
		return nil, opError("open", s.Location(), ErrNotHome)
	case 1:
		return &Home{store: s, id: ids[0]}, nil
	}
	return nil, opError("open", s.Location(), fmt.Errorf("%w: %d configurations in one home", ErrBadConfig, len(ids)))
}

// Config reads the configuration.
func (h *Home) Config() (Config, error) {
	b, err := ReadFile(h.store, h.ConfigName(), maxConfig)
	if err != nil {
		return Config{}, err
	}
	c, err := ParseConfig(b)
	if err == nil && c.ID != h.id {
		err = fmt.Errorf("%w: id %s in a file named %s", ErrBadConfig, c.ID, h.id)
	}
	return c, opError("read", h.Location().Join(h.ConfigName()), err)
}

// UpdateConfig reads the configuration, has change alter it and writes it back
// in one step, with the fields nobody here knows.
func (h *Home) UpdateConfig(change func(*Config) error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, err := h.Config()
	if err != nil {
		return err
	}
	if err := change(&c); err != nil {
		return err
	}
	return h.writeConfig(c)
}

func (h *Home) writeConfig(c Config) error {
	err := c.Check()
	if err == nil && c.ID != h.id {
		err = fmt.Errorf("%w: a VM's id never changes", ErrBadConfig)
	}
	if err != nil {
		return opError("write", h.Location().Join(h.ConfigName()), err)
	}
	b, err := encodeFile(c)
	if err != nil {
		return err
	}
	return WriteFile(h.store, h.ConfigName(), b)
}

// Record reads who owns the VM.
func (h *Home) Record() (Record, error) {
	b, err := ReadFile(h.store, h.RecordName(), maxConfig)
	if errors.Is(err, ErrNotExist) {
		err = fmt.Errorf("%s: %w (%w)", h.Location(), ErrNoRecord, ErrNotExist)
	}
	if err != nil {
		return Record{}, err
	}
	r, err := parseRecord(b)
	if err == nil && r.ID != h.id {
		err = fmt.Errorf("%w: id %s in a file named %s", ErrBadRecord, r.ID, h.id)
	}
	return r, opError("read", h.Location().Join(h.RecordName()), err)
}

// Change reads the record under its lock, has next give the new one, and writes
// that. job is the migration on whose behalf it is, or "": its name is in the
// lock, and its resume may break a lock that its dead left. Errors: *LockedError,
// and what next returns.
func (h *Home) Change(ctx context.Context, job string, next func(Record) (Record, error)) (Record, error) {
	return h.changeAs(ctx, lockAs{job: job}, next)
}

// ChangeByAgent is Change by the one agent of this host: it breaks a lock too that any
// process of this host left that runs no more, an earlier agent or a migration.
func (h *Home) ChangeByAgent(ctx context.Context, next func(Record) (Record, error)) (Record, error) {
	return h.changeAs(ctx, lockAs{agent: true}, next)
}

func (h *Home) changeAs(ctx context.Context, as lockAs, next func(Record) (Record, error)) (Record, error) {
	return h.change(ctx, as, func(r Record, err error) (Record, error) {
		if err != nil {
			return r, err
		}
		return next(r)
	})
}

// Resolve is an administrator's word that host owns the VM here: it breaks the
// lock whoever holds it, and replaces a record that cannot be read.
func (h *Home) Resolve(ctx context.Context, host string) (Record, error) {
	return h.ResolveAfter(ctx, host, 0)
}

// ResolveAfter is Resolve with an epoch that is above a known one as well: the
// epoch another home's record has.
func (h *Home) ResolveAfter(ctx context.Context, host string, epoch uint64) (Record, error) {
	return h.change(ctx, lockAs{force: true}, func(r Record, err error) (Record, error) {
		if errors.Is(err, ErrNotExist) || errors.Is(err, ErrBadRecord) {
			r = NewRecord(h.id, host)
			r.Epoch = max(r.Epoch, epoch+1)
			return r, nil
		}
		if err != nil {
			return r, err
		}
		r.Epoch = max(r.Epoch, epoch)
		return r.Resolve(host)
	})
}

// ResolveMoved is an administrator's word that the VM lives at another location.
// Like Resolve it breaks the lock. A home without a record gets none.
func (h *Home) ResolveMoved(ctx context.Context, job string, to Location) (Record, error) {
	return h.change(ctx, lockAs{force: true}, func(r Record, err error) (Record, error) {
		switch {
		case errors.Is(err, ErrNotExist):
			return Record{}, nil
		case err != nil:
			return r, err
		}
		return r.ResolveMoved(job, to)
	})
}

// CreateRecord writes a home's first record; one that is there already is
// handed to exists, which says what becomes of it.
func (h *Home) CreateRecord(ctx context.Context, job string, first Record, exists func(Record) (Record, error)) (Record, error) {
	return h.change(ctx, lockAs{job: job}, func(r Record, err error) (Record, error) {
		if errors.Is(err, ErrNotExist) {
			return first, nil
		}
		if err != nil {
			return r, err
		}
		return exists(r)
	})
}

func (h *Home) change(ctx context.Context, as lockAs, next func(Record, error) (Record, error)) (r Record, err error) {
	held, err := h.hold(ctx, as)
	if err != nil {
		return Record{}, err
	}
	defer func() {
		if rerr := held.Release(); err == nil {
			err = rerr
		}
	}()
	old, err := h.Record()
	r, err = next(old, err)
	if err != nil {
		return old, opError("change the owner of", h.Location(), err)
	}
	if r == old {
		return r, nil
	}
	if err := held.prepare(r); err != nil {
		return old, err
	}
	return held.Commit()
}

// CreateHome makes a home named name below a storage location, owned by this
// host, with the configuration given: its ID, version, name and creation time
// are filled in if empty. The home appears whole or not at all.
func CreateHome(ctx context.Context, storage Store, name string, c Config) (*Home, error) {
	return createHome(ctx, storage, name, c, func(Store, *Config) error { return nil })
}

// createHome builds the home in a folder with a name of its own, has fill add
// to it, and gives it its name in the end.
func createHome(ctx context.Context, storage Store, name string, c Config, fill func(Store, *Config) error) (*Home, error) {
	at := storage.Location().Join(name)
	if err := CheckVMName(name); err != nil {
		return nil, opError("create", at, err)
	}
	host, err := HostName()
	if err != nil {
		return nil, err
	}
	if _, err := storage.Stat(name); err == nil {
		return nil, opError("create", at, ErrExist)
	} else if !errors.Is(err, ErrNotExist) {
		return nil, err
	}
	if c.ID == "" {
		c.ID = uuid.NewString()
	}
	if c.Name == "" {
		c.Name = name
	}
	if c.Created.IsZero() {
		c.Created = time.Now().UTC().Round(time.Second)
	}
	c.Version = ConfigVersion
	temp := name + buildMark + nonce()
	if err := storage.MkdirAll(temp); err != nil {
		return nil, err
	}
	err = buildHome(ctx, Sub(storage, temp), c, host, fill)
	if err == nil {
		err = storage.Rename(temp, name)
	}
	if err != nil {
		return nil, errors.Join(err, storage.RemoveAll(temp))
	}
	if err := storage.SyncDir(""); err != nil {
		return nil, err
	}
	return &Home{store: Sub(storage, name), id: c.ID}, nil
}

// buildMark is in the name of a home that is being built; one that a crash left
// holds nothing anybody was told of, and may be removed.
const buildMark = ".lunless-new-"

// IsBuilding tells the folder of a home under construction, or what a crash
// left of one.
func IsBuilding(name string) bool { return strings.Contains(name, buildMark) }

func buildHome(ctx context.Context, s Store, c Config, host string, fill func(Store, *Config) error) error {
	for _, d := range []string{MachinesDir, DisksDir, SnapshotsDir} {
		if err := s.MkdirAll(d); err != nil {
			return err
		}
	}
	if err := fill(s, &c); err != nil {
		return err
	}
	h := &Home{store: s, id: c.ID}
	if err := h.writeConfig(c); err != nil {
		return err
	}
	if _, err := h.CreateRecord(ctx, "", NewRecord(c.ID, host), func(Record) (Record, error) { return Record{}, ErrExist }); err != nil {
		return err
	}
	for _, d := range []string{DisksDir, SnapshotsDir, ""} {
		if err := s.SyncDir(d); err != nil {
			return err
		}
	}
	return nil
}

// Listed is one entry of ListHomes.
type Listed struct {
	Name     string
	Location Location
	Config   Config
	Record   Record
	Err      error // why the rest is missing; ErrNotHome never
}

// ListHomes lists the VM homes directly below a storage location, by name. A
// home that cannot be read is listed with its error; other folders are not.
func ListHomes(ctx context.Context, storage Store) ([]Listed, error) {
	infos, err := storage.ReadDir("")
	if err != nil {
		return nil, err
	}
	var homes []Listed
	for _, i := range infos {
		if !i.Dir || IsBuilding(i.Name) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := HomeIn(Sub(storage, i.Name))
		if errors.Is(err, ErrNotHome) || errors.Is(err, ErrBadName) {
			continue
		}
		l := Listed{Name: i.Name, Location: storage.Location().Join(i.Name), Err: err}
		if err == nil {
			var cerr, rerr error
			l.Config, cerr = h.Config()
			l.Record, rerr = h.Record()
			l.Err = errors.Join(cerr, rerr)
		}
		homes = append(homes, l)
	}
	slices.SortFunc(homes, func(a, b Listed) int { return strings.Compare(a.Name, b.Name) })
	return homes, nil
}

// RemoveHome removes the home of that name with all in it: only if this host
// owns the VM, or if the VM has moved away, and if nobody has its disks in use.
func RemoveHome(ctx context.Context, storage Store, name string) error {
	h, err := HomeIn(Sub(storage, name))
	if err != nil {
		return err
	}
	host, err := HostName()
	if err != nil {
		return err
	}
	r, err := h.Record()
	if err == nil && r.State != Moved && !(r.State == Owned && r.Host == host) {
		err = fmt.Errorf("%w: %s", ErrNotOwner, r)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = h.unused()
	}
	if err != nil {
		return opError("remove", h.Location(), err)
	}
	// Renamed first, the home is gone as a whole whatever happens while its
	// files go; a server refuses the rename while one of them is open.
	temp := name + buildMark + nonce()
	if err := storage.Rename(name, temp); err != nil {
		return err
	}
	if err := storage.RemoveAll(temp); err != nil {
		return err
	}
	return storage.SyncDir("")
}

// unused makes sure that nobody writes to the VM's disks: local files can be renamed
// and removed under those who have them open. Disks that are not there, and a
// configuration that cannot be read, are no reason to keep a home.
func (h *Home) unused() error {
	c, err := h.Config()
	if err != nil {
		return nil
	}
	for _, d := range c.Disks {
		f, err := h.store.OpenFile(d.Path, ReadWrite|DenyWrite)
		switch {
		case err == nil:
			f.Close() //nolint:errcheck // nothing was written
		case errors.Is(err, ErrSharing):
			return fmt.Errorf("its disk %s is in use: stop the VM first: %w", d.Path, err)
		}
	}
	return nil
}
