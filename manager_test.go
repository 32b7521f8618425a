package session_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distsession/session"
)

// hooked is a store whose saves and deletes a test can look at, delay or
// replace.
type hooked struct {
	*session.MemoryStore
	save   func(rec *session.Record, save func() (string, error)) (string, error)
	delete func(id string, del func() error) error

	loads, saves, deletes, touches atomic.Int64
}

func (h *hooked) Load(ctx context.Context, token string) (*session.Record, error) {
	h.loads.Add(1)
	return h.MemoryStore.Load(ctx, token)
}

func (h *hooked) Save(ctx context.Context, rec *session.Record) (string, error) {
	h.saves.Add(1)
	save := func() (string, error) { return h.MemoryStore.Save(ctx, rec) }
	if h.save != nil {
		return h.save(rec, save)
	}
	return save()
}

func (h *hooked) Delete(ctx context.Context, id string) error {
	h.deletes.Add(1)
	del := func() error { return h.MemoryStore.Delete(ctx, id) }
	if h.delete != nil {
		return h.delete(id, del)
	}
	return del()
}

func (h *hooked) Touch(ctx context.Context, id string, seen, expires time.Time) error {
	h.touches.Add(1)
	return h.MemoryStore.Touch(ctx, id, seen, expires)
}

func newManager(t testing.TB, store session.Store, opts *session.Options) *session.Manager {
	t.Helper()
	if opts == nil {
		opts = &session.Options{}
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := session.New(store, opts)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// do runs one request of the client that holds cookie, and returns the answer
// and the cookie that the client holds after it.
func do(m *session.Manager, cookie string, h func(s *session.Session, w http.ResponseWriter, r *http.Request)) (*http.Response, string) {
	r := httptest.NewRequest("GET", "/", nil)
	if cookie != "" {
		r.Header.Set("Cookie", "__Host-session="+cookie)
	}
	rec := httptest.NewRecorder()
	m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := session.From(r.Context())
		if err != nil {
			return
		}
		h(s, w, r)
	})).ServeHTTP(rec, r)
	res := rec.Result()
	for _, c := range res.Cookies() {
		cookie = c.Value
	}
	return res, cookie
}

func sets(k session.Key[string], v string) func(*session.Session, http.ResponseWriter, *http.Request) {
	return func(s *session.Session, _ http.ResponseWriter, _ *http.Request) { k.Set(s, v) }
}

func value(t *testing.T, m *session.Manager, token string, k session.Key[string]) string {
	t.Helper()
	s, err := m.Session(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	v, _ := k.Get(s)
	return v
}

var (
	keyCart  = session.NewKey[string]("cart")
	keyTheme = session.NewKey[string]("theme")
	keyState = session.NewKey[string]("state")
)

func TestRequestsOfOneProcessQueueUp(t *testing.T) {
	store := &hooked{MemoryStore: session.NewMemoryStore(nil)}
	m := newManager(t, store, nil)
	_, cookie := do(m, "", sets(keyCart, "tea"))
	store.saves.Store(0)

	const n = 100
	var loaded, done sync.WaitGroup
	loaded.Add(n)
	for range n {
		done.Go(func() {
			res, _ := do(m, cookie, func(s *session.Session, _ http.ResponseWriter, _ *http.Request) {
				loaded.Done()
				loaded.Wait() // all have loaded the same version
				keyCount.Update(s, func(n int) int { return n + 1 })
			})
			if res.StatusCode != 200 {
				t.Errorf("status %d", res.StatusCode)
			}
		})
	}
	done.Wait()
	s, _ := m.Session(t.Context(), cookie)
	if got, _ := keyCount.Get(s); got != n {
		t.Errorf("count is %d, want %d", got, n)
	}
	// Not every lane is entered while another request is in it, but most are.
	if got := store.saves.Load(); got > 2*n {
		t.Errorf("%d saves for %d changes", got, n)
	}
}

func TestSignInTakesOverWhatAnotherNodeSaved(t *testing.T) {
	store := &hooked{MemoryStore: session.NewMemoryStore(nil)}
	here, there := newManager(t, store, nil), newManager(t, store.MemoryStore, nil)
	_, old := do(here, "", sets(keyCart, "tea"))

	store.save = func(rec *session.Record, save func() (string, error)) (string, error) {
		if rec.Replaced {
			store.save = nil
			do(there, old, sets(keyTheme, "dark")) // between the create and the claim
		}
		return save()
	}
	_, cookie := do(here, old, func(s *session.Session, _ http.ResponseWriter, _ *http.Request) { s.SetUser("alice") })
	if cart, theme := value(t, here, cookie, keyCart), value(t, here, cookie, keyTheme); cart != "tea" || theme != "dark" {
		t.Errorf("cart %q, theme %q after the sign-in, want tea and dark", cart, theme)
	}
	s, _ := there.Session(t.Context(), old)
	if !s.Replaced() || s.User() != "" {
		t.Errorf("the old token: replaced %v, user %q", s.Replaced(), s.User())
	}
}

func TestOneOfTwoSignInsWinsTheClaim(t *testing.T) {
	store := &hooked{MemoryStore: session.NewMemoryStore(nil)}
	here, there := newManager(t, store, nil), newManager(t, store.MemoryStore, nil)
	_, old := do(here, "", sets(keyCart, "tea"))
	var winner string
	store.save = func(rec *session.Record, save func() (string, error)) (string, error) {
		if rec.Replaced {
			store.save = nil
			_, winner = do(there, old, func(s *session.Session, _ http.ResponseWriter, _ *http.Request) { s.SetUser("bob") })
		}
		return save()
	}
	var loser *session.Session
	res, _ := do(here, old, func(s *session.Session, _ http.ResponseWriter, _ *http.Request) {
		loser = s
		s.SetUser("alice")
	})
	if res.StatusCode != 200 || len(res.Cookies()) != 0 || !errors.Is(loser.Err(), session.ErrNotFound) {
		t.Errorf("the loser: status %d, cookies %v, Err %v", res.StatusCode, res.Cookies(), loser.Err())
	}
	if s, _ := here.Session(t.Context(), winner); s.User() != "bob" {
		t.Errorf("the winner's token is %q's", s.User())
	}
	if got := store.Len(); got != 2 { // the winner and the marker
		t.Errorf("%d records are left, want 2", got)
	}
}

func TestClaimWhoseAnswerWasLostIsRecognised(t *testing.T) {
	store := &hooked{MemoryStore: session.NewMemoryStore(nil)}
	m := newManager(t, store, nil)
	_, old := do(m, "", sets(keyCart, "tea"))
	store.save = func(rec *session.Record, save func() (string, error)) (string, error) {
		token, err := save()
		if rec.Replaced {
			return "", errors.New("connection reset")
		}
		return token, err
	}
	res, cookie := do(m, old, func(s *session.Session, _ http.ResponseWriter, _ *http.Request) { s.SetUser("alice") })
	if res.StatusCode != 200 || cookie == old {
		t.Fatalf("status %d, cookie changed %v", res.StatusCode, cookie != old)
	}
	if s, _ := m.Session(t.Context(), cookie); s.User() != "alice" {
		t.Errorf("user is %q", s.User())
	}
}

func TestSignInThatFailsLeavesTheOldSession(t *testing.T) {
	for _, c := range []struct {
		name, why string
		replaced  bool // which save fails
	}{
		{"create", "nothing has happened yet", false},
		{"claim", "the new record is deleted again", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := &hooked{MemoryStore: session.NewMemoryStore(nil)}
			m := newManager(t, store, nil)
			_, old := do(m, "", sets(keyCart, "tea"))
			store.save = func(rec *session.Record, save func() (string, error)) (string, error) {
				if rec.Replaced == c.replaced {
					return "", errors.New("no answer")
				}
				return save()
			}
			res, cookie := do(m, old, func(s *session.Session, _ http.ResponseWriter, _ *http.Request) { s.SetUser("alice") })
			if res.StatusCode != 503 || cookie != old {
				t.Errorf("status %d, cookie kept %v", res.StatusCode, cookie == old)
			}
			if got := value(t, m, old, keyCart); got != "tea" {
				t.Errorf("cart is %q (%s)", got, c.why)
			}
			if got := store.Len(); got != 1 {
				t.Errorf("%d records, want 1 (%s)", got, c.why)
			}
		})
	}
}

func TestSignInOfASessionThatWasSignedOutMeanwhile(t *testing.T) {
	store := &hooked{MemoryStore: session.NewMemoryStore(nil)}
	m := newManager(t, store, nil)
	_, old := do(m, "", sets(keyCart, "tea"))
	var s *session.Session
	res, _ := do(m, old, func(x *session.Session, _ http.ResponseWriter, _ *http.Request) {
		s = x
		store.MemoryStore.Delete(t.Context(), session.ID(old))
		s.SetUser("alice")
	})
	if len(res.Cookies()) != 0 || store.Len() != 0 || !errors.Is(s.Err(), session.ErrNotFound) {
		t.Errorf("cookies %v, records %d, Err %v", res.Cookies(), store.Len(), s.Err())
	}
}

func TestRequestThatRanLongerThanTheMarkerSetsNoCookie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore(nil)
		defer store.Close()
		m := newManager(t, store, nil)
		_, old := do(m, "", sets(keyCart, "tea"))
		var slow *session.Session
		rec := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Cookie", "__Host-session="+old)
		m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			do(m, old, func(s *session.Session, _ http.ResponseWriter, _ *http.Request) { s.Renew() })
			time.Sleep(2 * time.Minute) // the marker is gone
			slow, _ = session.From(r.Context())
			keyCart.Set(slow, "coffee")
		})).ServeHTTP(rec, r)
		if c := rec.Result().Cookies(); len(c) != 0 || !errors.Is(slow.Err(), session.ErrNotFound) {
			t.Errorf("cookies %v, Err %v", c, slow.Err())
		}
		// One that begins now is a new visitor.
		if res, _ := do(m, old, sets(keyCart, "coffee")); len(res.Cookies()) != 1 {
			t.Errorf("a new request got cookies %v", res.Cookies())
		}
	})
}

func TestRequestWithTheOldTokenReadsNothingAndSetsNoCookie(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(nil), nil)
	_, old := do(m, "", sets(keyCart, "tea"))
	_, cookie := do(m, old, func(s *session.Session, _ http.ResponseWriter, _ *http.Request) { s.Renew() })
	for _, c := range []struct {
		name string
		act  func(*session.Session)
	}{
		{"set", func(s *session.Session) { keyCart.Set(s, "coffee") }},
		{"renew", func(s *session.Session) { keyCart.Set(s, "coffee"); s.Renew() }},
		{"persist", func(s *session.Session) { s.Persist(true) }},
		{"destroy", func(s *session.Session) { s.Destroy() }},
		{"destroy, then set", func(s *session.Session) { s.Destroy(); keyCart.Set(s, "coffee") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s *session.Session
			res, _ := do(m, old, func(x *session.Session, _ http.ResponseWriter, _ *http.Request) {
				s = x
				if _, ok := keyCart.Get(s); ok || !s.Replaced() {
					t.Errorf("read a value %v, replaced %v", ok, s.Replaced())
				}
				c.act(s)
			})
			if len(res.Cookies()) != 0 || !errors.Is(s.Err(), session.ErrNotFound) {
				t.Errorf("cookies %v, Err %v", res.Cookies(), s.Err())
			}
			if got := value(t, m, cookie, keyCart); got != "tea" {
				t.Errorf("the renewed session's cart is %q", got)
			}
		})
	}
	t.Run("its own sign-in", func(t *testing.T) {
		res, own := do(m, old, func(s *session.Session, _ http.ResponseWriter, _ *http.Request) { s.SetUser("alice") })
		if s, _ := m.Session(t.Context(), own); len(res.Cookies()) != 1 || s.User() != "alice" {
			t.Errorf("cookies %v, user %q", res.Cookies(), s.User())
		}
	})
}

func TestTakeGivesAValueToOneRequestAlone(t *testing.T) {
	store := session.NewMemoryStore(nil)
	managers := []*session.Manager{newManager(t, store, nil), newManager(t, store, nil)}
	_, cookie := do(managers[0], "", sets(keyState, "once"))
	const n = 20
	var loaded, done sync.WaitGroup
	loaded.Add(n)
	var taken atomic.Int64
	for i := range n {
		done.Go(func() {
			do(managers[i%2], cookie, func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
				loaded.Done()
				loaded.Wait()
				v, ok, err := keyState.Take(r.Context(), s)
				if err != nil {
					t.Error(err)
				}
				if ok && v == "once" {
					taken.Add(1)
				}
			})
		})
	}
	done.Wait()
	if taken.Load() != 1 {
		t.Errorf("%d requests took the value", taken.Load())
	}
}

func TestTakeThatFailsGivesNothing(t *testing.T) {
	store := &hooked{MemoryStore: session.NewMemoryStore(nil)}
	m := newManager(t, store, nil)
	_, cookie := do(m, "", sets(keyState, "once"))
	store.save = func(*session.Record, func() (string, error)) (string, error) { return "", errors.New("no answer") }
	res, _ := do(m, cookie, func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
		if v, ok, err := keyState.Take(r.Context(), s); v != "" || ok || err == nil {
			t.Errorf("Take gave %q, %v, %v", v, ok, err)
		}
	})
	if res.StatusCode != 503 {
		t.Errorf("status %d", res.StatusCode)
	}
}

func TestStoreThatStallsIsA503InTime(t *testing.T) {
	for _, c := range []struct {
		name string
		want time.Duration
		act  func(stall *atomic.Bool, s func() *session.Session)
	}{
		{"load", time.Second, func(stall *atomic.Bool, from func() *session.Session) { stall.Store(true); from() }},
		{"save", time.Second, func(stall *atomic.Bool, from func() *session.Session) {
			s := from()
			stall.Store(true)
			keyCart.Set(s, "coffee")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				inner := session.NewMemoryStore(nil)
				defer inner.Close()
				store := &stalling{Store: inner}
				m := newManager(t, store, nil)
				_, cookie := do(m, "", sets(keyCart, "tea"))
				rec := httptest.NewRecorder()
				r := httptest.NewRequest("GET", "/", nil)
				r.Header.Set("Cookie", "__Host-session="+cookie)
				start := time.Now()
				m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					c.act(&store.stall, func() *session.Session { s, _ := session.From(r.Context()); return s })
				})).ServeHTTP(rec, r)
				if took := time.Since(start); rec.Code != 503 || took != c.want || rec.Header().Get("Retry-After") == "" {
					t.Errorf("status %d after %v, Retry-After %q", rec.Code, took, rec.Header().Get("Retry-After"))
				}
				if len(rec.Result().Cookies()) != 0 {
					t.Errorf("cookies %v", rec.Result().Cookies())
				}
			})
		})
	}
}

// stalling answers nothing before the context ends.
type stalling struct {
	session.Store
	stall atomic.Bool
}

func (s *stalling) wait(ctx context.Context) error {
	if !s.stall.Load() {
		return nil
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

func (s *stalling) Load(ctx context.Context, token string) (*session.Record, error) {
	if err := s.wait(ctx); err != nil {
		return nil, err
	}
	return s.Store.Load(ctx, token)
}

func (s *stalling) Save(ctx context.Context, rec *session.Record) (string, error) {
	if err := s.wait(ctx); err != nil {
		return "", err
	}
	return s.Store.Save(ctx, rec)
}

func TestCommitThatAlwaysConflictsEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hooked{MemoryStore: session.NewMemoryStore(nil)}
		defer store.Close()
		m := newManager(t, store, nil)
		_, cookie := do(m, "", sets(keyCart, "tea"))
		store.save = func(*session.Record, func() (string, error)) (string, error) { return "", session.ErrConflict }
		start := time.Now()
		res, _ := do(m, cookie, sets(keyCart, "coffee"))
		if took := time.Since(start); res.StatusCode != 503 || took > 3*time.Second {
			t.Errorf("status %d after %v", res.StatusCode, took)
		}
		if m.Stats().Conflicts == 0 || m.Stats().Failures != 1 {
			t.Errorf("stats %+v", m.Stats())
		}
	})
}

func TestMaxSessionsEndsTheOldest(t *testing.T) {
	store := session.NewMemoryStore(nil)
	m := newManager(t, store, &session.Options{MaxSessions: 3})
	var done sync.WaitGroup
	for range 50 {
		done.Go(func() {
			do(m, "", func(s *session.Session, _ http.ResponseWriter, _ *http.Request) { s.SetUser("alice") })
		})
	}
	done.Wait()
	live := 0
	for range store.List(t.Context(), "alice") {
		live++
	}
	if live != 3 {
		t.Errorf("%d sessions live, want 3", live)
	}
}

func TestChangeAfterTheResponseBegan(t *testing.T) {
	store := session.NewMemoryStore(nil)
	m := newManager(t, store, nil)
	_, cookie := do(m, "", sets(keyCart, "tea"))
	for _, c := range []struct {
		name, cookie string
		act          func(*session.Session)
		err          error
	}{
		{"a value of a session", cookie, func(s *session.Session) { keyCart.Set(s, "coffee") }, nil},
		{"a value of a new session", "", func(s *session.Session) { keyCart.Set(s, "x") }, session.ErrCommitted},
		{"Persist", cookie, func(s *session.Session) { s.Persist(true) }, session.ErrCommitted},
		{"Renew", cookie, func(s *session.Session) { s.Renew() }, session.ErrCommitted},
		{"SetUser", cookie, func(s *session.Session) { s.SetUser("alice") }, session.ErrCommitted},
		{"Destroy", cookie, func(s *session.Session) { s.Destroy() }, session.ErrCommitted},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log strings.Builder
			m := newManager(t, store, &session.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
			before := store.Len()
			var s *session.Session
			res, _ := do(m, c.cookie, func(x *session.Session, w http.ResponseWriter, _ *http.Request) {
				s = x
				fmt.Fprint(w, "begun")
				c.act(s)
			})
			if len(res.Cookies()) != 0 || !errors.Is(s.Err(), c.err) {
				t.Errorf("cookies %v, Err %v, want %v", res.Cookies(), s.Err(), c.err)
			}
			if (c.err != nil) != strings.Contains(log.String(), "level=ERROR") {
				t.Errorf("log: %s", log.String())
			}
			if c.name != "Destroy" && store.Len() != before {
				t.Errorf("%d records, had %d: one that nobody holds", store.Len(), before)
			}
		})
	}
	if got := store.Len(); got != 0 {
		t.Errorf("%d records after Destroy", got)
	}
}

func TestClientThatHangsUpDoesNotLoseTheWrite(t *testing.T) {
	store := &stalling{Store: session.NewMemoryStore(nil)}
	m := newManager(t, store, nil)
	_, cookie := do(m, "", sets(keyCart, "tea"))
	ctx, hangUp := context.WithCancel(t.Context())
	r := httptest.NewRequestWithContext(ctx, "GET", "/", nil)
	r.Header.Set("Cookie", "__Host-session="+cookie)
	m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, _ := session.From(r.Context())
		keyCart.Set(s, "paid")
		hangUp()
	})).ServeHTTP(httptest.NewRecorder(), r)
	if got := value(t, m, cookie, keyCart); got != "paid" {
		t.Errorf("cart is %q", got)
	}
}

func TestTouchAtMostOnceInATenthOfTheIdleTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hooked{MemoryStore: session.NewMemoryStore(nil)}
		defer store.Close()
		m := newManager(t, store, nil) // idle 30 minutes
		_, cookie := do(m, "", sets(keyCart, "tea"))
		for range 60 { // a read each half minute for half an hour
			time.Sleep(30 * time.Second)
			do(m, cookie, func(s *session.Session, _ http.ResponseWriter, _ *http.Request) { keyCart.Get(s) })
		}
		if got := store.touches.Load(); got != 10 {
			t.Errorf("%d touches in one idle time, want 10", got)
		}
		if got := store.saves.Load(); got != 1 {
			t.Errorf("%d saves, want the first alone", got)
		}
		time.Sleep(29 * time.Minute)
		if got := value(t, m, cookie, keyCart); got != "tea" {
			t.Errorf("cart is %q before the idle time is over", got)
		}
		time.Sleep(30 * time.Minute)
		if got := value(t, m, cookie, keyCart); got != "" {
			t.Errorf("cart is %q after the idle time", got)
		}
	})
}

func TestWellFormed(t *testing.T) {
	token := session.NewToken()
	for i := range len(token) {
		for c := range 256 {
			mutant := token[:i] + string([]byte{byte(c)}) + token[i+1:]
			b, err := base64.RawURLEncoding.Strict().DecodeString(mutant)
			want := err == nil && len(b) == 32 && !strings.ContainsAny(mutant, "\r\n")
			if got := session.WellFormed(mutant); got != want {
				t.Errorf("%q: %v, want %v", mutant, got, want)
			}
		}
	}
	for _, bad := range []string{"", token[1:], token + "A", token + "="} {
		if session.WellFormed(bad) {
			t.Errorf("%q is well formed", bad)
		}
	}
}

func TestMaxSessionsWithClocksThatDiffer(t *testing.T) {
	store := session.NewMemoryStore(nil)
	ahead := newManager(t, store, &session.Options{MaxSessions: 1, Now: func() time.Time { return time.Now().Add(time.Minute) }})
	here := newManager(t, store, &session.Options{MaxSessions: 1})
	for i := range 4 {
		m := []*session.Manager{ahead, here}[i%2]
		_, cookie := do(m, "", func(s *session.Session, _ http.ResponseWriter, _ *http.Request) { s.SetUser("alice") })
		if s, err := here.Session(t.Context(), cookie); err != nil || s.User() != "alice" {
			t.Errorf("sign-in %d is %q, %v: the newest must be the one that lives", i, s.User(), err)
		}
	}
}
