package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"lunless/shares/admin"
	"lunless/smbstore"
	"lunless/smbstore/nbd"
)

func diskExport() *cobra.Command {
	c := &cobra.Command{Use: "export LOCATION --socket PATH", Short: "Serve a disk over NBD, to QEMU and to nbd's tools", Args: takes(1),
		Long: `Serves a virtual disk, with its parents, as a block device over NBD on a unix
socket until SIGTERM or SIGINT, then stops in order: no new clients, requests in
flight finished, the disk flushed and closed, the socket removed.

Nobody else can write to the disk meanwhile, where its store can see to that.
The socket is made for its owner alone: whoever can open it can read and, without
--read-only, write the disk. Clients that connect without a name get the disk
under whatever name it has.

When ready it prints "serving URI", which QEMU, qemu-img, nbdinfo and nbdcopy
take as it is, and tells systemd (Type=notify).`,
		Example: `  lunless disk export smb://hv@fs1/vms/web1.vhdx --socket /run/web1.sock
  qemu-system-x86_64 … -drive file=nbd+unix:///?socket=/run/web1.sock,format=raw,if=virtio

  lunless disk export backup.avhdx --read-only --socket nbd.sock
  nbdcopy nbd+unix:///?socket=nbd.sock backup.img`}
	socket := c.Flags().String("socket", "", "path of the unix socket (required)")
	name := c.Flags().String("name", "", "the export's name (default none: the default export)")
	description := c.Flags().String("description", "", "what clients that list exports are shown (default the location)")
	readOnly := c.Flags().Bool("read-only", false, "open the disk for reading, and refuse writes")
	format := c.Flags().String("format", "", "raw, vhd or vhdx (default by content)")
	store := storeFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if *socket == "" {
			return usageError{errors.New("--socket is missing")}
		}
		o := smbstore.DiskOptions{ReadOnly: *readOnly, DenyWrite: true}
		if *format != "" {
			var err error
			if o.Format, err = smbstore.ParseFormat(*format); err != nil {
				return usageError{err}
			}
		}
		return withFolder(c.Context(), args[0], store, func(s smbstore.Store, file string) (err error) {
			dev, _, err := smbstore.OpenDisk(c.Context(), s, file, o)
			if err != nil {
				return err
			}
			defer closing(&err, dev)
			e := nbd.ExportOptions{Name: *name, Description: *description, Device: dev, ReadOnly: *readOnly, FastZero: true,
				Errno: func(err error) nbd.Errno {
					if errors.Is(err, smbstore.ErrNoSpace) {
						return nbd.ENOSPC
					}
					return 0
				}}
			if e.Description == "" {
				e.Description = s.Location().Join(file).String()
			}
			return exportDisk(c, e, *socket)
		})
	}
	return c
}

// exportGrace is how long requests in flight have when the command is told to stop.
const exportGrace = 30 * time.Second

// exportDisk serves an export until the command is interrupted.
func exportDisk(c *cobra.Command, e nbd.ExportOptions, socket string) error {
	log := newLogger(admin.Log{})
	server := nbd.NewServer(nbd.Options{Log: log})
	if _, err := server.Add(e); err != nil {
		return err
	}
	l, err := listenSocket(socket)
	if err != nil {
		return err
	}
	uri := socketURI(e.Name, socket)
	if wantJSON(c) {
		line, err := json.Marshal(map[string]any{"uri": uri})
		if err != nil {
			return err
		}
		fmt.Fprintf(c.OutOrStdout(), "%s\n", line)
	} else {
		fmt.Fprintf(c.OutOrStdout(), "serving %s\n", uri)
	}
	tellSystemd(log, daemon.SdNotifyReady)

	// Interrupting the command does not cancel what is in flight: Shutdown does.
	served := make(chan error, 1)
	go func() { served <- server.Serve(context.WithoutCancel(c.Context()), l) }()
	select {
	case err := <-served:
		return err
	case <-c.Context().Done():
	}
	tellSystemd(log, daemon.SdNotifyStopping)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context()), exportGrace)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		log.Warn("gave up on requests in flight", "after", exportGrace)
	}
	return <-served
}

func tellSystemd(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("cannot tell systemd", "state", state, "error", err)
	}
}

// socketURI is how clients name an export on a unix socket.
func socketURI(name, socket string) string {
	if abs, err := filepath.Abs(socket); err == nil {
		socket = abs
	}
	u := url.URL{Scheme: "nbd+unix", Path: "/" + name, RawQuery: "socket=" + (&url.URL{Path: socket}).EscapedPath()}
	return u.Scheme + "://" + u.EscapedPath() + "?" + u.RawQuery
}

// listenSocket makes a socket for this user alone, in the place of one that
// nobody serves any more.
func listenSocket(path string) (net.Listener, error) {
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() == fs.ModeSocket {
		nc, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			nc.Close()
			return nil, fmt.Errorf("cannot listen on %s: another process serves there", path)
		}
		if errors.Is(err, unix.ECONNREFUSED) {
			if err := os.Remove(path); err != nil {
				return nil, err
			}
		}
	}
	old := unix.Umask(0o177)
	defer unix.Umask(old)
	l, err := net.Listen("unix", path)
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("cannot listen on %s: there is a file of that name, and it is no abandoned socket", path)
	}
	return l, err
}
