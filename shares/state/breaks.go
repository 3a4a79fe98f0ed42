package state

import "slices"

// MaxWaiters bounds the requests that wait for others' caching of one file.
const MaxWaiters = 1024

// breaking is the work of one operation that takes caching from others. It owns
// copies of what it changes of the record.
type breaking struct {
	r      *Record
	by     holder
	fx     *Effects
	uses   map[LeaseKey]leaseUse // of the leases, once asked for
	copied bool                  // r.Opens is ours
	leases bool                  // r.Leases is ours
	wait   bool
}

// leaseUse is who uses a lease.
type leaseUse struct {
	connected  bool // an open with a connection
	persistent bool // a persistent one without
	resilient  bool // a resilient one without
}

func (b *breaking) use(k LeaseKey) leaseUse {
	if b.uses == nil {
		b.uses = make(map[LeaseKey]leaseUse, len(b.r.Leases))
		for i := range b.r.Opens {
			o := &b.r.Opens[i]
			if !o.HasLease {
				continue
			}
			u := b.uses[o.Lease]
			switch {
			case !o.Handle.Disconnected:
				u.connected = true
			case o.Handle.Kind == Persistent:
				u.persistent = true
			case o.Handle.Kind == Resilient:
				u.resilient = true
			}
			b.uses[o.Lease] = u
		}
	}
	return b.uses[k]
}

func (b *breaking) ownOpens() {
	if !b.copied {
		b.r.Opens = slices.Clone(b.r.Opens)
		b.copied = true
	}
}

func (b *breaking) ownLeases() {
	if !b.leases {
		b.r.Leases = slices.Clone(b.r.Leases)
		b.leases = true
	}
}

// close asks for the end of an open, and waits for it.
func (b *breaking) close(i int) {
	b.wait = true
	if b.r.Opens[i].Closing {
		return
	}
	b.ownOpens()
	b.r.Opens[i].Closing = true
	b.fx.Close = append(b.fx.Close, b.r.Opens[i].ID)
}

// breakLeases takes lost from all leases that are not the operation's own (MS-FSA
// 2.1.4.12, from LeaveBreakToNone on).
func (b *breaking) breakLeases(lost Caching) {
	for i := range b.r.Leases {
		l := &b.r.Leases[i]
		if b.by.hasKey(l.Key) || l.State&lost == 0 {
			continue
		}
		// Whoever caches writes has to give them back before anybody goes on, who
		// caches handles has to close them before their absence counts.
		waits := l.State&CacheWrite != 0 || l.State&CacheHandle != 0 && lost&CacheHandle != 0
		if l.left().without(lost) != l.left() {
			waits = b.breakLease(i, lost) && waits
		}
		b.wait = b.wait || waits
	}
}

// breakLease breaks one lease, or lowers what its break will leave. It says
// whether the lease is there yet for others to wait for.
func (b *breaking) breakLease(i int, lost Caching) bool {
	use := b.use(b.r.Leases[i].Key)
	if !use.connected && !use.persistent {
		return b.breakAbandoned(i)
	}
	b.ownLeases()
	l := &b.r.Leases[i]
	if br, ok := l.Cache.lower(lost); ok {
		l.Epoch++
		b.tell(&l.Cache, l.notice(br), use.connected)
	}
	return l.Breaking
}

// tell sends a break, or keeps it for when the holder is back.
func (b *breaking) tell(c *Cache, br Break, connected bool) {
	if connected {
		b.fx.Breaks = append(b.fx.Breaks, br)
		return
	}
	c.Unsent = c.Breaking
}

// breakAbandoned breaks a lease nobody can be told about (MS-SMB2 3.3.4.7): its
// durable opens go, resilient ones stay without it.
func (b *breaking) breakAbandoned(i int) bool {
	key := b.r.Leases[i].Key
	for j := range b.r.Opens {
		o := &b.r.Opens[j]
		if o.HasLease && o.Lease == key && o.Handle.Kind != Resilient {
			b.close(j)
		}
	}
	b.ownLeases()
	l := &b.r.Leases[i]
	l.Cache = Cache{Serial: l.Serial + 1}
	l.Epoch++
	return false
}

// lower takes lost from the cache. ok says that the holder is to be told so: it
// is not while an earlier break of his is not acknowledged.
func (c *Cache) lower(lost Caching) (br Break, ok bool) {
	if c.Breaking {
		c.Needed = c.Needed.without(lost)
		return Break{}, false
	}
	return c.start(c.State.without(lost), c.State.without(lost)), true
}

// start breaks to a state, on the way to needed. Who caches nothing but reads has
// nothing to give back, so that no acknowledgment is waited for (MS-SMB2 3.3.4.7).
func (c *Cache) start(to, needed Caching) Break {
	c.Serial++
	br := Break{From: c.State, To: to, AckRequired: c.State != CacheRead, Serial: c.Serial}
	if br.AckRequired {
		c.Breaking, c.BreakTo, c.Needed = true, to, needed
	} else {
		*c = Cache{State: to, Serial: c.Serial}
	}
	return br
}

// breakOplocks leaves oplocks of the levels that levels says yes to no more than
// to (MS-FSA 2.1.4.12: BreakToTwo, BreakToNone). The operation's own one is left
// alone if it is exclusive; one of level II is nobody's own.
func (b *breaking) breakOplocks(to Caching, levels func(Caching) bool) {
	for i := range b.r.Opens {
		o := &b.r.Opens[i]
		own := o.ID == b.by.open && o.Oplock.State&CacheWrite != 0
		if own || o.Oplock.State == 0 || !levels(o.Oplock.State) {
			continue
		}
		waits := o.Oplock.State&CacheWrite != 0
		if o.Oplock.left()&^to != 0 {
			waits = b.breakOplock(i, o.Oplock.left()&^to) && waits
		}
		b.wait = b.wait || waits
	}
}

func (b *breaking) breakOplock(i int, lost Caching) bool {
	o := &b.r.Opens[i]
	if o.Handle.Disconnected && o.Handle.Kind != Persistent {
		if o.Handle.Kind != Resilient {
			b.close(i)
			return false
		}
		b.ownOpens()
		b.r.Opens[i].Oplock = Cache{Serial: o.Oplock.Serial + 1}
		return false
	}
	b.ownOpens()
	o = &b.r.Opens[i]
	// A level II oplock is left whatever else goes: W and H of an oplock go together.
	if lost&CacheRead == 0 {
		lost = CacheWrite | CacheHandle
	}
	if br, ok := o.Oplock.lower(lost); ok {
		br.Open = o.ID
		o.Oplock.Told = !br.AckRequired
		b.tell(&o.Oplock, br, !o.Handle.Disconnected)
	}
	return o.Oplock.Breaking
}

func anyLevel(Caching) bool  { return true }
func isBatch(c Caching) bool { return c == Batch }

// suspend makes the operation wait for what it has asked for.
func (b *breaking) suspend(t Ticket) (Record, Effects, error) {
	switch {
	case t == 0:
		b.fx.Err = ErrCannotWait
		return *b.r, *b.fx, nil
	case len(b.r.Breaks) >= MaxWaiters:
		return *b.r, Effects{}, ErrTooManyWaiters
	}
	b.r.Breaks = append(slices.Clip(b.r.Breaks), t)
	b.fx.Wait = true
	return *b.r, *b.fx, nil
}

// retry wakes everybody who waits for others' caching.
func (r *Record) retry(fx *Effects) {
	fx.Retry = append(fx.Retry, r.Breaks...)
	r.Breaks = nil
}

// breakFor is a Change that takes caching from everybody but the open by.
func breakFor(by OpenID, t Ticket, do func(b *breaking)) Change {
	return func(r Record) (Record, Effects, error) {
		var fx Effects
		b := breaking{r: &r, fx: &fx}
		if by != 0 {
			i := r.find(by)
			if i < 0 {
				return r, Effects{}, ErrUnknownOpen
			}
			b.by = r.Opens[i].holder()
		}
		do(&b)
		if b.wait {
			return b.suspend(t)
		}
		return r, fx, nil
	}
}

func breakData(b *breaking) {
	b.breakOplocks(0, anyLevel)
	b.breakLeases(CacheRead | CacheWrite)
}

// BreakForWrite takes read caching from everybody else, for data that an open
// writes (MS-FSA 2.1.5.4). Commit it before the data goes to the file, where
// Token.MustBreak says so. Send Effects.Breaks; wait if Effects.Wait says so.
func BreakForWrite(id OpenID, t Ticket) Change { return breakFor(id, t, breakData) }

// BreakForLock is BreakForWrite for a LOCK request, before AddLocks (MS-FSA 2.1.5.8).
func BreakForLock(id OpenID, t Ticket) Change { return breakFor(id, t, breakData) }

// BreakForSize is BreakForWrite for end of file, allocation and zeroed or
// duplicated ranges (MS-FSA 2.1.5.15.3, 2.1.5.15.1, 2.1.5.10.39).
func BreakForSize(id OpenID, t Ticket) Change { return breakFor(id, t, breakData) }

func breakNames(b *breaking) {
	b.breakOplocks(0, isBatch)
	b.breakLeases(CacheHandle)
}

// BreakForRename takes handle caching from everybody else who has the file open,
// before an open gives it another name or a link (MS-FSA 2.1.5.15.12). With open 0
// it is for a file that loses its name to another one, or that lies in a folder
// to be renamed. Send Effects.Breaks, end those of Effects.Close; with
// Effects.Wait, wait and commit again.
func BreakForRename(id OpenID, t Ticket) Change { return breakFor(id, t, breakNames) }

// BreakForDelete is BreakForRename before an open marks its file to be deleted
// (MS-FSA 2.1.5.15.3, FileDispositionInformation).
func BreakForDelete(id OpenID, t Ticket) Change {
	return breakFor(id, t, func(b *breaking) { b.breakLeases(CacheHandle) })
}

// BreakForSecurity is BreakForRename before an open sets a security descriptor
// (MS-FSA 2.1.5.17).
func BreakForSecurity(id OpenID, t Ticket) Change {
	return breakFor(id, t, func(b *breaking) { b.breakLeases(CacheHandle) })
}

// BreakForDirChange takes read caching of a folder from everybody but the lease
// parent: something in it has been created, removed, renamed or changed by an open
// whose lease names that lease as its parent's (MS-FSA 2.1.4.12 with
// PARENT_OBJECT). It is committed to the folder's record, and never waits.
func BreakForDirChange(hasParent bool, parent LeaseKey) Change {
	return func(r Record) (Record, Effects, error) {
		var fx Effects
		b := breaking{r: &r, fx: &fx, by: holder{hasLease: hasParent, lease: parent}}
		b.breakLeases(CacheRead | CacheWrite)
		return r, fx, nil
	}
}
