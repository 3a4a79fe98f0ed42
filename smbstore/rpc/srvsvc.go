package rpc

// SyntaxSrvsvc is the Server Service Remote Protocol (MS-SRVS 1.9), on \PIPE\srvsvc.
var SyntaxSrvsvc = Syntax{UUID: mustUUID("4b324fc8-1670-01d3-1278-5a47bf6ee188"), Major: 3}

// Operations of srvsvc (MS-SRVS 3.1.4).
const (
	OpNetrSessionEnum   = 12
	OpNetrShareAdd      = 14
	OpNetrShareEnum     = 15
	OpNetrShareGetInfo  = 16
	OpNetrShareSetInfo  = 17
	OpNetrShareDel      = 18
	OpNetrServerGetInfo = 21
	OpNetrRemoteTOD     = 28

	OpNetrShareEnumSticky = 36 // parameters and results as those of NetrShareEnum
)

// Types of shares (MS-SRVS 2.2.2.4).
const (
	STYPE_DISKTREE  = 0x00000000
	STYPE_PRINTQ    = 0x00000001
	STYPE_DEVICE    = 0x00000002
	STYPE_IPC       = 0x00000003
	STYPE_TEMPORARY = 0x40000000
	STYPE_SPECIAL   = 0x80000000 // not shown to users: IPC$, names that end in $
)

// Flags of shares at levels 501 and 1005 (MS-SRVS 2.2.4.29).
const (
	SHI1005_FLAGS_ACCESS_BASED_DIRECTORY_ENUM = 0x00000800
	SHI1005_FLAGS_ENABLE_CA                   = 0x00004000
	SHI1005_FLAGS_ENCRYPT_DATA                = 0x00008000

	CSC_CACHE_NONE = 0x00000030
)

// MaxPreferredLength asks for everything at once (MS-SRVS 2.2.2.2).
const MaxPreferredLength = 0xFFFFFFFF

// UnlimitedUses is the number of connections of a share without a limit.
const UnlimitedUses = 0xFFFFFFFF

// ShareInfo is a share; each level carries the fields it has (MS-SRVS 2.2.4.22
// to 2.2.4.29).
type ShareInfo struct {
	Name        string // 0, 1, 2, 501, 502
	Type        uint32 // 1, 2, 501, 502
	Comment     string // 1, 2, 501, 502
	Permissions uint32 // 2, 502; meant for share-level security only
	MaxUses     uint32 // 2, 502
	CurrentUses uint32 // 2, 502
	Path        string // 2, 502
	Flags       uint32 // 501, 1005
	SD          []byte // 502: self-relative; a view when decoded
}

// shareLevel says what a level of ShareInfo carries.
type shareLevel struct{ name, kind, uses, flags, sd bool }

func shareLevelOf(level uint32) (shareLevel, bool) {
	switch level {
	case 0:
		return shareLevel{name: true}, true
	case 1:
		return shareLevel{name: true, kind: true}, true
	case 2:
		return shareLevel{name: true, kind: true, uses: true}, true
	case 501:
		return shareLevel{name: true, kind: true, flags: true}, true
	case 502:
		return shareLevel{name: true, kind: true, uses: true, sd: true}, true
	case 1005:
		return shareLevel{flags: true}, true
	}
	return shareLevel{}, false
}

// ShareEnumLevel reports whether NetrShareEnum is offered at a level here;
// ShareLevel the same of NetrShareGetInfo.
func ShareEnumLevel(level uint32) bool { return level != 1005 && ShareLevel(level) }

// ShareLevel reports whether NetrShareGetInfo is offered at a level here.
func ShareLevel(level uint32) bool {
	_, ok := shareLevelOf(level)
	return ok
}

// fixedSize is the least bytes a structure of the level takes.
func (l shareLevel) fixedSize() (n int) {
	for _, part := range []struct {
		has  bool
		size int
	}{{l.name, 4}, {l.kind, 8}, {l.uses, 20}, {l.flags, 4}, {l.sd, 8}} {
		if part.has {
			n += part.size
		}
	}
	return n
}

// put writes the structure itself, deferred what its pointers point to.
func (l shareLevel) put(e *Encoder, s *ShareInfo) {
	if l.name {
		e.Pointer(true)
	}
	if l.kind {
		e.U32(s.Type)
		e.Pointer(true)
	}
	if l.uses {
		e.U32(s.Permissions)
		e.U32(s.MaxUses)
		e.U32(s.CurrentUses)
		e.Pointer(true)
		e.Pointer(false) // no password
	}
	if l.flags {
		e.U32(s.Flags)
	}
	if l.sd {
		e.U32(uint32(len(s.SD)))
		e.Pointer(len(s.SD) > 0)
	}
}

func (l shareLevel) putDeferred(e *Encoder, s *ShareInfo) {
	if l.name {
		e.WString(s.Name)
	}
	if l.kind {
		e.WString(s.Comment)
	}
	if l.uses {
		e.WString(s.Path)
	}
	if l.sd && len(s.SD) > 0 {
		e.U32(uint32(len(s.SD)))
		e.Raw(s.SD)
	}
}

// sharePointers are the pointers of one structure that are not null.
type sharePointers struct {
	name, comment, path, password, sd bool
	sdLen                             uint32
}

func (l shareLevel) get(d *Decoder, s *ShareInfo) (p sharePointers) {
	if l.name {
		p.name = d.Pointer()
	}
	if l.kind {
		s.Type = d.U32()
		p.comment = d.Pointer()
	}
	if l.uses {
		s.Permissions, s.MaxUses, s.CurrentUses = d.U32(), d.U32(), d.U32()
		p.path, p.password = d.Pointer(), d.Pointer()
	}
	if l.flags {
		s.Flags = d.U32()
	}
	if l.sd {
		p.sdLen = d.U32()
		p.sd = d.Pointer()
	}
	return p
}

func (p sharePointers) getDeferred(d *Decoder, s *ShareInfo) {
	if p.name {
		s.Name = d.WString()
	}
	if p.comment {
		s.Comment = d.WString()
	}
	if p.path {
		s.Path = d.WString()
	}
	if p.password {
		d.WString()
	}
	if p.sd {
		n := d.Count(1)
		d.Check(uint32(n) == p.sdLen)
		s.SD = d.Bytes(n)
	}
}

// ShareEnumRequest are the parameters of NetrShareEnum (MS-SRVS 3.1.4.8).
type ShareEnumRequest struct {
	Server       string
	Level        uint32
	PreferredMax uint32 // bytes of the answer
	Resume       uint32
	HasResume    bool
}

// Encode writes the parameters.
func (r *ShareEnumRequest) Encode(e *Encoder) {
	e.UniqueWString(r.Server)
	e.U32(r.Level)
	e.U32(r.Level)
	e.Pointer(true)
	e.U32(0)
	e.Pointer(false)
	e.U32(r.PreferredMax)
	putResume(e, r.Resume, r.HasResume)
}

// Decode reads the parameters. The list a client passes in must be empty.
func (r *ShareEnumRequest) Decode(d *Decoder) error {
	*r = ShareEnumRequest{Server: d.UniqueWString(), Level: d.U32()}
	d.Check(d.U32() == r.Level)
	if d.Pointer() {
		d.Check(d.U32() == 0)
		if d.Pointer() {
			d.Check(d.U32() == 0)
		}
	}
	r.PreferredMax = d.U32()
	r.Resume, r.HasResume = getResume(d)
	return d.Done()
}

func putResume(e *Encoder, v uint32, has bool) {
	e.Pointer(has)
	if has {
		e.U32(v)
	}
}

func getResume(d *Decoder) (v uint32, has bool) {
	if has = d.Pointer(); has {
		v = d.U32()
	}
	return v, has
}

// ShareEnumReply are the results of NetrShareEnum.
type ShareEnumReply struct {
	Level     uint32
	Shares    []ShareInfo
	Total     uint32 // entries there are from the resume position on
	Resume    uint32
	HasResume bool
	Status    Status // StatusOK, StatusMoreData, or an error without shares
}

// Encode writes the results. A level that is not offered has no shares.
func (r *ShareEnumReply) Encode(e *Encoder) {
	e.U32(r.Level)
	e.U32(r.Level)
	l, ok := shareLevelOf(r.Level)
	e.Pointer(ok)
	if ok {
		e.U32(uint32(len(r.Shares)))
		e.Pointer(len(r.Shares) > 0)
		if len(r.Shares) > 0 {
			e.U32(uint32(len(r.Shares)))
		}
		for i := range r.Shares {
			l.put(e, &r.Shares[i])
		}
		for i := range r.Shares {
			l.putDeferred(e, &r.Shares[i])
		}
	}
	e.U32(r.Total)
	putResume(e, r.Resume, r.HasResume)
	e.U32(uint32(r.Status))
}

// Decode reads the results.
func (r *ShareEnumReply) Decode(d *Decoder) error {
	*r = ShareEnumReply{Level: d.U32()}
	d.Check(d.U32() == r.Level)
	l, ok := shareLevelOf(r.Level)
	if d.Pointer() {
		d.Check(ok)
		n := d.U32()
		if d.Pointer() {
			m := d.Count(l.fixedSize())
			d.Check(uint32(m) == n)
			r.Shares = l.getAll(d, m)
		} else {
			d.Check(n == 0)
		}
	}
	r.Total = d.U32()
	r.Resume, r.HasResume = getResume(d)
	r.Status = Status(d.U32())
	return d.Done()
}

func (l shareLevel) getAll(d *Decoder, n int) []ShareInfo {
	if d.err != nil || n == 0 {
		return nil
	}
	shares := make([]ShareInfo, n)
	pointers := make([]sharePointers, n)
	for i := range shares {
		pointers[i] = l.get(d, &shares[i])
	}
	for i := range shares {
		pointers[i].getDeferred(d, &shares[i])
	}
	return shares
}

// ShareGetInfoRequest are the parameters of NetrShareGetInfo (MS-SRVS 3.1.4.10).
type ShareGetInfoRequest struct {
	Server string
	Share  string
	Level  uint32
}

// Encode writes the parameters.
func (r *ShareGetInfoRequest) Encode(e *Encoder) {
	e.UniqueWString(r.Server)
	e.WString(r.Share)
	e.U32(r.Level)
}

// Decode reads the parameters.
func (r *ShareGetInfoRequest) Decode(d *Decoder) error {
	*r = ShareGetInfoRequest{Server: d.UniqueWString(), Share: d.WString(), Level: d.U32()}
	return d.Done()
}

// ShareGetInfoReply are the results of NetrShareGetInfo.
type ShareGetInfoReply struct {
	Level  uint32
	Share  *ShareInfo // nil with an error
	Status Status
}

// Encode writes the results.
func (r *ShareGetInfoReply) Encode(e *Encoder) {
	e.U32(r.Level)
	l, ok := shareLevelOf(r.Level)
	e.Pointer(ok && r.Share != nil)
	if ok && r.Share != nil {
		l.put(e, r.Share)
		l.putDeferred(e, r.Share)
	}
	e.U32(uint32(r.Status))
}

// Decode reads the results.
func (r *ShareGetInfoReply) Decode(d *Decoder) error {
	*r = ShareGetInfoReply{Level: d.U32()}
	l, ok := shareLevelOf(r.Level)
	if d.Pointer() {
		d.Check(ok)
		r.Share = new(ShareInfo)
		l.get(d, r.Share).getDeferred(d, r.Share)
	}
	r.Status = Status(d.U32())
	return d.Done()
}

// Size is about the bytes s takes at a level, strings included.
func (s *ShareInfo) Size(level uint32) int {
	l, _ := shareLevelOf(level)
	n := l.fixedSize()
	for _, part := range []struct {
		has bool
		s   string
	}{{l.name, s.Name}, {l.kind, s.Comment}, {l.uses, s.Path}} {
		if part.has {
			n += 2 * (len(part.s) + 1)
		}
	}
	if l.sd {
		n += len(s.SD)
	}
	return n
}
