package smb2

// TreeConnectFlags of a TREE_CONNECT request, SMB 3.1.1 (MS-SMB2 2.2.9).
type TreeConnectFlags uint16

// Tree connect flags.
const (
	TreeConnectFlagClusterReconnect TreeConnectFlags = 0x0001
	TreeConnectFlagRedirectToOwner  TreeConnectFlags = 0x0002
	TreeConnectFlagExtensionPresent TreeConnectFlags = 0x0004
)

// TreeConnectContextType says what a tree connect context holds (MS-SMB2 2.2.9.2).
type TreeConnectContextType uint16

// TreeConnectRemotedIdentity holds the identity to act as (MS-SMB2 2.2.9.2.1).
const TreeConnectRemotedIdentity TreeConnectContextType = 0x0001

// TreeConnectContext is one context, its data not looked at (MS-SMB2 2.2.9.2).
type TreeConnectContext struct {
	Type TreeConnectContextType
	Data []byte // at most 65535 bytes
}

// TreeConnectRequest asks for a share (MS-SMB2 2.2.9). Contexts travel with
// TreeConnectFlagExtensionPresent only (MS-SMB2 2.2.9.1); before SMB 3.1.1 Flags
// is reserved, and a server clears it before it looks.
type TreeConnectRequest struct {
	Flags    TreeConnectFlags
	Path     string // \\server\share
	Contexts []TreeConnectContext
}

const (
	treeConnectRequestFixed = 8
	treeConnectExtension    = 16
)

func (r *TreeConnectRequest) extended() bool { return r.Flags&TreeConnectFlagExtensionPresent != 0 }

func (r *TreeConnectRequest) pathOffset() int {
	if r.extended() {
		return HeaderSize + treeConnectRequestFixed + treeConnectExtension
	}
	return HeaderSize + treeConnectRequestFixed
}

// Size of header and body.
func (r *TreeConnectRequest) Size() int {
	n := r.pathOffset() + SizeUTF16(r.Path)
	if r.extended() {
		for _, c := range r.Contexts {
			n = Align8(n) + 8 + len(c.Data)
		}
	}
	return n
}

// Encode writes the body.
func (r *TreeConnectRequest) Encode(msg []byte) {
	off, n := r.pathOffset(), SizeUTF16(r.Path)
	w := putBody(msg, 9)
	w.u16(uint16(r.Flags))
	w.u16(uint16(off))
	w.u16(uint16(n))
	if !r.extended() {
		w.text(r.Path)
		return
	}
	w.u32(uint32(offsetIf(len(r.Contexts), Align8(off+n)-HeaderSize)))
	w.u16(uint16(len(r.Contexts)))
	w.zero(10)
	w.text(r.Path)
	for _, c := range r.Contexts {
		w.padTo(Align8(w.off))
		w.u16(uint16(c.Type))
		w.u16(uint16(len(c.Data)))
		w.u32(0)
		w.bytes(c.Data)
	}
}

// Decode reads the body.
func (r *TreeConnectRequest) Decode(msg []byte) error {
	d := body(msg, "TREE_CONNECT request", 9, treeConnectRequestFixed)
	*r = TreeConnectRequest{Flags: TreeConnectFlags(d.u16())}
	off := uint32(d.u16())
	r.Path = d.text("Path", off, uint32(d.u16()))
	if !r.extended() {
		return d.err
	}
	ctxOff := uint64(d.u32()) + HeaderSize // from the start of the request, not of the header
	count := d.u16()
	d.skip(10)
	if d.err != nil || count == 0 {
		return d.err
	}
	if ctxOff < uint64(d.off) || ctxOff > uint64(len(msg)) {
		d.fail("TreeConnectContextOffset", ErrBounds)
		return d.err
	}
	d.off = int(ctxOff)
	for range count {
		d.skip(Align8(d.off) - d.off)
		t := TreeConnectContextType(d.u16())
		n := int(d.u16())
		d.skip(4)
		data := d.take(n)
		if d.err != nil {
			return d.err
		}
		r.Contexts = append(r.Contexts, TreeConnectContext{Type: t, Data: data})
	}
	return nil
}

// TreeConnectResponse describes the share (MS-SMB2 2.2.10).
type TreeConnectResponse struct {
	ShareType     ShareType
	ShareFlags    ShareFlags
	Capabilities  ShareCapabilities
	MaximalAccess AccessMask
}

const treeConnectResponseFixed = 16

// Size of header and body.
func (*TreeConnectResponse) Size() int { return HeaderSize + treeConnectResponseFixed }

// Encode writes the body.
func (r *TreeConnectResponse) Encode(msg []byte) {
	w := putBody(msg, 16)
	w.u8(uint8(r.ShareType))
	w.u8(0)
	w.u32(uint32(r.ShareFlags))
	w.u32(uint32(r.Capabilities))
	w.u32(uint32(r.MaximalAccess))
}

// Decode reads the body.
func (r *TreeConnectResponse) Decode(msg []byte) error {
	d := body(msg, "TREE_CONNECT response", 16, treeConnectResponseFixed)
	*r = TreeConnectResponse{ShareType: ShareType(d.u8())}
	d.skip(1)
	r.ShareFlags = ShareFlags(d.u32())
	r.Capabilities = ShareCapabilities(d.u32())
	r.MaximalAccess = AccessMask(d.u32())
	return d.err
}
