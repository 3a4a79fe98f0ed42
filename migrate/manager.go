package migrate

import (
	"context"
	"slices"
	"sync"

	"lunless/smbstore/block"
)

// Manager runs storage migrations side by side: so many at a time, the others
// queued in the order they came, all within one rate that those under way share
// alike. All methods may be called concurrently.
type Manager struct {
	bandwidth *block.Bandwidth

	mu      sync.Mutex // guards what follows
	limit   int
	running int
	queue   []chan struct{}
	jobs    []*Job // that have not ended
}

// DefaultJobs is how many migrations a Manager runs at a time unless it is told.
const DefaultJobs = 2

// NewManager returns a Manager of so many jobs at a time (0: DefaultJobs) within
// rate bytes a second (0: no limit).
func NewManager(jobs int, rate int64) *Manager {
	m := &Manager{bandwidth: block.NewBandwidth(rate)}
	m.SetLimit(jobs)
	return m
}

// SetLimit changes how many jobs run at a time. Those that run go on.
func (m *Manager) SetLimit(jobs int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.limit = jobs; jobs <= 0 {
		m.limit = DefaultJobs
	}
	m.admit()
}

// SetRate changes what the jobs share, in bytes a second; 0 is no limit.
func (m *Manager) SetRate(rate int64) { m.bandwidth.SetRate(rate) }

// Storage is the function Storage for a job of the Manager's.
func (m *Manager) Storage(ctx context.Context, o Options) (*Job, error) {
	m.join(&o)
	return m.add(Storage(ctx, o))
}

// LiveStorage is the function LiveStorage for a job of the Manager's.
func (m *Manager) LiveStorage(ctx context.Context, o LiveOptions) (*Job, error) {
	m.join(&o.Options)
	return m.add(LiveStorage(ctx, o))
}

// Jobs are those that have not ended, in the order they came.
func (m *Manager) Jobs() []*Job {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.jobs)
}

func (m *Manager) join(o *Options) { o.common, o.turn = m.bandwidth, m.turn }

func (m *Manager) add(j *Job, err error) (*Job, error) {
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.jobs = append(m.jobs, j)
	m.mu.Unlock()
	go func() {
		<-j.done
		m.mu.Lock()
		defer m.mu.Unlock()
		m.jobs = slices.DeleteFunc(m.jobs, func(o *Job) bool { return o == j })
	}()
	return j, nil
}

// turn waits until another job may run. leave is called once, when it does not
// copy any more.
func (m *Manager) turn(ctx context.Context) (leave func(), err error) {
	m.mu.Lock()
	mine := make(chan struct{})
	m.queue = append(m.queue, mine)
	m.admit()
	m.mu.Unlock()
	select {
	case <-mine:
		return sync.OnceFunc(m.left), nil
	case <-ctx.Done():
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := slices.Index(m.queue, mine); i >= 0 {
		m.queue = slices.Delete(m.queue, i, i+1)
	} else { // it came meanwhile
		m.running--
		m.admit()
	}
	return nil, ctx.Err()
}

func (m *Manager) left() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.running--
	m.admit()
}

// admit lets in who may run; the caller holds mu.
func (m *Manager) admit() {
	for m.running < m.limit && len(m.queue) > 0 {
		close(m.queue[0])
		m.queue = m.queue[1:]
		m.running++
	}
}
