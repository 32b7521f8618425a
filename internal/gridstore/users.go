package gridstore

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/userindex"
)

const (
	batch    = 100 // records of a user that are looked at together
	atOnce   = 16  // of them at a time
	trimList = 8   // ended sessions that List found and is worth a write for
)

// index reads a user's index and its text, nil if there is none. One that
// cannot be decoded names nothing, and is written anew.
func (s *Store) index(ctx context.Context, user string) (ix userindex.Index, text []byte, err error) {
	key := s.UserKey(user)
	if text, err = s.grid.Get(ctx, key); err != nil || text == nil {
		return nil, nil, err
	}
	if ix, err = userindex.Parse(key, text); err != nil {
		return nil, text, nil
	}
	return ix, text, nil
}

// change replaces a user's index by what f makes of it, by compare-and-set. f
// may run several times; ok is false if nothing is to be changed.
func (s *Store) change(ctx context.Context, user string, f func(userindex.Index) (ix userindex.Index, ok bool, err error)) error {
	var lost error
	for try := range maxTries {
		old, text, err := s.index(ctx, user)
		if err != nil {
			return err
		}
		ix, ok, err := f(old)
		if err != nil || !ok {
			return err
		}
		done, err := s.writeIndex(ctx, user, text, ix)
		switch {
		case done:
			return nil
		case err != nil && lost != nil:
			return err
		case err != nil:
			lost = err // once more: if it was done, f finds nothing to change
		default:
			if err := pause(ctx, try); err != nil {
				return err
			}
		}
	}
	return errBusy
}

// writeIndex puts an index in the place of old. When it is full, the sessions
// that signed in first end: without an entry nobody could list or end them.
func (s *Store) writeIndex(ctx context.Context, user string, old []byte, ix userindex.Index) (bool, error) {
	key, now := s.UserKey(user), s.now()
	ix, cut := ix.Trim(now, s.limit)
	for _, e := range cut {
		if _, err := s.end(ctx, user, e.ID); err != nil {
			return false, err
		}
	}
	if len(ix) == 0 && old != nil {
		return s.grid.Remove(ctx, key, old)
	}
	life := 1<<63 - 1 - late
	if end, ok := ix.End(); ok {
		life = ttl(end, now)
	}
	if old == nil {
		return s.grid.Add(ctx, key, ix.Encode(key), life)
	}
	return s.grid.Replace(ctx, key, old, ix.Encode(key), life)
}

// pause lets others go first, for longer the more often they did.
func pause(ctx context.Context, try int) error {
	if try == 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(rand.N(time.Millisecond << min(try, 4))):
		return nil
	}
}

// enter writes a session's entry into its user's index, or moves the deadline
// of the one that is there.
func (s *Store) enter(ctx context.Context, rec *session.Record, isNew bool) error {
	deadline, trimmed, renewed := userindex.Deadline(rec.Deadline), false, false
	return s.change(ctx, rec.User, func(ix userindex.Index) (userindex.Index, bool, error) {
		at := ix.Find(rec.ID)
		switch {
		case at >= 0 && isNew && !renewed:
			// Whoever has just seen that the session has ended must not take the
			// entry away any more: see forget.
			ix[at].Entered = max(ix[at].Entered+1, s.now().Unix())
			ix[at].Deadline = max(ix[at].Deadline, deadline)
			renewed = true
			return ix, true, nil
		case at >= 0 && ix[at].Deadline >= deadline:
			return nil, false, nil
		case at >= 0:
			ix[at].Deadline = deadline
			return ix, true, nil
		}
		if some := ix.Window(); len(some) > 0 && isNew && !trimmed {
			trimmed = true
			live, err := s.records(ctx, rec.User, some)
			if err != nil {
				return nil, false, err
			}
			ix = ix.Without(some.Ended(live, s.now()))
		}
		return append(ix, userindex.Entry{ID: rec.ID, Deadline: deadline, Entered: s.now().Unix()}), true, nil
	})
}

// records returns the live records of a user's entries, without markers, in no
// particular order.
func (s *Store) records(ctx context.Context, user string, ix userindex.Index) ([]*session.Record, error) {
	var mu sync.Mutex
	var found []*session.Record
	err := each(ix, func(e userindex.Entry) error {
		r, err := s.found(ctx, e.ID)
		switch {
		case errors.Is(err, session.ErrNotFound):
			return nil
		case err != nil:
			return err
		}
		if r.User == user && !r.Replaced {
			mu.Lock()
			defer mu.Unlock()
			found = append(found, r.Record)
		}
		return nil
	})
	return found, err
}

// each calls f for all entries, some at a time, and returns an error of f.
func each(ix userindex.Index, f func(userindex.Entry) error) error {
	var mu sync.Mutex
	var failure error
	var wg sync.WaitGroup
	turn := make(chan struct{}, atOnce)
	for _, e := range ix {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			if err := f(e); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failure = err
			}
		})
	}
	wg.Wait()
	return failure
}

// List implements session.Lister.
func (s *Store) List(ctx context.Context, user string) iter.Seq2[session.Info, error] {
	return func(yield func(session.Info, error) bool) {
		if user == "" {
			return
		}
		ix, _, err := s.index(ctx, user)
		if err != nil {
			yield(session.Info{}, s.failed("list", err))
			return
		}
		gone := map[string]int64{}
		for some := range slices.Chunk(ix, batch) {
			live, err := s.records(ctx, user, some)
			if err != nil {
				yield(session.Info{}, s.failed("list", err))
				return
			}
			for _, rec := range live {
				if !yield(rec.Info(), nil) {
					return
				}
			}
			ended := some.Ended(live, s.now())
			for _, e := range some {
				if ended[e.ID] {
					gone[e.ID] = e.Entered
				}
			}
		}
		if len(gone) >= trimList {
			s.forget(ctx, user, gone)
		}
	}
}

// forget takes entries that name nothing out of a user's index, if they are
// those that were seen: a session that has moved to another store and comes back
// has its entry renewed before its record is there. If it fails, they stay: that
// harms nothing.
func (s *Store) forget(ctx context.Context, user string, seen map[string]int64) {
	_ = s.change(ctx, user, func(ix userindex.Index) (userindex.Index, bool, error) {
		n := len(ix)
		ix = slices.DeleteFunc(ix, func(e userindex.Entry) bool {
			entered, ok := seen[e.ID]
			return ok && entered == e.Entered
		})
		return ix, len(ix) < n, nil
	})
}

// fate is what end found.
type fate int

const (
	absent fate = iota // no session of this user: none, or another's
	marker             // a new session took its place, which has an entry of its own
	ended              // it was live
)

// end ends one session if it is live and the user's.
func (s *Store) end(ctx context.Context, user, id string) (fate, error) {
	for range maxTries {
		r, err := s.found(ctx, id)
		switch {
		case errors.Is(err, session.ErrNotFound):
			return absent, nil
		case err != nil:
			return absent, err
		case r.Replaced:
			return marker, nil
		case r.User != user:
			return absent, nil
		}
		was, err := s.remove(ctx, s.Key(id), r.text)
		if err != nil {
			return absent, err
		}
		if was {
			return ended, nil
		}
		// Saved or touched meanwhile.
	}
	return absent, errBusy
}

// DeleteUser implements session.UserDeleter. A failure leaves some sessions,
// and the next call finds them.
//
// A session that is renewed meanwhile has its new record before the old one
// becomes a marker. So whenever a marker is met for the first time, the index is
// read once more, and the new record found.
func (s *Store) DeleteUser(ctx context.Context, user, keep string) (int, error) {
	if user == "" {
		return 0, nil
	}
	var mu sync.Mutex
	n, met, gone := 0, map[string]bool{}, map[string]int64{}
	for again := true; again; {
		again = false
		ix, _, err := s.index(ctx, user)
		if err != nil {
			return n, s.failed("delete user", err)
		}
		over := ix.Ended(nil, s.now()) // nothing is to come any more if nothing is there
		err = each(ix.Without(map[string]bool{keep: true}), func(e userindex.Entry) error {
			what, err := s.end(ctx, user, e.ID)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				return err
			case what == ended:
				n++
				gone[e.ID] = e.Entered
			case what == absent && over[e.ID]:
				gone[e.ID] = e.Entered
			case what == marker && !met[e.ID]:
				met[e.ID], again = true, true
			}
			return nil
		})
		if err != nil {
			return n, s.failed("delete user", err)
		}
	}
	if len(gone) > 0 {
		s.forget(ctx, user, gone)
	}
	return n, nil
}
