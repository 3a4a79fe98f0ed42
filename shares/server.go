package shares

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"lunless/shares/state"
	"lunless/smbstore/auth"
	"lunless/smbstore/smb2"
)

// ErrServerClosed is what Serve returns after Shutdown.
var ErrServerClosed = errors.New("server is shut down")

// Server serves shares. Its methods may be called concurrently.
type Server struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	auth    *auth.Config
	offer   []byte      // the SPNEGO token of NEGOTIATE responses
	store   state.Store // what is open, and who has locked what
	memory  *state.Memory
	table   openTable
	ipc     *share

	offloads offloads

	opens     atomic.Int64 // of all sessions
	handles   atomic.Int64 // those, and durable ones without a session
	connCount atomic.Int64 // of conns
	workers   atomic.Int64 // of all connections
	inFlight  atomic.Int64 // bytes that those hold
	asyncs    atomic.Int64 // requests of all connections that have gone async
	stopping  atomic.Bool
	stop      chan struct{}  // closed when Shutdown begins
	wg        sync.WaitGroup // listeners and connections
	tasks     sync.WaitGroup // what breaks and opens that end have to do
	watchOnce sync.Once

	stateMu sync.Mutex  // outside of all others; guards durable
	durable *state.Bolt // what of store outlives the server; nil until a share needs that

	mu        sync.Mutex // outermost but for stateMu
	shares    map[string]*share
	sessions  map[uint64]*session                 // GlobalSessionTable
	ending    ending                              // sessions being taken down; locks itself
	clients   map[smb2.GUID]map[*session]struct{} // by ClientGuid
	conns     map[*conn]struct{}
	peers     map[netip.Addr]*clientHost
	forgotten time.Duration // when peers were looked through, by clock
	listeners map[net.Listener]struct{}

	notifier notifier
	tunnel   tunnel

	ids idSource
}

// New makes a server that serves nothing yet. The configuration's mistakes are
// its errors: ErrNoAccounts, ErrDialects, and those of AddShare.
func New(cfg Config) (_ *Server, err error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, fmt.Errorf("shares: %w", err)
	}
	srv := &Server{
		cfg: cfg, log: cfg.Logger, metrics: newMetrics(), table: newOpenTable(),
		stop:   make(chan struct{}),
		shares: map[string]*share{}, sessions: map[uint64]*session{}, clients: map[smb2.GUID]map[*session]struct{}{},
		conns: map[*conn]struct{}{}, peers: map[netip.Addr]*clientHost{}, listeners: map[net.Listener]struct{}{},
	}
	srv.memory = state.NewMemory()
	srv.store = &brokered{srv.memory, srv}
	defer func() {
		if err != nil {
			srv.closeState()
		}
	}()
	if err := srv.metrics.register(cfg.Registerer); err != nil {
		return nil, fmt.Errorf("shares: metrics: %w", err)
	}
	srv.ids.init()
	srv.auth = srv.authConfig()
	srv.offer = auth.NegTokenInit2(srv.auth)
	srv.ipc = srv.newShare(Share{Name: ipcName, Comment: "Remote IPC"})
	srv.ipc.ipc = true
	for _, s := range cfg.Shares {
		if err := srv.AddShare(s); err != nil {
			return nil, fmt.Errorf("shares: %w", err)
		}
	}
	srv.setGUID()
	return srv, nil
}

// setGUID gives a server its GUID unless it has been given one. One whose state
// outlives it keeps it: clients know the server again by that (MS-SMB2 3.2.5.2).
func (srv *Server) setGUID() {
	switch {
	case !srv.cfg.GUID.IsZero():
	case srv.durable != nil:
		srv.cfg.GUID = srv.durable.GUID()
	default:
		rand.Read(srv.cfg.GUID[:])
	}
}

// Shutdown stops the server in order: no new connections, no new requests, those
// in flight are answered, what is open is closed. When ctx ends first, the
// connections that are left are cut, and its error is returned once they are down.
func (srv *Server) Shutdown(ctx context.Context) error {
	defer srv.offloads.dropOf(nil)
	srv.mu.Lock()
	if !srv.stopping.Swap(true) {
		close(srv.stop)
	}
	for l := range srv.listeners {
		l.Close()
	}
	for c := range srv.conns {
		c.nc.SetReadDeadline(time.Unix(1, 0)) // its reader stops; what it has read is answered
	}
	srv.mu.Unlock()

	done := make(chan struct{})
	go func() { srv.wg.Wait(); close(done) }()
	select {
	case <-done:
		srv.endOpens()
		return srv.closeState()
	case <-ctx.Done():
	}
	srv.mu.Lock()
	for c := range srv.conns {
		c.abort(errServerStops)
	}
	srv.mu.Unlock()
	<-done
	srv.endOpens()
	return errors.Join(ctx.Err(), srv.closeState())
}

// keepState sees to it, before a share that needs it is served, that state outlives
// the server: ErrNoState without a folder to keep it in. A server opens the folder's
// file when it has need of it and no sooner, since no other server may have it then.
func (srv *Server) keepState(s *Share) error {
	if !s.ContinuouslyAvailable {
		return nil
	}
	srv.stateMu.Lock()
	defer srv.stateMu.Unlock()
	switch {
	case srv.durable != nil:
		return nil
	case srv.cfg.StateDir == "":
		return fmt.Errorf("share %q: continuous availability: %w", s.Name, ErrNoState)
	}
	file := filepath.Join(srv.cfg.StateDir, state.FileName)
	opts := srv.cfg.State
	opts.Memory, opts.Logger = srv.memory, srv.log
	b, err := state.OpenBolt(file, opts)
	if err != nil {
		return fmt.Errorf("share %q: continuous availability: %w", s.Name, err)
	}
	srv.durable = b
	srv.expireRestored()
	return nil
}

// closeState lets go of what state is kept in. It may be called again.
func (srv *Server) closeState() error {
	srv.stateMu.Lock()
	defer srv.stateMu.Unlock()
	if srv.durable == nil {
		return nil
	}
	return srv.durable.Close()
}

// addSession enters a session into the GlobalSessionTable under a new id.
func (srv *Server) addSession(s *session) {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	for s.id == 0 || s.id == math.MaxUint32 || srv.sessions[s.id] != nil {
		s.id = uint64(rand32())
	}
	srv.sessions[s.id] = s
	if srv.clients[s.clientGUID] == nil {
		srv.clients[s.clientGUID] = map[*session]struct{}{}
	}
	srv.clients[s.clientGUID][s] = struct{}{}
}

func (srv *Server) forgetSession(s *session) {
	srv.mu.Lock()
	if srv.sessions[s.id] == s {
		delete(srv.sessions, s.id)
		delete(srv.clients[s.clientGUID], s)
		if len(srv.clients[s.clientGUID]) == 0 {
			delete(srv.clients, s.clientGUID)
		}
	}
	srv.mu.Unlock()
}

func (srv *Server) globalSession(id uint64) *session {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	return srv.sessions[id]
}

// rand32 makes a session's id, which some clients keep in 32 bits.
func rand32() uint32 {
	var b [4]byte
	rand.Read(b[:])
	return binary.LittleEndian.Uint32(b[:])
}

// idSource makes ids that are unique, and sparse, so that one client's do not
// tell another's: a counter and a random half.
type idSource struct {
	count atomic.Uint32
}

func (s *idSource) init() {
	var b [4]byte
	rand.Read(b[:])
	s.count.Store(binary.LittleEndian.Uint32(b[:]))
}

// next never returns 0 or all ones. The counter half repeats after 2^32 ids, the
// pair of both halves in no time that matters.
func (s *idSource) next() uint64 {
	var b [4]byte
	rand.Read(b[:])
	n := s.count.Add(1)
	id := uint64(binary.LittleEndian.Uint32(b[:]))<<32 | uint64(n)
	if id == 0 || id == ^uint64(0) {
		return s.next()
	}
	return id
}
