package qmp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// maxLine bounds one message, in bytes. The longest regular one, the schema, has
// a third of a MiB.
const maxLine = 8 << 20

// Version is QEMU's.
type Version struct {
	Major int `json:"major"`
	Minor int `json:"minor"`
	Micro int `json:"micro"`
}

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro) }

// Greeting is what QEMU says first.
type Greeting struct {
	Version struct {
		QEMU    Version `json:"qemu"`
		Package string  `json:"package"`
	} `json:"version"`
	Capabilities []string `json:"capabilities"`
}

// Event is something that QEMU tells without having been asked.
type Event struct {
	Name string          // "STOP"
	Time time.Time       // QEMU's clock
	Data json.RawMessage // an object, or nil
}

// Error is QEMU's refusal of a command.
type Error struct {
	Command string `json:"-"`
	Class   string `json:"class"`
	Desc    string `json:"desc"`
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Command, e.Desc) }

// errNoMessage: a line that is none of the protocol's messages.
var errNoMessage = errors.New("not a message of QMP")

// message is one line from QEMU. Exactly one of the pointers is set, or ret is.
type message struct {
	greeting *Greeting
	event    *Event
	err      *Error
	ret      json.RawMessage
	id       *uint64 // of the command that ret or err answers; nil when QEMU could not read it
}

// wire is a message as it is written.
type wire struct {
	QMP       *Greeting       `json:"QMP,omitempty"`
	Event     string          `json:"event,omitempty"`
	Data      json.RawMessage `json:"data,omitempty"`
	Timestamp *timestamp      `json:"timestamp,omitempty"`
	Error     *Error          `json:"error,omitempty"`
	Return    json.RawMessage `json:"return,omitempty"`
	ID        *uint64         `json:"id,omitempty"`
}

// timestamp is -1, -1 where QEMU has no time.
type timestamp struct {
	Seconds      int64 `json:"seconds"`
	Microseconds int64 `json:"microseconds"`
}

func (t *timestamp) time() time.Time {
	if t == nil || t.Seconds < 0 || t.Microseconds < 0 || t.Microseconds >= 1e6 {
		return time.Time{}
	}
	return time.Unix(t.Seconds, t.Microseconds*1000)
}

// decode reads one line. What it returns shares no memory with it.
func decode(line []byte) (message, error) {
	var w wire
	if err := json.Unmarshal(line, &w); err != nil {
		return message{}, fmt.Errorf("%w: %w", errNoMessage, err)
	}
	kinds := 0
	for _, has := range []bool{w.QMP != nil, w.Event != "", w.Error != nil, w.Return != nil} {
		if has {
			kinds++
		}
	}
	if kinds != 1 {
		return message{}, fmt.Errorf("%w: %.100q", errNoMessage, line)
	}
	m := message{greeting: w.QMP, err: w.Error, ret: w.Return, id: w.ID}
	if w.Event != "" {
		m.event = &Event{Name: w.Event, Time: w.Timestamp.time(), Data: w.Data}
	}
	return m, nil
}

// command is what is sent: Execute or OOB is set.
type command struct {
	Execute   string `json:"execute,omitempty"`
	OOB       string `json:"exec-oob,omitempty"`
	Arguments any    `json:"arguments,omitempty"`
	ID        uint64 `json:"id"`
}

func (c command) encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(c); err != nil {
		return nil, fmt.Errorf("%s%s: %w", c.Execute, c.OOB, err)
	}
	return b.Bytes(), nil
}
