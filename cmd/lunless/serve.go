package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"lunless/shares/admin"
)

func newServe() *cobra.Command {
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run a share node",
		Args:  takes(0),
		Long: `Serves shares over SMB 3 until SIGTERM or SIGINT, then stops in order: no new
connections, requests in flight finished, files closed.

What it serves comes from three places, which must not name a share twice: the
configuration file's [[share]] tables, the data folder (see ` + "`lunless share`" + `) and
--share. Without any, it starts and serves nothing until ` + "`lunless share create`" + `.

The file has the flags' names with _ for -, interfaces (addresses that clients may
use for more connections), session_lifetime (seconds), [log] level and format,
[limits] connections, credits (of a connection), client_connections, client_opens
and failed_logons (answered at once; all three of a client address), and a [[share]] table a share: name,
path, comment, read_only, encrypt, continuously_available,
access_based_enumeration, and grant, a list of WHO:read, WHO:change and WHO:full.
Unknown keys are refused.

When ready it prints "serving HOST:PORT" for each address and tells systemd
(Type=notify); with WatchdogSec, a node that hangs is ended and started again.
Accounts are made with ` + "`lunless user add`" + `; a running node sees changes at once.`,
		Example: `  lunless serve --data /var/lib/lunless --share vms=/srv/vms,encrypt
  lunless serve --config /etc/lunless.toml
  lunless serve --data ./data --listen 127.0.0.1:4450 --share vms=./vms --metrics 127.0.0.1:9445`,
	}
	var flags admin.Config
	file := c.Flags().String("config", "", "TOML file; flags win over it")
	c.Flags().StringVar(&flags.Data, "data", "", "the node's data folder (default "+defaultData()+")")
	c.Flags().StringSliceVar(&flags.Listen, "listen", nil, "host:port, may be given more than once (default "+admin.DefaultListen+")")
	c.Flags().StringVar(&flags.Metrics, "metrics", "", "host:port for Prometheus at /metrics (default none)")
	c.Flags().StringVar(&flags.MinDialect, "min-dialect", "", "oldest dialect accepted: 2.0.2, 2.1, 3.0, 3.0.2 or 3.1.1 (default 3.0)")
	c.Flags().StringVar(&flags.Signing, "signing", "", "required, or enabled: only where the client wants it (default required)")
	c.Flags().BoolVar(&flags.Encrypt, "encrypt", false, "refuse clients that do not encrypt, on every share")
	c.Flags().StringVar(&flags.ServerName, "server-name", "", "NetBIOS name shown to clients (default the host's)")
	c.Flags().StringVar(&flags.Log.Level, "log-level", "", "debug, info, warn or error (default info)")
	c.Flags().StringVar(&flags.Log.Format, "log-format", "", "text or json (default text)")
	// Not a StringSlice: that would split at the commas of the properties.
	shareFlags := c.Flags().StringArray("share", nil, "NAME=PATH[,abe][,ca][,encrypt][,ro], may be given more than once")
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg := admin.Config{}
		if *file != "" {
			var err error
			if cfg, err = admin.LoadConfig(*file); err != nil {
				return err
			}
		}
		for _, s := range *shareFlags {
			share, err := admin.ParseShare(s)
			if err != nil {
				return usageError{err}
			}
			flags.Shares = append(flags.Shares, share)
		}
		if err := flags.Check(); err != nil {
			return usageError{err}
		}
		cfg = override(cfg, flags)
		return runNode(c, cfg)
	}
	return c
}

// runNode serves until the command is interrupted.
func runNode(c *cobra.Command, cfg admin.Config) error {
	log := newLogger(cfg.Log)
	// A hung disk holds one thread for each request that waits for it: more than Go
	// takes for a mistake, and fewer than shares.Limits lets it be.
	debug.SetMaxThreads(1 << 15)
	node, err := admin.NewNode(cfg, log)
	if err != nil {
		return err
	}
	tell := func(state string) {
		if _, err := daemon.SdNotify(false, state); err != nil {
			log.Warn("cannot tell systemd", "state", state, "error", err)
		}
	}
	told := make(chan struct{})
	stop := context.AfterFunc(c.Context(), func() { tell(daemon.SdNotifyStopping); close(told) })
	err = node.Run(c.Context(), func(addrs []net.Addr) {
		for _, a := range addrs {
			fmt.Fprintf(c.OutOrStdout(), "serving %s\n", a)
		}
		tell(daemon.SdNotifyReady)
		go keepWatchdog(c.Context(), log, node.Health)
	})
	if !stop() {
		<-told
	}
	return err
}

// override lets what was given on the command line win over the file; shares
// of both are served.
func override(cfg, flags admin.Config) admin.Config {
	for _, f := range []struct{ from, to *string }{
		{&flags.Data, &cfg.Data}, {&flags.Metrics, &cfg.Metrics}, {&flags.MinDialect, &cfg.MinDialect},
		{&flags.Signing, &cfg.Signing}, {&flags.ServerName, &cfg.ServerName},
		{&flags.Log.Level, &cfg.Log.Level}, {&flags.Log.Format, &cfg.Log.Format},
	} {
		if *f.from != "" {
			*f.to = *f.from
		}
	}
	if len(flags.Listen) > 0 {
		cfg.Listen = flags.Listen
	}
	cfg.Encrypt = cfg.Encrypt || flags.Encrypt
	cfg.Shares = append(cfg.Shares, flags.Shares...)
	if cfg.Data == "" {
		cfg.Data = defaultData()
	}
	if cfg.ServerName == "" {
		if host, err := os.Hostname(); err == nil {
			name, _, _ := strings.Cut(host, ".")
			cfg.ServerName = name[:min(len(name), 15)] // NetBIOS
		}
	}
	return cfg
}

// newLogger logs to standard error as l, which was checked, says.
func newLogger(l admin.Log) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(l.Level)) // empty leaves info
	options := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}
