package fscc

import "fmt"

// Lists of variable entries: streams, extended attributes, notifications.

// StreamEntry is one FILE_STREAM_INFORMATION (MS-FSCC 2.4.49). Sizes in bytes.
type StreamEntry struct {
	Size           int64
	AllocationSize int64
	Name           string // "::$DATA", ":name:$DATA"
}

const streamFixed = 24

// StreamWriter fills a buffer with stream entries, aligned to 8 bytes.
type StreamWriter struct{ chain chain }

// NewStreamWriter returns a StreamWriter over buf, of which it never writes more.
func NewStreamWriter(buf []byte) StreamWriter {
	return StreamWriter{chain{buf: buf, align: 8}}
}

// Add appends e and reports whether it fitted (STATUS_BUFFER_OVERFLOW if not).
func (s *StreamWriter) Add(e *StreamEntry) bool {
	n := UTF16Len(e.Name)
	b := s.chain.next(streamFixed + n)
	if b == nil {
		return false
	}
	w := writer{b: b, off: 4}
	w.u32(uint32(n))
	w.i64(e.Size)
	w.i64(e.AllocationSize)
	w.name(e.Name)
	return true
}

// Len is the bytes written.
func (s *StreamWriter) Len() int { return s.chain.end }

// DecodeStreams reads a FileStreamInformation buffer; an empty one has no streams.
func DecodeStreams(b []byte) (list []StreamEntry, err error) {
	if len(b) == 0 {
		return nil, nil
	}
	err = eachEntry(b, streamFixed, 8, func(p []byte) error {
		r := reader{b: p, off: 4}
		n := r.u32()
		e := StreamEntry{Size: r.size(), AllocationSize: r.size()}
		e.Name = r.name(n)
		list = append(list, e)
		return r.err
	})
	if err != nil {
		return nil, fmt.Errorf("fscc: FILE_STREAM_INFORMATION: %w", err)
	}
	return list, nil
}

// NotifyEntry is one FILE_NOTIFY_INFORMATION (MS-FSCC 2.7.1).
type NotifyEntry struct {
	Action uint32 // FILE_ACTION_ADDED and so on
	Name   string // below the watched folder, separated by '\\'
}

const notifyFixed = 12

// NotifyWriter fills a buffer with notifications, aligned to 4 bytes.
type NotifyWriter struct{ chain chain }

// NewNotifyWriter returns a NotifyWriter over buf, of which it never writes more.
func NewNotifyWriter(buf []byte) NotifyWriter {
	return NotifyWriter{chain{buf: buf, align: 4}}
}

// Add appends e and reports whether it fitted (STATUS_NOTIFY_ENUM_DIR if not).
func (s *NotifyWriter) Add(e *NotifyEntry) bool {
	n := UTF16Len(e.Name)
	b := s.chain.next(notifyFixed + n)
	if b == nil {
		return false
	}
	w := writer{b: b, off: 4}
	w.u32(e.Action)
	w.u32(uint32(n))
	w.name(e.Name)
	return true
}

// Len is the bytes written.
func (s *NotifyWriter) Len() int { return s.chain.end }

// DecodeNotify reads a buffer of notifications; an empty one has none.
func DecodeNotify(b []byte) (list []NotifyEntry, err error) {
	if len(b) == 0 {
		return nil, nil
	}
	err = eachEntry(b, notifyFixed, 4, func(p []byte) error {
		r := reader{b: p, off: 4}
		e := NotifyEntry{Action: r.u32()}
		e.Name = r.name(r.u32())
		list = append(list, e)
		return r.err
	})
	if err != nil {
		return nil, fmt.Errorf("fscc: FILE_NOTIFY_INFORMATION: %w", err)
	}
	return list, nil
}

// FILE_NEED_EA says that who does not understand the attribute cannot interpret the file.
const FILE_NEED_EA = 0x80

// EaEntry is one FILE_FULL_EA_INFORMATION (MS-FSCC 2.4.16).
type EaEntry struct {
	Flags uint8  // 0 or FILE_NEED_EA
	Name  []byte // ASCII, without terminator, 1 to 254 bytes
	Value []byte // at most 65535 bytes; in a set request, none removes the attribute
}

const eaFixed = 8

// EaWriter fills a buffer with extended attributes, aligned to 4 bytes.
type EaWriter struct{ chain chain }

// NewEaWriter returns an EaWriter over buf, of which it never writes more.
func NewEaWriter(buf []byte) EaWriter {
	return EaWriter{chain{buf: buf, align: 4}}
}

// Add appends e and reports whether it fitted; a name or value longer than the
// structure can say does not.
func (s *EaWriter) Add(e *EaEntry) bool {
	if len(e.Name) > 254 || len(e.Value) > 0xFFFF {
		return false
	}
	b := s.chain.next(eaFixed + len(e.Name) + 1 + len(e.Value))
	if b == nil {
		return false
	}
	w := writer{b: b, off: 4}
	w.u8(e.Flags)
	w.u8(uint8(len(e.Name)))
	w.u16(uint16(len(e.Value)))
	w.bytes(e.Name)
	w.u8(0)
	w.bytes(e.Value)
	return true
}

// Len is the bytes written.
func (s *EaWriter) Len() int { return s.chain.end }

// DecodeEas reads a FileFullEaInformation buffer, views of b; an empty one has
// no attributes. ErrInvalid for a name that is not valid (STATUS_INVALID_EA_NAME).
func DecodeEas(b []byte) (list []EaEntry, err error) {
	if len(b) == 0 {
		return nil, nil
	}
	err = eachEntry(b, eaFixed, 4, func(p []byte) error {
		r := reader{b: p, off: 4}
		e := EaEntry{Flags: r.u8()}
		nameLen, valueLen := int(r.u8()), int(r.u16())
		e.Name = r.take(nameLen)
		r.check(r.u8() == 0)
		e.Value = r.take(valueLen)
		r.check(e.Flags&^FILE_NEED_EA == 0 && validEaName(e.Name))
		list = append(list, e)
		return r.err
	})
	if err != nil {
		return nil, fmt.Errorf("fscc: FILE_FULL_EA_INFORMATION: %w", err)
	}
	return list, nil
}

// DecodeGetEas reads a list of FILE_GET_EA_INFORMATION (MS-FSCC 2.4.16.1):
// names of attributes, views of b.
func DecodeGetEas(b []byte) (names [][]byte, err error) {
	if len(b) == 0 {
		return nil, nil
	}
	err = eachEntry(b, 5, 4, func(p []byte) error {
		r := reader{b: p, off: 4}
		name := r.take(int(r.u8()))
		r.check(r.u8() == 0 && validEaName(name))
		names = append(names, name)
		return r.err
	})
	if err != nil {
		return nil, fmt.Errorf("fscc: FILE_GET_EA_INFORMATION: %w", err)
	}
	return names, nil
}

// validEaName checks the rules of MS-FSCC 2.4.16.
func validEaName(name []byte) bool {
	if len(name) == 0 || len(name) > 254 {
		return false
	}
	for _, c := range name {
		if c < 0x20 {
			return false
		}
		switch c {
		case '\\', '/', ':', '*', '?', '"', '<', '>', '|', ',', '+', '=', '[', ']', ';':
			return false
		}
	}
	return true
}
