package memcachedstore

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
	"github.com/distsession/session"
	"github.com/distsession/session/internal/userindex"
)

const (
	batch    = 100 // records read at a time
	deletes  = 8   // records deleted at a time
	trimList = 8   // ended sessions that List found and is worth a write for
)

// vouched tells whether the index with this key has the session. One that is
// gone or damaged vouches for nothing.
func (s *Store) vouched(ctx context.Context, userKey, id string) (bool, error) {
	it, err := s.get(ctx, userKey)
	switch {
	case errors.Is(err, memcache.ErrCacheMiss):
		return false, nil
	case err != nil:
		return false, err
	}
	ok, err := userindex.Vouches(userKey, it.Value, id)
	return ok && err == nil, nil
}

// change replaces a user's index by what f makes of it, by compare-and-set. f
// may run several times; ok is false if nothing is to be changed.
func (s *Store) change(ctx context.Context, user string, f func(userindex.Index) (ix userindex.Index, ok bool, err error)) error {
	key := s.userKey(user)
	lost := false
	for try := range maxTries {
		it, err := s.get(ctx, key)
		switch {
		case errors.Is(err, memcache.ErrCacheMiss):
			it = &memcache.Item{Key: key}
		case err != nil:
			return err
		}
		old, err := userindex.Parse(key, it.Value)
		if err != nil {
			old = nil // damaged, or none: it vouches for nothing
		}
		now := s.now()
		ix, ok, err := f(old)
		if err != nil || !ok {
			return err
		}
		ix, _ = ix.Trim(now, int(s.limit.Load())-len(key)) // what is cut ends: nothing vouches for it
		it.Value, it.Expiration = ix.Encode(key), 0
		if end, ok := ix.End(); ok {
			it.Expiration = expiration(end, now)
		}
		err = s.put(ctx, it)
		switch {
		case err == nil, errors.Is(err, session.ErrTooLarge):
			return err
		case isAnswer(err):
			if err := pause(ctx, try); err != nil {
				return err
			}
		case lost:
			return err
		default:
			lost = true // once more: if it was done, f finds nothing to change
		}
	}
	return errBusy
}

// pause lets others go first, for longer the more often they did.
func pause(ctx context.Context, try int) error {
	if try == 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(rand.N(min(time.Millisecond<<min(try, 5), 20*time.Millisecond))):
		return nil
	}
}

// enter writes a session's entry into its user's index. If it is not new and
// has no entry, it has ended: ErrNotFound.
func (s *Store) enter(ctx context.Context, rec *session.Record, isNew bool) error {
	deadline, trimmed := userindex.Deadline(rec.Deadline), false
	return s.change(ctx, rec.User, func(ix userindex.Index) (userindex.Index, bool, error) {
		at := ix.Find(rec.ID)
		switch {
		case at < 0 && !isNew:
			return nil, false, session.ErrNotFound
		case at >= 0 && ix[at].Deadline >= deadline:
			return nil, false, nil
		case at >= 0:
			ix[at].Deadline = deadline
			return ix, true, nil
		}
		if some := ix.Window(); len(some) > 0 && !trimmed {
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
	// One request for each server, and all of them at once.
	keys := map[int][]string{}
	ids := map[string]string{}
	for _, e := range ix {
		key := s.key(e.ID)
		at := 0
		if !s.replicated {
			at = s.ring.pick(key)
		}
		keys[at] = append(keys[at], key)
		ids[key] = e.ID
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var found []*session.Record
	var failure error
	for _, some := range keys {
		wg.Go(func() {
			items, err := read(ctx, s, some[0], func(c *memcache.Client) (map[string]*memcache.Item, error) { return c.GetMulti(some) })
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failure = err
				return
			}
			for key, it := range items {
				rec, _, err := session.DecodeRecord(ids[key], it.Value)
				if err == nil && rec.User == user && !rec.Replaced && !rec.Expired(s.now()) {
					found = append(found, rec)
				}
			}
		})
	}
	wg.Wait()
	return found, failure
}

// index reads a user's index.
func (s *Store) index(ctx context.Context, user string) (userindex.Index, error) {
	key := s.userKey(user)
	it, err := s.get(ctx, key)
	switch {
	case errors.Is(err, memcache.ErrCacheMiss):
		return nil, nil
	case err != nil:
		return nil, err
	}
	ix, err := userindex.Parse(key, it.Value)
	if err != nil {
		return nil, nil // it vouches for nothing
	}
	return ix, nil
}

// List implements session.Lister.
func (s *Store) List(ctx context.Context, user string) iter.Seq2[session.Info, error] {
	return func(yield func(session.Info, error) bool) {
		if user == "" {
			return
		}
		ix, err := s.index(ctx, user)
		if err != nil {
			yield(session.Info{}, failed("list", err))
			return
		}
		gone := map[string]bool{}
		for some := range slices.Chunk(ix, batch) {
			live, err := s.records(ctx, user, some)
			if err != nil {
				yield(session.Info{}, failed("list", err))
				return
			}
			for _, rec := range live {
				if !yield(rec.Info(), nil) {
					return
				}
			}
			for id := range some.Ended(live, s.now()) {
				gone[id] = true
			}
		}
		if len(gone) >= trimList {
			// If it fails, they stay: that harms nothing.
			_ = s.change(ctx, user, func(ix userindex.Index) (userindex.Index, bool, error) { return ix.Without(gone), true, nil })
		}
	}
}

// DeleteUser implements session.UserDeleter. All sessions end at once, when the
// index no longer names them: an error means that none did, or that nobody
// knows. The records are removed after that, and counted; what cannot be reached
// then is not counted, and dead all the same.
func (s *Store) DeleteUser(ctx context.Context, user, keep string) (int, error) {
	if user == "" {
		return 0, nil
	}
	var ended userindex.Index
	seen := map[string]bool{} // the function runs again when another came first
	err := s.change(ctx, user, func(ix userindex.Index) (userindex.Index, bool, error) {
		var kept userindex.Index
		for _, e := range ix {
			switch {
			case e.ID == keep:
				kept = append(kept, e)
			case !seen[e.ID]:
				seen[e.ID] = true
				ended = append(ended, e)
			}
		}
		return kept, len(kept) < len(ix), nil
	})
	if err != nil {
		return 0, failed("delete user", err)
	}
	n := 0
	for some := range slices.Chunk(ended, batch) {
		n += s.bury(ctx, user, some)
	}
	return n, nil
}

// bury removes the records of sessions that have ended, and counts those that
// had not ended by themselves.
func (s *Store) bury(ctx context.Context, user string, ix userindex.Index) int {
	live, _ := s.records(ctx, user, ix)
	var mu sync.Mutex
	var wg sync.WaitGroup
	n := 0
	turn := make(chan struct{}, deletes)
	for _, rec := range live {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			if was, err := s.remove(ctx, rec.ID); was && err == nil {
				mu.Lock()
				defer mu.Unlock()
				n++
			}
		})
	}
	wg.Wait()
	return n
}
