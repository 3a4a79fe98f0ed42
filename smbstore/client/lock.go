package client

import (
	"context"

	"lunless/smbstore/smb2"
)

// lockBuckets is how many LOCK requests of an open may be told apart from their
// replays at a time (MS-SMB2 3.2.1.6, OperationBuckets).
const lockBuckets = 64

type lockBucket struct {
	busy bool
	next uint8 // sequence number, 4 bits
}

// LockRange is a byte range to lock.
type LockRange struct {
	Offset, Length uint64
	Exclusive      bool
}

// Lock locks ranges, all or none. With wait it waits for others to unlock, for
// which there must be one range only, until ctx ends; else a range that is taken
// is STATUS_LOCK_NOT_GRANTED.
func (f *File) Lock(ctx context.Context, wait bool, ranges ...LockRange) error {
	list := make([]smb2.LockElement, len(ranges))
	for i, r := range ranges {
		list[i] = smb2.LockElement{Offset: r.Offset, Length: r.Length, Flags: smb2.LockFlagSharedLock}
		if r.Exclusive {
			list[i].Flags = smb2.LockFlagExclusiveLock
		}
		if !wait {
			list[i].Flags |= smb2.LockFlagFailImmediately
		}
	}
	return f.lock(ctx, list)
}

// Unlock unlocks ranges as they were locked.
func (f *File) Unlock(ctx context.Context, ranges ...LockRange) error {
	list := make([]smb2.LockElement, len(ranges))
	for i, r := range ranges {
		list[i] = smb2.LockElement{Offset: r.Offset, Length: r.Length, Flags: smb2.LockFlagUnlock}
	}
	return f.lock(ctx, list)
}

func (f *File) lock(ctx context.Context, list []smb2.LockElement) error {
	bucket := f.takeBucket()
	q := smb2.LockRequest{Locks: list}
	if bucket >= 0 {
		f.mu.Lock()
		q.LockSequence = uint32(bucket+1)<<4 | uint32(f.buckets[bucket].next)
		f.mu.Unlock()
	}
	_, _, err := f.do(ctx, request{command: smb2.CommandLock, charge: 1, patient: true,
		build: func(id smb2.FileID, _ int) message { q.FileID = id; return &q }})
	if bucket >= 0 {
		f.mu.Lock()
		f.buckets[bucket] = lockBucket{next: (f.buckets[bucket].next + 1) & 0xF}
		f.mu.Unlock()
	}
	return err
}

// takeBucket reserves a bucket where the server may keep track of replays: on
// resilient handles, and on all where both sides know of channels (MS-SMB2 3.2.4.19,
// 3.3.5.14); -1 for none. A request that finds them all busy goes without.
func (f *File) takeBucket() int {
	s := f.tree.client.cur.Load()
	f.mu.Lock()
	defer f.mu.Unlock()
	tracked := f.grant.Resilient || s.neg.dialect >= smb2.Dialect300
	if !tracked {
		return -1
	}
	for i := range f.buckets {
		if !f.buckets[i].busy {
			f.buckets[i].busy = true
			return i
		}
	}
	return -1
}
