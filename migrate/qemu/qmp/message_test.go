package qmp

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"
)

// encode writes a message as QEMU does.
func (m message) encode() ([]byte, error) {
	w := wire{QMP: m.greeting, Error: m.err, Return: m.ret, ID: m.id}
	if m.event != nil {
		w.Event, w.Data = m.event.Name, m.event.Data
		w.Timestamp = &timestamp{-1, -1}
		if t := m.event.Time; !t.IsZero() {
			w.Timestamp = &timestamp{t.Unix(), int64(t.Nanosecond() / 1000)}
		}
	}
	return json.Marshal(w)
}

var messages = []string{
	`{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1:7.2"}, "capabilities": ["oob"]}}`,
	`{"return": {}}`,
	`{"return": null, "id": 7}`,
	`{"return": {}, "id": 1}`,
	`{"return": [{"name": "pc-q35-7.2", "cpu-max": 288}], "id": 18446744073709551615}`,
	`{"id": 3, "error": {"class": "CommandNotFound", "desc": "The command x has not been found"}}`,
	`{"error": {"class": "GenericError", "desc": "JSON parse error, invalid keyword 'x'"}}`,
	`{"timestamp": {"seconds": 1795415497, "microseconds": 917102}, "event": "SHUTDOWN", "data": {"guest": false, "reason": "host-signal"}}`,
	`{"timestamp": {"seconds": -1, "microseconds": -1}, "event": "STOP"}`,
}

var noMessages = []string{
	"", "x", "null", "1", "[]", "{}", `{"event": ""}`, `{"event": 1}`, `{"return": {}, "id": -1}`, `{"return": {}, "id": "x"}`,
	`{"return": {}, "event": "STOP"}`, `{"QMP": {}, "error": {}}`, `{"return": {}} {}`, `{"return": {}`, `{"error": "x"}`,
}

func TestDecode(t *testing.T) {
	for _, line := range messages {
		if _, err := decode([]byte(line)); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	for _, line := range noMessages {
		if m, err := decode([]byte(line)); !errors.Is(err, errNoMessage) {
			t.Errorf("%s was taken for %+v, %v", line, m, err)
		}
	}
	m, err := decode([]byte(messages[len(messages)-2]))
	if err != nil || m.event.Name != "SHUTDOWN" || m.event.Time.UnixMicro() != 1795415497917102 ||
		string(m.event.Data) != `{"guest": false, "reason": "host-signal"}` {
		t.Errorf("%+v, %v", m.event, err)
	}
}

// What decodes means the same when it is written and decoded again.
func FuzzDecode(f *testing.F) {
	for _, line := range append(messages, noMessages...) {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := decode(line)
		if err != nil {
			return
		}
		again, err := m.encode()
		if err != nil {
			t.Fatalf("%q decodes and cannot be written: %v", line, err)
		}
		m2, err := decode(again)
		if err != nil {
			t.Fatalf("%q written again is %q: %v", line, again, err)
		}
		third, err := m2.encode()
		if err != nil || !reflect.DeepEqual(again, third) {
			t.Fatalf("%q written again is %q, and again %q, %v", line, again, third, err)
		}
	})
}
