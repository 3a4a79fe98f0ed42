package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// keepWatchdog tells systemd that the service works, twice in the time that its
// WatchdogSec gives (sd_watchdog_enabled(3)), whenever healthy says so, until ctx ends.
// Without a watchdog it does nothing.
func keepWatchdog(ctx context.Context, log *slog.Logger, healthy func(context.Context) error) {
	within, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("systemd's watchdog is not told anything", "error", err)
	}
	if within <= 0 {
		return
	}
	tick := time.NewTicker(max(within/2, time.Millisecond))
	defer tick.Stop()
	for {
		asked, cancel := context.WithTimeout(ctx, within)
		err := healthy(asked)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			log.Error("this service is not well, which systemd is not told: it ends and restarts it if that stays so", "error", err)
		default:
			tellSystemd(log, daemon.SdNotifyWatchdog)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
