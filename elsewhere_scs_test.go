package session_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distsession/session"
)

// What was reproduced with alexedwards/scs v2 at ab20b3f.
func TestWhatGoesWrongInSCS(t *testing.T) {
	runMistakes(t, []mistake{
		{"two requests that change different values: one is lost", "data.go:106-119", testLostUpdate},
		{"with an idle timeout a mere read writes its stale values back", "data.go:81-83", testReadWritesBack},
		{"a slow request brings a signed-out session back", "data.go:119", testResurrection},
		{"a change after the first Write is lost without a word", "session.go:233-235", testLateChange},
		{"103 Early Hints count as the response", "session.go:241-245", testEarlyHints},
		{"a Flush sends the header without the cookie", "session_go120.go:12", testFlushFirst},
		{"a WebSocket brings the session back when it closes", "session_go120.go:16", testWebSocket},
		{"sessions that were listed cannot be ended, and no error says so", "data.go:547-551", testEndListed},
		{"the error page is followed by the handler's page", "session.go:174-176", testErrorPageAlone},
		{"a record that cannot be decoded is a 500 on every page for ever", "data.go:74, issue #269", testUndecodable},
		{"a client that hangs up cancels the commit", "session.go:170-174", testCommitSurvivesCancel},
		{"the iteration over all sessions nests a context for each", "data.go:558", testScanLargeStore},
		{"a save across the deadline makes the session immortal", "goredisstore.go:49", testSaveAcrossDeadline},
		{"a parallel request with the old cookie takes the login cookie's place", "data.go:288-293", testParallelLogin},
		{"a renewal whose commit fails loses both sessions", "data.go:288-302", testRenewalThatFails},
		{"stopping the cleanup early leaks its goroutine", "memstore.go:103", testCloseAtOnce},
		{"a store panics when a wrapper hides that it takes a context", "goredisstore.go:98", testContextReachesStore},
		{"a store that fails is a 500 on pages that use no session", "session.go:147-150", testUntouchedWhileAway},
	})
}

func testLostUpdate(t *testing.T) {
	s := newSite(t, nil)
	token := s.token(t, "/login?u=alice")
	s.run(t, token, func(_ http.ResponseWriter, _ *http.Request, x *session.Session) {
		s.run(t, token, func(_ http.ResponseWriter, _ *http.Request, y *session.Session) { keyTheme.Set(y, "dark") })
		keyCart.Set(x, "tea")
	})
	s.run(t, token, func(_ http.ResponseWriter, _ *http.Request, x *session.Session) {
		cart, _ := keyCart.Get(x)
		if theme, _ := keyTheme.Get(x); theme != "dark" || cart != "tea" {
			t.Errorf("theme %q, cart %q", theme, cart)
		}
	})
}

func testReadWritesBack(t *testing.T) {
	for name, idle := range map[string]time.Duration{"idle timeout": time.Hour, "none": -1} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, &session.Options{IdleTimeout: idle})
			defer s.memory.Close()
			token := s.token(t, "/login?u=alice")
			time.Sleep(30 * time.Minute) // a touch is due
			s.run(t, token, func(_ http.ResponseWriter, _ *http.Request, x *session.Session) {
				keyValue.Get(x)
				s.get("/write?v=new", with(token))
				s.store.reset()
			})
			if n := s.store.count("save"); n != 0 {
				t.Errorf("%s: a read saved %d times", name, n)
			}
			s.is(t, token, "alice", "new!")
		})
	}
}

func testResurrection(t *testing.T) {
	for name, idle := range map[string]time.Duration{"idle timeout": time.Hour, "none": -1} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, &session.Options{IdleTimeout: idle})
			token := s.token(t, "/login?u=alice")
			var slow *session.Session
			res := s.run(t, token, func(_ http.ResponseWriter, _ *http.Request, x *session.Session) {
				slow = x
				s.get("/logout", with(token))
				keyValue.Set(x, "late")
			})
			if n := s.memory.Len(); n != 0 || tokenOf(res) != "" || res.StatusCode != 200 {
				t.Errorf("%d records, %s, cookies %v", n, res.Status, res.Cookies())
			}
			if !errors.Is(slow.Err(), session.ErrNotFound) {
				t.Errorf("Err is %v", slow.Err())
			}
			s.gone(t, token)
		})
	}
}

func testLateChange(t *testing.T) {
	s := newSite(t, nil)
	token := s.token(t, "/login?u=alice")
	s.run(t, token, func(w http.ResponseWriter, _ *http.Request, x *session.Session) {
		io.WriteString(w, "begun")
		keyValue.Set(x, "after")
	})
	s.is(t, token, "alice", "after") // the token stays, so it is saved
	var late *session.Session
	s.run(t, "", func(w http.ResponseWriter, _ *http.Request, x *session.Session) {
		late = x
		io.WriteString(w, "begun")
		keyValue.Set(x, "after")
	})
	if !errors.Is(late.Err(), session.ErrCommitted) || !strings.Contains(s.log.String(), `"level":"ERROR"`) {
		t.Errorf("Err is %v; log: %s", late.Err(), s.log)
	}
}

func testEarlyHints(t *testing.T) {
	s := newSite(t, nil)
	srv := httptest.NewServer(s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := sess(t, r)
		w.WriteHeader(http.StatusEarlyHints)
		x.SetUser("alice")
		w.WriteHeader(http.StatusOK)
	})))
	defer srv.Close()
	res, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	s.is(t, tokenOf(res), "alice", "")
}

func testFlushFirst(t *testing.T) {
	s := newSite(t, nil)
	res := s.run(t, "", func(w http.ResponseWriter, _ *http.Request, x *session.Session) {
		x.SetUser("alice")
		w.(http.Flusher).Flush()
		fmt.Fprint(w, "data: 1\n\n")
	})
	s.is(t, tokenOf(res), "alice", "")
}

// pipeWriter can be hijacked.
type pipeWriter struct {
	*httptest.ResponseRecorder
	conn net.Conn
}

func (w pipeWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) { return w.conn, nil, nil }

func testWebSocket(t *testing.T) {
	s := newSite(t, nil)
	token := s.token(t, "/login?u=alice")
	c, other := net.Pipe()
	defer other.Close()
	rec := httptest.NewRecorder()
	s.runOn(pipeWriter{rec, c}, t, token, func(w http.ResponseWriter, _ *http.Request, x *session.Session) {
		keyValue.Set(x, "opened")
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		s.is(t, token, "alice", "opened") // saved when it opened, not hours later
		s.get("/logout", with(token))
		keyValue.Set(x, "closed")
		conn.Close()
	})
	if n := s.memory.Len(); n != 0 {
		t.Errorf("%d records after the socket closed", n)
	}
	s.gone(t, token)
}

func testEndListed(t *testing.T) {
	s := newSite(t, nil)
	var tokens []string
	for range 3 {
		tokens = append(tokens, s.token(t, "/login?u=alice"))
	}
	bobs := s.token(t, "/login?u=bob")
	for info, err := range session.List(t.Context(), s.store.wrapped(), "alice") {
		if err != nil {
			t.Fatal(err)
		}
		if err := s.store.Delete(t.Context(), info.ID); err != nil {
			t.Fatal(err)
		}
	}
	for _, token := range tokens {
		s.gone(t, token)
	}
	s.is(t, bobs, "bob", "")
}

func testErrorPageAlone(t *testing.T) {
	s := newSite(t, nil)
	token := s.token(t, "/login?u=alice")
	s.fails(1, "save")
	res := s.run(t, token, func(w http.ResponseWriter, _ *http.Request, x *session.Session) {
		keyValue.Set(x, "paid")
		for range 3 {
			io.WriteString(w, "payment accepted")
		}
	})
	if got := body(t, res); res.StatusCode != 503 || got != "Service Unavailable\n" || res.Header.Get("Retry-After") == "" {
		t.Errorf("%s %q", res.Status, got)
	}
}

func testUndecodable(t *testing.T) {
	store := newByteStore(nil)
	s := newSiteOver(t, store, &session.Options{})
	token := s.token(t, "/login?u=alice")
	store.plant(token, []byte("O:8:\"stdClass\":0:{}"))
	for range 2 {
		for _, path := range []string{"/untouched", "/read"} {
			if res, _ := s.get(path, with(token)); res.StatusCode != 200 {
				t.Errorf("%s: %s", path, res.Status)
			}
		}
	}
	next := s.token(t, "/login?u=alice", with(token)) // and signing in again mends it
	s.is(t, next, "alice", "")
}

// cancelStore fails as a network store does when its context has ended, and
// notes what context it was given.
type cancelStore struct {
	session.Store
	noDeadline bool
}

func (s *cancelStore) check(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		s.noDeadline = true
	}
	return ctx.Err()
}

func (s *cancelStore) Load(ctx context.Context, token string) (*session.Record, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	return s.Store.Load(ctx, token)
}

func (s *cancelStore) Save(ctx context.Context, rec *session.Record) (string, error) {
	if err := s.check(ctx); err != nil {
		return "", err
	}
	return s.Store.Save(ctx, rec)
}

func (s *cancelStore) Delete(ctx context.Context, id string) error {
	if err := s.check(ctx); err != nil {
		return err
	}
	return s.Store.Delete(ctx, id)
}

func testCommitSurvivesCancel(t *testing.T) {
	s := newSiteOver(t, &cancelStore{Store: session.NewMemoryStore(nil)}, &session.Options{})
	token := s.token(t, "/login?u=alice")
	for _, path := range []string{"/write?v=paid", "/renew", "/logout"} {
		ctx, hangUp := context.WithCancel(t.Context())
		r := httptest.NewRequestWithContext(ctx, "GET", path, nil)
		r.Header.Set("Cookie", "__Host-session="+token)
		rec := httptest.NewRecorder()
		s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := session.From(r.Context()); err != nil {
				t.Error(err)
			}
			hangUp()
			application().ServeHTTP(w, r)
		})).ServeHTTP(rec, r)
		if rec.Code != 200 {
			t.Errorf("%s: %d", path, rec.Code)
		}
		if next := tokenOf(rec.Result()); next != "" {
			token = next
		}
		if path != "/logout" {
			s.is(t, token, "alice", "paid!")
		}
	}
	s.gone(t, token)
}

func testContextReachesStore(t *testing.T) {
	store := &cancelStore{Store: session.NewMemoryStore(nil)}
	s := newSiteOver(t, store, &session.Options{})
	token := s.token(t, "/login?u=alice")
	for _, path := range []string{"/read", "/write?v=x", "/renew", "/logout"} {
		res, _ := s.get(path, with(token))
		if next := tokenOf(res); next != "" {
			token = next
		}
	}
	if store.noDeadline {
		t.Error("a call of the store had no deadline")
	}
}

func testScanLargeStore(t *testing.T) {
	store := session.NewMemoryStore(nil)
	defer store.Close()
	now := time.Now()
	for range 5000 {
		rec := &session.Record{ID: session.ID(session.NewToken()), Created: now, Seen: now, Expires: now.Add(time.Hour)}
		if _, err := store.Save(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
	}
	seen := 0
	allocs := testing.AllocsPerRun(1, func() {
		seen = 0
		for _, err := range store.Scan(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			seen++
		}
	})
	if seen != 5000 || allocs > 2*5000 {
		t.Errorf("%d records, %.0f allocations", seen, allocs)
	}
	for range store.Scan(t.Context()) {
		break
	}
}

func testSaveAcrossDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, &session.Options{Lifetime: 400 * time.Millisecond})
		defer s.memory.Close()
		token := s.token(t, "/login?u=alice")
		s.run(t, token, func(_ http.ResponseWriter, _ *http.Request, x *session.Session) {
			time.Sleep(500 * time.Millisecond)
			keyValue.Set(x, "late")
		})
		time.Sleep(time.Second)
		s.gone(t, token)
		for rec, err := range s.memory.Scan(t.Context()) {
			t.Errorf("%+v, %v", rec, err)
		}
	})
}

func testParallelLogin(t *testing.T) {
	for _, old := range []string{"reads", "writes", "renews", "signs out"} {
		t.Run(old, func(t *testing.T) {
			s := newSite(t, nil)
			u := newUserAgent(t, s)
			u.get("/write?v=csrf")
			before := u.held("__Host-session")
			res := s.run(t, before, func(_ http.ResponseWriter, _ *http.Request, x *session.Session) {
				u.get("/login?u=alice")
				switch old {
				case "writes":
					keyValue.Set(x, "stale")
				case "renews":
					x.Renew()
				case "signs out":
					return // see below: its own wish counts
				}
			})
			u.keep(res)
			if _, a := u.get("/read"); a.User != "alice" || a.Value != "csrf!" {
				t.Errorf("the browser is %+v now", a)
			}
			// And a request that is sent with the old cookie after it.
			if old == "signs out" {
				res, _ = s.get("/logout", with(before))
			} else {
				res, _ = s.get("/write?v=stale", with(before))
			}
			u.keep(res)
			if _, a := u.get("/read"); a.User != "alice" || a.Value != "csrf!" {
				t.Errorf("after a late one the browser is %+v", a)
			}
		})
	}
}

func testRenewalThatFails(t *testing.T) {
	for _, act := range []string{"/renew", "/login?u=alice"} {
		for n := 1; n <= 4; n++ {
			t.Run(fmt.Sprint(act, ", call ", n), func(t *testing.T) {
				s := newSite(t, nil)
				u := newUserAgent(t, s)
				u.get("/write?v=cart")
				s.fails(n, "save", "delete")
				res, _ := u.get(act)
				s.store.set(nil)
				_, a := u.get("/read")
				if a.Value != "cart!" {
					t.Errorf("%s, and then %+v", res.Status, a)
				}
				if act != "/renew" && (res.StatusCode == 200) != (a.User == "alice") {
					t.Errorf("%s, and then %+v", res.Status, a)
				}
			})
		}
	}
}

func testCloseAtOnce(t *testing.T) {
	// A goroutine that is left behind fails the bubble.
	synctest.Test(t, func(t *testing.T) {
		for range 3 {
			s := session.NewMemoryStore(nil)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
		s := session.NewMemoryStore(nil)
		now := time.Now()
		rec := &session.Record{ID: session.ID(session.NewToken()), Created: now, Seen: now, Expires: now.Add(time.Minute)}
		if _, err := s.Save(t.Context(), rec); err != nil {
			t.Error(err)
		}
		time.Sleep(3 * time.Minute)
		if s.Len() != 0 {
			t.Error("the expired record was not removed")
		}
	})
}

func testUntouchedWhileAway(t *testing.T) {
	s := newSite(t, nil)
	token := s.token(t, "/login?u=alice")
	s.store.set(away)
	if res, _ := s.get("/untouched", with(token)); res.StatusCode != 200 {
		t.Errorf("%s", res.Status)
	}
	if res, _ := s.get("/read", with(token)); res.StatusCode != 503 || len(res.Cookies()) != 0 {
		t.Errorf("%s, cookies %v", res.Status, res.Cookies())
	}
}
