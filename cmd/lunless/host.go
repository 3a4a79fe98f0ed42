package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"lunless/migrate/host"
	"lunless/shares/admin"
)

func newHost() *cobra.Command {
	return group("host", "Make this machine a host of VMs",
		`The host agent runs VMs in QEMU, with their disks on shares or in local folders.
`+"`lunless vm start|stop|console`"+` ask it.`,
		`  lunless host run --storage smb://hv@fs1/vms
  lunless host list
  lunless host show --json`,
		hostRun(), hostList(), hostShow())
}

// defaultHostData is the agent's folder, apart from a share node's.
func defaultHostData() string { return filepath.Join(defaultData(), "host") }

// agentFlags are how commands reach the agent.
func agentFlags(c *cobra.Command) *host.Client {
	a := &host.Client{}
	c.Flags().StringVar(&a.Data, "data", defaultHostData(), "the host agent's data folder")
	c.Flags().StringVar(&a.Socket, "socket", "", "the host agent's socket, if it has another than in its data folder")
	return a
}

// agentError says what to do about an agent that does not answer.
func agentError(a *host.Client, err error) error {
	if errors.Is(err, host.ErrNoAgent) && a.Socket == "" {
		return fmt.Errorf("%w: %s (start it with `lunless host run`, or give its --data)", host.ErrNoAgent, a.Data)
	}
	return err
}

func hostRun() *cobra.Command {
	c := &cobra.Command{Use: "run", Short: "Run the host agent", Args: takes(0),
		Long: `Runs the agent until SIGTERM or SIGINT. The guests run on then, and their I/O waits
for the next agent, which takes them over again; so it is after kill -9.
--stop-guests ends them instead, as their power button would. As a service of
systemd it needs KillMode=process, or the guests end with it; with WatchdogSec an
agent that hangs is ended and started again, which the guests outlive:

  [Unit]
  Description=Lunless host agent
  Wants=network-online.target
  After=network-online.target
  [Service]
  Type=notify
  ExecStart=/usr/bin/lunless host run --config /etc/lunless-host.toml
  KillMode=process
  TimeoutStopSec=60
  WatchdogSec=60
  Restart=on-failure
  [Install]
  WantedBy=multi-user.target

A VM is taken only by the ownership record in its home, in an epoch of its own;
on servers that know application instances (SMB 3.1.1: lunless serve, Windows) an
earlier owner's handles are closed by the server, elsewhere the files' share modes
keep two hosts apart.

The file has the flags' names with _ for -, and [log] level and format. Passwords
come from LUNLESS_PASSWORD or the --credentials file.

When ready it prints "ready SOCKET" and tells systemd. Exit status: 0 stopped in
order, 1 failed (the file cannot be used, another agent runs with the data folder or
the name, the socket cannot be made), 2 wrong usage.`,
		Example: `  lunless host run --storage smb://hv@fs1/vms --storage /srv/vms
  lunless host run --config /etc/lunless-host.toml`}
	var flags host.Config
	file := c.Flags().String("config", "", "TOML file; flags win over it")
	c.Flags().StringVar(&flags.Data, "data", "", "the agent's data folder (default "+defaultHostData()+")")
	c.Flags().StringVar(&flags.Listen, "listen", "", "unix socket for commands (default host.sock in the data folder)")
	c.Flags().StringVar(&flags.Name, "name", "", "the host's name in ownership records (default this machine's)")
	c.Flags().StringArrayVar(&flags.Storage, "storage", nil, "location whose VMs are listed and found by name; may be given more than once")
	c.Flags().StringVar(&flags.QEMU, "qemu", "", "QEMU's program (default qemu-system-x86_64)")
	c.Flags().StringVar(&flags.Accel, "accel", "", "kvm or tcg (default KVM where it works)")
	c.Flags().BoolVar(&flags.StopGuests, "stop-guests", false, "end the guests when the agent ends")
	c.Flags().StringVar(&flags.Log.Level, "log-level", "", "debug, info, warn or error (default info)")
	c.Flags().StringVar(&flags.Log.Format, "log-format", "", "text or json (default text)")
	store := storeFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		var cfg host.Config
		if *file != "" {
			var err error
			if cfg, err = host.LoadConfig(*file); err != nil {
				return err
			}
		}
		cfg = overrideHost(cfg, flags)
		cfg.Options, cfg.Logger = *store, newLogger(admin.Log(cfg.Log))
		return runAgent(c, cfg)
	}
	return c
}

func overrideHost(cfg, flags host.Config) host.Config {
	for _, f := range []struct{ from, to *string }{
		{&flags.Data, &cfg.Data}, {&flags.Listen, &cfg.Listen}, {&flags.Name, &cfg.Name}, {&flags.QEMU, &cfg.QEMU},
		{&flags.Accel, &cfg.Accel}, {&flags.Log.Level, &cfg.Log.Level}, {&flags.Log.Format, &cfg.Log.Format},
	} {
		if *f.from != "" {
			*f.to = *f.from
		}
	}
	cfg.Storage = append(cfg.Storage, flags.Storage...)
	cfg.StopGuests = cfg.StopGuests || flags.StopGuests
	if cfg.Data == "" {
		cfg.Data = defaultHostData()
	}
	return cfg
}

func runAgent(c *cobra.Command, cfg host.Config) error {
	tell := func(state string) {
		if _, err := daemon.SdNotify(false, state); err != nil {
			cfg.Logger.Warn("cannot tell systemd", "state", state, "error", err)
		}
	}
	told := make(chan struct{})
	stop := context.AfterFunc(c.Context(), func() { tell(daemon.SdNotifyStopping); close(told) })
	err := host.Run(c.Context(), cfg, func(socket string) {
		fmt.Fprintf(c.OutOrStdout(), "ready %s\n", socket)
		tell(daemon.SdNotifyReady)
		go keepWatchdog(c.Context(), cfg.Logger, func(ctx context.Context) error { return agentHealth(ctx, socket) })
	})
	if !stop() {
		<-told
	}
	if errors.Is(err, host.ErrConfig) {
		return usageError{err}
	}
	return err
}

// agentHealth asks an agent as any command does: its socket, its locks and whoever
// looks after its guests have to answer.
func agentHealth(ctx context.Context, socket string) error {
	h, err := (&host.Client{Socket: socket}).Host(ctx)
	if err == nil && len(h.Unwatched) > 0 {
		err = fmt.Errorf("nobody looks after %s", strings.Join(h.Unwatched, ", "))
	}
	return err
}

func hostShow() *cobra.Command {
	c := &cobra.Command{Use: "show", Short: "Show the host agent", Args: takes(0), Example: "  lunless host show --json"}
	agent := agentFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		h, err := agent.Host(c.Context())
		if err != nil {
			return agentError(agent, err)
		}
		return show(c, h, func(w io.Writer) {
			fmt.Fprintf(w, "name     %s\ndata     %s\nprocess  %d, since %s\nstorage  %s\nVMs      %d, %d running\n",
				h.Name, h.Data, h.PID, h.Since.Local().Format(time.DateTime), strings.Join(h.Storage, ", "), h.VMs, h.Running)
		})
	}
	return c
}

func hostList() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List the host's VMs", Args: takes(0),
		Long:    "Lists the VMs that the host has, and those in its storage locations.",
		Example: "  lunless host list --json"}
	agent := agentFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) error { return listVMs(c, agent) }
	return c
}

func listVMs(c *cobra.Command, agent *host.Client) error {
	l, err := agent.List(c.Context(), false)
	if err != nil {
		return agentError(agent, err)
	}
	for _, p := range l.Problems {
		fmt.Fprintln(c.ErrOrStderr(), "lunless:", p)
	}
	return show(c, l, func(w io.Writer) {
		cells := [][]string{{"NAME", "STATE", "HOST", "LOCATION", "REASON"}}
		for _, v := range l.VMs {
			cells = append(cells, []string{v.Name, string(v.State), v.Host, v.Location.String(), v.Reason})
		}
		table(w, cells)
	})
}
