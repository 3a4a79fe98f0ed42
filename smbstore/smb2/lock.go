package smb2

// LockFlags of one lock element (MS-SMB2 2.2.26.1).
type LockFlags uint32

// Lock flags.
const (
	LockFlagSharedLock      LockFlags = 0x00000001
	LockFlagExclusiveLock   LockFlags = 0x00000002
	LockFlagUnlock          LockFlags = 0x00000004
	LockFlagFailImmediately LockFlags = 0x00000010
)

// LockElement is one range to lock or unlock (MS-SMB2 2.2.26.1).
type LockElement struct {
	Offset uint64 // bytes
	Length uint64 // bytes
	Flags  LockFlags
}

// LockRequest locks or unlocks ranges (MS-SMB2 2.2.26). Decode lets an empty list
// through: the server has a status for it.
type LockRequest struct {
	LockSequence uint32 // see LockSequenceNumber and LockSequenceIndex
	FileID       FileID
	Locks        []LockElement // at most 65535
}

const (
	lockRequestFixed = 24
	lockElementSize  = 24
)

// LockSequenceNumber is the low 4 bits of LockSequence.
func (r *LockRequest) LockSequenceNumber() uint8 { return uint8(r.LockSequence & 0xF) }

// LockSequenceIndex is the rest of LockSequence: 1 to 64 name a bucket, 0 none.
func (r *LockRequest) LockSequenceIndex() uint32 { return r.LockSequence >> 4 }

// Size of header and body.
func (r *LockRequest) Size() int {
	return HeaderSize + lockRequestFixed + lockElementSize*len(r.Locks)
}

// Encode writes the body.
func (r *LockRequest) Encode(msg []byte) {
	w := putBody(msg, 48)
	w.u16(uint16(len(r.Locks)))
	w.u32(r.LockSequence)
	w.fileID(r.FileID)
	for _, l := range r.Locks {
		w.u64(l.Offset)
		w.u64(l.Length)
		w.u32(uint32(l.Flags))
		w.u32(0)
	}
}

// Decode reads the body.
func (r *LockRequest) Decode(msg []byte) error {
	d := body(msg, "LOCK request", 48, lockRequestFixed)
	count := int(d.u16())
	*r = LockRequest{LockSequence: d.u32(), FileID: d.fileID()}
	if d.err == nil && count*lockElementSize > len(msg)-d.off {
		d.fail("LockCount", ErrBounds)
	}
	if d.err != nil || count == 0 {
		return d.err
	}
	r.Locks = make([]LockElement, count)
	for i := range r.Locks {
		r.Locks[i] = LockElement{Offset: d.u64(), Length: d.u64(), Flags: LockFlags(d.u32())}
		d.skip(4)
	}
	return d.err
}

// LockResponse answers LOCK (MS-SMB2 2.2.27).
type LockResponse struct{}

// Size of header and body.
func (*LockResponse) Size() int { return HeaderSize + emptySize }

// Encode writes the body.
func (*LockResponse) Encode(msg []byte) { encodeEmpty(msg) }

// Decode reads the body.
func (*LockResponse) Decode(msg []byte) error { return decodeEmpty(msg, "LOCK response") }
