package session

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// links builds the chain that As walks from a cached store. There are links for
// the abilities that touch the copies; the others are the backup's.
func (s *cached) links() (chain Store) {
	chain = s.backup
	if to, ok := As[Toucher](s.backup); ok {
		chain = &cachedToucher{cachedLink{s, chain}, to}
	}
	if to, ok := As[UserDeleter](s.backup); ok {
		chain = &cachedUserDeleter{cachedLink{s, chain}, to}
	}
	return chain
}

// cachedLink is a Store, for As asks for one.
type cachedLink struct {
	*cached
	next Store
}

func (l *cachedLink) Unwrap() Store { return l.next }

type (
	cachedToucher struct {
		cachedLink
		to Toucher
	}
	cachedUserDeleter struct {
		cachedLink
		to UserDeleter
	}
)

// DeleteUser implements UserDeleter.
func (l *cachedUserDeleter) DeleteUser(ctx context.Context, user, keep string) (int, error) {
	defer l.userDeleted(user) // they may be gone whatever the answer is
	return l.to.DeleteUser(ctx, user, keep)
}

// sharedTouch is a touch for all who come with about the same times.
type sharedTouch struct {
	operation
	done          chan struct{}
	seen, expires time.Time
	err           error
}

// Touch implements Toucher.
func (l *cachedToucher) Touch(ctx context.Context, id string, seen, expires time.Time) error {
	s := l.shard(id)
	for {
		t, mine := s.lookTouch(id, seen, expires)
		switch {
		case t == nil:
			return nil
		case mine:
			return l.touch(ctx, s, t)
		}
		select {
		case <-t.done:
		case <-ctx.Done():
			return fmt.Errorf("session: cached: touch: waiting for another request's touch: %w", ctx.Err())
		}
		if !isContextError(t.err) || ctx.Err() != nil {
			return t.err
		}
	}
}

func (l *cachedToucher) touch(ctx context.Context, s *shard, t *sharedTouch) error {
	defer s.finishTouch(t)
	t.err = errSharedPanic
	t.err = l.to.Touch(ctx, t.id, t.seen, t.expires)
	switch {
	case t.err == nil:
		s.touched(t)
	case errors.Is(t.err, ErrNotFound):
		s.drop(t.id)
	}
	return t.err
}

// lookTouch returns nil if nothing has to be done, or the touch to wait for, or
// to do if it is the caller's.
func (s *shard) lookTouch(id string, seen, expires time.Time) (t *sharedTouch, mine bool) {
	now := s.instant()
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.records[id]; c != nil && !c.rec.Replaced && s.usable(c, 0, now) && s.fresh(c, now) {
		latest := expires
		if d := c.rec.Deadline; !d.IsZero() && latest.After(d) {
			latest = d
		}
		if nearly(c.rec.Seen, seen, expires.Sub(seen)) && nearly(c.rec.Expires, latest, expires.Sub(seen)) {
			return nil, false
		}
	}
	if t := s.touches[id]; t != nil && !s.overtaken(t.operation) &&
		nearly(t.seen, seen, expires.Sub(seen)) && nearly(t.expires, expires, expires.Sub(seen)) {
		return t, false
	}
	t = &sharedTouch{operation: s.operation(id, now), done: make(chan struct{}), seen: seen, expires: expires}
	s.touches[id] = t
	return t, true
}

// nearly tells whether a time is there already, give or take what is not worth a
// write in the life that is left.
func nearly(have, want time.Time, left time.Duration) bool {
	return !have.Add(min(time.Second, max(left/20, 0))).Before(want)
}

// touched moves the times of the copy as the backup has moved the record's.
func (s *shard) touched(t *sharedTouch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	overtaken := s.overtaken(t.operation)
	*s.epoch(t.id)++
	c := s.records[t.id]
	switch {
	case c == nil:
	case overtaken:
		c.doubt = true // a save may have come before, or after
	default:
		c.rec = c.rec.touched(t.seen.Round(0), t.expires.Round(0))
	}
}

func (s *shard) finishTouch(t *sharedTouch) {
	s.mu.Lock()
	if s.touches[t.id] == t {
		delete(s.touches, t.id)
	}
	s.mu.Unlock()
	close(t.done)
}

var (
	_ Toucher     = (*cachedToucher)(nil)
	_ UserDeleter = (*cachedUserDeleter)(nil)
)
