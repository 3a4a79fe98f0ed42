package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"lunless/migrate/qemu/qmp"
)

// EventKind is an event's name: QEMU's, or one of the driver's own.
type EventKind string

// Events of QEMU whose fields an Event has. All others come with their Data.
const (
	EventStop      EventKind = "STOP"
	EventResume    EventKind = "RESUME"
	EventShutdown  EventKind = "SHUTDOWN"       // Reason, Guest
	EventReset     EventKind = "RESET"          // Reason, Guest
	EventIOError   EventKind = "BLOCK_IO_ERROR" // Node, Operation, Action, NoSpace, Reason
	EventMigration EventKind = "MIGRATION"      // Status
	EventPanicked  EventKind = "GUEST_PANICKED" // Action
)

// Events of the driver.
const (
	// EventLost: the subscriber was too slow and missed some. Ask for what matters.
	EventLost EventKind = "lost"
	// EventDisconnected is the last one: QEMU has ended, or only the connection has.
	EventDisconnected EventKind = "disconnected"
)

// Event is something that happened to a VM.
type Event struct {
	Kind EventKind
	Time time.Time

	Reason    string // of a shutdown, a reset (QEMU's ShutdownCause) or a failed request (in words)
	Guest     bool   // the guest did it
	Node      string // block node of the disk
	Operation string // read or write
	Action    string // what the policy did: stop, report or ignore; pause after a panic
	NoSpace   bool   // the disk was full
	Status    string // of the migration

	Data json.RawMessage // as QEMU sent it
}

func newEvent(q qmp.Event) Event {
	e := Event{Kind: EventKind(q.Name), Time: q.Time, Data: q.Data}
	var d struct {
		Reason    string `json:"reason"`
		Guest     bool   `json:"guest"`
		Node      string `json:"node-name"`
		Operation string `json:"operation"`
		Action    string `json:"action"`
		NoSpace   bool   `json:"nospace"`
		Status    string `json:"status"`
	}
	switch e.Kind {
	case EventShutdown, EventReset, EventIOError, EventMigration, EventPanicked:
		// What is not as QEMU documents it stays zero; Data has it.
		if json.Unmarshal(q.Data, &d) == nil {
			e.Reason, e.Guest, e.Node, e.Operation, e.Action, e.NoSpace, e.Status =
				d.Reason, d.Guest, d.Node, d.Operation, d.Action, d.NoSpace, d.Status
		}
	}
	return e
}

// Events is a queue of a VM's events.
type Events struct {
	sub  *qmp.Subscription
	last bool
}

// Events starts to collect events. One that happened before is not told: ask for
// Status after this.
func (m *Machine) Events() *Events { return &Events{sub: m.qmp.Subscribe()} }

// Next waits for the next event; for one goroutine at a time. After
// EventDisconnected it fails with qmp.ErrClosed.
func (e *Events) Next(ctx context.Context) (Event, error) {
	q, err := e.sub.Next(ctx)
	switch {
	case err == nil:
		return newEvent(q), nil
	case errors.Is(err, qmp.ErrEventsLost):
		return Event{Kind: EventLost, Time: time.Now()}, nil
	case errors.Is(err, qmp.ErrClosed) && !e.last:
		e.last = true
		return Event{Kind: EventDisconnected, Time: time.Now()}, nil
	}
	return Event{}, err
}

// Close ends the collecting.
func (e *Events) Close() { e.sub.Close() }
