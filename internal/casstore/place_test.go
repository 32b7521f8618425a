package casstore_test

import (
	"context"
	"errors"
	"iter"
	"maps"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/casstore"
	"github.com/distsession/session/storetest"
)

// A place is one in this process, which can lose answers and requests.
type place struct {
	now   func() time.Time
	limit int
	grid  bool // it compares values, and does not tell none from another

	mu    sync.Mutex
	items map[string]held
	last  int                                     // number of the last write
	fault func(call, key string, do func()) error // nil: none
	hang  func(key string) bool                   // a get waits for its context; nil: none does
}

type held struct {
	value []byte
	tag   any
	ends  time.Time // zero: never
}

func newPlace(now func() time.Time) *place {
	return &place{now: now, limit: 1 << 20, items: map[string]held{}}
}

// slack is how much longer than it must the place keeps an item.
const slack = time.Second

func (p *place) call(call, key string, do func()) error {
	p.mu.Lock()
	fault := p.fault
	p.mu.Unlock()
	locked := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if it, ok := p.items[key]; ok && !it.ends.IsZero() && !p.now().Before(it.ends) {
			delete(p.items, key)
		}
		do()
	}
	if fault != nil {
		return fault(call, key, locked)
	}
	locked()
	return nil
}

// set makes fault decide over every call.
func (p *place) set(fault func(call, key string, do func()) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = fault
}

// once lets meanwhile run after the first call of this kind for this key was
// done, and then answers with err.
func (p *place) once(call, key string, err error, meanwhile func()) {
	p.set(func(c, k string, do func()) error {
		do()
		if c != call || k != key {
			return nil
		}
		p.set(nil)
		meanwhile()
		return err
	})
}

func (p *place) Limit() int { return p.limit }

func (p *place) Get(ctx context.Context, key string) (it *casstore.Item, err error) {
	if p.hang != nil && p.hang(key) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	err = p.call("get", key, func() {
		if h, there := p.items[key]; there {
			it = &casstore.Item{Key: key, Value: slices.Clone(h.value), Tag: h.tag}
		}
	})
	if err == nil && it == nil {
		return nil, casstore.ErrNone
	}
	return it, err
}

func (p *place) GetMany(ctx context.Context, keys []string) (items []*casstore.Item, failure error) {
	for _, key := range keys {
		switch it, err := p.Get(ctx, key); {
		case err == nil:
			items = append(items, it)
		case !errors.Is(err, casstore.ErrNone):
			failure = err
		}
	}
	return items, failure
}

func (p *place) Put(_ context.Context, it *casstore.Item, end time.Time) error {
	call := "add"
	if it.Tag != nil {
		call = "replace"
	}
	answer := casstore.ErrOther
	err := p.call(call, it.Key, func() {
		h, there := p.items[it.Key]
		switch {
		case call == "add" && there, call == "replace" && there && !reflect.DeepEqual(h.tag, it.Tag):
			return
		case call == "replace" && !there:
			if !p.grid {
				answer = casstore.ErrNone
			}
			return
		}
		p.last++
		h = held{value: slices.Clone(it.Value), tag: p.last}
		if p.grid {
			h.tag = h.value
		}
		if !end.IsZero() {
			h.ends = end.Add(slack)
			if now := p.now(); end.Before(now) {
				h.ends = now.Add(slack)
			}
		}
		p.items[it.Key], answer = h, nil
	})
	if err != nil {
		return err
	}
	return answer
}

func (p *place) Remove(_ context.Context, key string) (was bool, err error) {
	err = p.call("remove", key, func() {
		_, was = p.items[key]
		delete(p.items, key)
	})
	return was && err == nil, err
}

func (p *place) keys(yield func(string, error) bool) {
	p.mu.Lock()
	keys := slices.Collect(maps.Keys(p.items))
	p.mu.Unlock()
	for _, key := range keys {
		if !yield(key, nil) {
			return
		}
	}
}

func newStore(p casstore.Place, now func() time.Time) *casstore.Store {
	return casstore.New(p, casstore.Options{Name: "place", Prefix: "p:", Now: now})
}

// scanned is a store whose place lists its keys.
type scanned struct {
	*casstore.Store
	place *place
}

func (s scanned) Scan(ctx context.Context) iter.Seq2[*session.Record, error] {
	return casstore.Scan(ctx, s.Store, s.place.keys)
}

func TestStore(t *testing.T) {
	for name, grid := range map[string]bool{"a cache": false, "a grid": true} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(*testing.T) storetest.Backend {
				clock := &storetest.Clock{}
				p := newPlace(clock.Now)
				p.grid = grid
				return storetest.Backend{
					Open:    func() session.Store { return scanned{newStore(p, clock.Now), p} },
					MaxData: 1_000_000,
					Advance: clock.Advance,
				}
			})
		})
	}
}

// draft returns a record that was not saved yet, and its token.
func draft(user string, now time.Time) (*session.Record, string) {
	token := session.NewToken()
	return &session.Record{
		ID: session.ID(token), User: user, Created: now, SignedIn: now, Seen: now,
		Expires: now.Add(time.Hour), Deadline: now.Add(8 * time.Hour), Data: []byte(`{"n":1}`),
	}, token
}

func save(t *testing.T, s session.Store, rec *session.Record) { t.Helper(); saveWant(t, s, rec, nil) }

func saveWant(t *testing.T, s session.Store, rec *session.Record, want error) {
	t.Helper()
	if _, err := s.Save(t.Context(), rec); !errors.Is(err, want) {
		t.Fatalf("Save of version %d: %v; want %v", rec.Version, err, want)
	}
}

// create saves a new session and returns it with its token.
func create(t *testing.T, s session.Store, user string, now time.Time) (*session.Record, string) {
	t.Helper()
	rec, token := draft(user, now)
	save(t, s, rec)
	return rec, token
}

func load(t *testing.T, s session.Store, token string) *session.Record {
	t.Helper()
	rec, err := s.Load(t.Context(), token)
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return rec
}

func gone(t *testing.T, s session.Store, token, when string) {
	t.Helper()
	if rec, err := s.Load(t.Context(), token); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("%s: Load = %+v, %v; want ErrNotFound", when, rec, err)
	}
}

func deleteUser(t *testing.T, s session.UserDeleter, user string, want int) {
	t.Helper()
	if n, err := s.DeleteUser(t.Context(), user, ""); n != want || err != nil {
		t.Errorf("DeleteUser(%q) = %d, %v; want %d", user, n, err, want)
	}
}

// list returns the IDs of the user's sessions.
func list(t *testing.T, s session.Lister, user string) map[string]bool {
	t.Helper()
	ids := map[string]bool{}
	for info, err := range s.List(t.Context(), user) {
		if err != nil {
			t.Fatal(err)
		}
		ids[info.ID] = true
	}
	return ids
}
