package session_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
	"github.com/distsession/session/storetest"
)

// cookies are a response's, by name.
func cookiesOf(res *http.Response) map[string]*http.Cookie {
	all := map[string]*http.Cookie{}
	for _, c := range res.Cookies() {
		all[c.Name] = c
	}
	return all
}

func newCachedSite(t testing.TB, opts *session.Options) *site {
	t.Helper()
	if opts == nil {
		opts = &session.Options{}
	}
	s := session.Cached(session.NewMemoryStore(nil), &session.CachedOptions{MaxStale: time.Hour})
	t.Cleanup(func() { session.Close(s) })
	return newSiteOver(t, s, opts)
}

// The version is told when something was saved before the header, and only then.
func TestVersionIsTold(t *testing.T) {
	s := newCachedSite(t, &session.Options{PersistLifetime: 30 * 24 * time.Hour})
	version := func(a answer, n int) string { return fmt.Sprintf("%s.%d", a.ID[:8], n) }
	jar := map[string]string{}
	visit := func(path string) (map[string]*http.Cookie, *http.Response, answer) {
		var line []string
		for name, value := range jar {
			line = append(line, name+"="+value)
		}
		res, a := s.get(path, "Cookie: "+strings.Join(line, "; "))
		set := cookiesOf(res)
		for name, c := range set {
			if c.MaxAge < 0 {
				delete(jar, name)
			} else {
				jar[name] = c.Value
			}
		}
		return set, res, a
	}
	const token, seen = "__Host-session", "__Host-session.v"
	for _, tt := range []struct {
		path, why   string
		token, seen bool
		n           int
	}{
		{"/read", "a visitor", false, false, 0},
		{"/write?v=1", "the first value", true, true, 1},
		{"/read", "a reader", false, false, 1},
		{"/untouched", "not looked at", false, false, 1},
		{"/write?v=2", "a change: the token stays", false, true, 2},
		{"/write?v=2", "it was there already", false, false, 2},
		{"/renew", "a new ID", true, true, 1},
		{"/write?v=3", "a change of the new one", false, true, 2},
		{"/login?u=ann", "a sign-in", true, true, 1},
		{"/remember?u=ann", "one that outlives the browser", true, true, 1},
		{"/write?v=4", "and so does the version", false, true, 2},
		{"/logout", "cleared together", true, true, 0},
		{"/read", "a visitor again", false, false, 0},
	} {
		set, res, a := visit(tt.path)
		if (set[token] != nil) != tt.token || (set[seen] != nil) != tt.seen {
			t.Errorf("%s (%s): Set-Cookie %q", tt.path, tt.why, res.Header["Set-Cookie"])
			continue
		}
		if !tt.seen {
			continue
		}
		c := set[seen]
		want := version(a, tt.n)
		if tt.n == 0 {
			want = ""
			if c.MaxAge >= 0 || set[token].MaxAge >= 0 {
				t.Errorf("%s: not cleared: %q", tt.path, res.Header["Set-Cookie"])
			}
		}
		if c.Value != want || !c.Secure || !c.HttpOnly || c.Path != "/" || c.SameSite != http.SameSiteLaxMode {
			t.Errorf("%s (%s): %q; want %q", tt.path, tt.why, c, want)
		}
		if res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("Vary") != "Cookie" {
			t.Errorf("%s: Cache-Control %q, Vary %q: a cache would hand it to others", tt.path, res.Header["Cache-Control"], res.Header["Vary"])
		}
		if persists := tt.path == "/remember?u=ann" || tt.path == "/write?v=4"; persists != (c.MaxAge > 0) ||
			set[token] != nil && (c.MaxAge > 0) != (set[token].MaxAge > 0) {
			t.Errorf("%s: lives for %d seconds: %q", tt.path, c.MaxAge, res.Header["Set-Cookie"])
		}
	}
}

// Save in the middle of a request, a stream, and a commit that fails.
func TestVersionIsToldOnce(t *testing.T) {
	s := newCachedSite(t, nil)
	token := s.token(t, "/login?u=ann")
	for name, tt := range map[string]struct {
		act    func(w http.ResponseWriter, r *http.Request, x *session.Session)
		status int
		want   []string // versions, relative to the one before
	}{
		"saved twice": {func(w http.ResponseWriter, r *http.Request, x *session.Session) {
			keyValue.Set(x, "one")
			x.Save(r.Context())
			keyValue.Set(x, "two")
		}, 200, []string{"+2"}},
		"saved, then a reader": {func(w http.ResponseWriter, r *http.Request, x *session.Session) {
			keyValue.Set(x, "three")
			x.Save(r.Context())
		}, 200, []string{"+1"}},
		"after the header": {func(w http.ResponseWriter, r *http.Request, x *session.Session) {
			w.WriteHeader(http.StatusAccepted)
			keyValue.Set(x, "four")
		}, 202, nil},
		"saved, then it fails": {func(w http.ResponseWriter, r *http.Request, x *session.Session) {
			keyValue.Set(x, "five")
			x.Save(r.Context())
			keyValue.Set(x, "\xff")
		}, 500, []string{"+1"}},
		"it fails": {func(w http.ResponseWriter, r *http.Request, x *session.Session) {
			keyValue.Set(x, "\xff")
		}, 500, nil},
	} {
		t.Run(name, func(t *testing.T) {
			before := load(t, s.store, token)
			res := s.run(t, token, tt.act)
			got := append([]string(nil), res.Header["Set-Cookie"]...)
			var want []string
			for _, w := range tt.want {
				var n int64
				fmt.Sscan(w, &n)
				want = append(want, fmt.Sprintf("__Host-session.v=%s.%d; Path=/; HttpOnly; Secure; SameSite=Lax", before.ID[:8], before.Version+n))
			}
			if res.StatusCode != tt.status || !slices.Equal(got, want) {
				t.Errorf("status %d, Set-Cookie %q; want %d, %q", res.StatusCode, got, tt.status, want)
			}
		})
	}
}

// Without copies there are no versions to tell, in any of the wrappers.
func TestVersionOfNoCopies(t *testing.T) {
	memory := func() session.Store { return session.NewMemoryStore(nil) }
	for name, store := range map[string]session.Store{
		"memory":    memory(),
		"Encrypted": encrypt(t, memory(), 1),
		"Migrating": migrate(t, memory(), memory()),
		"cookies":   newCookieStore(t, &session.CookieOptions{Revoked: session.Cached(memory(), nil)}),
	} {
		s := newSiteOver(t, store, &session.Options{})
		res, _ := s.get("/login?u=ann")
		for _, path := range []string{"/write?v=1", "/renew", "/logout"} {
			set := cookiesOf(res)
			if set["__Host-session"] == nil && name != "cookies" || len(set) > 1 {
				t.Errorf("%s: Set-Cookie %q", name, res.Header["Set-Cookie"])
			}
			if path == "/write?v=1" {
				res, _ = s.get(path, with(set["__Host-session"].Value), "Cookie: __Host-session.v=AAAAAAAA.7")
				if len(cookiesOf(res)) > 0 && name != "cookies" {
					t.Errorf("%s: a change: Set-Cookie %q", name, res.Header["Set-Cookie"])
				}
				break
			}
		}
	}
	for name, store := range map[string]session.Store{
		"Cached":              session.Cached(memory(), nil),
		"Cached of Encrypted": session.Cached(encrypt(t, memory(), 1), nil),
		"Encrypted of Cached": encrypt(t, session.Cached(memory(), nil), 1),
		"Cached of Migrating": session.Cached(migrate(t, memory(), memory()), nil),
	} {
		res, _ := newSiteOver(t, store, &session.Options{}).get("/login?u=ann")
		if len(cookiesOf(res)) != 2 {
			t.Errorf("%s: Set-Cookie %q", name, res.Header["Set-Cookie"])
		}
	}
}

// plainTransport carries no versions; numbered does.
type plainTransport struct{ session.Transport }

type numbered struct{ plainTransport }

func (numbered) Version(r *http.Request) string { return r.Header.Get("X-Seen") }
func (numbered) SetVersion(w http.ResponseWriter, _ *http.Request, version string, expires time.Time) {
	w.Header().Set("X-Seen", version)
}
func (numbered) ClearVersion(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Seen", "-") }

func TestVersionTransports(t *testing.T) {
	inner := session.HeaderTransport{}
	for _, tt := range []struct {
		why       string
		transport session.Transport
		header    string
	}{
		{"the transport for clients that are no browsers", session.HeaderTransport{}, "Session-Version"},
		{"with a header of its own", &session.HeaderTransport{Versions: "x-version"}, "X-Version"},
		{"one's own", numbered{plainTransport{inner}}, "X-Seen"},
		{"one's own, without", plainTransport{inner}, ""},
	} {
		t.Run(tt.why, func(t *testing.T) {
			memory := session.NewMemoryStore(nil)
			opts := &session.Options{Transport: tt.transport}
			node := func() *site {
				return newSiteOver(t, session.Cached(memory, &session.CachedOptions{MaxStale: time.Hour}), opts)
			}
			one, two := node(), node()
			res, _ := one.get("/write?v=a")
			auth := "Authorization: Bearer " + res.Header.Get("Session-Token")
			two.get("/read", auth) // has a copy now
			res, a := one.get("/write?v=b", auth)
			seen := ""
			if tt.header != "" {
				seen = res.Header.Get(tt.header)
				if seen != a.ID[:8]+".2" || res.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("%s is %q, Cache-Control %q", tt.header, seen, res.Header.Get("Cache-Control"))
				}
			}
			if len(res.Header["Set-Cookie"]) != 0 {
				t.Errorf("Set-Cookie %q", res.Header["Set-Cookie"])
			}
			want := "b!"
			if tt.header == "" {
				want = "a!" // as VersionTransport says
			}
			if _, a := two.get("/read", auth, tt.header+": "+seen); a.Value != want {
				t.Errorf("on the other node: %+v, want %s", a, want)
			}
			res, _ = one.get("/logout", auth)
			if _, cleared := res.Header[tt.header]; tt.header != "" && !cleared {
				t.Errorf("after the sign-out: %v", res.Header)
			}
		})
	}
	for _, versions := range []string{"two words", "Set-Cookie", "cookie", "Authorization", "Session-Token", "session-token"} {
		_, err := session.New(session.NewMemoryStore(nil), &session.Options{Transport: session.HeaderTransport{Versions: versions}})
		wantErr(t, "Versions "+versions, err, session.ErrConfig)
	}
}

// Where a claim conflicts, the copy that it was made of is passed over.
func TestVersionAfterAConflict(t *testing.T) {
	memory := session.NewMemoryStore(nil)
	node := func() *site {
		return newSiteOver(t, session.Cached(memory, &session.CachedOptions{MaxStale: time.Hour}), &session.Options{})
	}
	one, two := node(), node()
	token := one.token(t, "/write?v=a")
	two.get("/read", with(token)) // two has a copy
	one.get("/write?v=b", with(token))
	two.store.reset()
	res, a := two.get("/login?u=ann", with(token)) // of a browser that lost its version
	if res.StatusCode != 200 || a.User != "ann" {
		t.Fatalf("status %d, %+v", res.StatusCode, a)
	}
	token = cookiesOf(res)["__Host-session"].Value
	if _, a := one.get("/read", with(token)); a.Value != "b!" || a.User != "ann" {
		t.Errorf("the new session: %+v; want what was saved meanwhile", a)
	}
	// An update as well: the replay is on what is there.
	two.get("/read", with(token))
	one.run(t, token, func(w http.ResponseWriter, r *http.Request, x *session.Session) { keyCount.Set(x, 5) })
	two.run(t, token, func(w http.ResponseWriter, r *http.Request, x *session.Session) {
		keyCount.Update(x, func(n int) int { return n + 1 })
		if err := x.Save(r.Context()); err != nil {
			t.Error(err)
		}
		if n, _ := keyCount.Get(x); n != 6 {
			t.Errorf("count %d", n)
		}
	})
}

// A store that fails is a 503 for who has seen a version as well.
func TestVersionOfAStoreThatFails(t *testing.T) {
	c := newCache(t, &session.CachedOptions{MaxStale: time.Hour})
	s := newSiteOver(t, c.Store, &session.Options{})
	res, a := s.get("/write?v=a")
	line := with(cookiesOf(res)["__Host-session"].Value)
	c.backup.SetAll(storetest.Fail(errAway))
	for version, status := range map[string]int{".1": 200, ".2": 503, ".9223372036854775807": 503, ".x": 200} {
		res, _ := s.get("/read", line+"; __Host-session.v="+a.ID[:8]+version)
		if res.StatusCode != status {
			t.Errorf("%s: status %d, want %d", version, res.StatusCode, status)
		}
	}
	if _, err := s.Manager.Session(t.Context(), session.NewToken()); !errors.Is(err, session.ErrStore) {
		t.Errorf("%v", err)
	}
}

// What an invented version costs where it is read.
func FuzzVersion(f *testing.F) {
	s := newCachedSite(f, nil)
	token := s.token(f, "/login?u=ann")
	id := session.ID(token)
	for _, text := range []string{"", "1", id[:8] + ".1", id[:8] + ".01", id[:8] + ".99999999999999999999", "........", id[:8] + ".-1", id + ".1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s.store.reset()
		r := httptest.NewRequest("GET", "/read", nil)
		r.Header.Set("Cookie", "__Host-session="+token+"; __Host-session.v="+text)
		res, a := s.send(r)
		if res.StatusCode != 200 || len(res.Header["Set-Cookie"]) > 0 {
			t.Fatalf("status %d, Set-Cookie %q", res.StatusCode, res.Header["Set-Cookie"])
		}
		if !strings.ContainsAny(text, ";=\"") && a.User != "ann" {
			t.Fatalf("%+v", a)
		}
	})
}
