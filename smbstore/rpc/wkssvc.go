package rpc

// SyntaxWkssvc is the Workstation Service Remote Protocol (MS-WKST 1.9), on \PIPE\wkssvc.
var SyntaxWkssvc = Syntax{UUID: mustUUID("6bffd098-a112-3610-9833-46c3f87e345a"), Major: 1}

// OpNetrWkstaGetInfo is its one operation offered here (MS-WKST 3.2.4.1).
const OpNetrWkstaGetInfo = 0

// WkstaInfo is WKSTA_INFO_100 (MS-WKST 2.2.5.1).
type WkstaInfo struct {
	PlatformID   uint32
	ComputerName string
	Group        string // domain or workgroup
	VersionMajor uint32
	VersionMinor uint32
}

// WkstaGetInfoReply are the results of NetrWkstaGetInfo, at level 100.
type WkstaGetInfoReply struct {
	Level  uint32
	Info   *WkstaInfo // nil with an error
	Status Status
}

// WkstaLevel reports whether NetrWkstaGetInfo is offered at a level here.
func WkstaLevel(level uint32) bool { return level == 100 }

// Encode writes the results.
func (r *WkstaGetInfoReply) Encode(e *Encoder) {
	e.U32(r.Level)
	present := r.Info != nil && WkstaLevel(r.Level)
	e.Pointer(present)
	if present {
		e.U32(r.Info.PlatformID)
		e.Pointer(true)
		e.Pointer(true)
		e.U32(r.Info.VersionMajor)
		e.U32(r.Info.VersionMinor)
		e.WString(r.Info.ComputerName)
		e.WString(r.Info.Group)
	}
	e.U32(uint32(r.Status))
}

// Decode reads the results.
func (r *WkstaGetInfoReply) Decode(d *Decoder) error {
	*r = WkstaGetInfoReply{Level: d.U32()}
	if d.Pointer() {
		d.Check(WkstaLevel(r.Level))
		i := &WkstaInfo{PlatformID: d.U32()}
		name, group := d.Pointer(), d.Pointer()
		i.VersionMajor, i.VersionMinor = d.U32(), d.U32()
		if name {
			i.ComputerName = d.WString()
		}
		if group {
			i.Group = d.WString()
		}
		r.Info = i
	}
	r.Status = Status(d.U32())
	return d.Done()
}
