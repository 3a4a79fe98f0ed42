package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lunless/migrate"
	"lunless/smbstore"
)

// maxRequest bounds a request's body, in bytes.
const maxRequest = 1 << 20

// Host is what an agent says of itself.
type Host struct {
	Name    string    `json:"name"`
	Data    string    `json:"data"`
	Storage []string  `json:"storage"`
	PID     int       `json:"pid"`
	Since   time.Time `json:"since"`
	VMs     int       `json:"vms"`
	Running int       `json:"running"`
	// Unwatched are VMs that run and that the agent does not look after: something hangs.
	Unwatched []string `json:"unwatched,omitempty"`
}

// Listing is the host's VMs.
type Listing struct {
	VMs      []VM     `json:"vms"`
	Problems []string `json:"problems,omitempty"` // with storage locations
}

// failure is how an error travels: Kind is one of kinds.
type failure struct {
	Error string `json:"error"`
	Kind  string `json:"kind,omitempty"`
}

// kind is an error that a client can tell.
type kind struct {
	name   string
	err    error
	status int
}

var kinds = []kind{
	{"no-vm", ErrNoVM, http.StatusNotFound},
	{"not-home", smbstore.ErrNotHome, http.StatusNotFound},
	{"ambiguous", ErrAmbiguous, http.StatusConflict},
	{"two-homes", ErrTwoHomes, http.StatusConflict},
	{"old-home", ErrOldHome, http.StatusConflict},
	{"in-doubt", ErrInDoubt, http.StatusConflict},
	{"running", ErrRunning, http.StatusConflict},
	{"not-running", ErrNotRunning, http.StatusConflict},
	{"saved", ErrSaved, http.StatusConflict},
	{"bad-config", smbstore.ErrBadConfig, http.StatusBadRequest},
	{"busy", ErrBusy, http.StatusConflict},
	{"foreign", ErrForeign, http.StatusConflict},
	{"taken", smbstore.ErrTaken, http.StatusConflict},
	{"moved", smbstore.ErrMoved, http.StatusConflict},
	{"no-space", smbstore.ErrNoSpace, http.StatusInsufficientStorage},
	{"sharing", smbstore.ErrSharing, http.StatusConflict},
	{"unreachable", smbstore.ErrUnreachable, http.StatusBadGateway},
	{"logon", smbstore.ErrLogon, http.StatusBadGateway},
	{"no-checkpoint", ErrNoCheckpoint, http.StatusNotFound},
	{"checkpoint-taken", ErrCheckpointTaken, http.StatusConflict},
	{"would-lose", ErrWouldLose, http.StatusConflict},
	{"no-migration", ErrNoMigration, http.StatusNotFound},
	{"same-place", migrate.ErrSamePlace, http.StatusConflict},
	{"unfinished", migrate.ErrUnfinished, http.StatusConflict},
	{"too-late", migrate.ErrTooLate, http.StatusConflict},
	{"not-undone", migrate.ErrNotUndone, http.StatusConflict}, // what is cancelled may be this, or too late
	{"cancelled", migrate.ErrCancelled, http.StatusConflict},
	{"other-host", migrate.ErrOtherHost, http.StatusConflict},
	{"no-job", migrate.ErrNoJob, http.StatusNotFound},
	{"stopping", ErrStopping, http.StatusServiceUnavailable},
}

// control serves the agent's socket.
type control struct {
	a     *Agent
	since time.Time
}

// listenControl makes the socket, which is its user's alone, in place of one that
// nobody listens on any more. Whatever else is there stays.
func listenControl(ctx context.Context, path string) (net.Listener, error) {
	switch st, err := os.Lstat(path); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, err
	case st.Mode().Type() != os.ModeSocket:
		return nil, fmt.Errorf("%s is there already, and no socket: give another --listen", path)
	default:
		c, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err == nil {
			c.Close()
			return nil, fmt.Errorf("%w, or another program, and listens on %s: give another --listen", ErrAgentRunning, path)
		}
		if !errors.Is(err, unix.ECONNREFUSED) {
			return nil, err
		}
		if err := ignoreMissing(os.Remove(path)); err != nil {
			return nil, err
		}
	}
	// The socket's own mode becomes its name's: there is no moment with another.
	private := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var chmod error
		err := raw.Control(func(fd uintptr) { chmod = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, chmod)
	}}
	return private.Listen(ctx, "unix", path)
}

// serveAPI makes the socket and answers until stop is called; failed tells of a
// listener that ended by itself.
func (a *Agent) serveAPI() (stop func(), failed <-chan error, err error) {
	l, err := listenControl(a.ctx, a.cfg.Listen)
	if err != nil {
		return nil, nil, fmt.Errorf("control socket: %w", err)
	}
	c := control{a, time.Now()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /host", c.host)
	mux.HandleFunc("GET /vms", c.list)
	mux.HandleFunc("GET /vms/{vm}", c.show)
	mux.HandleFunc("POST /vms/{vm}/start", command(c, (*vm).start))
	mux.HandleFunc("POST /vms/{vm}/stop", command(c, (*vm).stop))
	mux.HandleFunc("POST /vms/{vm}/set", command(c, (*vm).setProperties))
	mux.HandleFunc("POST /vms/{vm}/save", command(c, (*vm).save))
	mux.HandleFunc("GET /vms/{vm}/checkpoints", c.checkpoints)
	mux.HandleFunc("POST /vms/{vm}/checkpoints", command(c, (*vm).checkpoint))
	mux.HandleFunc("POST /vms/{vm}/checkpoints/restore", command(c, (*vm).restore))
	mux.HandleFunc("POST /vms/{vm}/checkpoints/remove", command(c, (*vm).removeCheckpoint))
	mux.HandleFunc("POST /vms/{vm}/claim", command(c, func(v *vm, ctx context.Context, _ claimRequest) error { return v.claim(ctx) }))
	mux.HandleFunc("POST /vms/{vm}/console", c.console)
	mux.HandleFunc("POST /vms/{vm}/migrate", c.migrate)
	mux.HandleFunc("GET /migrations", c.migrations)
	mux.HandleFunc("POST /migrations/settle", c.settle)
	mux.HandleFunc("GET /migrations/{id}", c.onMigration(func(*migrate.Job) {}))
	mux.HandleFunc("DELETE /migrations/{id}", c.withMigration(c.cancelMigration))
	mux.HandleFunc("POST /migrations/{id}/pause", c.onMigration((*migrate.Job).Pause))
	mux.HandleFunc("POST /migrations/{id}/unpause", c.onMigration((*migrate.Job).Unpause))
	srv := &http.Server{Handler: endsAgent(mux), ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return a.ctx }}
	ended := make(chan error, 1)
	go func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			ended <- fmt.Errorf("control socket: %w", err)
		}
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		srv.Shutdown(ctx) //nolint:errcheck // what is left is cut off
		srv.Close()
		os.Remove(a.cfg.Listen) //nolint:errcheck // the next agent replaces it
	}, ended, nil
}

// endsAgent has a panic end the agent, as it does anywhere else: net/http would go on
// with a VM half way through what it was at. The guests outlive it, and the next agent
// takes them over, as after kill -9.
func endsAgent(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				crash(p, debug.Stack())
			}
		}()
		h.ServeHTTP(w, r)
	})
}

// crash ends the process. Tests replace it.
var crash = func(p any, stack []byte) {
	fmt.Fprintf(os.Stderr, "panic: %v\n\n%s", p, stack)
	os.Exit(2)
}

func (c control) host(w http.ResponseWriter, _ *http.Request) {
	h := Host{Name: c.a.cfg.Name, Data: c.a.cfg.Data, Storage: c.a.cfg.Storage, PID: os.Getpid(), Since: c.since}
	for _, v := range c.a.known() {
		h.VMs++
		if r, err := v.running(); err == nil {
			h.Running++
			if r.unwatched() {
				h.Unwatched = append(h.Unwatched, v.name())
			}
		}
	}
	answer(w, h)
}

func (c control) list(w http.ResponseWriter, r *http.Request) {
	l := Listing{}
	l.VMs, l.Problems = c.a.List(r.Context(), r.URL.Query().Has("known"))
	if l.VMs == nil {
		l.VMs = []VM{}
	}
	answer(w, l)
}

func (c control) show(w http.ResponseWriter, r *http.Request) {
	v, err := c.a.look(r.Context(), r.PathValue("vm"))
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, v.show())
}

func (c control) checkpoints(w http.ResponseWriter, r *http.Request) {
	v, err := c.a.look(r.Context(), r.PathValue("vm"))
	var l Checkpoints
	if err == nil {
		l, err = v.checkpoints(r.Context())
	}
	if err != nil {
		refuse(w, err)
		return
	}
	answer(w, l)
}

// command is a handler that has a VM do something, with what the body says, and
// answers with what the VM is then.
func command[Q any](c control, do func(*vm, context.Context, Q) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q Q
		if err := decode(r, &q); err != nil && !errors.Is(err, io.EOF) {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		by := byRecord
		if says, ok := any(q).(authorized); ok {
			by = says.authority()
		}
		v, err := c.a.find(r.Context(), r.PathValue("vm"), by)
		if err == nil {
			err = do(v, r.Context(), q)
		}
		if err != nil {
			refuse(w, err)
			return
		}
		answer(w, v.show())
	}
}

// decode reads what a client asks for. What this agent does not know it refuses: a
// newer client means something by it.
func decode(r *http.Request, q any) error {
	d := json.NewDecoder(io.LimitReader(r.Body, maxRequest))
	d.DisallowUnknownFields()
	return d.Decode(q)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) //nolint:errcheck // the client sees that it is cut short
}

// kindOf is what an error can be told by; without a name, if by nothing.
func kindOf(err error) kind {
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return k
		}
	}
	return kind{status: http.StatusInternalServerError}
}

// named is the error of a kind, nil if there is none.
func named(name string) error {
	for _, k := range kinds {
		if k.name == name {
			return k.err
		}
	}
	return nil
}

func refuse(w http.ResponseWriter, err error) {
	k := kindOf(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(k.status)
	json.NewEncoder(w).Encode(failure{err.Error(), k.name}) //nolint:errcheck // as above
}

// console connects the client with the guest's serial console, until either hangs up.
func (c control) console(w http.ResponseWriter, r *http.Request) {
	v, err := c.a.find(r.Context(), r.PathValue("vm"), byRecord)
	var run *run
	if err == nil {
		run, err = v.running()
	}
	var guest net.Conn
	if err == nil {
		guest, err = net.DialTimeout("unix", run.machine.Load().ConsoleSocket(), 5*time.Second)
	}
	if err != nil {
		refuse(w, v.failOf("open the console of", err))
		return
	}
	defer guest.Close()
	hijacker, ok := w.(http.Hijacker)
	if !ok {
		refuse(w, errors.ErrUnsupported)
		return
	}
	peer, buffered, err := hijacker.Hijack()
	if err != nil {
		refuse(w, err)
		return
	}
	defer peer.Close()
	if _, err := io.WriteString(peer, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: console\r\n\r\n"); err != nil {
		return
	}
	ended := make(chan struct{}, 2)
	go func() {
		io.Copy(guest, buffered) //nolint:errcheck // one of the two hung up
		ended <- struct{}{}
	}()
	go func() {
		io.Copy(peer, guest) //nolint:errcheck // as above
		ended <- struct{}{}
	}()
	select {
	case <-ended:
	case <-c.a.ctx.Done():
	}
}

// failOf is fail for a VM that may be none.
func (v *vm) failOf(op string, err error) error {
	if v == nil {
		return err
	}
	return v.fail(op, err)
}
