package shares

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"lunless/shares/fs"
	"lunless/shares/state"
	"lunless/shares/state/statetest"
)

// settled waits until the server has of sharing what the model has.
func (d *wireDriver) settled(m *statetest.Model) error {
	err := d.differs(m)
	for deadline := time.Now().Add(d.patience); err != nil && time.Now().Before(deadline); err = d.differs(m) {
		time.Sleep(20 * time.Microsecond)
	}
	return err
}

// record is that of the file, and its name.
func (d *wireDriver) record() (id fs.FileID, r state.Record, err error) {
	err = d.srv.store.Walk(context.Background(), func(file fs.FileID, rec state.Record) bool {
		if len(rec.Opens)+len(rec.Deleting) > 0 {
			id, r = file, rec
		}
		return len(r.Opens) == 0
	})
	return id, r, err
}

// differs says what the server has of sharing that the model has not.
func (d *wireDriver) differs(m *statetest.Model) error {
	_, r, err := d.record()
	if err != nil {
		return err
	}
	if len(r.Opens) != len(m.Opens) || len(r.Leases) != len(m.Leases) {
		return fmt.Errorf("opens %v and %d leases, want %v and %d", d.numbers(r.Opens), len(r.Leases), modelNumbers(m), len(m.Leases))
	}
	if locked := len(r.Locks) > 0; locked != m.Locked() {
		return fmt.Errorf("locked %v, want %v", locked, m.Locked())
	}
	if going := len(r.Deleting) > 0; going != m.Going {
		return fmt.Errorf("going %v, want %v", going, m.Going)
	}
	opens, leases := d.held()
	if opens != len(m.Opens) || leases != len(m.Leases) {
		return fmt.Errorf("the server holds %d opens and %d leases, want %d and %d", opens, leases, len(m.Opens), len(m.Leases))
	}
	if err := d.queued(&r, m); err != nil {
		return err
	}
	for _, want := range m.Opens {
		id := state.OpenID(d.ids[want.ID].Persistent)
		i := slices.IndexFunc(r.Opens, func(o state.Open) bool { return o.ID == id })
		if i < 0 {
			return fmt.Errorf("open %d is not there", want.ID)
		}
		o := &r.Opens[i]
		if have := cachedAs(o.Oplock.State); have != statetest.Letters(want.State) || o.Oplock.Breaking != want.Breaking || o.Handle.Disconnected != want.Away {
			return fmt.Errorf("open %d: oplock %s, breaking %v, away %v, want %s, %v, %v",
				want.ID, have, o.Oplock.Breaking, o.Handle.Disconnected, statetest.Letters(want.State), want.Breaking, want.Away)
		}
	}
	for _, want := range m.Leases {
		i := slices.IndexFunc(r.Leases, func(l state.Lease) bool { return l.Key == d.lease(want.Client, want.Key) })
		if i < 0 {
			return fmt.Errorf("lease %d of client %d is not there", want.Key, want.Client)
		}
		l := &r.Leases[i]
		if have := cachedAs(l.State); have != statetest.Letters(want.State) || l.Breaking != want.Breaking || l.Breaking && cachedAs(l.BreakTo) != statetest.Letters(want.Told) {
			return fmt.Errorf("lease %d of client %d: %s, breaking %v to %s, want %s, %v to %s", want.Key, want.Client,
				have, l.Breaking, cachedAs(l.BreakTo), statetest.Letters(want.State), want.Breaking, statetest.Letters(want.Told))
		}
	}
	return nil
}

// held is how many opens and lease keys the server holds, which go a little later
// than those of the record do.
func (d *wireDriver) held() (opens, leases int) {
	t := &d.srv.table
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID), len(t.leases)
}

// numbers are what the model calls opens, -1 for one it does not know.
func (d *wireDriver) numbers(opens []state.Open) (list []int) {
	for _, o := range opens {
		n := -1
		for id, f := range d.ids {
			if f.Persistent == uint64(o.ID) {
				n = id
			}
		}
		list = append(list, n)
	}
	return list
}

func modelNumbers(m *statetest.Model) (list []int) {
	for _, o := range m.Opens {
		list = append(list, o.ID)
	}
	return list
}

// queued says how the requests differ that wait: it is they whose sending nothing
// answers.
func (d *wireDriver) queued(r *state.Record, m *statetest.Model) error {
	if len(r.Breaks) != m.Waiting() {
		return fmt.Errorf("%d requests wait for caching, want %d", len(r.Breaks), m.Waiting())
	}
	var have, want []state.OpenID
	for _, w := range r.Waiters {
		have = append(have, w.Lock.Owner)
	}
	for _, id := range m.Queue() {
		want = append(want, state.OpenID(d.ids[id].Persistent))
	}
	if !slices.Equal(have, want) {
		return fmt.Errorf("opens %x wait for locks, want %x (%v)", have, want, m.Queue())
	}
	return nil
}

func (d *wireDriver) lease(client, key int) state.LeaseKey {
	return leaseKey(d.guid(client), d.leaseKey(&statetest.Op{Client: client, Key: key}))
}

func cachedAs(c state.Caching) string { return statetest.Letters(cachedLetters[c]) }

var cachedLetters = map[state.Caching]string{
	state.CacheRead: "R", state.CacheRead | state.CacheHandle: "RH", state.CacheRead | state.CacheWrite: "RW",
	state.CacheRead | state.CacheWrite | state.CacheHandle: "RWH",
}

// timeout does what the server does when the time of a break is over.
func (d *wireDriver) timeout(op *statetest.Op) {
	file, r, err := d.record()
	if err != nil {
		d.t.Fatal(err)
	}
	for i := range r.Leases {
		if l := &r.Leases[i]; op.Key != 0 && l.Key == d.lease(op.Client, op.Key) {
			d.srv.endBreak(file, state.Break{IsLease: true, Lease: l.Key, Serial: l.Serial})
		}
	}
	for i := range r.Opens {
		if o := &r.Opens[i]; op.Key == 0 && o.ID == state.OpenID(d.ids[op.ID].Persistent) {
			d.srv.endBreak(file, state.Break{Open: o.ID, Serial: o.Oplock.Serial})
		}
	}
}

// expire does what the server does when the time is over of every open that its
// client has not come back for.
func (d *wireDriver) expire() {
	file, r, err := d.record()
	if err != nil {
		d.t.Fatal(err)
	}
	for i := range r.Opens {
		if _, err := d.srv.store.Update(context.Background(), file, state.Expire(r.Opens[i].ID, time.Now().Add(time.Hour))); err != nil && !errors.Is(err, state.ErrUnknownOpen) {
			d.t.Fatal(err)
		}
	}
}
