package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"lunless/shares"
)

// controlName is the socket by which a running node is asked things, in its data
// folder. Who may open the folder's files may ask; nobody else can reach it.
const controlName = "control.sock"

var errOtherNode = errors.New("another node is running with this data folder")

// Errors of a Control.
var (
	ErrNotRunning = errors.New("no node is running with this data folder")
	ErrNotThere   = errors.New("no such session or open")
)

// control serves the socket until ctx ends: GET and DELETE of /sessions, /opens
// and their members, in JSON.
type control struct{ server *shares.Server }

// listenControl makes the socket. One that is left over from a node that has died
// is replaced; one that answers is another node's.
func listenControl(data string) (net.Listener, error) {
	dir, at, err := socketPath(data)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if c, err := net.Dial("unix", at); err == nil {
		c.Close()
		return nil, errOtherNode
	}
	os.Remove(at) //nolint:errcheck // Listen says what is wrong
	old := unix.Umask(0o177)
	l, err := net.Listen("unix", at)
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // at is good only as long as dir is open
	return l, nil
}

// socketPath is a short name of the socket: addresses of sockets have room for 107
// bytes. It is good until dir is closed.
func socketPath(data string) (dir *os.File, at string, err error) {
	if dir, err = os.Open(data); err != nil {
		return nil, "", err
	}
	return dir, fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), controlName), nil
}

// serveControl answers until the returned function is called.
func (n *Node) serveControl() (stop func(), err error) {
	l, err := listenControl(n.cfg.Data)
	switch {
	case errors.Is(err, errOtherNode): // it is the one that is asked
		n.log.Warn("sessions and opens of this node cannot be listed", "error", err)
		return func() {}, nil
	case err != nil:
		return nil, err
	}
	c := control{n.server}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /sessions", c.sessions)
	mux.HandleFunc("DELETE /sessions/{id}", c.closeSession)
	mux.HandleFunc("GET /opens", c.opens)
	mux.HandleFunc("DELETE /opens/{id}", c.closeOpen)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go srv.Serve(l) //nolint:errcheck // ends with Close
	return func() {
		srv.Close()
		os.Remove(filepath.Join(n.cfg.Data, controlName)) //nolint:errcheck // the next node replaces it
	}, nil
}

func (c control) sessions(w http.ResponseWriter, _ *http.Request) {
	list := []Session{}
	for _, s := range c.server.Sessions() {
		list = append(list, sessionOf(&s))
	}
	answer(w, list)
}

func (c control) opens(w http.ResponseWriter, r *http.Request) {
	infos, err := c.server.Opens(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	list := []Open{}
	for _, o := range infos {
		list = append(list, openOf(&o))
	}
	answer(w, list)
}

func (c control) closeSession(w http.ResponseWriter, r *http.Request) {
	closeOne(w, r, c.server.CloseSession)
}

func (c control) closeOpen(w http.ResponseWriter, r *http.Request) {
	closeOne(w, r, c.server.CloseOpen)
}

func closeOne(w http.ResponseWriter, r *http.Request, f func(context.Context, uint64) error) {
	id, err := strconv.ParseUint(r.PathValue("id"), 16, 64)
	if err == nil {
		err = f(context.WithoutCancel(r.Context()), id)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
	}
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) //nolint:errcheck // the client sees that it is cut short
}

// Control asks the node that runs with a data folder. Its methods return
// ErrNotRunning if none does, and ErrNotThere for an id that names nothing.
type Control struct{ Data string }

// Sessions lists the node's sessions, oldest first.
func (c Control) Sessions(ctx context.Context) (list []Session, err error) {
	return list, c.call(ctx, http.MethodGet, "/sessions", &list)
}

// Opens lists what is open, ordered by id.
func (c Control) Opens(ctx context.Context) (list []Open, err error) {
	return list, c.call(ctx, http.MethodGet, "/opens", &list)
}

// CloseSession ends a session, by the id that Sessions tells.
func (c Control) CloseSession(ctx context.Context, id string) error {
	return c.close(ctx, "/sessions/", id)
}

// CloseOpen ends an open, by the id that Opens tells.
func (c Control) CloseOpen(ctx context.Context, id string) error {
	return c.close(ctx, "/opens/", id)
}

func (c Control) close(ctx context.Context, path, id string) error {
	if _, err := strconv.ParseUint(id, 16, 64); err != nil {
		return fmt.Errorf("%s: %w: ids are hexadecimal numbers", id, ErrNotThere)
	}
	if err := c.call(ctx, http.MethodDelete, path+id, nil); err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	return nil
}

// call makes one request; out takes the answer.
func (c Control) call(ctx context.Context, method, path string, out any) error {
	dir, at, err := socketPath(c.Data)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	defer dir.Close()
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", at)
	}, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, method, "http://node"+path, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return ErrNotRunning
	case err != nil:
		return fmt.Errorf("asking the node: %w", err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return ErrNotThere
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("asking the node: %s", resp.Status)
	case out == nil:
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}
