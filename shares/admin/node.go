package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sys/unix"

	"lunless/shares"
	"lunless/shares/accounts"
	"lunless/shares/fs"
	"lunless/smbstore/smb2"
)

// DefaultListen is where a node serves unless told otherwise.
const DefaultListen = "0.0.0.0:445"

// stopTimeout is how long an orderly stop may take before connections are cut.
const stopTimeout = 20 * time.Second

// Node is one running share node: the server, its shares as configured and as
// the catalogue has them, its metrics.
type Node struct {
	cfg       Config
	catalogue *Catalogue
	accounts  *accounts.Store
	log       *slog.Logger
	server    *shares.Server
	registry  *prometheus.Registry

	mu   sync.Mutex
	open map[place]fs.FS // file systems of the shares served; a share that stays keeps its own
}

// place is what a share keeps its file system by.
type place struct{ name, path string }

// NewNode makes a node that serves the configuration's shares and the
// catalogue's. Nothing listens yet.
func NewNode(cfg Config, log *slog.Logger) (*Node, error) {
	catalogue, err := OpenCatalogue(cfg.Data)
	if err != nil {
		return nil, err
	}
	store, err := accounts.Open(cfg.Data)
	if err != nil {
		return nil, err
	}
	minDialect, err := parseDialect(cfg.MinDialect)
	if err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, catalogue: catalogue, accounts: store, log: log, registry: prometheus.NewRegistry(), open: map[place]fs.FS{}}
	n.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	kept, err := catalogue.List()
	if err != nil {
		return nil, err
	}
	list, err := n.shareList(kept)
	if err != nil {
		n.closeUnused(nil)
		return nil, err
	}
	n.server, err = shares.New(shares.Config{
		Name: strings.ToUpper(cfg.ServerName), Shares: list, Accounts: store, StateDir: cfg.Data, MinDialect: minDialect,
		Signing: shares.Signing(cfg.Signing), Encrypt: cfg.Encrypt, Logger: log, Registerer: n.registry,
		Interfaces: cfg.Interfaces, SessionLifetime: time.Duration(cfg.SessionLifetime) * time.Second,
		Limits: shares.Limits{Connections: cfg.Limits.Connections, Credits: cfg.Limits.Credits,
			ClientConnections: cfg.Limits.ClientConnections, ClientOpens: cfg.Limits.ClientOpens, Guesses: cfg.Limits.FailedLogons},
	})
	if err != nil {
		n.closeUnused(nil)
		return nil, err
	}
	return n, nil
}

// shareList opens what is to be served: the configuration's shares and kept,
// the catalogue's. File systems already open are used again.
func (n *Node) shareList(kept []Share) ([]shares.Share, error) {
	merged, err := Merge(n.cfg.Shares, kept)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var list []shares.Share
	for _, s := range merged {
		security, err := s.security(n.accounts)
		if err != nil {
			return nil, err
		}
		at := place{s.Name, s.Path}
		object := n.open[at]
		if object == nil {
			if err := s.CheckPath(); err != nil {
				return nil, err
			}
			if err := s.CheckApart(n.cfg.Data); err != nil {
				return nil, err
			}
			if object, err = fs.NewPOSIX(s.Path, fs.Options{}); err != nil {
				return nil, fmt.Errorf("share %s: cannot serve %s: %w", s.Name, s.Path, err)
			}
			n.open[at] = object
		}
		list = append(list, shares.Share{Name: s.Name, Path: s.Path, FS: object, Comment: s.Comment, ReadOnly: s.ReadOnly,
			Encrypt: s.Encrypt, ContinuouslyAvailable: s.ContinuouslyAvailable,
			AccessBased: s.AccessBased, Security: security})
	}
	return list, nil
}

// closeUnused closes the file systems that list does not serve.
func (n *Node) closeUnused(list []shares.Share) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for s, object := range n.open {
		if slices.ContainsFunc(list, func(l shares.Share) bool { return l.FS == object }) {
			continue
		}
		delete(n.open, s)
		if err := object.Close(); err != nil {
			n.log.Warn("closing a share's file system", "share", s.name, "error", err)
		}
	}
}

// catalogueChanged serves the new list; a list that cannot be served changes nothing.
func (n *Node) catalogueChanged(ctx context.Context, kept []Share) {
	list, err := n.shareList(kept)
	if err == nil {
		err = n.server.SetShares(ctx, list)
	}
	if err != nil {
		n.log.Error("the changed shares cannot be served; those served before go on", "error", err)
		return
	}
	n.closeUnused(list)
	n.log.Info("shares changed", "shares", len(list))
}

// Run listens, calls ready with the addresses in use, and serves until ctx
// ends; then it stops in order: no new connections, requests in flight
// finished, files closed. The first listener that fails ends the node.
func (n *Node) Run(ctx context.Context, ready func(addrs []net.Addr)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	listen := n.cfg.Listen
	if len(listen) == 0 {
		listen = []string{DefaultListen}
	}
	var addrs []net.Addr
	var wg sync.WaitGroup
	var listeners []net.Listener
	for _, l := range listen {
		ln, err := listenOn(l)
		if err != nil {
			for _, open := range listeners {
				open.Close()
			}
			return err
		}
		listeners, addrs = append(listeners, ln), append(addrs, ln.Addr())
	}
	stopMetrics, err := n.serveMetrics()
	if err != nil {
		for _, open := range listeners {
			open.Close()
		}
		return err
	}
	defer stopMetrics()
	stopControl, err := n.serveControl()
	if err != nil {
		for _, open := range listeners {
			open.Close()
		}
		return err
	}
	defer stopControl()
	for _, ln := range listeners {
		wg.Go(func() {
			if err := n.server.Serve(ctx, ln); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("serving %s: %w", ln.Addr(), err))
			}
		})
	}
	wg.Go(func() {
		n.catalogue.Watch(ctx, func(s []Share) { n.catalogueChanged(ctx, s) },
			func(err error) { n.log.Error("the catalogue of shares; those served before go on", "error", err) })
	})
	ready(addrs)
	<-ctx.Done()
	stopping, done := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer done()
	err = n.server.Shutdown(stopping)
	wg.Wait()
	n.closeUnused(nil)
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		err = errors.Join(cause, err)
	}
	return err
}

// Health returns nil when what every connection needs answers: the server's tables and
// the file systems' list. It waits for no disk, and may not return if something hangs.
func (n *Node) Health(context.Context) error {
	n.server.Sessions()
	n.mu.Lock()
	defer n.mu.Unlock()
	return nil
}

// listenOn is net.Listen whose errors say what to do about them.
func listenOn(addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	advice := ""
	switch {
	case err == nil:
		return ln, nil
	case errors.Is(err, unix.EADDRINUSE):
		advice = " (`ss -ltnp` shows who does: stop it, or choose another address)"
	case errors.Is(err, unix.EACCES):
		advice = " (ports below 1024 need root or CAP_NET_BIND_SERVICE; or choose a higher one)"
	case errors.Is(err, unix.EADDRNOTAVAIL):
		advice = " (`ip address` shows the addresses of this machine)"
	}
	var op *net.OpError
	if errors.As(err, &op) { // its text would name the address again
		err = op.Err
	}
	return nil, fmt.Errorf("cannot listen on %s: %w%s", addr, err, advice)
}

func (n *Node) serveMetrics() (stop func(), err error) {
	if n.cfg.Metrics == "" {
		return func() {}, nil
	}
	ln, err := listenOn(n.cfg.Metrics)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{}))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second}
	go srv.Serve(ln) //nolint:errcheck // ends with Close
	n.log.Info("metrics", "url", "http://"+ln.Addr().String()+"/metrics")
	return func() { srv.Close() }, nil
}

func parseDialect(s string) (smb2.Dialect, error) {
	switch s {
	case "", "3.0":
		return smb2.Dialect300, nil
	case "2.0.2":
		return smb2.Dialect202, nil
	case "2.1":
		return smb2.Dialect210, nil
	case "3.0.2":
		return smb2.Dialect302, nil
	case "3.1.1":
		return smb2.Dialect311, nil
	}
	return 0, fmt.Errorf("no dialect %q: there are 2.0.2, 2.1, 3.0, 3.0.2 and 3.1.1", s)
}
