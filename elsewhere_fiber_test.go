package session_test

import (
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

// What was reproduced with gofiber/fiber v3 at c344047, where it is not what
// goes wrong in scs too.
func TestWhatGoesWrongInFiber(t *testing.T) {
	runMistakes(t, []mistake{
		{"a request that never uses the session writes its stale values back", "middleware.go:110", testUntouchedWritesNothing},
		{"a slow request that never uses the session signs the user in again", "session.go:207", testUntouchedAfterSignOut},
		{"a value set in a stream is lost, or panics", "middleware.go:104", testSetInStream},
		{"a session that is kept becomes another user's", "session.go:92", testKeptSession},
		{"each visitor without a cookie costs a record", "store.go:154", testVisitorsCostNothing},
		{"a value set after Destroy is lost", "middleware.go:106", testSetAfterDestroy},
		{"the cookie is set before the write that fails", "session.go:392", testCookieAfterWrite},
		{"a renewal deletes before it creates", "session.go:262", testRenewOrder},
		{"a lifetime that is configured later does not end older sessions", "store.go:185", testLifetimeConfiguredLater},
	})
}

// And in the smaller libraries.
func TestWhatGoesWrongInOthers(t *testing.T) {
	runMistakes(t, []mistake{
		{"ending all sessions races a sign-in and ends none", "sessionup-redisstore store.go:287", testDeleteUserRacesSignIn},
		{"two sign-ins at once lose one", "abraithwaite/jeff storage.go", testTwoSignIns},
		{"a token that shrinks to one chunk fails its signature", "oauth2-proxy cookie/session_store.go:118", testShrinkingToken},
		{"a write that fails panics after the handler ran", "moonrhythm middleware.go:93", testFailingWriteIsNoPanic},
		{"signing out clears no cookie", "moonrhythm manager.go:149", testSignOutClears},
		{"a store that fails shows the handler an empty session", "gin-contrib sessions.go:147", testFailureIsShown},
		{"an expired token is refreshed without end", "go-pkgz/auth jwt.go:226", testExpiredIsNotRefreshed},
		{"the response is held back until the handler returns", "golangcollege session.go:154", testNothingIsHeldBack},
		{"a touch sets the last use back", "session-file-store#55", testTouchNeverBack},
		{"a renewal ends the requests that are under way", "tower-sessions#35", testRequestsUnderWay},
	})
}

func testUntouchedWritesNothing(t *testing.T) {
	s := newSite(t, nil)
	token := s.token(t, "/login?u=alice")
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Cookie", "__Host-session="+token)
	rec := httptest.NewRecorder()
	s.store.reset()
	s.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		s.get("/write?v=new", with(token))
	})).ServeHTTP(rec, r)
	if n := s.store.count("load", "save", "delete", "touch"); n != 2 || len(rec.Header()) != 0 {
		t.Errorf("%d calls, two are the writer's; header %v", n, rec.Header())
	}
	s.is(t, token, "alice", "new!")
}

func testUntouchedAfterSignOut(t *testing.T) {
	s := newSite(t, nil)
	token := s.token(t, "/login?u=alice")
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Cookie", "__Host-session="+token)
	s.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		s.get("/logout", with(token))
	})).ServeHTTP(httptest.NewRecorder(), r)
	if s.memory.Len() != 0 {
		t.Error("a record is back")
	}
	s.gone(t, token)
}

func testSetInStream(t *testing.T) {
	s := newSite(t, nil)
	token := s.token(t, "/login?u=alice")
	s.run(t, token, func(w http.ResponseWriter, _ *http.Request, x *session.Session) {
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
			keyValue.Set(x, fmt.Sprint(i))
		}
	})
	s.is(t, token, "alice", "2")
}

func testKeptSession(t *testing.T) {
	s := newSite(t, nil)
	var kept *session.Session
	s.run(t, s.token(t, "/login?u=mallory"), func(_ http.ResponseWriter, _ *http.Request, x *session.Session) { kept = x })
	for range 100 {
		s.get("/read", with(s.token(t, "/login?u=alice")))
		if u := kept.User(); u != "mallory" {
			t.Fatalf("the session that was kept is %q's", u)
		}
	}
}

func testVisitorsCostNothing(t *testing.T) {
	s := newSite(t, nil)
	for _, path := range []string{"/untouched", "/read", "/logout", "/renew"} {
		for range 25 {
			if res, _ := s.get(path); len(res.Header["Set-Cookie"]) != 0 {
				t.Fatalf("%s sets %v", path, res.Header["Set-Cookie"])
			}
		}
	}
	if n := s.store.count("load", "save", "delete", "touch"); n != 0 || s.memory.Len() != 0 {
		t.Errorf("%d calls, %d records", n, s.memory.Len())
	}
}

func testSetAfterDestroy(t *testing.T) {
	s := newSite(t, nil)
	token := s.token(t, "/login?u=alice")
	s.get("/write?v=secret", with(token))
	res := s.run(t, token, func(_ http.ResponseWriter, _ *http.Request, x *session.Session) {
		x.Destroy()
		if v, ok := keyValue.Get(x); ok || x.User() != "" || !x.IsNew() || x.ID() == session.ID(token) {
			t.Errorf("after Destroy: %q, user %q, ID %s", v, x.User(), x.ID())
		}
		keyTheme.Set(x, "see you")
	})
	next := tokenOf(res)
	s.gone(t, token)
	s.run(t, next, func(_ http.ResponseWriter, _ *http.Request, x *session.Session) {
		if v, _ := keyTheme.Get(x); v != "see you" || x.User() != "" {
			t.Errorf("message %q, user %q", v, x.User())
		}
	})
}

func testCookieAfterWrite(t *testing.T) {
	s := newSite(t, nil)
	for _, path := range []string{"/write?v=x", "/login?u=alice"} {
		s.fails(1, "save")
		if res, _ := s.get(path); res.StatusCode != 503 || len(res.Header["Set-Cookie"]) != 0 || s.memory.Len() != 0 {
			t.Errorf("%s: %s, cookies %v, %d records", path, res.Status, res.Header["Set-Cookie"], s.memory.Len())
		}
	}
}

func testRenewOrder(t *testing.T) {
	s := newSite(t, nil)
	token := s.token(t, "/write?v=cart")
	old := session.ID(token)
	var order []string
	s.store.set(func(op, id string, call func() error) error {
		if op == "save" || op == "delete" {
			which := "new"
			if id == old {
				which = "old"
			}
			order = append(order, op+" "+which)
		}
		return call()
	})
	s.get("/renew", with(token))
	if got := strings.Join(order, ", "); got != "save new, save old" {
		t.Errorf("the order is %s", got)
	}
}

func testLifetimeConfiguredLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := session.NewMemoryStore(nil)
		defer store.Close()
		before := newSiteOver(t, store, &session.Options{Lifetime: 30 * 24 * time.Hour, IdleTimeout: -1})
		token := before.token(t, "/login?u=alice")
		time.Sleep(2 * time.Hour)
		before.is(t, token, "alice", "")
		after := newSiteOver(t, store, &session.Options{Lifetime: time.Hour, IdleTimeout: -1})
		if _, a := after.get("/read", with(token)); a.User != "" {
			t.Errorf("a Lifetime of an hour, and after two: %+v", a)
		}
		idle := newSiteOver(t, store, &session.Options{Lifetime: 30 * 24 * time.Hour, IdleTimeout: time.Hour})
		if _, a := idle.get("/read", with(token)); a.User != "" {
			t.Errorf("an IdleTimeout of an hour, and after two: %+v", a)
		}
	})
}

func testDeleteUserRacesSignIn(t *testing.T) {
	s := newSite(t, nil)
	before := s.token(t, "/login?u=alice")
	n, err := session.DeleteUser(t.Context(), s.store.wrapped(), "alice", "")
	if n != 1 || err != nil {
		t.Errorf("ended %d, %v", n, err)
	}
	after := s.token(t, "/login?u=alice")
	s.gone(t, before)
	s.is(t, after, "alice", "")
	// At once: whichever was first, every session is either ended or listed.
	var all sync.WaitGroup
	tokens := make([]string, 50)
	for i := range tokens {
		all.Go(func() { tokens[i] = s.token(t, "/login?u=bob") })
		if i%10 == 0 {
			all.Go(func() { session.DeleteUser(t.Context(), s.store.wrapped(), "bob", "") })
		}
	}
	all.Wait()
	listed := map[string]bool{}
	for info := range session.List(t.Context(), s.store.wrapped(), "bob") {
		listed[info.ID] = true
	}
	for _, token := range tokens {
		if _, a := s.get("/read", with(token)); (a.User == "bob") != listed[session.ID(token)] {
			t.Errorf("live %v, listed %v", a.User == "bob", listed[session.ID(token)])
		}
	}
}

func testTwoSignIns(t *testing.T) {
	s := newSite(t, nil)
	var all sync.WaitGroup
	tokens := make([]string, 50)
	for i := range tokens {
		all.Go(func() { tokens[i] = s.token(t, "/login?u=alice") })
	}
	all.Wait()
	n := 0
	for range session.List(t.Context(), s.store.wrapped(), "alice") {
		n++
	}
	for _, token := range tokens {
		s.is(t, token, "alice", "")
	}
	if n != len(tokens) {
		t.Errorf("%d of %d are listed", n, len(tokens))
	}
}

func testShrinkingToken(t *testing.T) {
	s := newSiteOver(t, newSealing(nil), &session.Options{Transport: session.CookieTransport{MaxChunks: 2}})
	u := newUserAgent(t, s)
	u.get("/login?u=alice")
	for i, size := range []int{3600, 10, 3600, 3599, 1, 1000, 3600, 0} {
		value := strings.Repeat("v", size)
		u.get("/write?v=" + value)
		if _, a := u.get("/read"); a.Value != value+"!" || a.User != "alice" {
			t.Fatalf("step %d: %d bytes, read %d", i, size, len(a.Value))
		}
		if want := map[bool]int{true: 2, false: 1}[size > 1500]; len(u.jar) != want {
			t.Errorf("step %d: %d bytes in %d cookies", i, size, len(u.jar))
		}
	}
	u.get("/write?v=" + strings.Repeat("v", 3600))
	u.get("/logout")
	if len(u.jar) != 0 {
		t.Errorf("after signing out the browser holds %v", u.jar)
	}
}

func testFailingWriteIsNoPanic(t *testing.T) {
	s := newSite(t, nil)
	token := s.token(t, "/login?u=alice")
	for _, op := range []string{"load", "save", "delete", "touch"} {
		s.fails(1, op)
		for _, path := range []string{"/write?v=x", "/logout"} {
			if res, _ := s.get(path, with(token)); res.StatusCode != 200 && res.StatusCode != 503 {
				t.Errorf("%s fails: %s", op, res.Status)
			}
		}
	}
}

func testSignOutClears(t *testing.T) {
	u := newUserAgent(t, newSite(t, nil))
	u.get("/login?u=alice")
	u.get("/logout")
	if len(u.jar) != 0 {
		t.Errorf("the browser holds %v", u.jar)
	}
}

func testFailureIsShown(t *testing.T) {
	s := newSite(t, nil)
	token := s.token(t, "/login?u=alice")
	s.store.set(away)
	called := false
	res := s.run(t, token, func(http.ResponseWriter, *http.Request, *session.Session) { called = true })
	if called || res.StatusCode != 503 {
		t.Errorf("a session was shown: %v; %s", called, res.Status)
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Cookie", "__Host-session="+token)
	rec := httptest.NewRecorder()
	s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 2 { // the failure stays, and the store is asked once
			if x, err := session.From(r.Context()); err == nil || x != nil {
				t.Errorf("%v, %v", x, err)
			}
		}
		http.Error(w, "we will be back", http.StatusServiceUnavailable)
	})).ServeHTTP(rec, r)
	if rec.Body.String() != "we will be back\n" {
		t.Errorf("the handler's own answer became %q", rec.Body)
	}
}

func testExpiredIsNotRefreshed(t *testing.T) {
	for name, build := range map[string]func() session.Store{
		"memory": func() session.Store { return session.NewMemoryStore(nil) }, "client-side": func() session.Store { return newSealing(nil) },
	} {
		synctest.Test(t, func(t *testing.T) {
			store := build()
			defer session.Close(store)
			s := newSiteOver(t, store, &session.Options{})
			token := s.token(t, "/login?u=alice")
			time.Sleep(5 * 365 * 24 * time.Hour)
			for _, path := range []string{"/read", "/renew", "/write?v=x"} {
				res, a := s.get(path, with(token))
				if a.User != "" || path != "/write?v=x" && tokenOf(res) != "" {
					t.Errorf("%s: %s: %+v, cookies %v", name, path, a, res.Cookies())
				}
			}
		})
	}
}

func testNothingIsHeldBack(t *testing.T) {
	s := newSite(t, nil)
	rec := httptest.NewRecorder()
	s.runOn(rec, t, "", func(w http.ResponseWriter, _ *http.Request, x *session.Session) {
		keyValue.Set(x, "x")
		io.WriteString(w, "first")
		if rec.Body.String() != "first" {
			t.Error("the body is held back")
		}
		w.(http.Flusher).Flush()
		if !rec.Flushed || tokenOf(rec.Result()) == "" {
			t.Errorf("flushed %v, header %v", rec.Flushed, rec.Header())
		}
	})
}

func testTouchNeverBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.memory.Close()
		token := s.token(t, "/login?u=alice")
		s.run(t, token, func(_ http.ResponseWriter, _ *http.Request, x *session.Session) {
			time.Sleep(20 * time.Minute) // a long poll that ends after a younger request
			s.get("/write?v=new", with(token))
			time.Sleep(10 * time.Minute)
			s.get("/read", with(token))
		})
		rec, err := s.memory.Load(t.Context(), token)
		if err != nil || time.Since(rec.Seen) != 0 {
			t.Fatalf("last used %v ago, %v", time.Since(rec.Seen), err)
		}
		s.is(t, token, "alice", "new!")
	})
}

func testRequestsUnderWay(t *testing.T) {
	s := newSite(t, nil)
	u := newUserAgent(t, s)
	u.get("/login?u=alice")
	old := u.held("__Host-session")
	u.get("/renew")
	for range 20 {
		res, a := s.get("/write?v=late", with(old))
		if !a.Replaced || a.User != "" || len(res.Header["Set-Cookie"]) != 0 || res.StatusCode != 200 {
			t.Errorf("%s %+v, cookies %v", res.Status, a, res.Cookies())
		}
	}
	if _, a := u.get("/read"); a.User != "alice" || a.Value != "" {
		t.Errorf("the browser is %+v", a)
	}
}
