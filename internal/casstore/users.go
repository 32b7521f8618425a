package casstore

import (
	"context"
	"errors"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/distsession/session"
)

const (
	batch      = 100 // records read at a time
	deletes    = 8   // records deleted at a time
	trimFrom   = 64  // entries from which a sign-in looks for ended ones
	trimWindow = 16  // entries that it looks at
	trimList   = 8   // ended sessions that List found and is worth a write for
)

// vouched tells whether the index with this key has the session. One that is
// gone or damaged vouches for nothing.
func (s *Store) vouched(ctx context.Context, userKey, id string) (bool, error) {
	it, err := s.place.Get(ctx, userKey)
	switch {
	case errors.Is(err, ErrNone):
		return false, nil
	case err != nil:
		return false, err
	}
	ok, err := vouches(userKey, it.Value, id)
	return ok && err == nil, nil
}

// change replaces a user's index by what f makes of it, by compare-and-set. f
// may run several times; ok is false if nothing is to be changed.
func (s *Store) change(ctx context.Context, user string, f func(Index) (ix Index, ok bool, err error)) error {
	key := s.UserKey(user)
	var lost error
	for try := range maxTries {
		it, err := s.place.Get(ctx, key)
		switch {
		case errors.Is(err, ErrNone):
			it = &Item{Key: key}
		case err != nil:
			return err
		}
		old, err := ParseIndex(key, it.Value)
		if err != nil {
			old = nil // damaged, or none: it vouches for nothing
		}
		now := s.now()
		ix, ok, err := f(old)
		if err != nil || !ok {
			return err
		}
		if it.Tag == nil && lost != nil {
			return lost // like a record, an index is not added twice
		}
		ix = ix.trim(now, s.place.Limit()-len(key))
		err = s.place.Put(ctx, &Item{Key: key, Value: ix.encode(key), Tag: it.Tag}, ix.end())
		switch {
		case err == nil, errors.Is(err, session.ErrTooLarge):
			return err
		case answered(err):
			if err := pause(ctx, try); err != nil {
				return err
			}
		case lost != nil:
			return err
		default:
			lost = err // once more: if it was done, f finds nothing to change
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
	mine := entry{id: rec.ID, deadline: entryDeadline(rec.Deadline)}
	trimmed := false
	return s.change(ctx, rec.User, func(ix Index) (Index, bool, error) {
		at := ix.find(rec.ID)
		switch {
		case at < 0 && !isNew:
			return nil, false, session.ErrNotFound
		case at >= 0 && isNew && ix[at].entered != mine.entered:
			// A session that moves between stores comes back under its ID. Whoever
			// has seen that it had ended must not take the entry away any more: see
			// forget.
			mine.entered = max(ix[at].entered+1, s.now().Unix())
			ix[at].entered = mine.entered
			ix[at].deadline = max(ix[at].deadline, mine.deadline)
			return ix, true, nil
		case at >= 0 && ix[at].deadline >= mine.deadline:
			return nil, false, nil
		case at >= 0:
			ix[at].deadline = mine.deadline
			return ix, true, nil
		}
		if len(ix) >= trimFrom && !trimmed {
			// Each sign-in adds one entry and looks at several, so that few of
			// those that stand there have ended.
			trimmed = true
			from := rand.N(len(ix) - trimWindow + 1)
			some := ix[from : from+trimWindow]
			if live, err := s.spare(ctx, rec.User, some); err == nil { // otherwise the next one will
				ix = ix.without(s.ended(some, live))
			}
		}
		mine.entered = s.now().Unix()
		return append(ix, mine), true, nil
	})
}

// without returns the index without these entries, as they are.
func (ix Index) without(gone map[entry]bool) Index {
	return slices.DeleteFunc(ix, func(e entry) bool { return gone[e] })
}

// ended returns those of the entries that name nothing that is live. A record
// that is not there may be that of a sign-in under way.
func (s *Store) ended(ix Index, live []*session.Record) map[entry]bool {
	over := s.now().Add(-Underway).Unix()
	gone := map[entry]bool{}
	for _, e := range ix {
		if e.entered < over && !slices.ContainsFunc(live, func(r *session.Record) bool { return r.ID == e.id }) {
			gone[e] = true
		}
	}
	return gone
}

// forget takes entries that name nothing out of a user's index, unless they were
// written anew since they were seen: then somebody relies on them. If it fails,
// they stay: that harms nothing.
func (s *Store) forget(ctx context.Context, user string, gone map[entry]bool) {
	_ = s.change(ctx, user, func(ix Index) (Index, bool, error) {
		n := len(ix)
		ix = ix.without(gone)
		return ix, len(ix) < n, nil
	})
}

// records returns the live records of a user's entries, without markers, in no
// particular order. An error comes with those that were found all the same.
func (s *Store) records(ctx context.Context, user string, ix Index) ([]*session.Record, error) {
	keys := make([]string, len(ix))
	ids := make(map[string]string, len(ix))
	for i, e := range ix {
		keys[i] = s.Key(e.id)
		ids[keys[i]] = e.id
	}
	items, failure := s.place.GetMany(ctx, keys)
	var found []*session.Record
	for _, it := range items {
		rec, _, err := session.DecodeRecord(ids[it.Key], it.Value)
		if err == nil && rec.User == user && !rec.Replaced && !rec.Expired(s.now()) {
			found = append(found, rec)
		}
	}
	return found, failure
}

// spare is records, and leaves half of the time that is left: what it is for can
// be done without.
func (s *Store) spare(ctx context.Context, user string, ix Index) ([]*session.Record, error) {
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/2)
		defer cancel()
	}
	return s.records(ctx, user, ix)
}

// index reads a user's index.
func (s *Store) index(ctx context.Context, user string) (Index, error) {
	key := s.UserKey(user)
	it, err := s.place.Get(ctx, key)
	switch {
	case errors.Is(err, ErrNone):
		return nil, nil
	case err != nil:
		return nil, err
	}
	ix, err := ParseIndex(key, it.Value)
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
			yield(session.Info{}, s.failed("list", err))
			return
		}
		gone := map[entry]bool{}
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
			maps.Copy(gone, s.ended(some, live))
		}
		if len(gone) >= trimList {
			s.forget(ctx, user, gone)
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
	var ended Index
	seen := map[string]bool{} // the function runs again when another came first
	err := s.change(ctx, user, func(ix Index) (Index, bool, error) {
		var kept Index
		for _, e := range ix {
			switch {
			case e.id == keep:
				kept = append(kept, e)
			case !seen[e.id]:
				seen[e.id] = true
				ended = append(ended, e)
			}
		}
		return kept, len(kept) < len(ix), nil
	})
	if err != nil {
		return 0, s.failed("delete user", err)
	}
	n := 0
	for some := range slices.Chunk(ended, batch) {
		n += s.bury(ctx, user, some)
	}
	return n, nil
}

// bury removes the records of sessions that have ended, and counts those that
// had not ended by themselves.
func (s *Store) bury(ctx context.Context, user string, ix Index) int {
	live, _ := s.records(ctx, user, ix)
	var mu sync.Mutex
	var wg sync.WaitGroup
	n := 0
	turn := make(chan struct{}, deletes)
	for _, rec := range live {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			if was, err := s.place.Remove(ctx, s.Key(rec.ID)); was && err == nil {
				mu.Lock()
				defer mu.Unlock()
				n++
			}
		})
	}
	wg.Wait()
	return n
}
