package session_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distsession/session"
)

// The advisories whose cause can lie in a manager, a transport or a store in
// memory. Those about sealed tokens, JWTs and one backend are tested there.
func TestAdvisories(t *testing.T) {
	runMistakes(t, []mistake{
		{"a client chooses its session", "CVE-2024-38513 gofiber", testFixation},
		{"a slow request undoes a sign-out", "CVE-2025-46336 rack-session", testSignOutRace},
		{"the store's key is as good as the token", "CVE-2019-16782 rack", testStoreHoldsNoToken},
		{"a shared cache hands out one user's cookie", "CVE-2023-30861 Flask", testSharedCache},
		{"a look at the session by another way does not vary", "CVE-2026-27205 Flask", testEveryAccessVaries},
		{"unknown cookies and anonymous sign-outs fill the store", "CVE-2015-5143 and CVE-2015-5963 Django", testFlood},
		{"all who were signed out share the session of no name", "CVE-2015-3982 Django", testSessionOfNoName},
		{"a password change ends no session", "CVE-2026-34828 listmonk", testEndOthers},
		{"deleting the last value is not saved", "CVE-2023-20862 Spring Security", testLastValueDeleted},
		{"a stolen token that was renewed still works", "CVE-2026-56750 Gitea", testReuseOfARenewedToken},
		{"a user has any number of sessions", "CVE-2024-4183 Mattermost", testSessionLimit},
		{"one request shows another user's values", "CVE-2026-24894 FrankenPHP", testNoCrossTalk},
		{"a new session takes over one whose ID it drew", "tower-sessions#180", testCollision},
		{"a long poll writes stale values back", "tower-sessions#36", testReadWritesBack},
		{"a one-time token is used twice", "CVE-2026-45720 Omni", testUsedOnce},
		{"strangers fill the memory and sign users out", "CVE-2026-25791 Sliver", testMemoryIsBounded},
		{"a sign-in keeps the token that was there before", "CVE-2022-25896 Passport", testSignInRenews},
		{"a value breaks out into the header", "CWE-113", testNoHeaderInjection},
		{"a flood of guesses trips something", "OWASP Session Management: brute force", testGuesses},
		{"headers of strangers decide about the cookie", "CVE-2024-28197 Zitadel", testForwardedHeaders},
	})
}

func testFixation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.memory.Close()
		var presented []string
		for range 50 {
			presented = append(presented, s.token(t, "/login?u=alice"))
		}
		time.Sleep(13 * time.Hour) // those were live before
		for range 950 {
			presented = append(presented, session.NewToken())
		}
		for i, token := range presented {
			path := []string{"/write?v=x", "/login?u=victim", "/remember?u=victim"}[i%3]
			res, a := s.get(path, with(token))
			if next := tokenOf(res); next == "" || next == token || a.ID == session.ID(token) {
				t.Fatalf("%s: presented %s, given %s", path, token, next)
			}
			if _, err := s.memory.Load(t.Context(), token); err == nil {
				t.Fatal("the presented token is live")
			}
		}
	})
}

func testSignOutRace(t *testing.T) {
	// Two nodes, one store; the slow request is on the other node.
	store := session.NewMemoryStore(nil)
	defer store.Close()
	a, b := newSiteOver(t, store, &session.Options{}), newSiteOver(t, store, &session.Options{})
	for range 200 {
		token := a.token(t, "/login?u=alice")
		loaded := make(chan bool)
		var both sync.WaitGroup
		both.Go(func() {
			b.run(t, token, func(_ http.ResponseWriter, _ *http.Request, x *session.Session) {
				x.User()
				close(loaded)
				keyValue.Set(x, "late")
			})
		})
		both.Go(func() {
			<-loaded
			a.get("/logout", with(token))
		})
		both.Wait()
		a.gone(t, token)
		b.gone(t, token)
	}
	if n := store.Len(); n != 0 {
		t.Errorf("%d records", n)
	}
}

func testStoreHoldsNoToken(t *testing.T) {
	store := newByteStore(nil)
	s := newSiteOver(t, store, &session.Options{})
	token := s.token(t, "/login?u=alice")
	s.get("/write?v=x", with(token))
	for id, text := range store.texts {
		if strings.Contains(id+string(text), token) {
			t.Errorf("the store holds the token: %s %s", id, text)
		}
		s.gone(t, id)
		if _, a := s.get("/write?v=x", with(id)); a.ID == id || a.ID == session.ID(id) {
			t.Errorf("the key was adopted as %s", a.ID)
		}
	}
}

// testEveryAccessVaries calls every method of a session and every method of a
// key, each in a request of its own.
func testEveryAccessVaries(t *testing.T) {
	s := newSite(t, nil)
	check := func(name string, call func(x *session.Session, ctx reflect.Value)) {
		token := s.token(t, "/write?v=x")
		res := s.run(t, token, func(_ http.ResponseWriter, r *http.Request, x *session.Session) {
			call(x, reflect.ValueOf(r.Context()))
		})
		if res.Header.Get("Vary") != "Cookie" {
			t.Errorf("%s: header %v", name, res.Header)
		}
		if len(res.Cookies()) > 0 && res.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s sets a cookie: header %v", name, res.Header)
		}
	}
	check("From", func(*session.Session, reflect.Value) {})
	methods := 0
	for _, c := range []struct {
		typ reflect.Type
		on  func(x *session.Session) reflect.Value
	}{
		{reflect.TypeFor[*session.Session](), func(x *session.Session) reflect.Value { return reflect.ValueOf(x) }},
		{reflect.TypeOf(keyValue), func(*session.Session) reflect.Value { return reflect.ValueOf(keyValue) }},
	} {
		for i := range c.typ.NumMethod() {
			methods++
			check(c.typ.Method(i).Name, func(x *session.Session, ctx reflect.Value) {
				m := c.on(x).Method(i)
				var args []reflect.Value
				for j := range m.Type().NumIn() {
					switch in := m.Type().In(j); {
					case in == reflect.TypeOf(x):
						args = append(args, reflect.ValueOf(x))
					case in.Kind() == reflect.Interface && ctx.Type().Implements(in):
						args = append(args, ctx)
					case in.Kind() == reflect.String:
						args = append(args, reflect.ValueOf("y"))
					case in.Kind() == reflect.Bool:
						args = append(args, reflect.ValueOf(true))
					case in.Kind() == reflect.Func:
						args = append(args, reflect.ValueOf(func(s string) string { return s + "z" }))
					default:
						t.Fatalf("no argument of %v", in)
					}
				}
				m.Call(args)
			})
		}
	}
	if methods < 18 {
		t.Errorf("only %d methods", methods)
	}
}

func testFlood(t *testing.T) {
	s := newSite(t, nil)
	for range 2000 {
		token := session.NewToken()
		for _, path := range []string{"/read", "/renew"} {
			if res, _ := s.get(path, with(token)); len(res.Header["Set-Cookie"]) != 0 {
				t.Fatalf("%s sets %v", path, res.Header["Set-Cookie"])
			}
		}
		res, _ := s.get("/logout", with(token)) // which may clear what the browser holds
		if len(res.Cookies()) != 1 || res.Cookies()[0].MaxAge >= 0 {
			t.Fatalf("signing out of nothing sets %v", res.Header["Set-Cookie"])
		}
		if res, _ := s.get("/logout"); len(res.Header["Set-Cookie"]) != 0 {
			t.Fatalf("a visitor's sign-out sets %v", res.Header["Set-Cookie"])
		}
	}
	if s.memory.Len() != 0 || s.store.writes() != 0 {
		t.Errorf("%d records, %d writes", s.memory.Len(), s.store.writes())
	}
}

func testSessionOfNoName(t *testing.T) {
	s := newSite(t, nil)
	for range 3 {
		token := s.token(t, "/login?u=alice")
		s.run(t, token, func(_ http.ResponseWriter, r *http.Request, x *session.Session) {
			x.Destroy()
			if err := x.Save(r.Context()); err != nil {
				t.Error(err)
			}
			if err := x.Save(r.Context()); err != nil || x.ID() == "" || x.ID() == session.ID("") {
				t.Errorf("saved again: %v, ID %q", err, x.ID())
			}
		})
	}
	if s.memory.Len() != 0 {
		t.Errorf("%d records", s.memory.Len())
	}
	for _, value := range []string{"", `""`} {
		s.store.reset()
		if _, a := s.get("/read", with(value)); !a.New || s.store.count("load") != 0 {
			t.Errorf("%q: %+v, %d loads", value, a, s.store.count("load"))
		}
	}
	if n, err := session.DeleteUser(t.Context(), s.memory, "", ""); n != 0 || err != nil {
		t.Errorf("the sessions of nobody: %d, %v", n, err)
	}
}

func testEndOthers(t *testing.T) {
	s := newSite(t, nil)
	var others []string
	for range 19 {
		others = append(others, s.token(t, "/login?u=alice"))
	}
	mine, bobs := s.token(t, "/login?u=alice"), s.token(t, "/login?u=bob")
	res := s.run(t, mine, func(_ http.ResponseWriter, r *http.Request, x *session.Session) {
		x.Renew() // as the handler of a password change does
		if err := x.Save(r.Context()); err != nil {
			t.Error(err)
		}
		if n, err := session.DeleteUser(r.Context(), s.store.wrapped(), x.User(), x.ID()); n != 19 || err != nil {
			t.Errorf("ended %d, %v", n, err)
		}
	})
	for _, token := range append(others, mine) {
		s.gone(t, token)
	}
	s.is(t, tokenOf(res), "alice", "")
	s.is(t, bobs, "bob", "")
}

func testLastValueDeleted(t *testing.T) {
	key := session.NewKey[map[string]int]("map")
	for _, c := range []struct {
		name string
		act  func(x *session.Session)
		want string
	}{
		{"Delete", func(x *session.Session) { key.Delete(x) }, "map[] false"},
		{"Pop", func(x *session.Session) { key.Pop(x) }, "map[] false"},
		{"Set to nil", func(x *session.Session) { key.Set(x, nil) }, "map[] true"},
		{"Set to the empty value", func(x *session.Session) { key.Set(x, map[string]int{}) }, "map[] true"},
		{"the map that Get gave, changed and Set", func(x *session.Session) {
			m, _ := key.Get(x)
			m["a"] = 2
			key.Set(x, m)
		}, "map[a:2] true"},
		{"the map that Get gave, changed and not Set", func(x *session.Session) {
			m, _ := key.Get(x)
			m["a"] = 2
		}, "map[a:1] true"},
		{"the map that was Set, changed afterwards", func(x *session.Session) {
			m := map[string]int{"b": 1}
			key.Set(x, m)
			m["b"] = 2
		}, "map[b:1] true"},
	} {
		s := newSite(t, nil)
		token := tokenOf(s.run(t, "", func(_ http.ResponseWriter, _ *http.Request, x *session.Session) { key.Set(x, map[string]int{"a": 1}) }))
		s.run(t, token, func(_ http.ResponseWriter, _ *http.Request, x *session.Session) { c.act(x) })
		s.run(t, token, func(_ http.ResponseWriter, _ *http.Request, x *session.Session) {
			m, ok := key.Get(x)
			if got := fmt.Sprint(m, ok); got != c.want {
				t.Errorf("%s: %s, want %s", c.name, got, c.want)
			}
		})
	}
}

func testReuseOfARenewedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		defer s.memory.Close()
		stolen := s.token(t, "/login?u=alice")
		s.get("/write?v=secret", with(stolen))
		next := s.token(t, "/renew", with(stolen))
		for _, wait := range []time.Duration{0, 30 * time.Second, 31 * time.Second, time.Hour} {
			time.Sleep(wait)
			for _, path := range []string{"/read", "/write?v=x", "/renew", "/logout"} {
				if _, a := s.get(path, with(stolen)); a.User != "" || strings.Contains(a.Value, "secret") {
					t.Errorf("%v later %s shows %+v", wait, path, a)
				}
			}
			if wait < time.Hour {
				s.is(t, next, "alice", "secret!")
			}
		}
	})
}

func testSessionLimit(t *testing.T) {
	s := newSite(t, &session.Options{MaxSessions: 2})
	first, second := s.token(t, "/login?u=alice"), s.token(t, "/login?u=bob")
	a2 := s.token(t, "/login?u=alice")
	a3 := s.token(t, "/login?u=alice")
	s.is(t, a3, "alice", "")
	s.is(t, second, "bob", "")
	live := 0
	for _, token := range []string{first, a2, a3} {
		if _, a := s.get("/read", with(token)); a.User == "alice" {
			live++
		}
	}
	if live != 2 {
		t.Errorf("%d live sessions", live)
	}
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() { s.get("/login?u=carol") })
	}
	all.Wait()
	n := 0
	for range session.List(t.Context(), s.memory, "carol") {
		n++
	}
	if n > 2 || n == 0 {
		t.Errorf("50 sign-ins at once leave %d live sessions", n)
	}
}

func testNoCrossTalk(t *testing.T) {
	s := newSite(t, nil)
	var all sync.WaitGroup
	for i := range 100 {
		user := fmt.Sprint("user", i)
		all.Go(func() {
			u := newUserAgent(t, s)
			u.get("/login?u=" + user)
			for j := range 20 {
				path := []string{"/read", "/write?v=" + user, "/renew", "/read"}[j%4]
				_, a := u.get(path)
				if a.User != user || j > 1 && a.Value != user+"!" {
					t.Errorf("%s sees %+v", user, a)
					return
				}
			}
		})
	}
	all.Wait()
}

func testCollision(t *testing.T) {
	s := newSite(t, nil)
	// Whatever ID is drawn first, another session is there already.
	first := true
	var victim string
	s.store.set(func(op, id string, call func() error) error {
		if op == "save" && first {
			first = false
			now := time.Now()
			victim = id
			if _, err := s.memory.Save(t.Context(), &session.Record{ID: id, User: "victim", Created: now, Seen: now, Expires: now.Add(time.Hour)}); err != nil {
				t.Error(err)
			}
		}
		return call()
	})
	token := s.token(t, "/login?u=mallory")
	if victim == "" || session.ID(token) == victim {
		t.Error("the ID of another session was taken")
	}
	s.is(t, token, "mallory", "")
	for info := range session.List(t.Context(), s.memory, "victim") {
		if info.ID != victim {
			t.Errorf("listed %+v", info)
		}
	}
	// A generator that repeats itself for ever: an error, and nobody's session.
	s.store.set(func(op, id string, call func() error) error {
		if op == "save" {
			return session.ErrConflict
		}
		return call()
	})
	if res, _ := s.get("/login?u=mallory"); res.StatusCode != 503 || len(res.Cookies()) != 0 {
		t.Errorf("%s, cookies %v", res.Status, res.Cookies())
	}
}

func testUsedOnce(t *testing.T) {
	store := session.NewMemoryStore(nil)
	defer store.Close()
	a, b := newSiteOver(t, store, &session.Options{}), newSiteOver(t, store, &session.Options{})
	token := tokenOf(a.run(t, "", func(_ http.ResponseWriter, _ *http.Request, x *session.Session) { keyState.Set(x, "nonce") }))
	var got atomic.Int32
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			[]*site{a, b}[i%2].run(t, token, func(_ http.ResponseWriter, r *http.Request, x *session.Session) {
				if v, ok, err := keyState.Take(r.Context(), x); ok && err == nil && v == "nonce" {
					got.Add(1)
				}
			})
		})
	}
	all.Wait()
	if got.Load() != 1 {
		t.Errorf("%d got it", got.Load())
	}
}

func testMemoryIsBounded(t *testing.T) {
	memory := session.NewMemoryStore(&session.MemoryOptions{MaxSessions: 100})
	defer memory.Close()
	s := newSiteOver(t, memory, &session.Options{})
	var users []string
	for range 50 {
		users = append(users, s.token(t, "/login?u=alice"))
	}
	for range 1000 {
		s.get("/write?v=flood")
	}
	if n := memory.Len(); n != 100 {
		t.Errorf("%d records", n)
	}
	for _, token := range users {
		s.is(t, token, "alice", "")
	}
	for range 100 {
		s.get("/login?u=mallory")
	}
	if n := memory.Len(); n != 100 {
		t.Errorf("%d records", n)
	}
	if res, _ := s.get("/write?v=flood"); res.StatusCode != 503 {
		t.Errorf("one more visitor: %s", res.Status)
	}
}

func testSignInRenews(t *testing.T) {
	for _, path := range []string{"/login?u=alice", "/remember?u=alice", "/renew"} {
		for _, before := range []string{"/write?v=planted", "/login?u=alice", "/login?u=bob"} {
			s := newSite(t, nil)
			planted := s.token(t, before)
			res, a := s.get(path, with(planted))
			next := tokenOf(res)
			if next == "" || next == planted || a.ID == session.ID(planted) {
				t.Errorf("%s after %s keeps the token", path, before)
			}
			s.gone(t, planted)
			if before == "/login?u=bob" && path != "/renew" {
				s.is(t, next, "alice", "") // and nothing of bob's
			}
		}
	}
}

func testNoHeaderInjection(t *testing.T) {
	evil := "x\r\nSet-Cookie: admin=1\r\n\r\n<script>"
	s := newSite(t, &session.Options{Device: func(*http.Request) string { return evil }})
	res := s.run(t, "", func(_ http.ResponseWriter, _ *http.Request, x *session.Session) {
		x.SetUser(evil)
		keyValue.Set(x, evil)
		session.NewKey[string](evil).Set(x, evil)
	})
	if len(res.Cookies()) != 1 || strings.Contains(fmt.Sprint(res.Header), "admin") {
		t.Errorf("header %v", res.Header)
	}
	s.is(t, tokenOf(res), evil, evil)
	c := newSiteOver(t, newSealing(nil), &session.Options{})
	res = c.run(t, "", func(_ http.ResponseWriter, _ *http.Request, x *session.Session) { keyValue.Set(x, evil) })
	if len(res.Cookies()) != 1 || strings.Contains(fmt.Sprint(res.Header), "admin") {
		t.Errorf("header %v", res.Header)
	}
}

func testGuesses(t *testing.T) {
	s := newSite(t, nil)
	token := s.token(t, "/login?u=alice")
	for range 3000 {
		if res, _ := s.get("/read", with(session.NewToken())); res.StatusCode != 200 {
			t.Fatal(res.Status)
		}
	}
	s.is(t, token, "alice", "")
	if st := s.Stats(); st != (session.Stats{}) {
		t.Errorf("a client can raise %+v", st)
	}
	if strings.Contains(s.log.String(), `"level":"WARN"`) || strings.Contains(s.log.String(), `"level":"ERROR"`) {
		t.Errorf("a client can fill the log: %.300s", s.log)
	}
}

func testForwardedHeaders(t *testing.T) {
	s := newSite(t, nil)
	want, _ := s.get("/login?u=alice")
	for _, line := range []string{"X-Forwarded-Host: evil.example", "X-Forwarded-Proto: http", "Forwarded: host=evil.example;proto=http", "Origin: https://evil.example", "Referer: https://evil.example/"} {
		got, _ := s.get("/login?u=alice", line)
		a, b := want.Cookies()[0], got.Cookies()[0]
		a.Value, b.Value, a.Raw, b.Raw = "", "", "", ""
		if fmt.Sprint(a) != fmt.Sprint(b) {
			t.Errorf("%s: %v, want %v", line, b, a)
		}
	}
	r := httptest.NewRequest("GET", "http://evil.example:1/login?u=alice", nil)
	r.Host = "a b"
	if res, _ := s.send(r); len(res.Cookies()) != 1 || res.Cookies()[0].Domain != "" {
		t.Errorf("header %v", res.Header)
	}
}
