package session_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distsession/session"
)

// What was reproduced with gorilla/sessions at bb4cd60 and the stores for it,
// where it is not what goes wrong in scs too.
func TestWhatGoesWrongInGorilla(t *testing.T) {
	runMistakes(t, []mistake{
		{"signing out revokes nothing, and the old cookie lives on", "CookieStore; mysqlstore.go:162", testSignOutEnds},
		{"Save after the body began reports success and leaves an orphan", "store.go:114", testSaveAfterBody},
		{"a dead ID is used again for the next sign-in", "store.go:198; sourcegraph-public-snapshot#18686", testDeadID},
		{"a cookie until the browser closes cannot be had", "options.go, store.go:220", testBrowserSession},
		{"2400 bytes of values do not fit, and the error names one size", "securecookie.go:279", testSizes},
		{"no HttpOnly, no Secure, no SameSite", "store.go:56, store.go:148", testDefaults},
		{"a second store of one name gets the first one's session", "sessions.go:136", testTwoManagers},
		{"the use of a session by several goroutines is a fatal error", "sessions.go:119, issue #287", testConcurrentUse},
		{"no session in the context is a panic", "sessions.go:139, issue #288", testNoManager},
		{"each save begins the lifetime anew", "securecookie.go:281", testAbsoluteLifetime},
		{"a database that fails makes everybody a new visitor", "mysqlstore.go:150", testFailureIsNoVisitor},
		{"the ID is a row's number", "mysqlstore.go:212", testTokensTellNothing},
		{"an update that hits no row is a success", "pgstore.go:278", testUpdateOfNothing},
		{"a session of 31 days is none at once", "gsm.go:175", testLongSession},
		{"each load costs two round trips", "redistore.go:488", testRoundTrips},
		{"numbers lose their type and precision", "redistore.go:52", testPrecision},
	})
}

func testSignOutEnds(t *testing.T) {
	for name, store := range map[string]session.Store{"memory": session.NewMemoryStore(nil), "client-side": newSealing(nil)} {
		t.Run(name, func(t *testing.T) {
			s := newSiteOver(t, store, &session.Options{})
			token := s.token(t, "/login?u=alice")
			copied := token
			if res, _ := s.get("/logout", with(token)); len(res.Cookies()) != 1 || res.Cookies()[0].MaxAge >= 0 {
				t.Errorf("cookies %v", res.Cookies())
			}
			s.gone(t, copied)
		})
	}
}

func testSaveAfterBody(t *testing.T) {
	s := newSite(t, nil)
	var err error
	s.run(t, "", func(w http.ResponseWriter, r *http.Request, x *session.Session) {
		io.WriteString(w, "body")
		keyValue.Set(x, "late")
		if err = x.Save(r.Context()); err == nil {
			err = x.Err()
		}
	})
	if !errors.Is(err, session.ErrCommitted) || s.memory.Len() != 0 {
		t.Errorf("%v, %d records", err, s.memory.Len())
	}
}

func testDeadID(t *testing.T) {
	s := newSite(t, nil)
	token := s.token(t, "/login?u=alice")
	s.get("/logout", with(token))
	for _, path := range []string{"/write?v=x", "/login?u=bob", "/remember?u=bob"} {
		res, a := s.get(path, with(token))
		if next := tokenOf(res); next == "" || next == token || a.ID == session.ID(token) {
			t.Errorf("%s: %+v with token %q after %q", path, a, next, token)
		}
		s.gone(t, token)
	}
}

func testBrowserSession(t *testing.T) {
	s := newSite(t, nil)
	res, _ := s.get("/login?u=alice")
	line := res.Header.Get("Set-Cookie")
	if strings.Contains(line, "Max-Age") || strings.Contains(line, "Expires") {
		t.Error(line)
	}
	s.is(t, tokenOf(res), "alice", "")
}

func testSizes(t *testing.T) {
	s := newSite(t, nil)
	token := s.token(t, "/login?u=alice")
	for size, want := range map[int]int{2400: 200, 60 << 10: 200, 64<<10 - 12: 200, 64 << 10: 500} {
		value := strings.Repeat("v", size)
		res := s.run(t, token, func(w http.ResponseWriter, _ *http.Request, x *session.Session) {
			keyValue.Set(x, value)
			io.WriteString(w, "page")
		})
		if res.StatusCode != want {
			t.Errorf("%d bytes: %s", size, res.Status)
		}
	}
	var err error
	s.run(t, token, func(_ http.ResponseWriter, r *http.Request, x *session.Session) {
		keyValue.Set(x, strings.Repeat("v", 70000))
		err = x.Save(r.Context())
	})
	if !errors.Is(err, session.ErrTooLarge) || !strings.Contains(err.Error(), "70012") || !strings.Contains(err.Error(), "65536") {
		t.Errorf("%v", err)
	}
	if _, a := s.get("/read", with(token)); len(a.Value) < 2400 {
		t.Errorf("the old values are lost: %d bytes", len(a.Value))
	}
	// And the token that the transport cannot carry.
	c := newSiteOver(t, newSealing(nil), &session.Options{})
	c.run(t, "", func(_ http.ResponseWriter, r *http.Request, x *session.Session) {
		keyValue.Set(x, strings.Repeat("v", 5000))
		err = x.Save(r.Context())
	})
	if !errors.Is(err, session.ErrTooLarge) || !strings.Contains(err.Error(), fmt.Sprint(session.CookieTransport{}.MaxToken())) {
		t.Errorf("%v", err)
	}
}

func testDefaults(t *testing.T) {
	s := newSite(t, nil)
	res, _ := s.get("/login?u=alice")
	c, err := parseSetCookie(res.Header.Get("Set-Cookie"), origin{host: "example.com", path: "/", secure: true})
	if err != nil {
		t.Fatal(err)
	}
	if c.name != "__Host-session" || !c.secure || !c.http || c.sameSite != "Lax" || !c.hostOnly || c.path != "/" || c.persistent {
		t.Errorf("%+v", c)
	}
}

func testTwoManagers(t *testing.T) {
	outer := newSite(t, nil)
	inner := newSite(t, &session.Options{Transport: session.CookieTransport{Name: "__Host-admin"}})
	both := outer.Handler(inner.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, err := outer.From(r.Context())
		b, errB := inner.From(r.Context())
		c, errC := session.From(r.Context())
		if err != nil || errB != nil || errC != nil || a == b || b != c {
			t.Errorf("%p, %p and the innermost %p; %v, %v, %v", a, b, c, err, errB, errC)
			return
		}
		keyValue.Set(a, "shop")
		b.SetUser("root")
	})))
	rec := httptest.NewRecorder()
	both.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	held := map[string]string{}
	for _, c := range rec.Result().Cookies() {
		held[c.Name] = c.Value
	}
	outer.is(t, held["__Host-session"], "", "shop")
	outer.gone(t, held["__Host-admin"])
	if _, a := inner.get("/read", "Cookie: __Host-admin="+held["__Host-admin"]); a.User != "root" || a.Value != "" {
		t.Errorf("%+v", a)
	}
}

func testConcurrentUse(t *testing.T) {
	s := newSite(t, nil)
	token := s.token(t, "/login?u=alice")
	before := s.token(t, "/login?u=bob")
	s.run(t, token, func(_ http.ResponseWriter, r *http.Request, x *session.Session) {
		ctx, header := r.Context(), fmt.Sprint(r.Header)
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				y, err := session.From(r.Context())
				if err != nil || y != x {
					t.Errorf("another session: %v", err)
				}
				keyCount.Update(x, func(n int) int { return n + 1 })
				keyValue.Get(x)
				keyTheme.Set(x, fmt.Sprint(i))
				keyCart.Pop(x)
				x.ID()
				x.User()
				x.Expires()
				if i%5 == 0 {
					x.Save(r.Context())
				}
			})
		}
		all.Wait()
		if r.Context() != ctx || fmt.Sprint(r.Header) != header {
			t.Error("the request was changed")
		}
	})
	s.run(t, token, func(_ http.ResponseWriter, _ *http.Request, x *session.Session) {
		if n, _ := keyCount.Get(x); n != 20 {
			t.Errorf("count is %d", n)
		}
	})
	s.is(t, before, "bob", "")
}

func testNoManager(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	if x, err := session.From(r.Context()); !errors.Is(err, session.ErrNoSession) || x != nil {
		t.Errorf("%v, %v", x, err)
	}
	s := newSite(t, nil)
	if x, err := s.From(context.Background()); !errors.Is(err, session.ErrNoSession) || x != nil {
		t.Errorf("%v, %v", x, err)
	}
	if _, err := session.New(nil, nil); !errors.Is(err, session.ErrConfig) {
		t.Errorf("New(nil): %v", err)
	}
}

func testAbsoluteLifetime(t *testing.T) {
	for name, build := range map[string]func() session.Store{
		"memory": func() session.Store { return session.NewMemoryStore(nil) }, "client-side": func() session.Store { return newSealing(nil) },
	} {
		synctest.Test(t, func(t *testing.T) {
			store := build()
			defer session.Close(store)
			s := newSiteOver(t, store, &session.Options{})
			u := newUserAgent(t, s)
			u.get("/login?u=alice")
			for i := range 12*6 - 1 {
				time.Sleep(10 * time.Minute)
				path := "/write?v=" + fmt.Sprint(i)
				if i%7 == 0 {
					path = "/renew" // which keeps Created
				}
				if _, a := u.get(path); a.User != "alice" {
					t.Fatalf("%s: ended after %v", name, time.Duration(i+1)*10*time.Minute)
				}
			}
			time.Sleep(10 * time.Minute)
			if _, a := u.get("/read"); a.User != "" || !a.New {
				t.Errorf("%s: after 12 hours: %+v", name, a)
			}
		})
	}
}

func testFailureIsNoVisitor(t *testing.T) {
	s := newSite(t, nil)
	token := s.token(t, "/login?u=alice")
	s.store.set(away)
	for _, path := range []string{"/read", "/write?v=x", "/login?u=bob", "/logout", "/renew"} {
		res, a := s.get(path, with(token))
		if res.StatusCode != 503 || len(res.Cookies()) != 0 || a.ID != "" {
			t.Errorf("%s: %s, cookies %v, %+v", path, res.Status, res.Cookies(), a)
		}
	}
	s.store.set(nil)
	s.is(t, token, "alice", "")
}

func testTokensTellNothing(t *testing.T) {
	s := newSite(t, nil)
	a, b := s.token(t, "/login?u=alice"), s.token(t, "/login?u=alice")
	same := 0
	for i := range a {
		if a[i] == b[i] {
			same++
		}
	}
	if len(a) != 43 || same > 10 { // 1 of 64 each by chance
		t.Errorf("%s and %s have %d characters in common", a, b, same)
	}
}

func testUpdateOfNothing(t *testing.T) {
	s := newSite(t, nil)
	token := s.token(t, "/login?u=alice")
	rec, err := s.memory.Load(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.memory.Delete(t.Context(), rec.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.memory.Save(t.Context(), rec); !errors.Is(err, session.ErrNotFound) {
		t.Errorf("Save of a deleted record: %v", err)
	}
}

func testLongSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &session.Options{PersistLifetime: 90 * 24 * time.Hour})
		defer s.memory.Close()
		u := newUserAgent(t, s)
		u.get("/remember?u=alice")
		time.Sleep(89 * 24 * time.Hour)
		if _, a := u.get("/read"); a.User != "alice" {
			t.Errorf("after 89 days: %+v", a)
		}
		time.Sleep(24 * time.Hour)
		if _, a := u.get("/read"); a.User != "" {
			t.Errorf("after 90 days: %+v", a)
		}
	})
}

func testRoundTrips(t *testing.T) {
	s := newSite(t, nil)
	token := s.token(t, "/login?u=alice")
	for _, c := range []struct {
		path, token string
		loads, all  int
	}{
		{"/untouched", token, 0, 0}, {"/untouched", "", 0, 0}, {"/read", "", 0, 0},
		{"/read", token, 1, 1}, {"/write?v=x", token, 1, 2}, {"/write?v=x", "", 0, 1},
	} {
		s.store.reset()
		var lines []string
		if c.token != "" {
			lines = append(lines, with(c.token))
		}
		s.get(c.path, lines...)
		if l, n := s.store.count("load"), s.store.count("load", "save", "delete", "touch"); l != c.loads || n != c.all {
			t.Errorf("%s with %q: %d loads of %d calls, want %d of %d", c.path, c.token, l, n, c.loads, c.all)
		}
	}
}

func testPrecision(t *testing.T) {
	type order struct {
		ID    uint64
		Price float64
		When  time.Time
		Tags  []string
		Note  *string
	}
	key, big := session.NewKey[order]("order"), session.NewKey[int64]("big")
	want := order{ID: 1<<64 - 1, Price: 0.1, When: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Tags: []string{"a", ""}}
	s := newSite(t, nil)
	token := s.token(t, "/login?u=alice")
	s.run(t, token, func(_ http.ResponseWriter, _ *http.Request, x *session.Session) {
		key.Set(x, want)
		big.Set(x, 1<<53+1)
	})
	s.run(t, token, func(_ http.ResponseWriter, _ *http.Request, x *session.Session) {
		got, ok := key.Get(x)
		if n, _ := big.Get(x); !ok || fmt.Sprint(got) != fmt.Sprint(want) || n != 1<<53+1 {
			t.Errorf("%+v, %d", got, n)
		}
	})
}
