package session

import (
	"context"
	"hash/maphash"
	"sync"
)

// lanes queue up the requests of this process that change the same session:
// each finds what the one before it saved and builds on that, instead of
// racing it, losing, and loading again. They are an economy. What keeps
// updates from being lost is the store's compare-and-set.
type lanes struct {
	seed   maphash.Seed
	shards [64]struct {
		sync.Mutex
		m map[string]*lane
	}
}

// lane is held by one request at a time. Its fields are the holder's.
type lane struct {
	waiting []chan struct{}

	saved *Record // what the last holder saved, if the token did not change by it
	ended bool    // a holder ended or replaced the session
}

func newLanes() *lanes {
	l := &lanes{seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].m = map[string]*lane{}
	}
	return l
}

// enter waits for the lane of the session with this ID.
func (l *lanes) enter(ctx context.Context, id string) (*lane, error) {
	s := &l.shards[maphash.String(l.seed, id)%uint64(len(l.shards))]
	s.Lock()
	ln := s.m[id]
	if ln == nil {
		ln = &lane{}
		s.m[id] = ln
		s.Unlock()
		return ln, nil
	}
	turn := make(chan struct{})
	ln.waiting = append(ln.waiting, turn)
	s.Unlock()
	select {
	case <-turn:
		return ln, nil
	case <-ctx.Done():
	}
	s.Lock()
	for i, w := range ln.waiting {
		if w == turn {
			ln.waiting = append(ln.waiting[:i], ln.waiting[i+1:]...)
			s.Unlock()
			return nil, ctx.Err()
		}
	}
	s.Unlock()
	l.leave(ln, id) // the turn came at the same moment: pass it on
	return nil, ctx.Err()
}

// leave gives the lane to the next in the queue.
func (l *lanes) leave(ln *lane, id string) {
	s := &l.shards[maphash.String(l.seed, id)%uint64(len(l.shards))]
	s.Lock()
	defer s.Unlock()
	if len(ln.waiting) == 0 {
		delete(s.m, id)
		return
	}
	turn := ln.waiting[0]
	ln.waiting = ln.waiting[1:]
	close(turn)
}
