package gridstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/internal/gridstore"
	"github.com/distsession/session/internal/userindex"
	"github.com/distsession/session/storetest"
)

// A grid is one in this process, which can lose answers and requests.
type grid struct {
	now func() time.Time

	mu    sync.Mutex
	items map[string]item
	fault func(call, key string, do func()) error // nil: none
}

type item struct {
	value []byte
	ends  time.Time
}

func newGrid(now func() time.Time) *grid { return &grid{now: now, items: map[string]item{}} }

func (g *grid) call(call, key string, do func()) error {
	g.mu.Lock()
	fault := g.fault
	g.mu.Unlock()
	locked := func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if it, ok := g.items[key]; ok && !g.now().Before(it.ends) {
			delete(g.items, key)
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
func (g *grid) set(fault func(call, key string, do func()) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fault = fault
}

func (g *grid) Get(_ context.Context, key string) (value []byte, err error) {
	err = g.call("get", key, func() { value = slices.Clone(g.items[key].value) })
	return value, err
}

func (g *grid) Add(_ context.Context, key string, value []byte, ttl time.Duration) (done bool, err error) {
	err = g.call("add", key, func() {
		if _, there := g.items[key]; !there {
			g.items[key], done = item{value, g.now().Add(ttl)}, true
		}
	})
	return done && err == nil, err
}

func (g *grid) Replace(_ context.Context, key string, old, value []byte, ttl time.Duration) (done bool, err error) {
	err = g.call("replace", key, func() {
		if it, there := g.items[key]; there && bytes.Equal(it.value, old) {
			g.items[key], done = item{value, g.now().Add(ttl)}, true
		}
	})
	return done && err == nil, err
}

func (g *grid) Remove(_ context.Context, key string, old []byte) (done bool, err error) {
	err = g.call("remove", key, func() {
		if it, there := g.items[key]; there && (old == nil || bytes.Equal(it.value, old)) {
			delete(g.items, key)
			done = true
		}
	})
	return done && err == nil, err
}

func (g *grid) Keys(context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		g.mu.Lock()
		keys := slices.Collect(maps.Keys(g.items))
		g.mu.Unlock()
		for _, key := range keys {
			if !yield(key, nil) {
				return
			}
		}
	}
}

func fresh(*testing.T) storetest.Backend {
	clock := &storetest.Clock{}
	g := newGrid(clock.Now)
	return storetest.Backend{
		Open: func() session.Store {
			return gridstore.New(g, gridstore.Options{Name: "grid", Prefix: "s:", Now: clock.Now})
		},
		MaxData: 1_000_000,
		Advance: clock.Advance,
	}
}

func TestStore(t *testing.T) { storetest.Run(t, fresh) }

// A grid that refuses what it has done, as one does whose member died in
// between, fails nobody.
func TestNoThatWasDone(t *testing.T) {
	g := newGrid(time.Now)
	s := gridstore.New(g, gridstore.Options{Name: "grid"})
	deny := lying{g}
	behind := gridstore.New(deny, gridstore.Options{Name: "grid"})
	rec, token := draft("ann")
	save(t, behind, rec, nil)
	save(t, behind, load(t, behind, token), nil)
	got := load(t, s, token)
	if got.Version != 2 {
		t.Errorf("version %d; want 2", got.Version)
	}
	if err := behind.Touch(t.Context(), rec.ID, rec.Seen.Add(time.Minute), rec.Expires.Add(time.Minute)); err != nil {
		t.Errorf("Touch: %v", err)
	}
	if _, err := behind.DeleteUser(t.Context(), "ann", ""); err != nil {
		t.Errorf("DeleteUser: %v", err)
	}
	if _, err := s.Load(t.Context(), token); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("after DeleteUser: %v", err)
	}
}

// lying does what it is asked and says that it did not.
type lying struct{ *grid }

func (g lying) Add(ctx context.Context, key string, value []byte, ttl time.Duration) (bool, error) {
	_, err := g.grid.Add(ctx, key, value, ttl)
	return false, err
}

func (g lying) Replace(ctx context.Context, key string, old, value []byte, ttl time.Duration) (bool, error) {
	_, err := g.grid.Replace(ctx, key, old, value, ttl)
	return false, err
}

func (g lying) Remove(ctx context.Context, key string, old []byte) (bool, error) {
	_, err := g.grid.Remove(ctx, key, old)
	return false, err
}

var errBroken = errors.New("the connection broke")

// The connection breaks, before or after the grid has done what it was asked.
func TestBrokenConnection(t *testing.T) {
	for _, tt := range []struct {
		name, call string
		applied    bool
		create     bool
		between    int // saves by others, before it looks
		touched    bool
		want       error
		version    int64
		why        string
	}{
		{"update", "replace", true, false, 0, false, nil, 2, "it finds its own write"},
		{"update, then one by another", "replace", true, false, 1, false, nil, 3, "the trail goes back three writes"},
		{"update, then two", "replace", true, false, 2, false, nil, 4, "the trail goes back three writes"},
		{"update, then three", "replace", true, false, 3, false, errBroken, 5, "it cannot know, and a conflict would be replayed"},
		{"update that never arrived, then three", "replace", false, false, 3, false, session.ErrConflict, 4, "the trail has all of them, and not its own"},
		{"update that never arrived, then four", "replace", false, false, 4, false, errBroken, 5, "it cannot know, and a conflict would be replayed"},
		{"update, then a touch", "replace", true, false, 0, true, nil, 2, "a touch is no write"},
		{"update that never arrived", "replace", false, false, 0, false, nil, 2, "it is sent again"},
		{"update that never arrived, then one by another", "replace", false, false, 1, false, session.ErrConflict, 2, "the other one won"},
		{"create", "add", true, true, 0, false, nil, 1, "it finds its own write"},
		{"create, then two by others", "add", true, true, 2, false, nil, 3, "the trail goes back three writes"},
		{"create that never arrived", "add", false, true, 0, false, errBroken, 0, "it is not sent again: it may arrive yet"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGrid(time.Now)
			s := gridstore.New(g, gridstore.Options{Name: "grid"})
			rec, token := draft("ann")
			if !tt.create {
				save(t, s, rec, nil)
				rec = load(t, s, token)
			}
			var once sync.Once
			g.set(func(call, key string, do func()) (err error) {
				if call == tt.call && key == s.Key(rec.ID) {
					once.Do(func() {
						if tt.applied {
							do()
						}
						g.set(nil)
						for range tt.between {
							save(t, s, load(t, s, token), nil)
						}
						if tt.touched {
							if err := s.Touch(t.Context(), rec.ID, rec.Seen.Add(time.Minute), rec.Expires.Add(time.Minute)); err != nil {
								t.Error(err)
							}
						}
						err = errBroken
					})
					return err
				}
				do()
				return nil
			})
			save(t, s, rec, tt.want)
			if tt.version == 0 {
				_, err := s.Load(t.Context(), token)
				if !errors.Is(err, session.ErrNotFound) {
					t.Errorf("(%s) Load: %v", tt.why, err)
				}
				return
			}
			if v := load(t, s, token).Version; v != tt.version {
				t.Errorf("(%s) version %d; want %d", tt.why, v, tt.version)
			}
			save(t, s, rec, session.ErrConflict) // what another saves from here is still a conflict
		})
	}
}

// Every answer, and then every request, of one call after the other is lost;
// nothing is reported that is not so.
func TestEveryCallBreaks(t *testing.T) {
	for _, applied := range []bool{true, false} {
		for nth := range 12 {
			g := newGrid(time.Now)
			s := gridstore.New(g, gridstore.Options{Name: "grid"})
			first, firstToken := draft("ann")
			save(t, s, first, nil)
			n := 0
			g.set(func(_, _ string, do func()) error {
				n++
				if n-1 != nth {
					do()
					return nil
				}
				if applied {
					do()
				}
				return errBroken
			})
			rec, token := draft("ann")
			_, saveErr := s.Save(t.Context(), rec)
			ended, err := s.DeleteUser(t.Context(), "ann", rec.ID)
			g.set(nil)
			if saveErr == nil && load(t, s, token).User != "ann" {
				t.Errorf("call %d, applied %v: the session that was saved is not ann's", nth, applied)
			}
			_, loadErr := s.Load(t.Context(), firstToken)
			if gone := errors.Is(loadErr, session.ErrNotFound); err == nil && !gone || ended > 0 && !gone {
				t.Errorf("call %d, applied %v: DeleteUser = %d, %v; the session: %v", nth, applied, ended, err, loadErr)
			}
		}
	}
}

// A session that is renewed while DeleteUser runs ends too: the new record is
// there before the old one becomes a marker.
func TestDeleteUserMeetsMarker(t *testing.T) {
	g := newGrid(time.Now)
	s := gridstore.New(g, gridstore.Options{Name: "grid"})
	old, oldToken := draft("ann")
	save(t, s, old, nil)
	old = load(t, s, oldToken)
	renewed, token := draft("ann")
	var once sync.Once
	g.set(func(call, key string, do func()) error {
		do()
		if call == "get" && key == s.UserKey("ann") {
			once.Do(func() { // DeleteUser has read the index
				g.set(nil)
				save(t, s, renewed, nil)
				old.User, old.Replaced, old.Data = "", true, nil
				save(t, s, old, nil)
			})
		}
		return nil
	})
	if n, err := s.DeleteUser(t.Context(), "ann", ""); n != 1 || err != nil {
		t.Errorf("DeleteUser = %d, %v; want the renewed one", n, err)
	}
	if _, err := s.Load(t.Context(), token); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("the renewed session: %v", err)
	}
	if rec := load(t, s, oldToken); !rec.Replaced {
		t.Error("the marker is gone")
	}
}

// A session that comes back under its ID, as one does that moves between stores,
// stays in the index, though DeleteUser has just ended it.
func TestDeleteUserAndComeBack(t *testing.T) {
	for _, change := range []bool{false, true} {
		g := newGrid(time.Now)
		s := gridstore.New(g, gridstore.Options{Name: "grid"})
		rec, token := draft("ann")
		save(t, s, rec, nil)
		var once sync.Once
		g.set(func(call, key string, do func()) error {
			do()
			if call == "remove" && key == s.Key(rec.ID) {
				once.Do(func() { // DeleteUser has ended it
					g.set(nil)
					again := *rec
					if change { // what was a marker is a session again
						again.User, again.Replaced = "", true
						save(t, s, &again, nil)
						again = *load(t, s, token)
						again.User, again.Replaced = "ann", false
					}
					save(t, s, &again, nil)
				})
			}
			return nil
		})
		if n, err := s.DeleteUser(t.Context(), "ann", ""); n != 1 || err != nil {
			t.Errorf("DeleteUser = %d, %v; want 1", n, err)
		}
		load(t, s, token) // it came after
		if n, err := s.DeleteUser(t.Context(), "ann", ""); n != 1 || err != nil {
			t.Errorf("the next DeleteUser = %d, %v; want 1", n, err)
		}
	}
}

// The index holds what fits; of a user who has more sessions the first end.
func TestFullIndex(t *testing.T) {
	g := newGrid(time.Now)
	s := gridstore.New(g, gridstore.Options{Name: "grid", MaxValue: 1000})
	var tokens []string
	for range 20 {
		rec, token := draft("ann")
		save(t, s, rec, nil)
		tokens = append(tokens, token)
	}
	listed := map[string]bool{}
	for info, err := range s.List(t.Context(), "ann") {
		if err != nil {
			t.Fatal(err)
		}
		listed[info.ID] = true
	}
	for i, token := range tokens {
		_, err := s.Load(t.Context(), token)
		if live := err == nil; live != listed[session.ID(token)] {
			t.Errorf("session %d: live %v, listed %v", i, live, listed[session.ID(token)])
		}
	}
	if len(listed) < 10 || len(listed) == 20 || !listed[session.ID(tokens[19])] {
		t.Errorf("%d sessions are listed, the newest: %v", len(listed), listed[session.ID(tokens[19])])
	}
}

// Entries that name nothing go as the index is used.
func TestIndexIsTrimmed(t *testing.T) {
	clock := &storetest.Clock{}
	g := newGrid(clock.Now)
	s := gridstore.New(g, gridstore.Options{Name: "grid", Now: clock.Now})
	entries := func() int {
		text, _ := g.Get(t.Context(), s.UserKey("ann"))
		if text == nil {
			return 0
		}
		ix, err := userindex.Parse(s.UserKey("ann"), text)
		if err != nil {
			t.Fatal(err)
		}
		return len(ix)
	}
	in := func(n int) (ids []string) {
		for range n {
			rec, _ := draftAt("ann", clock.Now())
			save(t, s, rec, nil)
			ids = append(ids, rec.ID)
		}
		return ids
	}
	out := func(ids []string) {
		for _, id := range ids {
			if err := s.Delete(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
	}
	out(in(100))
	clock.Advance(userindex.Underway + time.Minute)
	for range 50 {
		out(in(1))
	}
	if n := entries(); n > 120 {
		t.Errorf("after 150 sign-ins and -outs the index has %d entries", n)
	}
	clock.Advance(userindex.Underway + time.Minute)
	for range s.List(t.Context(), "ann") {
		t.Error("a session is listed")
	}
	if n := entries(); n != 0 {
		t.Errorf("after a list the index has %d entries", n)
	}
	out(in(3))
	clock.Advance(userindex.Underway + time.Minute)
	if n, err := s.DeleteUser(t.Context(), "ann", ""); n != 0 || err != nil || entries() != 0 {
		t.Errorf("DeleteUser = %d, %v; it leaves %d entries", n, err, entries())
	}
}

// What is damaged, or somebody else's, is no session, and no reason to fail.
func TestDamage(t *testing.T) {
	g := newGrid(time.Now)
	s := gridstore.New(g, gridstore.Options{Name: "grid", Prefix: "p:"})
	token := session.NewToken()
	put := func(key, text string) {
		g.items[key] = item{[]byte(text), time.Now().Add(time.Hour)}
	}
	put(s.Key(session.ID(token)), "junk")
	put(s.UserKey("ann"), "junk")
	put("other", "junk")
	if _, err := s.Load(t.Context(), token); !errors.Is(err, session.ErrNotFound) || !strings.Contains(err.Error(), "decoded") {
		t.Errorf("Load: %v; want ErrNotFound with the reason", err)
	}
	rec, _ := draft("ann")
	rec.ID = session.ID(token)
	save(t, s, rec, session.ErrConflict)
	rec, _ = draft("ann")
	save(t, s, rec, nil)
	n := 0
	for got, err := range s.Scan(t.Context()) {
		if n++; err != nil || got.ID != rec.ID {
			t.Errorf("Scan: %v, %v", got, err)
		}
	}
	if n != 1 {
		t.Errorf("Scan yields %d records; want 1", n)
	}
	if ended, err := s.DeleteUser(t.Context(), "ann", ""); ended != 1 || err != nil {
		t.Errorf("DeleteUser = %d, %v; want 1", ended, err)
	}
}

// A name that a client chose never becomes a key as it is.
func TestKeys(t *testing.T) {
	s := gridstore.New(newGrid(time.Now), gridstore.Options{Prefix: "p:"})
	id := session.ID("a token")
	if got := s.Key(id); got != "p:"+id {
		t.Errorf("Key = %q", got)
	}
	for _, odd := range []string{"", "user:x", "a b\n", strings.Repeat("x", 10_000)} {
		for what, key := range map[string]string{"ID": s.Key(odd), "user": s.UserKey(odd)} {
			if len(key) > 60 || odd != "" && strings.Contains(key, odd) {
				t.Errorf("the key of %s %.20q is %.80q", what, odd, key)
			}
		}
	}
}

func draft(user string) (*session.Record, string) { return draftAt(user, time.Now()) }

func draftAt(user string, now time.Time) (*session.Record, string) {
	token := session.NewToken()
	return &session.Record{
		ID: session.ID(token), User: user, Created: now, SignedIn: now, Seen: now,
		Expires: now.Add(time.Hour), Deadline: now.Add(8 * time.Hour), Data: []byte(`{"n":1}`),
	}, token
}

func save(t *testing.T, s session.Store, rec *session.Record, want error) {
	t.Helper()
	if _, err := s.Save(t.Context(), rec); !errors.Is(err, want) {
		t.Fatalf("Save of version %d: %v; want %v", rec.Version, err, want)
	}
}

func load(t *testing.T, s session.Store, token string) *session.Record {
	t.Helper()
	rec, err := s.Load(t.Context(), token)
	if err != nil {
		t.Fatal(fmt.Errorf("Load: %w", err))
	}
	return rec
}
