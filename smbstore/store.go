package smbstore

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"lunless/smbstore/block"
)

// Flags say how OpenFile opens a file.
type Flags uint32

const (
	// Read and Write give the access; at least one of them.
	Read Flags = 1 << iota
	Write
	// Create makes the file if it is missing; with Exclusive it must be missing
	// (ErrExist). Truncate empties it. All three need Write.
	Create
	Exclusive
	Truncate
	// DenyWrite asks that nobody else has the file open for writing while this
	// open lasts (ErrSharing otherwise). Any number of readers may ask for it at a
	// time. A local store does so between users of this package on one machine
	// (advisory locks). The SMB client in use cannot express share modes: there it
	// has no effect, and Store.DeniesWrite says so.
	DenyWrite
	// WriteBehind tells that much is going to be written and then synced: a local
	// store has the kernel begin with it at once, instead of at the Sync. It changes
	// nothing of what a Sync means.
	WriteBehind
)

// ReadWrite is Read|Write.
const ReadWrite = Read | Write

// Info is what a name in a store leads to.
type Info struct {
	Name    string // last component
	Size    int64  // bytes; 0 for a folder
	Dir     bool
	ModTime time.Time
}

// Store is a folder tree at a location. Names are relative to it, '/' between
// components, "" for the location itself. All methods may be called concurrently.
//
// Errors are wrapped with the operation and the full location; ErrNotExist,
// ErrExist, ErrPermission, ErrSharing, ErrNoSpace, ErrBadName and ErrUncertain
// can be told with errors.Is.
type Store interface {
	Location() Location
	// OpenFile opens or makes a file. What it returns may also be a
	// block.Puncher, block.Extenter and block.RangeCopier.
	OpenFile(name string, flags Flags) (File, error)
	// Mkdir makes one folder; MkdirAll those above it too, and does not mind
	// that they exist.
	Mkdir(name string) error
	MkdirAll(name string) error
	// Remove takes away a file or an empty folder.
	Remove(name string) error
	// RemoveAll removes a folder with all in it; a missing one is no error. It
	// refuses the root (ErrIsRoot) and stops at 100,000 entries (ErrTooMany).
	RemoveAll(name string) error
	// Rename gives a file or folder a new name. An existing file of that name is
	// replaced in one step, an existing folder never is.
	Rename(oldName, newName string) error
	ReadDir(name string) ([]Info, error)
	Stat(name string) (Info, error)
	// SyncDir puts a folder's entries on stable storage.
	SyncDir(name string) error
	// DeniesWrite tells whether the flag of that name has an effect.
	DeniesWrite() bool
	// Close ends the store and every file still open in it.
	Close() error
}

// File is an open file of a Store. Any number of reads and writes may be in
// flight; each is split and spread over the store's connections as needed.
type File interface {
	block.File
	// Name is the name the file was opened with, relative to its store.
	Name() string
}

// Options configure Open. The zero value is good for a local location.
type Options struct {
	// Where user and password come from, first found wins: Credentials,
	// CredentialsFile, the location's user with LUNLESS_PASSWORD, Prompt.
	Credentials     *Credentials
	CredentialsFile string
	Prompt          func(ctx context.Context, l Location) (password string, err error)

	// Connections is how many TCP connections share the I/O (default 2, at most 16).
	Connections int
	// Parallel bounds the requests one large read or write is split into at a
	// time (default 8).
	Parallel int
	// ReconnectTimeout bounds how long operations wait for a lost server, from
	// when the first of them found it lost (default 60 s). Past it each asks once
	// and fails, until the server answers again.
	ReconnectTimeout time.Duration
	// RequestTimeout is how long a server may stay silent with requests
	// outstanding before its connection counts as dead (default 30 s).
	RequestTimeout time.Duration
	// ReplayBuffer bounds the unsynced writes a file keeps in memory to send
	// again after a reconnect, in bytes (default 64 MiB). From half of it on the
	// file is synced beside the writes, at the bound they wait for that.
	ReplayBuffer int64
	// Dial makes the connections to servers; net.Dialer's if nil.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// RequireSigning refuses servers that do not sign.
	RequireSigning bool
	// OtherServers lets the parents of differencing disks be looked for on servers
	// that a disk names and the location it was opened with does not. Off, nobody
	// who makes a disk can have this user log on to a server of theirs.
	OtherServers bool
	// Logger gets reconnects; nil discards.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.Connections <= 0 {
		o.Connections = 2
	}
	o.Connections = min(o.Connections, 16)
	if o.Parallel <= 0 {
		o.Parallel = 8
	}
	if o.ReconnectTimeout <= 0 {
		o.ReconnectTimeout = time.Minute
	}
	if o.RequestTimeout <= 0 {
		o.RequestTimeout = 30 * time.Second
	}
	if o.ReplayBuffer <= 0 {
		o.ReplayBuffer = 64 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Open connects to a location. The folder itself need not exist: MkdirAll("")
// makes it. ctx bounds the opening alone.
func Open(ctx context.Context, l Location, o Options) (Store, error) {
	o = o.withDefaults()
	if l.IsLocal() {
		if l.Path == "" {
			return nil, fmt.Errorf("%w: it is empty", ErrBadLocation)
		}
		return &localStore{loc: l, opts: o}, nil
	}
	s, err := openSMB(ctx, l, o)
	if err != nil {
		return nil, err // not a Store that is nil inside
	}
	return s, nil
}

// Abandon closes a store whose server is not waited for: what it was asked fails at
// once, and what it has open it closes when it notices. It ends a Close that waits.
func Abandon(s Store) {
	if a, ok := s.(interface{ abandon() }); ok {
		a.abandon()
	}
}

// OpenPath parses and opens a location.
func OpenPath(ctx context.Context, location string, o Options) (Store, error) {
	l, err := ParseLocation(location)
	if err != nil {
		return nil, err
	}
	return Open(ctx, l, o)
}

// checkFlags refuses combinations that make no sense.
func checkFlags(f Flags) error {
	if f&ReadWrite == 0 {
		return fmt.Errorf("open for neither reading nor writing")
	}
	if f&(Create|Exclusive|Truncate) != 0 && f&Write == 0 {
		return fmt.Errorf("creating or truncating needs write access")
	}
	if f&Exclusive != 0 && f&Create == 0 {
		return fmt.Errorf("exclusive without create")
	}
	return nil
}

// opError says what failed on what.
func opError(op string, at Location, err error) error {
	if err == nil {
		return nil
	}
	return &OpError{Op: op, At: at, Err: err}
}
