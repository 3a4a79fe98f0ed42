package state

import (
	"fmt"
	"sync"
)

// committer commits what comes while one commit is under way together in the next,
// so that many files share an fsync and a lone one waits for nobody.
type committer struct {
	commit func([]*pending) error
	done   chan struct{} // closed when the last commit has ended
	wake   chan struct{} // room for one

	mu     sync.Mutex // guards what follows
	queue  []*pending
	failed error // the first failure, which is everybody's after it
	closed bool
}

// pending is one record to be committed.
type pending struct {
	key, value []byte // nil value: the record goes
	result     chan error
}

// start begins to commit. around, if not nil, is called in place of each commit.
func (c *committer) start(commit func([]*pending) error, around func(func() error) error) {
	c.commit = commit
	if around != nil {
		c.commit = func(batch []*pending) error {
			return around(func() error { return commit(batch) })
		}
	}
	c.done, c.wake = make(chan struct{}), make(chan struct{}, 1)
	go c.run()
}

// do returns when the record is on stable storage. It is called concurrently, for
// different keys.
func (c *committer) do(key, value []byte) error {
	p := &pending{key, value, make(chan error, 1)}
	c.mu.Lock()
	err := c.failed
	if err == nil && c.closed {
		err = ErrStoreClosed
	}
	if err == nil {
		c.queue = append(c.queue, p)
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	c.mu.Unlock()
	if err != nil {
		return err
	}
	return <-p.result
}

// run ends when the committer is stopped and nothing is left to commit.
func (c *committer) run() {
	defer close(c.done)
	for range c.wake {
		c.mu.Lock()
		batch, err := c.queue, c.failed
		c.queue = nil
		c.mu.Unlock()
		if len(batch) == 0 {
			continue
		}
		if err == nil {
			if err = c.commit(batch); err != nil {
				err = fmt.Errorf("%w: %w", ErrFailed, err)
				c.mu.Lock()
				c.failed = err
				c.mu.Unlock()
			}
		}
		for _, p := range batch {
			p.result <- err
		}
	}
}

// stop waits until what is under way is committed. It may be called again.
func (c *committer) stop() {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		close(c.wake)
	}
	c.mu.Unlock()
	<-c.done
}
