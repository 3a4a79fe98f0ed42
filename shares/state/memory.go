package state

import (
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"lunless/shares/fs"
)

const shards = 64

// Memory is the Store of one node that forgets with its process. Files are
// spread over shards. A Change runs under its file's own lock, so that a commit
// to disk, of those that need one, holds up this file and no other.
type Memory struct {
	seed   maphash.Seed
	shards [shards]shard
	// disk, if there is one, keeps what is to outlive the process.
	disk atomic.Pointer[Bolt]

	ticket  atomic.Uint64
	waitsMu sync.Mutex // guards waits; taken with no other lock held
	waits   map[Ticket]chan error
}

type shard struct {
	mu    sync.Mutex // after an entry's mu; guards files, and users and rec of its entries
	files map[fs.FileID]*entry
}

type entry struct {
	mu     sync.Mutex // held while a Change runs and is committed; rec changes only under both
	users  int        // Updates that have it in hand
	rec    Record
	token  Token
	stored []byte // what a Bolt keeps of rec, encoded; nil: nothing. Guarded by mu.
}

// NewMemory returns an empty Memory.
func NewMemory() *Memory {
	m := &Memory{seed: maphash.MakeSeed(), waits: make(map[Ticket]chan error)}
	for i := range m.shards {
		m.shards[i].files = make(map[fs.FileID]*entry)
	}
	return m
}

func (m *Memory) shard(id fs.FileID) *shard {
	return &m.shards[maphash.Comparable(m.seed, id)%shards]
}

// Update implements Store.
func (m *Memory) Update(ctx context.Context, id fs.FileID, fn Change) (Effects, error) {
	if err := ctx.Err(); err != nil {
		return Effects{}, err
	}
	fx, err := m.commit(id, fn)
	if err != nil {
		return Effects{}, err
	}
	m.wake(fx.Granted, nil)
	m.wake(fx.Dropped, ErrRangeNotLocked)
	m.wake(fx.Retry, nil)
	return fx, fx.Err
}

func (m *Memory) commit(id fs.FileID, fn Change) (Effects, error) {
	s := m.shard(id)
	e := s.take(id)
	e.mu.Lock()
	defer e.mu.Unlock()
	next := e.rec
	defer func() { s.give(id, e, next) }()
	changed, fx, err := fn(e.rec)
	if err != nil {
		return Effects{}, err
	}
	if disk := m.disk.Load(); disk != nil {
		if err := disk.persist(id, e, &changed); err != nil {
			return Effects{}, err
		}
	}
	next = changed
	return fx, nil
}

// take finds or makes a file's entry, which stays until it is given back.
func (s *shard) take(id fs.FileID) *entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.files[id]
	if e == nil {
		e = new(entry)
		s.files[id] = e
	}
	e.users++
	return e
}

// give gives an entry back, whose lock the caller holds, with its new record.
func (s *shard) give(id fs.FileID, e *entry, next Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.users--
	e.rec = next
	e.token.publish(&next)
	if e.users == 0 && next.Empty() {
		delete(s.files, id)
	}
}

// Token implements Store. For a file without a record it is one that never conflicts.
func (m *Memory) Token(id fs.FileID) *Token {
	s := m.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.files[id]; e != nil {
		return &e.token
	}
	return new(Token)
}

// NewTicket implements Store.
func (m *Memory) NewTicket() (Ticket, <-chan error) {
	t, c := Ticket(m.ticket.Add(1)), make(chan error, 1)
	m.waitsMu.Lock()
	m.waits[t] = c
	m.waitsMu.Unlock()
	return t, c
}

// ReleaseTicket implements Store.
func (m *Memory) ReleaseTicket(t Ticket) {
	m.waitsMu.Lock()
	delete(m.waits, t)
	m.waitsMu.Unlock()
}

func (m *Memory) wake(tickets []Ticket, err error) {
	if len(tickets) == 0 {
		return
	}
	m.waitsMu.Lock()
	defer m.waitsMu.Unlock()
	for _, t := range tickets {
		if c, ok := m.waits[t]; ok {
			c <- err // room for the one answer a ticket gets
			delete(m.waits, t)
		}
	}
}

// Walk implements Store. visit runs with no lock held.
func (m *Memory) Walk(ctx context.Context, visit func(fs.FileID, Record) bool) error {
	type file struct {
		id  fs.FileID
		rec Record
	}
	var files []file
	for i := range m.shards {
		if err := ctx.Err(); err != nil {
			return err
		}
		s := &m.shards[i]
		files = files[:0]
		s.mu.Lock()
		for id, e := range s.files {
			files = append(files, file{id, e.rec})
		}
		s.mu.Unlock()
		for _, f := range files {
			if !visit(f.id, f.rec) {
				return nil
			}
		}
	}
	return nil
}
