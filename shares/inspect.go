package shares

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"lunless/shares/fs"
	"lunless/shares/state"
	"lunless/smbstore/smb2"
)

// Errors of CloseSession and CloseOpen.
var (
	ErrNoSession = errors.New("no such session")
	ErrNoOpen    = errors.New("no such open")
)

var errAdmin = errors.New("closed by the administrator")

// longWait is how long a request takes before Sessions and Opens mention it.
const longWait = 500 * time.Millisecond

// SessionInfo describes an authenticated session.
type SessionInfo struct {
	ID        uint64
	User      string
	Client    smb2.GUID // ClientGuid
	Dialect   smb2.Dialect
	Signed    bool // every message must be
	Encrypted bool // every message must be
	Cipher    smb2.Cipher
	Signing   smb2.SigningAlgorithm
	Since     time.Time
	Expires   time.Time // zero: never
	Channels  []ChannelInfo
	Shares    []string // of its tree connects, sorted
	Opens     int
	Waits     []WaitInfo // longest first
}

// ChannelInfo is one connection of a session.
type ChannelInfo struct {
	Client, Server string // host:port
	Since          time.Time
	LastUse        time.Time
}

// WaitInfo is a request that has not been answered for a while.
type WaitInfo struct {
	Command string
	// For is what it waits for: "lock", "break", "change", "disk" (or whatever keeps the
	// file system), "other".
	For  string
	Path string // of the open, within its share; empty for a request of none
	Age  time.Duration
}

// OpenInfo describes an open of a file, a folder or a pipe.
type OpenInfo struct {
	ID        uint64 // the persistent half of its FileId
	Session   uint64 // 0: no session has it at the moment
	User      string
	Client    string // host:port of the session's first channel
	Share     string
	Path      string // within the share, with \
	Directory bool
	Access    smb2.AccessMask
	Sharing   smb2.ShareAccess // what others may do meanwhile
	Oplock    string           // "none", or what is cached, as "RWH"; with ">" and the new state while it is broken
	Lease     string           // the key; empty: none
	Durable   string           // "no", "durable", "durable v2", "resilient", "persistent"
	Until     time.Time        // without a session: when the open ends
	Locks     []LockInfo
	Waits     []WaitInfo // longest first
}

// LockInfo is a byte-range lock of an open.
type LockInfo struct {
	Offset, Length uint64
	Exclusive      bool
}

// Sessions lists the authenticated sessions, oldest first.
func (srv *Server) Sessions() []SessionInfo {
	waits := srv.waits()
	var list []SessionInfo
	for _, s := range srv.sessionList() {
		list = append(list, s.info(waits))
	}
	slices.SortFunc(list, func(a, b SessionInfo) int { return a.Since.Compare(b.Since) })
	return list
}

// sessionList is the table's sessions that are valid.
func (srv *Server) sessionList() []*session {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	var list []*session
	for _, s := range srv.sessions {
		if s.isValid() {
			list = append(list, s)
		}
	}
	return list
}

// waits are those of all connections.
func (srv *Server) waits() []wait {
	srv.mu.Lock()
	conns := make([]*conn, 0, len(srv.conns))
	for c := range srv.conns {
		conns = append(conns, c)
	}
	srv.mu.Unlock()
	var list []wait
	for _, c := range conns {
		list = append(list, c.waits(longWait)...)
	}
	slices.SortFunc(list, func(a, b wait) int { return int(b.age - a.age) })
	return list
}

func (s *session) info(waits []wait) SessionInfo {
	i := SessionInfo{
		ID: s.id, User: s.user, Client: s.clientGUID, Dialect: s.dialect, Since: s.created,
		Signed: s.signingRequired, Encrypted: s.encrypt, Cipher: s.cipher, Signing: s.signing,
		Opens: s.countOpens(),
	}
	if at := s.expires.Load(); at != 0 {
		i.Expires = started.Add(time.Duration(at))
	}
	for _, ch := range s.channelList() {
		i.Channels = append(i.Channels, ChannelInfo{
			Client: ch.conn.nc.RemoteAddr().String(), Server: ch.conn.nc.LocalAddr().String(),
			Since: ch.conn.opened, LastUse: time.Unix(0, ch.conn.lastUse.Load()),
		})
	}
	s.mu.RLock()
	for _, t := range s.trees {
		i.Shares = append(i.Shares, t.share.Name)
	}
	s.mu.RUnlock()
	slices.Sort(i.Shares)
	for _, w := range waits {
		if w.session == s {
			i.Waits = append(i.Waits, w.info())
		}
	}
	return i
}

func (w *wait) info() WaitInfo {
	i := WaitInfo{Command: w.command.String(), Age: w.age, For: "other"}
	switch {
	case !w.async:
		i.For = "disk"
	case w.command == smb2.CommandLock:
		i.For = "lock"
	case w.command == smb2.CommandChangeNotify:
		i.For = "change"
	case w.command == smb2.CommandIoctl: // long ones copy, or wait for a pipe
	default:
		i.For = "break"
	}
	if w.open != nil {
		i.Path = w.open.path()
	}
	return i
}

// path is the open's name within its share, with backslashes.
func (o *open) path() string {
	if o.file == nil {
		return "(pipe)"
	}
	name, err := o.file.Name()
	if err != nil {
		return "(removed)"
	}
	return strings.ReplaceAll(name, "/", `\`)
}

// Opens lists what is open, whoever has it, ordered by id.
func (srv *Server) Opens(ctx context.Context) ([]OpenInfo, error) {
	var list []OpenInfo
	waits := srv.waits()
	for _, s := range srv.sessionList() {
		for _, o := range s.openList(nil) {
			if o.pipe != nil {
				list = append(list, o.info(waits))
			}
		}
	}
	err := srv.store.Walk(ctx, func(id fs.FileID, rec state.Record) bool {
		for k := range rec.Opens {
			if e := &rec.Opens[k]; !e.OfStream {
				list = append(list, srv.openInfo(e, &rec, waits))
			}
		}
		return true
	})
	slices.SortFunc(list, func(a, b OpenInfo) int {
		switch {
		case a.ID < b.ID:
			return -1
		case a.ID > b.ID:
			return 1
		}
		return 0
	})
	return list, err
}

// info describes an open by what its session knows of it.
func (o *open) info(waits []wait) OpenInfo {
	i := OpenInfo{ID: o.id.Persistent, Directory: o.dir, Access: o.access, Path: o.path(), Oplock: "none", Durable: "no"}
	if s := o.session; s != nil && !o.parked.Load() {
		i.Session, i.User = s.id, s.user
		if chs := s.channelList(); len(chs) > 0 {
			i.Client = chs[0].conn.nc.RemoteAddr().String()
		}
	}
	if o.tree != nil {
		i.Share = o.tree.share.Name
	}
	for _, w := range waits {
		if w.open == o {
			i.Waits = append(i.Waits, w.info())
		}
	}
	return i
}

// openInfo describes an open of a record.
func (srv *Server) openInfo(e *state.Open, rec *state.Record, waits []wait) OpenInfo {
	i := OpenInfo{ID: uint64(e.ID), Path: e.Handle.Name, Share: e.Handle.Share}
	if o := srv.table.find(e.ID); o != nil {
		i = o.info(waits)
	}
	if i.User == "" {
		i.User = e.Handle.Owner
	}
	i.Access, i.Sharing = smb2.AccessMask(e.Access), smb2.ShareAccess(e.Share)
	i.Durable = durableName(e.Handle.Kind)
	if e.Handle.Disconnected {
		i.Until = e.Handle.Deadline
	}
	cache := e.Oplock
	if e.HasLease {
		i.Lease = smb2.GUID(e.Lease.Key).String()
		for _, l := range rec.Leases {
			if l.Key == e.Lease {
				cache = l.Cache
			}
		}
	}
	i.Oplock = cacheName(&cache)
	for _, l := range rec.Locks {
		if l.Owner == e.ID {
			i.Locks = append(i.Locks, LockInfo{l.Offset, l.Length, l.Exclusive})
		}
	}
	return i
}

func durableName(k state.HandleKind) string {
	switch k {
	case state.Durable:
		return "durable"
	case state.DurableV2:
		return "durable v2"
	case state.Resilient:
		return "resilient"
	case state.Persistent:
		return "persistent"
	}
	return "no"
}

func cacheName(c *state.Cache) string {
	name := func(c state.Caching) string {
		var b strings.Builder
		for _, f := range []struct {
			bit  state.Caching
			name byte
		}{{state.CacheRead, 'R'}, {state.CacheWrite, 'W'}, {state.CacheHandle, 'H'}} {
			if c&f.bit != 0 {
				b.WriteByte(f.name)
			}
		}
		if b.Len() == 0 {
			return "none"
		}
		return b.String()
	}
	if c.Breaking {
		return name(c.State) + ">" + name(c.BreakTo)
	}
	return name(c.State)
}

// CloseSession ends a session as an administrator wishes (MS-SMB2 3.3.4.12):
// ErrNoSession if there is none of that id.
func (srv *Server) CloseSession(ctx context.Context, id uint64) error {
	s := srv.globalSession(id)
	if s == nil || !s.isValid() {
		return ErrNoSession
	}
	s.end(ctx, errAdmin)
	return nil
}

// CloseOpen ends an open as an administrator wishes (MS-SMB2 3.3.4.17): ErrNoOpen
// if there is none of that id. Who had it finds its handle gone.
func (srv *Server) CloseOpen(ctx context.Context, id uint64) error {
	if o := srv.table.find(state.OpenID(id)); o != nil {
		o.takeBack(ctx, srv, errAdmin)
		return nil
	}
	for _, s := range srv.sessionList() {
		for _, o := range s.openList(nil) {
			if o.id.Persistent == id {
				o.takeBack(ctx, srv, errAdmin)
				return nil
			}
		}
	}
	return ErrNoOpen
}
