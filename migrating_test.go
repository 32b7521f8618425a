package session_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/distsession/session"
	"github.com/distsession/session/internal/ledger"
	"github.com/distsession/session/storetest"
)

func migrate(t testing.TB, to, from session.Store) session.Store {
	t.Helper()
	s, err := session.Migrating(to, from)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// draft is a record that was not saved yet, of user ann.
func draft() (*session.Record, string) {
	token := session.NewToken()
	now := time.Now().UTC().Truncate(time.Millisecond)
	return &session.Record{
		ID: session.ID(token), User: "ann", Device: "Firefox", Created: now, SignedIn: now, Seen: now,
		Expires: now.Add(time.Hour), Deadline: now.Add(2 * time.Hour), Data: []byte(`{"n":1}`),
	}, token
}

func create(t testing.TB, s session.Store) (*session.Record, string) {
	t.Helper()
	rec, token := draft()
	if _, err := s.Save(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	rec.Version = 1
	return rec, token
}

func load(t testing.TB, s session.Store, token string) *session.Record {
	t.Helper()
	rec, err := s.Load(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func devices(t testing.TB, s session.Store, user string) (found []string) {
	t.Helper()
	for info, err := range session.List(t.Context(), s, user) {
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, info.ID+" "+info.Device)
	}
	slices.Sort(found)
	return found
}

func TestMigratingMoves(t *testing.T) {
	old, new := session.NewMemoryStore(nil), session.NewMemoryStore(nil)
	m := migrate(t, new, old)
	want, token := create(t, old)
	slow := load(t, old, token) // of a node that does not migrate yet
	got := load(t, m, token)
	if got.User != want.User || got.Device != want.Device || !got.Created.Equal(want.Created) || !got.Expires.Equal(want.Expires) ||
		!got.Deadline.Equal(want.Deadline) || !got.SignedIn.Equal(want.SignedIn) || string(got.Data) != string(want.Data) {
		t.Errorf("moved %+v, want %+v", got, want)
	}
	if rec := load(t, new, token); rec.Version != got.Version || rec.Device != "Firefox" || rec.User != "ann" {
		t.Errorf("in the new store: %+v", rec)
	}
	if rec := load(t, old, token); !rec.Replaced || !rec.Expires.Equal(want.Deadline) {
		t.Errorf("in the old store: %+v; want a marker until the Deadline", rec)
	}
	if _, err := old.Save(t.Context(), slow); !errors.Is(err, session.ErrConflict) {
		t.Errorf("a save in the old store: %v", err)
	}
	for name, s := range map[string]session.Store{"the new store": new, "both": m} {
		if got := devices(t, s, "ann"); len(got) != 1 || got[0] != want.ID+" Firefox" {
			t.Errorf("%s lists %v", name, got)
		}
	}
	if got := devices(t, old, "ann"); len(got) != 0 {
		t.Errorf("the old store lists %v", got)
	}
	// Now it is like any session of the new store, and the old one is not asked.
	faulty := storetest.NewFaulty(old)
	faulty.SetAll(storetest.Fail(errors.New("switched off")))
	m = migrate(t, new, faulty)
	got.Data = []byte(`{"n":2}`)
	if _, err := m.Save(t.Context(), got); err != nil {
		t.Error(err)
	}
	if rec := load(t, m, token); string(rec.Data) != `{"n":2}` {
		t.Errorf("%s", rec.Data)
	}
	// What may be in the old store is an error, never "no session".
	_, other := create(t, old)
	if _, err := m.Load(t.Context(), other); err == nil || errors.Is(err, session.ErrNotFound) {
		t.Errorf("while the old store is away: %v", err)
	}
}

// moves are the calls that move one session, and two that follow.
const moveCalls = 7

// step runs f before the n-th call of either store, once.
type step struct {
	mu   sync.Mutex
	left int
	f    func()
}

func (s *step) fault(ctx context.Context, _ int, call func() error) error {
	s.mu.Lock()
	s.left--
	f := s.f
	if s.left != 0 {
		f = nil
	}
	s.mu.Unlock()
	if f != nil {
		f()
	}
	return call()
}

// dies is a node that makes no more calls from the n-th on.
func dies(n int) storetest.Fault {
	var mu sync.Mutex
	return func(_ context.Context, _ int, call func() error) error {
		mu.Lock()
		defer mu.Unlock()
		if n--; n <= 0 {
			return errors.New("the node died")
		}
		return call()
	}
}

func watched(s session.Store, f storetest.Fault) session.Store {
	w := storetest.NewFaulty(s)
	w.SetAll(f)
	return w
}

// At every step of a move something else happens, on a node of either kind.
func TestMigratingInterleaved(t *testing.T) {
	type place struct {
		old, new, m, opposite session.Store
		rec                   *session.Record
		token                 string
	}
	ctx := t.Context()
	gone := func(t *testing.T, p *place, _ error) {
		for name, s := range map[string]session.Store{"its node": p.m, "the opposite": p.opposite} {
			if rec, err := s.Load(ctx, p.token); !errors.Is(err, session.ErrNotFound) {
				t.Errorf("%s: the session is back: %+v, %v", name, rec, err)
			}
		}
		if got := devices(t, p.m, "ann"); len(got) != 0 {
			t.Errorf("listed: %v", got)
		}
	}
	data := func(want string) func(t *testing.T, p *place, err error) {
		return func(t *testing.T, p *place, err error) {
			if err != nil {
				t.Errorf("the load: %v", err)
			}
			for name, s := range map[string]session.Store{"its node": p.m, "the opposite": p.opposite} {
				if rec := load(t, s, p.token); string(rec.Data) != want || rec.Replaced || rec.Device != "Firefox" {
					t.Errorf("%s: %+v, want %s", name, rec, want)
				}
			}
			if got := devices(t, p.opposite, "ann"); len(got) != 1 || got[0] != p.rec.ID+" Firefox" {
				t.Errorf("listed: %v", got)
			}
		}
	}
	change := func(t *testing.T, s session.Store, token, data string) {
		for {
			rec := load(t, s, token)
			rec.Data = []byte(data)
			_, err := s.Save(ctx, rec)
			if err == nil {
				return
			}
			if !errors.Is(err, session.ErrConflict) {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name, why string
		do        func(t *testing.T, p *place)
		check     func(t *testing.T, p *place, err error)
	}{
		{"deleted by the same kind", "sign out", func(t *testing.T, p *place) { p.m.Delete(ctx, p.rec.ID) }, gone},
		{"deleted by the opposite kind", "sign out on a node that was not deployed yet", func(t *testing.T, p *place) { p.opposite.Delete(ctx, p.rec.ID) }, gone},
		{"the user's sessions ended by the same kind", "sign out everywhere", func(t *testing.T, p *place) { session.DeleteUser(ctx, p.m, "ann", "") }, gone},
		{"the user's sessions ended by the opposite kind", "as above", func(t *testing.T, p *place) { session.DeleteUser(ctx, p.opposite, "ann", "") }, gone},
		{"moved, and then the user's sessions ended by the same kind", "the marker of that move is still there, and a copy comes late", func(t *testing.T, p *place) {
			load(t, p.m, p.token)
			session.DeleteUser(ctx, p.m, "ann", "")
		}, gone},
		{"moved, and then the user's sessions ended by the opposite kind", "as above", func(t *testing.T, p *place) {
			load(t, p.m, p.token)
			session.DeleteUser(ctx, p.opposite, "ann", "")
		}, gone},
		{"moved, and then ended by a node that has dropped the old store", "as above, in the third roll-out", func(t *testing.T, p *place) {
			load(t, p.m, p.token)
			p.new.Delete(ctx, p.rec.ID)
		}, gone},
		{"changed by the same kind", "another request got there first", func(t *testing.T, p *place) { change(t, p.m, p.token, `{"n":2}`) }, data(`{"n":2}`)},
		{"changed by the opposite kind", "it loads from the old store and saves there", func(t *testing.T, p *place) { change(t, p.opposite, p.token, `{"n":2}`) }, data(`{"n":2}`)},
		{"changed twice, by both", "", func(t *testing.T, p *place) {
			change(t, p.opposite, p.token, `{"n":2}`)
			change(t, p.m, p.token, `{"n":3}`)
		}, data(`{"n":3}`)},
		{"loaded by the opposite kind", "it must not move back half-way", func(t *testing.T, p *place) { load(t, p.opposite, p.token) }, data(`{"n":1}`)},
		{"replaced by a sign-in", "the claim and the move are for one version", func(t *testing.T, p *place) {
			for {
				marker := *load(t, p.opposite, p.token)
				marker.User, marker.Data, marker.Replaced, marker.Device = "", nil, true, session.ID("next")
				if _, err := p.opposite.Save(ctx, &marker); err == nil {
					return
				} else if !errors.Is(err, session.ErrConflict) {
					t.Fatal(err)
				}
			}
		}, func(t *testing.T, p *place, err error) {
			for _, s := range []session.Store{p.m, p.opposite} {
				if rec := load(t, s, p.token); !rec.Replaced || rec.Device != session.ID("next") {
					t.Errorf("not replaced any more: %+v", rec)
				}
			}
			if got := devices(t, p.m, "ann"); len(got) != 0 {
				t.Errorf("listed: %v", got)
			}
		}},
		{"touched by the opposite kind", "a touch is no change that a move conflicts with", func(t *testing.T, p *place) {
			to, _ := session.As[session.Toucher](p.opposite)
			if err := to.Touch(ctx, p.rec.ID, p.rec.Seen.Add(time.Second), p.rec.Expires.Add(time.Second)); err != nil {
				// Between two of its steps it is nowhere a whole session.
				if !errors.Is(err, session.ErrNotFound) {
					t.Errorf("touch: %v", err)
				}
			}
		}, data(`{"n":1}`)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, born := range []string{"old", "after a move back"} {
				for n := 1; n <= moveCalls; n++ {
					old, new := session.NewMemoryStore(nil), session.NewMemoryStore(nil)
					p := &place{old: old, new: new, m: migrate(t, new, old), opposite: migrate(t, old, new)}
					if born == "old" {
						p.rec, p.token = create(t, old)
					} else {
						p.rec, p.token = create(t, new)
						load(t, p.opposite, p.token)
						session.MovedLongAgo(t.Context(), new, p.token)
					}
					s := &step{left: n, f: func() { tt.do(t, p) }}
					moving := migrate(t, watched(new, s.fault), watched(old, s.fault))
					rec, err := moving.Load(ctx, p.token)
					if err == nil && rec.Replaced && !strings.Contains(tt.name, "replaced") {
						t.Errorf("step %d: the load: %+v", n, rec)
					}
					if s.left > 0 {
						tt.do(t, p) // the move has fewer steps
					}
					tt.check(t, p, loadFailure(err))
					if t.Failed() {
						t.Fatalf("%s, at step %d", born, n)
					}
				}
			}
		})
	}
	t.Run("the node dies", func(t *testing.T) {
		for n := 1; n <= moveCalls; n++ {
			for _, next := range []string{"the same", "the opposite"} {
				old, new := session.NewMemoryStore(nil), session.NewMemoryStore(nil)
				p := &place{old: old, new: new, m: migrate(t, new, old), opposite: migrate(t, old, new)}
				p.rec, p.token = create(t, old)
				f := dies(n)
				moving := migrate(t, watched(new, f), watched(old, f))
				if _, err := moving.Load(ctx, p.token); errors.Is(err, session.ErrNotFound) {
					t.Errorf("step %d: signed out", n)
				}
				if got := devices(t, p.m, "ann"); len(got) != 1 || got[0] != p.rec.ID+" Firefox" {
					t.Errorf("step %d: listed %v", n, got)
				}
				if next == "the same" {
					data(`{"n":1}`)(t, p, nil)
				} else {
					change(t, p.opposite, p.token, `{"n":2}`)
					data(`{"n":2}`)(t, p, nil)
				}
				if ended, err := session.DeleteUser(ctx, p.opposite, "ann", ""); ended < 1 || err != nil {
					t.Errorf("step %d: %d ended, %v", n, ended, err)
				}
				gone(t, p, nil)
				if t.Failed() {
					t.Fatalf("step %d, then %s", n, next)
				}
			}
		}
	})
}

// loadFailure is what a load must not answer while its session lives.
func loadFailure(err error) error {
	if errors.Is(err, session.ErrNotFound) {
		return fmt.Errorf("signed out: %w", err)
	}
	return err
}

// A move whose answer is lost at any step is finished by the next load.
func TestMigratingLostAnswers(t *testing.T) {
	for n := 1; n <= moveCalls; n++ {
		old, new := session.NewMemoryStore(nil), session.NewMemoryStore(nil)
		rec, token := create(t, old)
		var mu sync.Mutex
		calls := 0
		lose := func(_ context.Context, _ int, call func() error) error {
			mu.Lock()
			defer mu.Unlock()
			err := call()
			if calls++; calls == n {
				return errors.New("connection reset")
			}
			return err
		}
		moving := migrate(t, watched(new, lose), watched(old, lose))
		if _, err := moving.Load(t.Context(), token); errors.Is(err, session.ErrNotFound) {
			t.Errorf("call %d: signed out", n)
		}
		got := load(t, migrate(t, new, old), token)
		if string(got.Data) != string(rec.Data) || got.Device != rec.Device || load(t, new, token).Version != got.Version {
			t.Errorf("call %d: %+v", n, got)
		}
	}
}

func TestMigratingSessionThatDoesNotFit(t *testing.T) {
	old := session.NewMemoryStore(nil)
	small := storetest.NewFaulty(session.NewMemoryStore(nil))
	small.Set(storetest.Save, storetest.Fail(session.ErrTooLarge))
	_, token := create(t, old)
	m := migrate(t, small, old)
	rec := load(t, m, token)
	rec.Data = []byte(`{"n":2}`)
	if _, err := m.Save(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	rec = load(t, m, token)
	if string(rec.Data) != `{"n":2}` || load(t, old, token).Version != 2 {
		t.Errorf("%+v", rec)
	}
	if _, err := m.Save(t.Context(), &session.Record{ID: rec.ID, Version: rec.Version + 1}); !errors.Is(err, session.ErrConflict) {
		t.Errorf("a version that is not there: %v", err)
	}
}

// While it cannot be moved it is used where it is.
func TestMigratingSessionThatIsHeldBack(t *testing.T) {
	for _, tt := range []struct {
		name, why string
		old, new  storetest.Fault
	}{
		{"always changed", "others change it faster than it can be moved", storetest.Conflict(), nil},
		{"its place is taken", "by a record that cannot be decoded, which no load finds and no save replaces", nil, storetest.Conflict()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			old, new := storetest.NewFaulty(session.NewMemoryStore(nil)), storetest.NewFaulty(session.NewMemoryStore(nil))
			want, token := create(t, old)
			old.Set(storetest.Save, tt.old)
			new.Set(storetest.Save, tt.new)
			m := migrate(t, new, old)
			if rec := load(t, m, token); string(rec.Data) != string(want.Data) || rec.Replaced {
				t.Errorf("%s: %+v", tt.why, rec)
			}
			old.Heal()
			rec := load(t, m, token)
			rec.Data = []byte(`{"n":2}`)
			if _, err := m.Save(t.Context(), rec); err != nil {
				t.Error(err)
			}
		})
	}
}

// A move would take as long as the session has left.
func TestMigratingSessionThatIsAboutToExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, new := session.NewMemoryStore(nil), session.NewMemoryStore(nil)
		defer old.Close()
		defer new.Close()
		m := migrate(t, new, old)
		rec, token := create(t, old)
		time.Sleep(time.Until(rec.Expires) - time.Second)
		load(t, m, token)
		if n, err := session.MoveAll(t.Context(), m); n != 0 || err != nil {
			t.Errorf("moved %d, %v", n, err)
		}
		to, _ := session.As[session.Toucher](m)
		if err := to.Touch(t.Context(), rec.ID, time.Now(), time.Now().Add(30*time.Minute)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		load(t, m, token)
		if where := load(t, new, token); where.Replaced {
			t.Errorf("%+v", where)
		}
	})
}

// A session that is half-way is seen by Scan.
func TestMigratingScansHalfWay(t *testing.T) {
	for n := 1; n <= moveCalls; n++ {
		old, new := session.NewMemoryStore(nil), session.NewMemoryStore(nil)
		rec, token := create(t, old)
		f := dies(n)
		migrate(t, watched(new, f), watched(old, f)).Load(t.Context(), token)
		scanner, _ := session.As[session.Scanner](migrate(t, new, old))
		found := 0
		for got, err := range scanner.Scan(t.Context()) {
			if err != nil || got.ID != rec.ID || got.Device != rec.Device {
				t.Errorf("step %d: %+v, %v", n, got, err)
			}
			found++
		}
		if found != 1 {
			t.Errorf("step %d: seen %d times", n, found)
		}
	}
}

// It stays where it has just come to, so that two kinds of nodes do not play
// ball with it, and comes along when the deploy is over.
func TestMigratingStaysForAnHour(t *testing.T) {
	old, new := session.NewMemoryStore(nil), session.NewMemoryStore(nil)
	m, opposite := migrate(t, new, old), migrate(t, old, new)
	_, token := create(t, new)
	load(t, opposite, token)
	rec := load(t, m, token)
	if where := load(t, old, token); where.Replaced {
		t.Fatal("it moved back at once")
	}
	rec.Data = []byte(`{"n":2}`)
	if _, err := m.Save(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	stale := *rec // another request that had loaded it there
	session.MovedLongAgo(t.Context(), new, token)
	if got := load(t, m, token); string(got.Data) != `{"n":2}` {
		t.Errorf("%s", got.Data)
	}
	if where := load(t, new, token); where.Replaced {
		t.Error("it did not move after an hour")
	}
	if _, err := m.Save(t.Context(), &stale); !errors.Is(err, session.ErrConflict) {
		t.Errorf("a save where it was: %v", err)
	}
	if got := devices(t, new, "ann"); len(got) != 1 {
		t.Errorf("what had been a marker is listed as %v", got)
	}
}

func TestMigratingNeverLoadsWhatNobodyIssued(t *testing.T) {
	old, new := storetest.NewFaulty(session.NewMemoryStore(nil)), storetest.NewFaulty(session.NewMemoryStore(nil))
	m := migrate(t, new, old)
	for _, token := range []string{"", "x", strings.Repeat("A", 44), strings.Repeat("%", 43)} {
		if _, err := m.Load(t.Context(), token); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("%q: %v", token, err)
		}
	}
	if n := old.Calls() + new.Calls(); n != 0 {
		t.Errorf("%d calls of the stores", n)
	}
}

// A device that looks like the mark of a copy harms its own session only.
func TestMigratingForgedDevice(t *testing.T) {
	old, new := session.NewMemoryStore(nil), session.NewMemoryStore(nil)
	m := migrate(t, new, old)
	_, other := create(t, m)
	for _, device := range []string{"session.moving/1/x", "session.moving/", "session.moving/x/", "session.moved", "session.moving/99999999999999999999/"} {
		rec, token := draft()
		rec.Device = device
		if _, err := m.Save(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
		if rec, err := m.Load(t.Context(), token); err != nil && !errors.Is(err, session.ErrNotFound) {
			t.Errorf("%s: %+v, %v", device, rec, err)
		}
	}
	load(t, m, other)
}

func TestMoveAll(t *testing.T) {
	old, new := session.NewMemoryStore(nil), session.NewMemoryStore(nil)
	m := migrate(t, new, old)
	var tokens []string
	for range 20 {
		_, token := create(t, old)
		tokens = append(tokens, token)
	}
	_, stays := create(t, new)
	load(t, migrate(t, old, new), stays) // moved the other way a moment ago
	load(t, m, tokens[0])
	if n, err := session.MoveAll(t.Context(), m); n != 19 || err != nil {
		t.Errorf("moved %d, %v", n, err)
	}
	for _, token := range tokens {
		load(t, new, token)
	}
	left := 0
	for _, err := range old.Scan(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		left++
	}
	if left != 1 {
		t.Errorf("%d left in the old store, want the one that stays", left)
	}
	load(t, m, stays)
	if n, err := session.MoveAll(t.Context(), m); n != 0 || err != nil {
		t.Errorf("again: %d, %v", n, err)
	}
	if _, err := session.MoveAll(t.Context(), new); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("of a store that does not migrate: %v", err)
	}
}

// What MoveAll could not move because it was changed it moves the next time.
func TestMoveAllComesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, new := session.NewMemoryStore(nil), session.NewMemoryStore(nil)
		defer old.Close()
		defer new.Close()
		_, token := create(t, old)
		s := &step{left: 3, f: func() { // before the marker
			rec := load(t, old, token)
			rec.Data = []byte(`{"n":2}`)
			if _, err := old.Save(t.Context(), rec); err != nil {
				t.Error(err)
			}
		}}
		if n, err := session.MoveAll(t.Context(), migrate(t, watched(new, s.fault), watched(old, s.fault))); n != 0 || err != nil {
			t.Fatalf("moved %d, %v", n, err)
		}
		if got := devices(t, new, "ann"); len(got) != 0 {
			t.Errorf("what was copied in vain is listed: %v", got)
		}
		time.Sleep(time.Minute)
		if n, err := session.MoveAll(t.Context(), migrate(t, new, old)); n != 1 || err != nil {
			t.Errorf("moved %d, %v", n, err)
		}
		if rec := load(t, new, token); string(rec.Data) != `{"n":2}` {
			t.Errorf("%+v", rec)
		}
	})
}

// A long MoveAll moves what is there when its turn comes, not what was there
// when it began.
func TestMoveAllKeepsTouches(t *testing.T) {
	old, new := session.NewMemoryStore(nil), session.NewMemoryStore(nil)
	a, _ := create(t, old)
	b, _ := create(t, old)
	later := a.Expires.Add(10 * time.Minute)
	s := &step{left: 4, f: func() { // one is moved up to its last step
		for _, rec := range []*session.Record{a, b} {
			old.Touch(t.Context(), rec.ID, rec.Seen, later)
		}
	}}
	if n, err := session.MoveAll(t.Context(), migrate(t, watched(new, s.fault), watched(old, s.fault))); n != 2 || err != nil {
		t.Fatalf("moved %d, %v", n, err)
	}
	touched := 0
	for info := range new.List(t.Context(), "ann") {
		if info.Expires.Equal(later) {
			touched++
		}
	}
	if touched != 1 {
		t.Errorf("%d have the time of the touch, want the one that was moved after it", touched)
	}
}

// Under load, through all of a roll-out: nothing is lost, nobody is signed out,
// nobody comes back.
func TestMigratingUnderLoad(t *testing.T) {
	stores := map[string]func(t *testing.T) session.Store{
		"memory": func(t *testing.T) session.Store { return session.NewMemoryStore(nil) },
		"redis":  func(t *testing.T) session.Store { return openURL(t, "redis://"+miniredis.RunT(t).Addr()) },
	}
	rounds := 36
	if testing.Short() {
		rounds = 12
	}
	for _, pair := range [][2]string{{"memory", "memory"}, {"memory", "redis"}, {"redis", "memory"}, {"redis", "redis"}} {
		t.Run(pair[0]+" to "+pair[1], func(t *testing.T) {
			ledger.Migration(t, stores[pair[0]](t), stores[pair[1]](t), rounds)
		})
	}
}

func TestMigratingConfig(t *testing.T) {
	memory := session.NewMemoryStore(nil)
	cookies, err := session.NewCookieStore([][]byte{testKey(1)}, &session.CookieOptions{Irrevocable: true})
	if err != nil {
		t.Fatal(err)
	}
	for name, stores := range map[string][2]session.Store{
		"no to": {nil, memory}, "no from": {memory, nil}, "one store": {memory, memory}, "one store, once encrypted": {encrypt(t, memory, 1), memory},
		"a move within a move":          {migrate(t, memory, session.NewMemoryStore(nil)), session.NewMemoryStore(nil)},
		"a move within a move, as from": {session.NewMemoryStore(nil), encrypt(t, migrate(t, memory, session.NewMemoryStore(nil)), 1)},
		"a client-side one":             {memory, cookies}, "another": {cookies, memory},
	} {
		if _, err := session.Migrating(stores[0], stores[1]); !errors.Is(err, session.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	m := migrate(t, memory, session.NewMemoryStore(nil))
	if _, err := session.NewCookieStore([][]byte{testKey(1)}, &session.CookieOptions{Revoked: m}); !errors.Is(err, session.ErrConfig) {
		t.Errorf("as Revoked: %v", err)
	}
	for raw, want := range map[string]error{
		"migrating:?to=memory:&from=memory:%3Fmax=10": nil,
		"migrating:":                                        session.ErrConfig,
		"migrating:?to=memory:":                             session.ErrConfig,
		"migrating:?from=memory:":                           session.ErrConfig,
		"migrating:?to=memory:&from=nosuch:":                session.ErrConfig,
		"migrating:?to=nosuch:&from=memory:":                session.ErrConfig,
		"migrating:?to=memory:&from=memory:&x=y":            session.ErrConfig,
		"migrating://h?to=memory:&from=memory:":             session.ErrConfig,
		"migrating:?to=memory:&from=redis://:a&hunter2@h/0": session.ErrConfig,
	} {
		s, err := session.Open(t.Context(), raw)
		if !errors.Is(err, want) || err != nil && strings.Contains(err.Error(), "hunter2") {
			u, _ := url.Parse(raw)
			t.Errorf("%s: %v", u, err)
		}
		if err == nil {
			_, token := create(t, s)
			load(t, s, token)
			if err := session.Close(s); err != nil {
				t.Error(err)
			}
		}
	}
}
