package smb2

// OPLOCK_BREAK carries six bodies; their structure sizes tell them apart: 24 for
// oplocks whoever sends, 44 for a lease's notification, 36 for the
// acknowledgment of a lease break and its response.
const (
	oplockBreakSize            = 24
	leaseBreakNotificationSize = 44
	leaseBreakAckSize          = 36
)

// IsLeaseBreak reports whether the body of an OPLOCK_BREAK message is a lease's.
// Decode then checks the rest.
func IsLeaseBreak(msg []byte) bool {
	if len(msg) < HeaderSize+2 {
		return false
	}
	n := le.Uint16(msg[HeaderSize:])
	return n == leaseBreakNotificationSize || n == leaseBreakAckSize
}

// OplockBreak is notification, acknowledgment and response of an oplock break:
// they have one layout (MS-SMB2 2.2.23.1, 2.2.24.1, 2.2.25.1).
type OplockBreak struct {
	OplockLevel OplockLevel
	FileID      FileID
}

// The three uses of OplockBreak.
type (
	OplockBreakNotification   = OplockBreak
	OplockBreakAcknowledgment = OplockBreak
	OplockBreakResponse       = OplockBreak
)

// Size of header and body.
func (*OplockBreak) Size() int { return HeaderSize + oplockBreakSize }

// Encode writes the body.
func (r *OplockBreak) Encode(msg []byte) {
	w := putBody(msg, oplockBreakSize)
	w.u8(uint8(r.OplockLevel))
	w.zero(5)
	w.fileID(r.FileID)
}

// Decode reads the body.
func (r *OplockBreak) Decode(msg []byte) error {
	d := body(msg, "OPLOCK_BREAK", oplockBreakSize, oplockBreakSize)
	*r = OplockBreak{OplockLevel: OplockLevel(d.u8())}
	d.skip(5)
	r.FileID = d.fileID()
	return d.err
}

// LeaseBreakNotification tells a client that its lease is breaking (MS-SMB2 2.2.23.2).
type LeaseBreakNotification struct {
	NewEpoch          uint16 // SMB 3.x
	Flags             LeaseFlags
	LeaseKey          GUID
	CurrentLeaseState LeaseState
	NewLeaseState     LeaseState
	BreakReason       uint32 // reserved
	AccessMaskHint    uint32 // reserved
	ShareMaskHint     uint32 // reserved
}

// Size of header and body.
func (*LeaseBreakNotification) Size() int { return HeaderSize + leaseBreakNotificationSize }

// Encode writes the body.
func (r *LeaseBreakNotification) Encode(msg []byte) {
	w := putBody(msg, leaseBreakNotificationSize)
	w.u16(r.NewEpoch)
	w.u32(uint32(r.Flags))
	w.guid(r.LeaseKey)
	w.u32(uint32(r.CurrentLeaseState))
	w.u32(uint32(r.NewLeaseState))
	w.u32(r.BreakReason)
	w.u32(r.AccessMaskHint)
	w.u32(r.ShareMaskHint)
}

// Decode reads the body.
func (r *LeaseBreakNotification) Decode(msg []byte) error {
	d := body(msg, "lease break notification", leaseBreakNotificationSize, leaseBreakNotificationSize)
	*r = LeaseBreakNotification{
		NewEpoch:          d.u16(),
		Flags:             LeaseFlags(d.u32()),
		LeaseKey:          d.guid(),
		CurrentLeaseState: LeaseState(d.u32()),
		NewLeaseState:     LeaseState(d.u32()),
		BreakReason:       d.u32(),
		AccessMaskHint:    d.u32(),
		ShareMaskHint:     d.u32(),
	}
	return d.err
}

// LeaseBreak is acknowledgment and response of a lease break: they have one
// layout (MS-SMB2 2.2.24.2, 2.2.25.2).
type LeaseBreak struct {
	Flags         LeaseFlags // reserved
	LeaseKey      GUID
	LeaseState    LeaseState
	LeaseDuration uint64 // reserved
}

// The two uses of LeaseBreak.
type (
	LeaseBreakAcknowledgment = LeaseBreak
	LeaseBreakResponse       = LeaseBreak
)

// Size of header and body.
func (*LeaseBreak) Size() int { return HeaderSize + leaseBreakAckSize }

// Encode writes the body.
func (r *LeaseBreak) Encode(msg []byte) {
	w := putBody(msg, leaseBreakAckSize)
	w.u16(0)
	w.u32(uint32(r.Flags))
	w.guid(r.LeaseKey)
	w.u32(uint32(r.LeaseState))
	w.u64(r.LeaseDuration)
}

// Decode reads the body.
func (r *LeaseBreak) Decode(msg []byte) error {
	d := body(msg, "lease break", leaseBreakAckSize, leaseBreakAckSize)
	d.skip(2)
	*r = LeaseBreak{
		Flags:         LeaseFlags(d.u32()),
		LeaseKey:      d.guid(),
		LeaseState:    LeaseState(d.u32()),
		LeaseDuration: d.u64(),
	}
	return d.err
}
