package shares

import (
	"fmt"
	"strings"

	"lunless/smbstore/fscc"
	"lunless/smbstore/rpc"
	"lunless/smbstore/smb2"
)

// world is what a client has at the server to aim at.
type world struct {
	name, dir string // of file and folder
	disk, ipc uint32 // tree connects
	file      smb2.FileID
	again     smb2.FileID // the same file once more: its locks are in file's way
	folder    smb2.FileID
	pipe      smb2.FileID
	lsa       bool          // the pipe is lsarpc
	made      []smb2.FileID // by messages that did more than they should have
}

// furnish connects to share and IPC$, if they are not refused, and opens what the seeds need.
func (c *pduClient) furnish(share, name string) error {
	w := &c.world
	for _, t := range []struct {
		share string
		id    *uint32
	}{{share, &w.disk}, {ipcName, &w.ipc}} {
		if t.share == "" {
			continue
		}
		r, err := c.call(c.pdu(smb2.CommandTreeConnect, 0, &smb2.TreeConnectRequest{Path: `\\server\` + t.share}, nil, 0))
		if err != nil {
			return err
		}
		if r.hdr.Status != smb2.StatusSuccess {
			return fmt.Errorf("tree connect %s: %w", t.share, r.hdr.Status)
		}
		*t.id = r.hdr.TreeID
	}
	if err := c.openFiles(share, name); err != nil {
		return err
	}
	return c.openPipe(pick(c.m, "srvsvc", "lsarpc"))
}

func (c *pduClient) openFiles(share, name string) error {
	w := &c.world
	if share == "" {
		return nil
	}
	w.name, w.dir = name, name+".d"
	open := func(name string, options smb2.CreateOptions) (smb2.FileID, error) {
		q := createRequest(name)
		q.DesiredAccess, q.CreateOptions = smb2.GenericAll, options
		var m smb2.CreateResponse
		if err := c.demand(c.pdu(smb2.CommandCreate, w.disk, q, nil, 0), &m); err != nil {
			return m.FileID, fmt.Errorf("create %s: %w", name, err)
		}
		return m.FileID, nil
	}
	var err error
	if w.file, err = open(name, 0); err != nil {
		return err
	}
	if w.again, err = open(name, 0); err != nil {
		return err
	}
	if w.folder, err = open(w.dir, smb2.FileDirectoryFile); err != nil {
		return err
	}
	inside, err := open(w.dir+`\inside`, 0)
	if err != nil {
		return err
	}
	w.made = append(w.made, inside)
	data := make([]byte, 8192)
	if err := c.demand(c.write(w.disk, w.file, 0, data), &smb2.WriteResponse{}); err != nil {
		return err
	}
	lock := &smb2.LockRequest{FileID: w.again, Locks: []smb2.LockElement{
		{Offset: 1 << 20, Length: 4096, Flags: smb2.LockFlagExclusiveLock | smb2.LockFlagFailImmediately}}}
	return c.demand(c.pdu(smb2.CommandLock, w.disk, lock, nil, 0), &smb2.LockResponse{})
}

func (c *pduClient) openPipe(name string) error {
	if old := c.world.pipe; old != (smb2.FileID{}) { // few may be open at a time without a password
		if _, err := c.call(c.pdu(smb2.CommandClose, c.world.ipc, &smb2.CloseRequest{FileID: old}, nil, 0)); err != nil {
			return fmt.Errorf("close %s: %w", name, err)
		}
	}
	var m smb2.CreateResponse
	if err := c.demand(c.pdu(smb2.CommandCreate, c.world.ipc, createRequest(name), nil, 0), &m); err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	c.world.pipe = m.FileID
	if c.m.IntN(4) == 0 {
		return nil
	}
	// With the interface bound, calls get as far as their parameters.
	syntax := rpc.SyntaxSrvsvc
	if c.world.lsa = name == "lsarpc"; c.world.lsa {
		syntax = rpc.SyntaxLsarpc
	}
	bind := &rpc.Bind{CallID: 1, MaxXmit: 4280, MaxRecv: 4280, Contexts: []rpc.Context{
		{Abstract: syntax, Transfer: []rpc.Syntax{rpc.SyntaxNDR}}}}
	q := &smb2.IoctlRequest{CtlCode: smb2.FsctlPipeTransceive, FileID: m.FileID, Input: mustEncode(bind.Encode()),
		MaxOutputResponse: 4096, Flags: smb2.IoctlIsFSCTL}
	return c.demand(c.pdu(smb2.CommandIoctl, c.world.ipc, q, nil, 4096), &smb2.IoctlResponse{})
}

// seed is a valid request. focus is where its innermost structure begins, 0 if
// there is none.
type seed struct {
	name  string
	msg   []byte
	focus int
}

func (c *pduClient) write(tree uint32, id smb2.FileID, off uint64, data []byte) []byte {
	return c.pdu(smb2.CommandWrite, tree, &smb2.WriteRequest{Length: uint32(len(data)), Offset: off, FileID: id}, data, 0)
}

// anyFile is most often the open file.
func (c *pduClient) anyFile() smb2.FileID {
	w := &c.world
	if n := len(w.made); n > 0 && c.m.IntN(4) == 0 {
		return w.made[c.m.IntN(n)]
	}
	return pick(c.m, w.file, w.file, w.file, w.again, w.folder)
}

// seed is a random request of any command.
func (c *pduClient) seed() seed {
	m, w := c.m, &c.world
	one := func(cmd smb2.Command, b body, need int) seed {
		return seed{name: cmd.String(), msg: c.pdu(cmd, w.disk, b, nil, need)}
	}
	if w.disk == 0 || m.IntN(8) == 0 {
		return c.pipeSeed()
	}
	switch m.IntN(34) {
	case 0, 1, 2, 3, 4, 5:
		return c.createSeed()
	case 6:
		id := c.anyFile()
		if n := len(w.made); n > 0 && m.IntN(4) > 0 {
			id = w.made[m.IntN(n)]
		}
		return one(smb2.CommandClose, &smb2.CloseRequest{FileID: id, Flags: smb2.CloseFlags(m.IntN(2))}, 0)
	case 7:
		return one(smb2.CommandFlush, &smb2.FlushRequest{FileID: c.anyFile()}, 0)
	case 8, 9:
		n := pick(m, uint32(0), 1, 512, 4096, 64<<10, 1<<20)
		return one(smb2.CommandRead, &smb2.ReadRequest{Length: n, Offset: uint64(pick(m, 0, 100, 8191, 1<<20)),
			FileID: c.anyFile(), MinimumCount: uint32(m.IntN(2)), Channel: smb2.Channel(m.IntN(8) / 7)}, int(n))
	case 10, 11:
		n := pick(m, 0, 1, 512, 4096, 70<<10)
		return seed{smb2.CommandWrite.String(), c.write(w.disk, c.anyFile(), uint64(pick(m, 0, 100, 8191, 1<<20)), m.bytes(n)), 0}
	case 12, 13, 14:
		return one(smb2.CommandLock, c.lockRequest(), 0)
	case 15, 16, 17, 18, 19:
		return c.ioctlSeed()
	case 20:
		return one(smb2.CommandCancel, &smb2.CancelRequest{}, 0)
	case 21:
		return one(smb2.CommandEcho, &smb2.EchoRequest{}, 0)
	case 22, 23, 24:
		return one(smb2.CommandQueryDirectory, &smb2.QueryDirectoryRequest{
			FileInformationClass: uint8(pick(m, 1, 2, 3, 12, 37, 38, 60, 1, 2, 3, 12, 37, 38, 60, 50, 78, 79, 80, 81, m.IntN(256))),
			Flags:                smb2.QueryDirectoryFlags(pick(m, 0, 1, 2, 4, 16, 1, m.IntN(32))),
			FileID:               pick(m, w.folder, w.folder, w.folder, c.anyFile()),
			FileName:             pick(m, "*", "*", "*", "*.*", "?", "<.vhdx", ">>>", `"`, "a*b?c", "f*", "", strings.ToUpper(w.dir), strings.Repeat("*?", 60), `a\b`),
			OutputBufferLength:   uint32(pick(m, 0, 16, 100, 4096, 65536)),
		}, 65536)
	case 25:
		return one(smb2.CommandChangeNotify, &smb2.ChangeNotifyRequest{FileID: w.folder, OutputBufferLength: 4096,
			CompletionFilter: smb2.CompletionFilter(m.Uint32()), Flags: smb2.ChangeNotifyFlags(m.IntN(2))}, 4096)
	case 26, 27:
		return c.querySeed()
	case 28, 29, 30:
		return c.setSeed()
	case 31:
		if m.IntN(2) == 0 {
			return one(smb2.CommandOplockBreak, &smb2.LeaseBreak{LeaseKey: smb2.GUID{1}, LeaseState: 1}, 0)
		}
		return one(smb2.CommandOplockBreak, &smb2.OplockBreak{FileID: w.file, OplockLevel: 1}, 0)
	case 32:
		return c.treeSeed()
	}
	return c.compoundSeed()
}

// treeSeed is about tree connects and, now and then, sessions.
func (c *pduClient) treeSeed() seed {
	m := c.m
	one := func(cmd smb2.Command, b body) seed {
		return seed{name: cmd.String(), msg: c.pdu(cmd, c.world.disk, b, nil, 0)}
	}
	switch m.IntN(16) {
	case 0:
		return one(smb2.CommandLogoff, &smb2.LogoffRequest{})
	case 1, 2:
		return one(smb2.CommandTreeDisconnect, &smb2.TreeDisconnectRequest{})
	case 3:
		return one(smb2.CommandSessionSetup, &smb2.SessionSetupRequest{SecurityBuffer: m.bytes(40), PreviousSessionID: c.session})
	case 4:
		return one(smb2.CommandSessionSetup, &smb2.SessionSetupRequest{Flags: smb2.SessionFlagBinding, SecurityBuffer: m.bytes(40)})
	case 5:
		if req, at, err := c.newLogon(testUser).next(); err == nil {
			return seed{smb2.CommandSessionSetup.String(), req, at}
		}
	case 6:
		return one(smb2.CommandNegotiate, c.negotiateRequest())
	}
	q := &smb2.TreeConnectRequest{Path: `\\server\` + pick(m, "vms", "VMS", "sealed", "ro", ipcName, "nothing", "a\x00b", strings.Repeat("x", 81))}
	return one(smb2.CommandTreeConnect, q)
}

func (c *pduClient) lockRequest() *smb2.LockRequest {
	m := c.m
	q := &smb2.LockRequest{FileID: pick(m, c.world.file, c.world.again, c.anyFile()), LockSequence: m.Uint32() >> m.IntN(32)}
	if m.IntN(4) == 0 { // this one waits
		q.FileID, q.Locks = c.world.file, []smb2.LockElement{{Offset: 1 << 20, Length: 1, Flags: smb2.LockFlagExclusiveLock}}
		return q
	}
	unlock := m.IntN(3) == 0
	for range 1 + m.IntN(pick(m, 1, 4, 40)) {
		e := smb2.LockElement{Offset: uint64(m.IntN(4096)), Length: uint64(m.IntN(64)), Flags: smb2.LockFlagUnlock}
		if !unlock {
			e.Flags = smb2.LockFlags(1+m.IntN(2)) | smb2.LockFlagFailImmediately
		}
		q.Locks = append(q.Locks, e)
	}
	return q
}

// path is a name to open: there, new, outside, or no name at all.
func (c *pduClient) path() string {
	m, f, d := c.m, c.world.name, c.world.dir
	return pick(m, f, f, f, d, d, "", d+`\x`, d+`\sub`, fmt.Sprint("new", m.IntN(40)), "link", "dangling", `out\sentinel`,
		`..\sentinel`, d+`\..\..\sentinel`, d+`\.\x`, `out\..\sentinel`, `\`+f, f+":stream", f+"::$DATA",
		d+"::$INDEX_ALLOCATION", d+`\`, strings.Repeat("n", 255), strings.Repeat("é", 256), strings.Repeat(`d\`, 500),
		"a*b", "CON", "x ", "x.", "\U0001F600", strings.ToUpper(d), "a/b", "a\x00b", "a\x01")
}

func (c *pduClient) createSeed() seed {
	m := c.m
	q := &smb2.CreateRequest{
		RequestedOplockLevel: pick(m, smb2.OplockNone, smb2.OplockII, smb2.OplockBatch, smb2.OplockLease),
		ImpersonationLevel:   smb2.ImpersonationImpersonation,
		DesiredAccess: pick(m, smb2.GenericRead, smb2.GenericRead|smb2.GenericWrite|smb2.Delete, smb2.MaximumAllowed, smb2.GenericAll,
			smb2.FileReadAttributes, smb2.ReadControl|smb2.WriteDAC|smb2.WriteOwner|smb2.FileWriteAttributes, smb2.AccessSystemSecurity),
		FileAttributes:    pick(m, uint32(0), 0x80, 1, 2, 0x10, 0x20, 0x100, 0x200),
		ShareAccess:       pick(m, smb2.ShareAccess(7), 7, 7, 3, 1, 0),
		CreateDisposition: smb2.CreateDisposition(pick(m, 0, 1, 1, 2, 3, 3, 4, 5)),
		CreateOptions:     pick(m, smb2.CreateOptions(0), 0, 0, 1, 0x40, 0x1000, 2, 8, 0x21, 0x2000, 0x200000, 0x4000, 0x1001),
		Name:              c.path(),
	}
	for range m.IntN(4) * m.IntN(2) {
		q.Contexts = append(q.Contexts, c.createContext())
	}
	s := seed{name: smb2.CommandCreate.String(), msg: c.pdu(smb2.CommandCreate, c.world.disk, q, nil, 0)}
	if len(q.Contexts) > 0 { // the contexts are what follows the name
		n := *q
		n.Contexts = nil
		s.focus = n.Size()
	}
	return s
}

// createContext is one of any type (MS-SMB2 2.2.13.2).
func (c *pduClient) createContext() smb2.CreateContext {
	m, w := c.m, &c.world
	switch m.IntN(16) {
	case 0:
		return smb2.EABufferContext(encodedEAs())
	case 1, 2:
		return smb2.SDBufferContext(c.descriptor())
	case 3:
		return smb2.DurableRequest{}.Context()
	case 4:
		return (&smb2.DurableReconnect{FileID: w.file}).Context()
	case 5:
		return (&smb2.AllocationSize{AllocationSize: uint64(m.IntN(1 << 20))}).Context()
	case 6:
		return (&smb2.MaximalAccessRequest{HasTimestamp: m.IntN(2) == 0, Timestamp: 1}).Context()
	case 7:
		return (&smb2.Timewarp{Timestamp: smb2.Filetime(m.Uint64())}).Context()
	case 8:
		return smb2.OnDiskIDRequest()
	case 9:
		return (&smb2.Lease{Version: 1 + m.IntN(2), LeaseKey: smb2.GUID{1}, LeaseState: 7}).Context()
	case 10:
		return (&smb2.DurableRequestV2{Timeout: 1000, Flags: smb2.DurableFlags(2 * m.IntN(2)), CreateGUID: smb2.GUID{2}}).Context()
	case 11:
		return (&smb2.DurableReconnectV2{FileID: w.file, CreateGUID: smb2.GUID{2}}).Context()
	case 12:
		return (&smb2.AppInstanceID{ID: smb2.GUID{3}}).Context()
	case 13:
		return (&smb2.AppInstanceVersion{High: 1, Low: 2}).Context()
	case 14:
		return smb2.CreateContext{Name: smb2.CreateContextSVHDXOpenDevice, Data: m.bytes(76)}
	}
	return smb2.CreateContext{Name: string(m.bytes(1 + m.IntN(20))), Data: m.bytes(m.IntN(64))}
}

// compoundSeed is two to five requests in one frame, related or not.
func (c *pduClient) compoundSeed() seed {
	m := c.m
	related := m.IntN(3) > 0
	var frame []byte
	last := 0
	id := c.message
	for i := range 2 + m.IntN(4) {
		s := c.createSeed()
		if i > 0 {
			for s = c.seed(); s.name == "compound"; s = c.seed() {
			}
			frame = smb2.LinkCompound(frame, last)
		}
		var h smb2.Header
		if h.Decode(s.msg) != nil {
			continue
		}
		if related && i > 0 {
			h.Flags |= smb2.FlagRelatedOperations
			if at := commands[h.Command].fileIDAt; at > 0 && m.IntN(3) > 0 {
				for j := range 16 {
					s.msg[at+j] = 0xff
				}
			}
		}
		h.MessageID = id
		id += max(1, uint64(h.CreditCharge))
		h.Encode(s.msg)
		last = len(frame)
		frame = append(frame, s.msg...)
	}
	return seed{name: "compound", msg: frame, focus: last}
}

// negotiateRequest offers every dialect with every context, or some of it.
func (c *pduClient) negotiateRequest() *smb2.NegotiateRequest {
	m := c.m
	q := &smb2.NegotiateRequest{
		SecurityMode: smb2.SecurityMode(m.IntN(4)), Capabilities: smb2.Capabilities(m.Uint32() & 0xff), ClientGUID: smb2.GUID{9},
		Dialects: pick(m, dialects, dialects, dialects[:1], dialects[1:], dialects[2:], append([]smb2.Dialect{smb2.DialectWildcard}, dialects...)),
	}
	if !q.HasDialect(smb2.Dialect311) {
		return q
	}
	p := smb2.PreauthIntegrityCapabilities{HashAlgorithms: []smb2.HashAlgorithm{smb2.HashSHA512, 2}, Salt: m.bytes(m.IntN(64))}
	e := smb2.EncryptionCapabilities{Ciphers: ciphers}
	s := smb2.SigningCapabilities{Algorithms: signings}
	z := smb2.CompressionCapabilities{Algorithms: []smb2.CompressionAlgorithm{1, 2, 3, 4, 5}, Flags: 1}
	n := smb2.NetnameContext{NetName: "server"}
	t := smb2.TransportCapabilities{Flags: 1}
	r := smb2.RDMATransformCapabilities{Transforms: []smb2.RDMATransform{1, 2}}
	q.Contexts = []smb2.NegotiateContext{p.Context(), e.Context(), s.Context(), z.Context(), n.Context(), t.Context(), r.Context()}
	m.Shuffle(len(q.Contexts), func(i, j int) { q.Contexts[i], q.Contexts[j] = q.Contexts[j], q.Contexts[i] })
	q.Contexts = q.Contexts[:1+m.IntN(len(q.Contexts))]
	return q
}

// firstSeed is what may come first on a connection.
func (c *pduClient) firstSeed() seed {
	m := c.m
	if m.IntN(4) == 0 {
		q := &smb2.SMB1NegotiateRequest{Dialects: pick(m, []string{"NT LM 0.12"}, []string{"SMB 2.002"},
			[]string{"PC NETWORK PROGRAM 1.0", "NT LM 0.12", smb2.SMB1Dialect2002, smb2.SMB1DialectWildcard}, []string{"SMB 2.???"})}
		b := make([]byte, q.Size())
		q.Encode(b)
		return seed{name: "SMB1 NEGOTIATE", msg: b, focus: 32}
	}
	if m.IntN(6) == 0 {
		return seed{name: "ECHO", msg: c.pdu(smb2.CommandEcho, 0, &smb2.EchoRequest{}, nil, 0)}
	}
	return seed{name: "NEGOTIATE", msg: c.pdu(smb2.CommandNegotiate, 0, c.negotiateRequest(), nil, 0)}
}

func encodedEAs() []byte {
	b := make([]byte, 256)
	w := fscc.NewEaWriter(b)
	w.Add(&fscc.EaEntry{Name: []byte("NAME"), Value: []byte("value")})
	w.Add(&fscc.EaEntry{Name: []byte("OTHER"), Value: make([]byte, 40)})
	return b[:w.Len()]
}

// descriptor is a security descriptor with some of its parts.
func (c *pduClient) descriptor() []byte {
	m := c.m
	sid := func(text string) fscc.SID {
		s, err := fscc.ParseSID(text)
		if err != nil {
			panic(err)
		}
		return s
	}
	all := []fscc.SID{sid("S-1-1-0"), sid("S-1-5-18"), sid("S-1-5-32-544"), sid("S-1-3-0"), sid("S-1-5-21-1-2-3-1001")}
	list := func() *fscc.ACL {
		l := &fscc.ACL{}
		for range m.IntN(pick(m, 2, 6, 60)) {
			e := fscc.Allow(all[m.IntN(len(all))], fscc.AccessMask(m.Uint32()&0x1f01ff), uint8(m.IntN(32)))
			if m.IntN(4) == 0 {
				e = fscc.Deny(e.SID, e.Mask, e.Flags)
			}
			l.ACEs = append(l.ACEs, e)
		}
		return l
	}
	d := &fscc.SecurityDescriptor{}
	if m.IntN(2) == 0 {
		d.Owner, d.Group = all[m.IntN(len(all))], all[m.IntN(len(all))]
	}
	if m.IntN(4) > 0 {
		d.DACL, d.Control = list(), d.Control|fscc.SE_DACL_PRESENT
		d.DACL.ACEs = append(d.DACL.ACEs, fscc.Allow(all[0], fscc.FILE_ALL_ACCESS, 0))
	}
	if m.IntN(6) == 0 {
		d.SACL, d.Control = list(), d.Control|fscc.SE_SACL_PRESENT
	}
	b, err := d.Marshal()
	if err != nil {
		return m.bytes(20)
	}
	return b
}
