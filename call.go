package session

import (
	"context"
	"sync"
	"time"
)

// callContext is context.WithTimeout for one call of the store, but makes the
// timer only when the callee asks for Done: a store that answers from memory
// never does.
type callContext struct {
	parent   context.Context
	deadline time.Time

	mu     sync.Mutex
	made   context.Context
	cancel context.CancelFunc
}

// begin makes c a context that ends with parent and no later than deadline.
// The caller calls end when the callee has returned.
func (c *callContext) begin(parent context.Context, deadline time.Time) *callContext {
	if d, ok := parent.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	c.parent, c.deadline = parent, deadline
	return c
}

func newCall(parent context.Context, deadline time.Time) *callContext {
	return new(callContext).begin(parent, deadline)
}

func (c *callContext) Deadline() (time.Time, bool) { return c.deadline, true }

func (c *callContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made == nil {
		c.made, c.cancel = context.WithDeadline(c.parent, c.deadline)
	}
	return c.made.Done()
}

func (c *callContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.made != nil:
		return c.made.Err()
	case c.parent.Err() != nil:
		return c.parent.Err()
	case !time.Now().Before(c.deadline):
		return context.DeadlineExceeded
	}
	return nil
}

// Value answers through the context that was made, if one was, so that package
// context finds its own kind and needs no goroutine to follow this one.
func (c *callContext) Value(key any) any {
	c.mu.Lock()
	made := c.made
	c.mu.Unlock()
	if made != nil {
		return made.Value(key)
	}
	return c.parent.Value(key)
}

func (c *callContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel != nil {
		c.cancel()
	}
}
