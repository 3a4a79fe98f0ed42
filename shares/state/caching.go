package state

import "slices"

// Caching is what a client may keep of a file: bits as LeaseState on the wire
// (MS-SMB2 2.2.13.2.8).
type Caching uint8

// The bits, and the levels of oplocks in terms of them.
const (
	CacheRead   Caching = 1
	CacheHandle Caching = 2
	CacheWrite  Caching = 4

	LevelII   = CacheRead
	Exclusive = CacheRead | CacheWrite
	Batch     = CacheRead | CacheWrite | CacheHandle
)

// without is what is left of c once lost is gone: nobody caches writes or handles
// who may not cache reads.
func (c Caching) without(lost Caching) Caching {
	c &^= lost
	if c&CacheRead == 0 {
		return 0
	}
	return c
}

// Cache is the state of one oplock or lease.
type Cache struct {
	State    Caching
	Breaking bool    // a break waits for its acknowledgment
	BreakTo  Caching // what the holder has been told, while Breaking
	// Needed is what may be left of the break once everybody who came since has
	// had his way: BreakTo or less.
	Needed Caching
	Unsent bool   // the holder has not been told, because he is away
	Told   bool   // of an oplock that has gone: its holder knows, and has nothing to acknowledge
	Serial uint32 // counts breaks, to tell one from those before it
}

// left is what the holder will have once its break is over.
func (c *Cache) left() Caching {
	if c.Breaking {
		return c.Needed
	}
	return c.State
}

// LeaseKey names a lease: a client has one set of keys (MS-SMB2 3.3.1.11).
type LeaseKey struct {
	Client [16]byte // ClientGuid of its connections
	Key    [16]byte
}

// Lease is the caching of all opens of a file with one key (MS-SMB2 3.3.1.12). It
// is in the record as long as such an open is.
type Lease struct {
	Key LeaseKey
	Cache
	Epoch     uint16 // counts changes of the state (MS-SMB2 3.3.1.12)
	Version   uint8  // 1 or 2
	HasParent bool
	Parent    [16]byte // key of the lease of the folder, with HasParent
}

// Break is an oplock or lease break to tell its holder of.
type Break struct {
	IsLease     bool
	Lease       LeaseKey // of a lease
	Version     uint8    // of a lease
	Open        OpenID   // of an oplock
	From, To    Caching
	Epoch       uint16 // of a lease; on the wire for version 2 alone
	AckRequired bool   // start a timer that commits BreakTimeout
	Serial      uint32 // for BreakTimeout
}

// notice is the break of the lease that br is, for the wire.
func (l *Lease) notice(br Break) Break {
	br.IsLease, br.Lease, br.Version, br.Epoch = true, l.Key, l.Version, l.Epoch
	return br
}

func (r *Record) findLease(k LeaseKey) int {
	return slices.IndexFunc(r.Leases, func(l Lease) bool { return l.Key == k })
}

// holder says whose caching an operation leaves alone: that of its own open, and
// that of the lease the open has.
type holder struct {
	open     OpenID
	hasLease bool
	lease    LeaseKey
}

func (o *Open) holder() holder { return holder{o.ID, o.HasLease, o.Lease} }

func (h *holder) hasKey(k LeaseKey) bool { return h.hasLease && h.lease == k }
