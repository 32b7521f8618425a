package dirstore

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
)

// calls bounds the system calls that are under way.
type calls struct {
	slots chan struct{}
	stuck atomic.Int64 // calls whose caller has gone
}

func newCalls(n int) *calls { return &calls{slots: make(chan struct{}, n)} }

// errStuck is what a call returns when every slot is held by one that was given
// up: there is no use in waiting for it.
var errStuck = errors.New("the file system does not answer: too many calls are stuck in it")

// A call is run by one goroutine and waited for by another. Who is first decides.
const (
	running int32 = iota
	givenUp
	finished
)

// do runs f, which must be complete in itself: it goes on when ctx has ended and
// nobody waits for it any more.
func do[T any](ctx context.Context, c *calls, f func() (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	if ctx.Done() == nil {
		return f()
	}
	select {
	case c.slots <- struct{}{}:
	default:
		if int(c.stuck.Load()) == cap(c.slots) {
			return none, errStuck
		}
		select {
		case c.slots <- struct{}{}:
		case <-ctx.Done():
			return none, fmt.Errorf("%w: too many calls of the file system are under way", ctx.Err())
		}
	}
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	var state atomic.Int32
	go func() {
		v, err := f()
		if !state.CompareAndSwap(running, finished) {
			c.stuck.Add(-1)
		}
		<-c.slots
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
	}
	c.stuck.Add(1)
	if state.CompareAndSwap(running, givenUp) {
		return none, fmt.Errorf("%w: the file system has not answered", ctx.Err())
	}
	c.stuck.Add(-1)
	r := <-done
	return r.v, r.err
}
