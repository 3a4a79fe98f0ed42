package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"lunless/migrate"
	"lunless/migrate/host"
	"lunless/smbstore"
)

// liveFlags are those of a move that only a running VM's has.
func liveFlags(c *cobra.Command) *host.MigrateRequest {
	q := &host.MigrateRequest{}
	c.Flags().StringVar((*string)(&q.Format), "format", "", "of a running VM: raw, vhd or vhdx for its disks (default each one's own)")
	c.Flags().StringVar(&q.Type, "type", "", "of a running VM: fixed or dynamic for its disks (default each one's own)")
	c.Flags().BoolVar(&q.Flatten, "flatten", false, "of a running VM: make one disk of each chain")
	c.Flags().BoolVar(&q.Verify, "verify", false, "of a running VM: compare disks and copies before the switch")
	c.Flags().DurationVar(&q.Grace, "grace", 0, "of a running VM: how long it shall have run from the destination before the source is removed")
	return q
}

// runsHere finds out whether the agent runs a VM, which is named by its name on this
// host or by its home's location: id is "" if it does not run, or no agent does, and
// home is where it lies.
func runsHere(ctx context.Context, agent *host.Client, vm string) (id string, home smbstore.Location, err error) {
	if !strings.ContainsAny(vm, `/\`) {
		v, err := agent.Show(ctx, vm)
		if err == nil && v.PID == 0 {
			return "", v.Location, nil
		}
		if _, serr := os.Stat(vm); err == nil || serr != nil {
			return v.ID, v.Location, agentError(agent, err)
		}
	}
	if home, err = smbstore.ParseLocation(vm); err != nil {
		return "", home, usageError{err}
	}
	l, err := agent.List(ctx, true)
	if errors.Is(err, host.ErrNoAgent) {
		return "", home, nil
	}
	for _, v := range l.VMs {
		if v.Location.Equal(home) && v.PID != 0 {
			return v.ID, home, nil
		}
	}
	return "", home, err
}

// moveRunning has the agent move a VM, and shows how far it is. An interrupt leaves
// it to the agent.
func moveRunning(c *cobra.Command, agent *host.Client, vm string, q host.MigrateRequest) error {
	tell, done := movingBars()
	m, err := agent.Migrate(c.Context(), vm, q, tell)
	done()
	if c.Context().Err() != nil && m.ID != "" && !m.Ended {
		return fmt.Errorf("the migration goes on: `lunless migrate show %s` says how far it is, `lunless migrate cancel %s` undoes it", m.ID, m.ID)
	}
	if err != nil {
		return err
	}
	return show(c, m, func(w io.Writer) { writeJob(w, m.Status) })
}

// movingBars show how far a migration of the agent is.
func movingBars() (tell func(host.Migration), done func()) {
	var bar *progress
	var phase migrate.Phase
	done = func() {
		if bar != nil {
			bar.done()
		}
	}
	return func(m host.Migration) {
		if m.Phase != phase {
			done()
			phase, bar = m.Phase, newProgress(string(m.Phase), size)
		}
		if m.Total > 0 {
			bar.set(m.Done, m.Total)
		}
	}, done
}

// cancelRunning has the agent undo one of its migrations, and waits until that has
// ended. An interrupt leaves it to the agent.
func cancelRunning(c *cobra.Command, agent *host.Client, id string) error {
	tell, done := movingBars()
	m, err := agent.CancelMigration(c.Context(), id, tell)
	done()
	if c.Context().Err() != nil && m.ID != "" && !m.Ended {
		return fmt.Errorf("the agent goes on undoing the migration: `lunless migrate show %s` says how far it is", id)
	}
	if err != nil {
		return agentError(agent, err)
	}
	return show(c, m, func(w io.Writer) { writeUndone(w, m.Status) })
}

// writeUndone says where the VM of a migration is that was undone.
func writeUndone(w io.Writer, s migrate.Status) {
	fmt.Fprintf(w, "%s is at %s, as before (job %s): nothing is left of its copy at %s\n", s.Source.Base(), s.Source, s.ID, s.Destination)
	if s.Phase != migrate.Cancelled {
		fmt.Fprintf(w, "the migration had failed before: %s\n", s.Error)
	}
}

// nameFlag is whose job it is, when that is not this machine's name.
func nameFlag(c *cobra.Command) *string {
	return c.Flags().String("name", "", "this machine's name as a host of VMs (default the running agent's, or the machine's)")
}

// ownedByAgent is the name that this machine's agent runs under, if the record in the
// home has it, and "" else.
func ownedByAgent(ctx context.Context, agent *host.Client, home smbstore.Location, o smbstore.Options) string {
	h, err := agent.Host(ctx)
	if name, herr := smbstore.HostName(); err != nil || herr == nil && name == h.Name {
		return ""
	}
	at, err := smbstore.OpenHome(ctx, home, o)
	if err != nil {
		return "" // the migration says why
	}
	defer at.Close()
	if r, err := at.Record(); err != nil || r.Host != h.Name {
		return ""
	}
	return h.Name
}

// askAgent has the agent finish or undo a migration, if one runs and the migration is
// of its host.
func askAgent(ctx context.Context, agent *host.Client, home smbstore.Location, o smbstore.Options, undo bool) (m host.Migration, asked bool, err error) {
	h, err := agent.Host(ctx)
	if err != nil {
		return m, false, err // most often there is none
	}
	d, err := migrate.Show(ctx, home, o)
	if err != nil || d.Process == nil || d.Process.Host != h.Name {
		return m, false, err
	}
	m, err = agent.SettleMigration(ctx, host.SettleRequest{Home: home, Undo: undo})
	return m, true, err
}

// isJob tells the id of an agent's migration from a home's location.
func isJob(s string) bool { return uuid.Validate(s) == nil }

// listRunning prints the agent's migrations.
func listRunning(c *cobra.Command, agent *host.Client) error {
	list, err := agent.Migrations(c.Context())
	if err != nil {
		return agentError(agent, err)
	}
	return show(c, list, func(w io.Writer) {
		cells := [][]string{{"JOB", "VM", "PHASE", "DONE", "FROM", "TO", "ERROR"}}
		for _, m := range list {
			cells = append(cells, []string{m.ID, m.VM, string(m.Phase), fmt.Sprintf("%s of %s", size(m.Done), size(m.Total)),
				m.Source.String(), m.Destination.String(), firstLine(m.Error)})
		}
		table(w, cells)
		for _, m := range list {
			writeNext(w, m.Status)
		}
	})
}

// printMigration prints one of the agent's migrations.
func printMigration(c *cobra.Command, agent *host.Client, m host.Migration, err error) error {
	if err != nil {
		return agentError(agent, err)
	}
	return show(c, m, func(w io.Writer) {
		fmt.Fprintf(w, "job    %s (%s) of %s\nphase  %s, %s of %s\nfrom   %s\nto     %s\nbegun  %s\n", m.ID, m.Kind, m.VM, m.Phase,
			size(m.Done), size(m.Total), m.Source, m.Destination, m.Started.Local().Format(time.DateTime))
		if m.Error != "" {
			fmt.Fprintf(w, "error  %s\n", m.Error)
		}
	})
}
