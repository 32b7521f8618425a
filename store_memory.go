package session

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"iter"
	"maps"
	"net/url"
	"slices"
	"sync"
	"time"
)

func init() {
	Register("memory", func(_ context.Context, u *url.URL) (Store, error) {
		p := NewParams(u)
		opts := &MemoryOptions{MaxSessions: p.Int("max", 0)}
		if err := p.Err(); err != nil {
			return nil, err
		}
		if u.Host != "" || u.Path != "" || u.Opaque != "" {
			return nil, configError("memory: takes no host or path; write memory: or memory:?max=100000")
		}
		return NewMemoryStore(opts), nil
	})
}

// MemoryOptions configure a MemoryStore.
type MemoryOptions struct {
	// MaxSessions bounds the records that are kept. When one more is created,
	// the anonymous session that was used least recently ends; if all are
	// signed in, a new anonymous one is refused with an error and a new sign-in
	// ends the least recently used. If 0, it is 1,000,000.
	MaxSessions int

	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// MemoryStore keeps sessions in the memory of this process: for tests, for
// development and for a single node. It is the reference of what a Store does,
// and has every ability.
//
// Guarantees: every save is a compare-and-set; a deleted session stays deleted.
// Expiry: never returned after Expires, removed within a minute. Failure:
// a restart loses everything.
type MemoryStore struct {
	max int
	now func() time.Time

	mu      sync.RWMutex
	records map[string]*memoryEntry
	users   map[string]map[string]*memoryEntry
	used    [2]*list.List // least recently used first: anonymous, signed in
	sweep   *time.Timer   // nil while there is nothing to sweep
	closed  bool
}

type memoryEntry struct {
	rec *Record // never changed, only replaced
	in  *list.List
	at  *list.Element
}

const (
	memoryMaxSessions = 1_000_000
	memorySweep       = time.Minute
)

var errMemoryFull = errors.New("session: the memory store is full of signed-in sessions; raise MaxSessions")

// NewMemoryStore returns an empty store.
func NewMemoryStore(opts *MemoryOptions) *MemoryStore {
	if opts == nil {
		opts = &MemoryOptions{}
	}
	return &MemoryStore{
		max:     cmp.Or(max(opts.MaxSessions, 0), memoryMaxSessions),
		now:     nowOr(opts.Now),
		records: map[string]*memoryEntry{},
		users:   map[string]map[string]*memoryEntry{},
		used:    [2]*list.List{list.New(), list.New()},
	}
}

func nowOr(now func() time.Time) func() time.Time {
	if now == nil {
		return time.Now
	}
	return now
}

// Load implements Store.
func (s *MemoryStore) Load(_ context.Context, token string) (*Record, error) {
	if !WellFormed(token) {
		return nil, ErrNotFound
	}
	id := ID(token)
	s.mu.RLock()
	e := s.records[id]
	s.mu.RUnlock()
	if e == nil || e.rec.Expired(s.now()) {
		return nil, ErrNotFound
	}
	rec := *e.rec
	return &rec, nil
}

// Save implements Store.
func (s *MemoryStore) Save(_ context.Context, rec *Record) (string, error) {
	saved := *rec
	saved.Version++
	saved.Data = slices.Clone(rec.Data)
	saved.Tag = &scanned{data: saved.Data}
	if !saved.Deadline.IsZero() && saved.Expires.After(saved.Deadline) {
		saved.Expires = saved.Deadline
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	e := s.records[rec.ID]
	if e != nil && e.rec.Expired(now) {
		s.remove(e)
		e = nil
	}
	switch {
	case rec.Version == 0 && e != nil:
		return "", ErrConflict
	case rec.Version == 0:
		if err := s.makeRoom(saved.User != "", now); err != nil {
			return "", err
		}
	case e == nil:
		return "", ErrNotFound
	case e.rec.Version != rec.Version:
		return "", ErrConflict
	default:
		s.remove(e)
	}
	s.add(&saved)
	return "", nil
}

// Delete implements Store.
func (s *MemoryStore) Delete(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.records[id]; e != nil {
		s.remove(e)
	}
	return nil
}

// Touch implements Toucher.
func (s *MemoryStore) Touch(_ context.Context, id string, seen, expires time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.records[id]
	if e == nil || e.rec.Replaced || e.rec.Expired(s.now()) {
		return ErrNotFound
	}
	rec := e.rec.touched(seen, expires)
	s.remove(e)
	s.add(rec)
	return nil
}

// List implements Lister.
func (s *MemoryStore) List(_ context.Context, user string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		s.mu.RLock()
		var found []Info
		for _, e := range s.users[user] {
			if !e.rec.Expired(s.now()) {
				found = append(found, e.rec.Info())
			}
		}
		s.mu.RUnlock()
		for _, info := range found {
			if !yield(info, nil) {
				return
			}
		}
	}
}

// DeleteUser implements UserDeleter.
func (s *MemoryStore) DeleteUser(_ context.Context, user, keep string) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for id, e := range s.users[user] {
		if id == keep {
			continue
		}
		if !e.rec.Expired(s.now()) {
			n++
		}
		s.remove(e)
	}
	return n, nil
}

// Scan implements Scanner.
func (s *MemoryStore) Scan(ctx context.Context) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		s.mu.RLock()
		ids := slices.Collect(maps.Keys(s.records))
		s.mu.RUnlock()
		for _, id := range ids {
			if err := ctx.Err(); err != nil {
				yield(nil, err)
				return
			}
			s.mu.RLock()
			e := s.records[id] // as it is now: what takes long to be yielded may have changed
			s.mu.RUnlock()
			if e == nil || e.rec.Replaced || e.rec.Expired(s.now()) {
				continue
			}
			copied := *e.rec
			copied.Tag = nil
			if !yield(&copied, nil) {
				return
			}
		}
	}
}

// Clean implements Cleaner.
func (s *MemoryStore) Clean(_ context.Context, now time.Time, limit int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clean(now, limit), nil
}

// Len is the number of records that are kept, expired ones and markers
// included.
func (s *MemoryStore) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.records)
}

// Close stops the removal of expired records. The store can still be used.
func (s *MemoryStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.sweep != nil {
		s.sweep.Stop()
		s.sweep = nil
	}
	return nil
}

func (s *MemoryStore) clean(now time.Time, limit int) int {
	n := 0
	for _, e := range s.records {
		if limit > 0 && n == limit {
			break
		}
		if e.rec.Expired(now) {
			s.remove(e)
			n++
		}
	}
	return n
}

// makeRoom ends a session if one more would be too many.
func (s *MemoryStore) makeRoom(signedIn bool, now time.Time) error {
	if len(s.records) < s.max {
		return nil
	}
	anonymous, users := s.used[0].Front(), s.used[1].Front()
	switch {
	case anonymous != nil:
		s.remove(anonymous.Value.(*memoryEntry))
	case signedIn || users.Value.(*memoryEntry).rec.Expired(now):
		s.remove(users.Value.(*memoryEntry))
	default:
		return errMemoryFull
	}
	return nil
}

func (s *MemoryStore) add(rec *Record) {
	e := &memoryEntry{rec: rec, in: s.used[0]}
	if rec.Replaced && len(rec.Data) > 0 {
		e.in = s.used[1] // what a client-side store remembers in Revoked: forgotten, it would revive a session
	}
	if rec.User != "" && !rec.Replaced {
		e.in = s.used[1]
		if s.users[rec.User] == nil {
			s.users[rec.User] = map[string]*memoryEntry{}
		}
		s.users[rec.User][rec.ID] = e
	}
	e.at = e.in.PushBack(e)
	s.records[rec.ID] = e
	if s.sweep == nil && !s.closed {
		s.sweep = time.AfterFunc(memorySweep, s.sweepNow)
	}
}

func (s *MemoryStore) remove(e *memoryEntry) {
	delete(s.records, e.rec.ID)
	e.in.Remove(e.at)
	if ids := s.users[e.rec.User]; ids != nil {
		delete(ids, e.rec.ID)
		if len(ids) == 0 {
			delete(s.users, e.rec.User)
		}
	}
}

// sweepNow removes what has expired and, while anything is left, comes again.
// A timer holds no goroutine, and an empty store holds no timer.
func (s *MemoryStore) sweepNow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clean(s.now(), 0)
	s.sweep = nil
	if len(s.records) > 0 && !s.closed {
		s.sweep = time.AfterFunc(memorySweep, s.sweepNow)
	}
}
