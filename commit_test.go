package session_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distsession/session"
)

// meanwhile runs what another node does, between this request's load and its
// next save.
func meanwhile(store *hooked, other func()) {
	store.save = func(_ *session.Record, save func() (string, error)) (string, error) {
		store.save = nil
		other()
		return save()
	}
}

func TestPersistOfAnotherRequestSurvives(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(s *session.Session)
	}{
		{"a value", func(s *session.Session) { keyCart.Set(s, "coffee") }},
		{"a renewal", func(s *session.Session) { s.Renew() }},
		{"a sign-in", func(s *session.Session) { s.SetUser("alice") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := &hooked{MemoryStore: session.NewMemoryStore(nil)}
			opts := session.Options{PersistLifetime: 30 * 24 * time.Hour}
			here, there := newManager(t, store, &opts), newManager(t, store.MemoryStore, &opts)
			_, cookie := do(here, "", sets(keyCart, "tea"))
			meanwhile(store, func() {
				do(there, cookie, func(s *session.Session, _ http.ResponseWriter, _ *http.Request) { s.Persist(true) })
			})
			_, cookie = do(here, cookie, func(s *session.Session, _ http.ResponseWriter, _ *http.Request) { c.change(s) })
			s, err := here.Session(t.Context(), cookie)
			if err != nil {
				t.Fatal(err)
			}
			if !s.Persistent() || s.Deadline().Sub(s.Created()) != opts.PersistLifetime {
				t.Errorf("persistent %t, lives %v", s.Persistent(), s.Deadline().Sub(s.Created()))
			}
		})
	}
}

func TestSignInAfterADropStartsWithoutPersist(t *testing.T) {
	store := &hooked{MemoryStore: session.NewMemoryStore(nil)}
	m := newManager(t, store, nil)
	_, cookie := do(m, "", func(s *session.Session, _ http.ResponseWriter, _ *http.Request) {
		s.SetUser("alice")
		s.Persist(true)
	})
	res, _ := do(m, cookie, func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
		store.Delete(r.Context(), s.ID())
		keyCart.Set(s, "tea")
		if err := s.Save(r.Context()); !errors.Is(err, session.ErrNotFound) {
			t.Errorf("Save: %v", err)
		}
		s.SetUser("bob")
	})
	for _, c := range res.Cookies() {
		if c.MaxAge != 0 {
			t.Errorf("bob's cookie outlives the browser, as alice had asked: %v", c)
		}
	}
}

func TestSetAfterUpdateHasTheLastWord(t *testing.T) {
	store := &hooked{MemoryStore: session.NewMemoryStore(nil)}
	here, there := newManager(t, store, nil), newManager(t, store.MemoryStore, nil)
	add := func(s *session.Session) { keyCount.Update(s, func(n int) int { return n + 1 }) }
	_, cookie := do(here, "", func(s *session.Session, _ http.ResponseWriter, _ *http.Request) { keyCount.Set(s, 4) })
	meanwhile(store, func() {
		do(there, cookie, func(s *session.Session, _ http.ResponseWriter, _ *http.Request) { add(s) })
	})
	do(here, cookie, func(s *session.Session, _ http.ResponseWriter, _ *http.Request) {
		add(s)
		keyCount.Set(s, 5)
	})
	s, _ := here.Session(t.Context(), cookie)
	if got, _ := keyCount.Get(s); got != 5 {
		t.Errorf("count is %d, but the last to write it Set 5", got)
	}
}

func TestDestroyOfASignInNeverClearsANewerCookie(t *testing.T) {
	for _, then := range []string{"nothing", "a value"} {
		t.Run(then, func(t *testing.T) {
			m := newManager(t, session.NewMemoryStore(nil), nil)
			_, old := do(m, "", sets(keyCart, "tea"))
			do(m, old, func(s *session.Session, _ http.ResponseWriter, _ *http.Request) { s.SetUser("alice") })
			res, _ := do(m, old, func(s *session.Session, _ http.ResponseWriter, _ *http.Request) {
				if !s.Replaced() {
					t.Error("not replaced")
				}
				s.SetUser("alice")
				s.Destroy() // such as a sign-in whose second factor failed
				if then == "a value" {
					keyCart.Set(s, "coffee")
				}
			})
			if got := res.Header["Set-Cookie"]; len(got) != 0 {
				t.Errorf("Set-Cookie %q", got)
			}
		})
	}
}

func TestDeviceMayLookAtTheSession(t *testing.T) {
	store := session.NewMemoryStore(nil)
	m := newManager(t, store, &session.Options{Device: func(r *http.Request) string {
		s, err := session.From(r.Context())
		if err != nil {
			return ""
		}
		v, _ := keyTheme.Get(s)
		return v
	}})
	do(m, "", func(s *session.Session, _ http.ResponseWriter, _ *http.Request) {
		keyTheme.Set(s, "tablet")
		s.SetUser("alice")
	})
	for info, err := range session.List(t.Context(), store, "alice") {
		if err != nil || info.Device != "tablet" {
			t.Errorf("device %q, error %v", info.Device, err)
		}
	}
}

func TestStoreThatBreaksItsContractIsA503(t *testing.T) {
	for _, contract := range []error{session.ErrNotFound, session.ErrConflict} {
		t.Run(contract.Error(), func(t *testing.T) {
			store := &hooked{MemoryStore: session.NewMemoryStore(nil)}
			m := newManager(t, store, nil)
			store.save = func(*session.Record, func() (string, error)) (string, error) { return "", contract }
			res, _ := do(m, "", func(s *session.Session, _ http.ResponseWriter, _ *http.Request) { s.SetUser("alice") })
			if res.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("a sign-in that was not saved: %s", res.Status)
			}
		})
	}
}

func TestIsNewStaysThroughASaveAndASignIn(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(nil), nil)
	do(m, "", func(s *session.Session, _ http.ResponseWriter, r *http.Request) {
		keyCart.Set(s, "tea")
		for _, step := range []func(){func() {}, func() { s.Renew() }, func() { s.SetUser("alice") }} {
			step()
			if err := s.Save(r.Context()); err != nil || !s.IsNew() {
				t.Errorf("error %v, IsNew %t; the request began without a session", err, s.IsNew())
			}
		}
	})
}

func TestZeroKeyNamesNothing(t *testing.T) {
	m := newManager(t, session.NewMemoryStore(nil), nil)
	var none session.Key[string]
	res, _ := do(m, "", func(s *session.Session, _ http.ResponseWriter, _ *http.Request) {
		none.Set(s, "tea")
		if v, ok := none.Get(s); ok || s.Err() == nil {
			t.Errorf("the zero Key holds %q; Err is %v", v, s.Err())
		}
	})
	if res.StatusCode != http.StatusInternalServerError {
		t.Errorf("%s", res.Status)
	}
}

// headerHook is a ResponseWriter that tells when its header is looked at.
type headerHook struct {
	*httptest.ResponseRecorder
	hook func()
}

func (w *headerHook) Header() http.Header {
	if hook := w.hook; hook != nil {
		w.hook = nil
		hook()
	}
	return w.ResponseRecorder.Header()
}

func TestSaveWhileTheHeaderIsWrittenIsTooLate(t *testing.T) {
	store := session.NewMemoryStore(nil)
	m := newManager(t, store, nil)
	w := &headerHook{ResponseRecorder: httptest.NewRecorder()}
	m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		s, _ := session.From(r.Context())
		w.hook = func() { // another goroutine of the handler, after the commit and before the header
			s.SetUser("alice")
			s.Save(r.Context())
		}
		t.Cleanup(func() {
			if !errors.Is(s.Err(), session.ErrCommitted) {
				t.Errorf("Err is %v", s.Err())
			}
		})
	})).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if n := store.Len(); n != len(w.Result().Cookies()) {
		t.Errorf("%d sessions in the store, and the client was told of %d", n, len(w.Result().Cookies()))
	}
}

func TestPanicOfTheStoreHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hooked{MemoryStore: session.NewMemoryStore(nil)}
		defer store.Close()
		m := newManager(t, store, nil)
		_, cookie := do(m, "", sets(keyCart, "tea"))
		store.delete = func(string, func() error) error { panic("a bug in the store") }
		func() {
			defer func() { recover() }()
			do(m, cookie, func(s *session.Session, _ http.ResponseWriter, _ *http.Request) { s.Destroy() })
		}()
		start := time.Now()
		res, _ := do(m, cookie, sets(keyCart, "coffee"))
		if waited := time.Since(start); res.StatusCode != 200 || waited > 0 {
			t.Errorf("the next request: %s after %v", res.Status, waited)
		}
	})
}

// panics is a store whose Load has a bug.
type panics struct{ *session.MemoryStore }

func (panics) Load(context.Context, string) (*session.Record, error) { panic("a bug in the store") }

func TestFromNeverReturnsNeitherSessionNorError(t *testing.T) {
	m := newManager(t, panics{session.NewMemoryStore(nil)}, nil)
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Cookie", "__Host-session="+session.NewToken())
	from := func(ctx context.Context) (s *session.Session, panicked any, err error) {
		defer func() { panicked = recover() }()
		s, err = session.From(ctx)
		return
	}
	m.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		from(r.Context())
		if s, panicked, err := from(r.Context()); s == nil && err == nil && panicked == nil {
			t.Error("From returned nil and nil")
		}
	})).ServeHTTP(httptest.NewRecorder(), r)
}

func TestTouchNeverKeepsAMarkerAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore(nil)
		defer store.Close()
		m := newManager(t, store, nil)
		_, old := do(m, "", sets(keyCart, "tea"))
		time.Sleep(5 * time.Minute)
		do(m, old, func(*session.Session, http.ResponseWriter, *http.Request) { // loads, reads and, later, touches
			do(m, old, func(s *session.Session, _ http.ResponseWriter, _ *http.Request) { s.SetUser("alice") })
		})
		time.Sleep(time.Minute)
		if s, err := m.Session(t.Context(), old); err != nil || s.Replaced() {
			t.Errorf("error %v, replaced %t, a minute after", err, s.Replaced())
		}
	})
}
