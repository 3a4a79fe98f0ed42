package state

import "time"

// HandleKind is how long an open outlives its connection.
type HandleKind uint8

// Kinds of handles (MS-SMB2 3.3.1.10: Open.IsDurable, IsResilient, IsPersistent).
const (
	NotDurable HandleKind = iota
	Durable               // 3.3.5.9.6
	DurableV2             // 3.3.5.9.10
	Resilient             // 3.3.5.15.9
	Persistent            // 3.3.5.9.10 on a continuously available share
)

// Handle is what a client has to show to get an open back, and what the open is
// then. The zero value is that of an open that ends with its connection.
type Handle struct {
	Kind         HandleKind
	Replayable   bool // Open.IsReplayEligible
	Disconnected bool
	Deadline     time.Time     // while Disconnected: Expire then ends it
	Timeout      time.Duration // from Disconnect to Deadline
	CreateGUID   [16]byte      // zero: none
	ClientGUID   [16]byte
	Owner        string // the user, in a form of the caller's
	Share        string // name of the share
	Name         string // as the client gave it
	Options      uint32 // CreateOptions
	Desired      uint32 // DesiredAccess of the request
	AppInstance  AppInstance
	// LockSequences is Open.LockSequenceArray: entry i-1 is that of index i, 0 for
	// not valid, else the sequence number plus 1.
	LockSequences [64]uint8
}

// AppInstance is the application an open is for (MS-SMB2 3.3.5.9.13).
type AppInstance struct {
	ID         [16]byte // zero: none
	HasVersion bool
	High, Low  uint64
}

// keepsOut says whether an open of instance a does not give way to one of b.
func (a *AppInstance) keepsOut(b *AppInstance) bool {
	if !a.HasVersion {
		return false
	}
	return !b.HasVersion || a.High > b.High || a.High == b.High && a.Low >= b.Low
}
