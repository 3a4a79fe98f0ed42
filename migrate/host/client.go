package host

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"lunless/migrate"
)

// Client asks the agent that runs with a data folder, or listens on a socket. A VM
// is named by its name, its GUID or its home's location. Errors: ErrNoAgent; those
// of the agent, which errors.Is tells as long as they are this package's or one of
// smbstore's that matter to callers.
type Client struct {
	Data   string
	Socket string // instead of the one in Data
}

// Host says who the agent is.
func (c Client) Host(ctx context.Context) (h Host, err error) {
	return h, c.call(ctx, http.MethodGet, "/host", nil, &h)
}

// List lists the host's VMs, and those in its storage locations unless only known
// ones are asked for.
func (c Client) List(ctx context.Context, known bool) (l Listing, err error) {
	path := "/vms"
	if known {
		path += "?known=1"
	}
	return l, c.call(ctx, http.MethodGet, path, nil, &l)
}

// Show says what the host knows of one.
func (c Client) Show(ctx context.Context, vm string) (v VM, err error) {
	return v, c.call(ctx, http.MethodGet, vmPath(vm, ""), nil, &v)
}

// Start starts a VM.
func (c Client) Start(ctx context.Context, vm string, q StartRequest) (v VM, err error) {
	return v, c.call(ctx, http.MethodPost, vmPath(vm, "/start"), q, &v)
}

// Stop stops a VM; it is off when this returns nil.
func (c Client) Stop(ctx context.Context, vm string, q StopRequest) (v VM, err error) {
	return v, c.call(ctx, http.MethodPost, vmPath(vm, "/stop"), q, &v)
}

// Set changes a VM that is off.
func (c Client) Set(ctx context.Context, vm string, q SetRequest) (v VM, err error) {
	return v, c.call(ctx, http.MethodPost, vmPath(vm, "/set"), q, &v)
}

// Save writes a guest's state into its home and ends it.
func (c Client) Save(ctx context.Context, vm string) (v VM, err error) {
	return v, c.call(ctx, http.MethodPost, vmPath(vm, "/save"), nil, &v)
}

// Checkpoints lists a VM's.
func (c Client) Checkpoints(ctx context.Context, vm string) (l Checkpoints, err error) {
	return l, c.call(ctx, http.MethodGet, vmPath(vm, "/checkpoints"), nil, &l)
}

// Checkpoint keeps a VM as it is now, its guest's state too if it runs.
func (c Client) Checkpoint(ctx context.Context, vm, name string) (v VM, err error) {
	return v, c.call(ctx, http.MethodPost, vmPath(vm, "/checkpoints"), CheckpointRequest{name}, &v)
}

// Restore puts a VM back to a checkpoint.
func (c Client) Restore(ctx context.Context, vm string, q RestoreRequest) (v VM, err error) {
	return v, c.call(ctx, http.MethodPost, vmPath(vm, "/checkpoints/restore"), q, &v)
}

// RemoveCheckpoint removes a checkpoint, and begins to merge what nothing needs any more
// of its disks: VM.Merging shows that.
func (c Client) RemoveCheckpoint(ctx context.Context, vm string, q RemoveRequest) (v VM, err error) {
	return v, c.call(ctx, http.MethodPost, vmPath(vm, "/checkpoints/remove"), q, &v)
}

// Merged waits until nothing of a VM is being merged, and calls progress, which may be
// nil, with where that stands. If Merging is there then, it says what has to wait. If ctx
// ends first, the merges go on.
func (c Client) Merged(ctx context.Context, vm string, progress func(Merging)) (v VM, err error) {
	tick := time.NewTicker(mergedEvery)
	defer tick.Stop()
	for {
		if v, err = c.Show(ctx, vm); err != nil || v.Merging == nil || v.Merging.Waits != "" {
			return v, err
		}
		if progress != nil {
			progress(*v.Merging)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return v, context.Cause(ctx)
		}
	}
}

// mergedEvery is how often merges are asked for.
const mergedEvery = 200 * time.Millisecond

// Claim makes the host the VM's owner, whoever was: an administrator's word.
func (c Client) Claim(ctx context.Context, vm string) (v VM, err error) {
	return v, c.call(ctx, http.MethodPost, vmPath(vm, "/claim"), nil, &v)
}

// Migrate moves the storage of a running VM, and calls progress, which may be nil,
// with where it stands, until it has ended. If ctx ends first, it goes on.
func (c Client) Migrate(ctx context.Context, vm string, q MigrateRequest, progress func(Migration)) (m Migration, err error) {
	b, err := json.Marshal(q)
	if err != nil {
		return m, err
	}
	m, err = c.followed(ctx, http.MethodPost, vmPath(vm, "/migrate"), bytes.NewReader(b), progress)
	if err == nil && m.Error != "" {
		err = &agentError{m.Error, named(m.Kind)}
	}
	return m, err
}

// followed makes a request that is answered with where a migration stands, until it has
// ended. It gives what was heard last.
func (c Client) followed(ctx context.Context, method, path string, body io.Reader, progress func(Migration)) (m Migration, err error) {
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return m, err
	}
	defer resp.Body.Close()
	for dec := json.NewDecoder(resp.Body); !m.Ended; {
		next := Migration{}
		if err := dec.Decode(&next); err != nil {
			return m, fmt.Errorf("the host agent has hung up (`lunless migrate list` shows what became of the migration): %w", err)
		}
		if m = next; progress != nil {
			progress(m)
		}
	}
	return m, nil
}

// Migrations are those that the agent runs, and the last ones that have ended.
func (c Client) Migrations(ctx context.Context) (list []Migration, err error) {
	return list, c.call(ctx, http.MethodGet, "/migrations", nil, &list)
}

// Migration says where one stands. Errors: ErrNoMigration.
func (c Client) Migration(ctx context.Context, id string) (m Migration, err error) {
	return m, c.call(ctx, http.MethodGet, "/migrations/"+url.PathEscape(id), nil, &m)
}

// CancelMigration has one undo what it did, and calls progress, which may be nil, with
// where it stands, until it has ended. It is an error if it is not undone then:
// migrate.ErrTooLate where the VM has moved. If ctx ends first, the agent goes on.
func (c Client) CancelMigration(ctx context.Context, id string, progress func(Migration)) (m Migration, err error) {
	m, err = c.followed(ctx, http.MethodDelete, "/migrations/"+url.PathEscape(id), nil, progress)
	if err != nil || m.Undone {
		return m, err
	}
	e := &agentError{m.Error, named(m.Kind)}
	if m.Error == "" {
		e = &agentError{"it has ended, and the VM has moved", migrate.ErrTooLate}
	}
	e.text = fmt.Sprintf("cannot undo the migration of %s to %s: %s", m.VM, m.Destination, e.text)
	return m, e
}

// SettleMigration has the agent finish, or undo, the unfinished migration of its host
// whose destination home is named.
func (c Client) SettleMigration(ctx context.Context, q SettleRequest) (m Migration, err error) {
	return m, c.call(ctx, http.MethodPost, "/migrations/settle", q, &m)
}

// PauseMigration has one copy no more until it is unpaused.
func (c Client) PauseMigration(ctx context.Context, id string, pause bool) (m Migration, err error) {
	command := "/unpause"
	if pause {
		command = "/pause"
	}
	return m, c.call(ctx, http.MethodPost, "/migrations/"+url.PathEscape(id)+command, nil, &m)
}

// Console connects with the guest's serial console.
func (c Client) Console(ctx context.Context, vm string) (io.ReadWriteCloser, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	req, err := http.NewRequest(http.MethodPost, "http://host"+vmPath(vm, "/console"), nil)
	if err == nil {
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", "console")
		err = req.Write(conn)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("asking the host agent: %w", err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer conn.Close()
		return nil, refusalOf(resp)
	}
	return console{conn, r}, nil
}

// console reads what came with the answer first.
type console struct {
	net.Conn
	r io.Reader
}

func (c console) Read(p []byte) (int, error) { return c.r.Read(p) }

func vmPath(vm, command string) string { return "/vms/" + url.PathEscape(vm) + command }

// dial connects by a short name of the socket: addresses have room for 107 bytes.
func (c Client) dial(ctx context.Context) (net.Conn, error) {
	path := c.Socket
	if path == "" {
		path = filepath.Join(c.Data, controlName)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoAgent, err)
	}
	defer dir.Close()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		err = fmt.Errorf("%w: nobody listens on %s", ErrNoAgent, path)
	}
	return conn, err
}

// call makes one request; out takes the answer.
func (c Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("the host agent's answer: %w", err)
	}
	return nil
}

// do makes one request whose answer is OK.
func (c Client) do(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://host"+path, body)
	if err != nil {
		return nil, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) }}}
	resp, err := client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.Is(err, ErrNoAgent) && errors.As(err, &u) {
			return nil, u.Err
		}
		return nil, fmt.Errorf("asking the host agent: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, refusalOf(resp)
	}
	return resp, nil
}

// refusalOf is the agent's error.
func refusalOf(resp *http.Response) error {
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxRequest))
	var f failure
	if err != nil || json.Unmarshal(b, &f) != nil || f.Error == "" {
		return fmt.Errorf("the host agent says %s: %.200s", resp.Status, b)
	}
	return &agentError{f.Error, named(f.Kind)}
}

// agentError is an agent's error, with what it can be told by.
type agentError struct {
	text string
	is   error
}

func (e *agentError) Error() string { return e.text }
func (e *agentError) Unwrap() error { return e.is }
