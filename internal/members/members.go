// Package members asks the members of a cluster in turn, any of which answers
// for any key.
package members

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"time"
)

// downFor is how long a member that failed is left alone; then one request
// tries it again.
const downFor = time.Second

// A Group remembers which of its members failed a moment ago.
type Group struct {
	down []atomic.Int64 // until when others are asked first, in nanoseconds since 1970
}

// NewGroup returns a group of n members, named by their numbers from 0 on.
func NewGroup(n int) *Group { return &Group{make([]atomic.Int64, n)} }

// Ask calls ask for one member after the other, from first on and those that
// failed a moment ago last, until one answers or goOn says that its error is
// final. answered says that an error is an answer. Each member but the last gets
// half of the time that is left, so that another can still be asked.
func Ask[T any](ctx context.Context, g *Group, first int, ask func(ctx context.Context, member int) (T, error), answered, goOn func(error) bool) (v T, err error) {
	if err := ctx.Err(); err != nil {
		return v, err // which says nothing about the members
	}
	turn := g.turn(first)
	for i, m := range turn {
		v, err = within(ctx, len(turn)-i > 1, func(ctx context.Context) (T, error) { return ask(ctx, m) })
		down := &g.down[m]
		if err == nil || answered(err) {
			if down.Load() != 0 {
				down.Store(0)
			}
			return v, err
		}
		if ctx.Err() != nil && !timedOut(err) {
			return v, err // the caller has gone: that says nothing about the member
		}
		down.Store(time.Now().Add(downFor).UnixNano())
		if ctx.Err() != nil || !goOn(err) {
			return v, err
		}
	}
	return v, err
}

func (g *Group) turn(first int) []int {
	now := time.Now()
	turn, later := make([]int, 0, len(g.down)), []int(nil)
	for i := range g.down {
		m := (first + i) % len(g.down)
		// The time moves on, so that of many requests at once one tries.
		if until := g.down[m].Load(); until > now.UnixNano() || until > 0 && !g.down[m].CompareAndSwap(until, now.Add(downFor).UnixNano()) {
			later = append(later, m)
		} else {
			turn = append(turn, m)
		}
	}
	return append(turn, later...)
}

// within gives f half of the time that is left, if others are.
func within[T any](ctx context.Context, others bool, f func(ctx context.Context) (T, error)) (T, error) {
	if end, ok := ctx.Deadline(); ok && others {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/2)
		defer cancel()
	}
	return f(ctx)
}

func timedOut(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}
