package rpc

import "time"

// Platform IDs and server types (MS-SRVS 2.2.2.6, 2.2.2.7).
const (
	PLATFORM_ID_NT = 500

	SV_TYPE_WORKSTATION = 0x00000001
	SV_TYPE_SERVER      = 0x00000002
	SV_TYPE_NT          = 0x00001000
	SV_TYPE_SERVER_NT   = 0x00008000
)

// ServerInfo is a server; each level carries the fields it has (MS-SRVS
// 2.2.4.40, 2.2.4.41, 2.2.4.42).
type ServerInfo struct {
	PlatformID   uint32 // 100
	Name         string // 100
	VersionMajor uint32 // 101
	VersionMinor uint32 // 101
	Type         uint32 // 101: SV_TYPE_SERVER and so on
	Comment      string // 101
	Users        uint32 // 102: most that may be logged on
	Disconnect   int32  // 102: minutes a session may idle; -1 for ever
	Hidden       bool   // 102
	Announce     uint32 // 102: seconds
	AnnDelta     uint32 // 102: ms
	Licenses     uint32 // 102
	UserPath     string // 102
}

// ServerLevel reports whether NetrServerGetInfo is offered at a level here.
func ServerLevel(level uint32) bool { return level >= 100 && level <= 102 }

func (s *ServerInfo) put(e *Encoder, level uint32) {
	e.U32(s.PlatformID)
	e.Pointer(true)
	if level >= 101 {
		e.U32(s.VersionMajor)
		e.U32(s.VersionMinor)
		e.U32(s.Type)
		e.Pointer(true)
	}
	if level >= 102 {
		e.U32(s.Users)
		e.U32(uint32(s.Disconnect))
		hidden := uint32(0)
		if s.Hidden {
			hidden = 1
		}
		e.U32(hidden)
		e.U32(s.Announce)
		e.U32(s.AnnDelta)
		e.U32(s.Licenses)
		e.Pointer(true)
	}
	e.WString(s.Name)
	if level >= 101 {
		e.WString(s.Comment)
	}
	if level >= 102 {
		e.WString(s.UserPath)
	}
}

func (s *ServerInfo) get(d *Decoder, level uint32) {
	var comment, path bool
	s.PlatformID = d.U32()
	name := d.Pointer()
	if level >= 101 {
		s.VersionMajor, s.VersionMinor, s.Type = d.U32(), d.U32(), d.U32()
		comment = d.Pointer()
	}
	if level >= 102 {
		s.Users, s.Disconnect, s.Hidden = d.U32(), int32(d.U32()), d.U32() != 0
		s.Announce, s.AnnDelta, s.Licenses = d.U32(), d.U32(), d.U32()
		path = d.Pointer()
	}
	for _, p := range []struct {
		has bool
		to  *string
	}{{name, &s.Name}, {comment, &s.Comment}, {path, &s.UserPath}} {
		if p.has {
			*p.to = d.WString()
		}
	}
}

// LevelRequest are the parameters of NetrServerGetInfo and NetrWkstaGetInfo.
type LevelRequest struct {
	Server string
	Level  uint32
}

// Encode writes the parameters.
func (r *LevelRequest) Encode(e *Encoder) {
	e.UniqueWString(r.Server)
	e.U32(r.Level)
}

// Decode reads the parameters.
func (r *LevelRequest) Decode(d *Decoder) error {
	*r = LevelRequest{Server: d.UniqueWString(), Level: d.U32()}
	return d.Done()
}

// ServerGetInfoReply are the results of NetrServerGetInfo (MS-SRVS 3.1.4.17).
type ServerGetInfoReply struct {
	Level  uint32
	Info   *ServerInfo // nil with an error
	Status Status
}

// Encode writes the results.
func (r *ServerGetInfoReply) Encode(e *Encoder) {
	e.U32(r.Level)
	present := r.Info != nil && ServerLevel(r.Level)
	e.Pointer(present)
	if present {
		r.Info.put(e, r.Level)
	}
	e.U32(uint32(r.Status))
}

// Decode reads the results.
func (r *ServerGetInfoReply) Decode(d *Decoder) error {
	*r = ServerGetInfoReply{Level: d.U32()}
	if d.Pointer() {
		d.Check(ServerLevel(r.Level))
		r.Info = new(ServerInfo)
		r.Info.get(d, r.Level)
	}
	r.Status = Status(d.U32())
	return d.Done()
}

// TimeOfDay is TIME_OF_DAY_INFO (MS-SRVS 2.2.4.105).
type TimeOfDay struct {
	Unix      uint32 // seconds since 1970
	Millis    uint32 // ms since some start
	Hours     uint32
	Minutes   uint32
	Seconds   uint32
	Hundreds  uint32
	Timezone  int32  // minutes west of Greenwich; -1 unknown
	TickTenth uint32 // length of a clock tick in 0.1 ms
	Day       uint32
	Month     uint32
	Year      uint32
	Weekday   uint32 // 0 is Sunday
}

// TimeOfDayOf is t in UTC, with the offset of its location; up is how long the
// server runs.
func TimeOfDayOf(t time.Time, up time.Duration) TimeOfDay {
	_, east := t.Zone()
	u := t.UTC()
	return TimeOfDay{
		Unix: uint32(u.Unix()), Millis: uint32(up.Milliseconds()),
		Hours: uint32(u.Hour()), Minutes: uint32(u.Minute()), Seconds: uint32(u.Second()),
		Hundreds: uint32(u.Nanosecond() / 10_000_000), Timezone: int32(-east / 60), TickTenth: 310,
		Day: uint32(u.Day()), Month: uint32(u.Month()), Year: uint32(u.Year()), Weekday: uint32(u.Weekday()),
	}
}

// RemoteTODReply are the results of NetrRemoteTOD (MS-SRVS 3.1.4.21); its only
// parameter is the server's name.
type RemoteTODReply struct {
	Time   *TimeOfDay // nil with an error
	Status Status
}

// Encode writes the results.
func (r *RemoteTODReply) Encode(e *Encoder) {
	e.Pointer(r.Time != nil)
	if t := r.Time; t != nil {
		for _, v := range [...]uint32{t.Unix, t.Millis, t.Hours, t.Minutes, t.Seconds, t.Hundreds,
			uint32(t.Timezone), t.TickTenth, t.Day, t.Month, t.Year, t.Weekday} {
			e.U32(v)
		}
	}
	e.U32(uint32(r.Status))
}

// Decode reads the results.
func (r *RemoteTODReply) Decode(d *Decoder) error {
	*r = RemoteTODReply{}
	if d.Pointer() {
		r.Time = &TimeOfDay{d.U32(), d.U32(), d.U32(), d.U32(), d.U32(), d.U32(),
			int32(d.U32()), d.U32(), d.U32(), d.U32(), d.U32(), d.U32()}
	}
	r.Status = Status(d.U32())
	return d.Done()
}
