package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distsession/session"
)

// The requirements of testdata/requirements that no other test shows.

// ASVS 5.0, 7.2.3: unique, from a secure generator, of 128 bits at least.
func TestTokensAreRandom(t *testing.T) {
	const n = 10_000
	seen := make(map[string]bool, n)
	counts := make([][256]int, 43)
	for range n {
		token := session.NewToken()
		if len(token) != 43 || !session.WellFormed(token) {
			t.Fatalf("%q", token)
		}
		seen[token], seen[session.ID(token)] = true, true
		for i, c := range []byte(token) {
			counts[i][c]++
		}
	}
	if len(seen) != 2*n {
		t.Errorf("%d different tokens and IDs of %d", len(seen), 2*n)
	}
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for i, at := range counts {
		// The last of 43 characters carries four bits.
		letters := alphabet
		if i == 42 {
			letters = "AEIMQUYcgkosw048"
		}
		want := float64(n) / float64(len(letters))
		chi, total := 0.0, 0
		for _, c := range []byte(letters) {
			d := float64(at[c]) - want
			chi += d * d / want
			total += at[c]
		}
		// 63 degrees of freedom give more than 170 once in 10^11 runs.
		if chi > 170 || total != n {
			t.Errorf("position %d: χ² is %.0f, %d of %d in the alphabet", i, chi, total, n)
		}
	}
}

// ASVS 5.0, 7.3.1 and 7.3.2, to the millisecond.
func TestTimeouts(t *testing.T) {
	const h = time.Hour
	for _, c := range []struct {
		name        string
		opts        session.Options
		start       string
		visits      []time.Duration // one after another
		user        string
		why, source string
	}{
		{"almost idle for too long", session.Options{}, "/login?u=alice", []time.Duration{30*time.Minute - time.Millisecond}, "alice", "the default is 30 minutes", "ASVS 7.3.1"},
		{"idle for too long", session.Options{}, "/login?u=alice", []time.Duration{30 * time.Minute}, "", "from there on", "ASVS 7.3.1"},
		{"used in between", session.Options{}, "/login?u=alice", []time.Duration{29 * time.Minute, 29 * time.Minute, 29 * time.Minute}, "alice", "activity begins the idle time anew", "NIST SP 800-63B-4 5.2"},
		{"used until the end", session.Options{}, "/login?u=alice", spans(12*3, 20*time.Minute), "", "12 hours, used or not", "ASVS 7.3.2"},
		{"used until before the end", session.Options{}, "/login?u=alice", append(spans(12*3-1, 20*time.Minute), 20*time.Minute-time.Millisecond), "alice", "12 hours", "ASVS 7.3.2"},
		{"no idle timeout", session.Options{IdleTimeout: -1}, "/login?u=alice", []time.Duration{11 * h}, "alice", "Lifetime alone", ""},
		{"no idle timeout, and the end", session.Options{IdleTimeout: -1}, "/login?u=alice", []time.Duration{12 * h}, "", "a session is never unlimited", "ASVS 7.3.2"},
		{"a high value", session.Options{IdleTimeout: 5 * time.Minute, Lifetime: 4 * h}, "/login?u=alice", []time.Duration{5 * time.Minute}, "", "what OWASP asks for there", "OWASP Session Management"},
		{"remembered", session.Options{PersistLifetime: 720 * h}, "/remember?u=alice", []time.Duration{719 * h}, "alice", "no idle time for this one", ""},
		{"remembered, and the end", session.Options{PersistLifetime: 720 * h}, "/remember?u=alice", []time.Duration{719 * h, h}, "", "a visit before it moves nothing", "ASVS 7.3.2"},
		{"remembered without a lifetime of its own", session.Options{}, "/remember?u=alice", []time.Duration{31 * time.Minute}, "", "as any other", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, &c.opts)
				defer s.memory.Close()
				u := newUserAgent(t, s)
				u.get(c.start)
				var a answer
				for _, d := range c.visits {
					time.Sleep(d)
					_, a = u.get("/read")
				}
				if a.User != c.user || a.New != (c.user == "") {
					t.Errorf("after %v: %+v: %s", c.visits, a, c.why)
				}
			})
		})
	}
}

func spans(n int, d time.Duration) []time.Duration {
	all := make([]time.Duration, n)
	for i := range all {
		all[i] = d
	}
	return all
}

// NIST SP 800-63B-4, 5.2: signing in again begins both timeouts anew; Renew
// begins none.
func TestWhatBeginsALifetime(t *testing.T) {
	for path, user := range map[string]string{"/login?u=alice": "alice", "/renew": ""} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, &session.Options{IdleTimeout: -1})
			defer s.memory.Close()
			u := newUserAgent(t, s)
			u.get("/login?u=alice")
			time.Sleep(11 * time.Hour)
			u.get(path)
			time.Sleep(2 * time.Hour)
			if _, a := u.get("/read"); a.User != user {
				t.Errorf("%s after 11 hours, and 2 more: %+v", path, a)
			}
		})
	}
}

// ASVS 5.0, 7.6.2: no session without a user's doing.
func TestVisitorsWhoWriteNothingCostNothing(t *testing.T) {
	s := newSite(t, nil)
	for i := range 10_000 {
		if res, _ := s.get([]string{"/read", "/untouched"}[i%2]); len(res.Header["Set-Cookie"]) != 0 {
			t.Fatalf("visitor %d was given %v", i, res.Header["Set-Cookie"])
		}
	}
	if n := s.store.count("load", "save", "delete", "touch"); n != 0 || s.memory.Len() != 0 {
		t.Errorf("%d calls of the store, %d records", n, s.memory.Len())
	}
}

// ASVS 5.0, 16.2.5 and 14.1: nothing that a log, an error or a page shows lets
// anybody in, or tells what is in a session.
func TestNothingSecretIsShown(t *testing.T) {
	const canary, password = "PII-CANARY-4711", "PA55-W0RD-0815"
	log := &logs{}
	var secrets, shown []string
	see := func(texts ...any) {
		for _, text := range texts {
			shown = append(shown, fmt.Sprintf("%v %+v", text, text))
		}
	}
	type secret struct{ Canary string }
	values := session.NewKey[secret]("values")
	wrong := session.NewKey[int]("values")
	unencodable := session.NewKey[func()]("f")
	for name, build := range map[string]func() session.Store{
		"memory": func() session.Store { return session.NewMemoryStore(nil) },
		"bytes":  func() session.Store { return newByteStore(nil) },
		"sealed": func() session.Store { return newSealing(nil) },
	} {
		s := newSiteOver(t, build(), &session.Options{Logger: log.logger(), MaxData: 4096})
		token := ""
		request := func(h func(w http.ResponseWriter, r *http.Request, x *session.Session)) {
			res := s.run(t, token, func(w http.ResponseWriter, r *http.Request, x *session.Session) {
				h(w, r, x)
				see(x.Err())
			})
			if res.StatusCode >= 400 {
				see(body(t, res))
			}
			for _, c := range res.Cookies() {
				if c.Value != "" {
					token = c.Value
					secrets = append(secrets, token)
				}
			}
		}
		act := []func(w http.ResponseWriter, r *http.Request, x *session.Session){
			func(_ http.ResponseWriter, _ *http.Request, x *session.Session) { x.SetUser("alice") },
			func(_ http.ResponseWriter, _ *http.Request, x *session.Session) { values.Set(x, secret{canary}) },
			func(_ http.ResponseWriter, r *http.Request, x *session.Session) {
				wrong.Get(x)
				_, _, err := wrong.Take(r.Context(), x)
				see(err)
			},
			func(_ http.ResponseWriter, _ *http.Request, x *session.Session) {
				wrong.Update(x, func(n int) int { return n + 1 })
			},
			func(_ http.ResponseWriter, _ *http.Request, x *session.Session) {
				unencodable.Set(x, func() { _ = canary })
			},
			func(_ http.ResponseWriter, _ *http.Request, x *session.Session) {
				keyValue.Set(x, canary+strings.Repeat("x", 5000))
			},
			func(_ http.ResponseWriter, _ *http.Request, x *session.Session) { keyValue.Set(x, canary+"\xff") },
			func(w http.ResponseWriter, _ *http.Request, x *session.Session) {
				w.WriteHeader(200)
				x.Renew()
				keyValue.Set(x, canary)
			},
			func(_ http.ResponseWriter, _ *http.Request, x *session.Session) { x.Renew() },
		}
		for _, a := range act {
			request(a)
		}
		old := token
		for _, op := range []string{"load", "save", "delete", "touch"} {
			s.fails(1, op)
			for _, a := range act {
				request(a)
			}
		}
		s.store.set(nil)
		if b, ok := s.store.Store.(*byteStore); ok {
			b.plant(token, []byte("s1 "+canary+strings.Repeat("x", 100)+"\n"+canary))
			request(act[1])
			request(act[1])
		}
		for _, token := range []string{old, old + "x", session.NewToken(), canary} {
			s.get("/write?v="+canary, with(token))
			secrets = append(secrets, token)
		}
		see(s.Stats())
		if x, err := s.Session(context.Background(), token); err == nil {
			see(x.ID(), x.User(), x.Err(), x.Created())
		}
		see(name)
	}
	t.Setenv("CANARY_KEY", password)
	file := t.TempDir() + "/key"
	if err := os.WriteFile(file, []byte(password), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, u := range []string{
		"postgres://u:" + password + "@h/d", "redis://u:" + password + "@[::1", "memory:?max=1&" + "x=" + password,
		"cookie:?keys=" + password + "&irrevocable=true", "cookie:?keys=env:CANARY_KEY&irrevocable=true", "cookie:?keys=file:" + file + "&irrevocable=true",
		"jwt:?alg=HS256&keys=" + password + "&iss=a&aud=b&irrevocable=true", "jwt:?alg=HS256&keys=env:CANARY_KEY&iss=a&aud=b&irrevocable=true",
		"jwt:?alg=EdDSA&keys=env:CANARY_KEY&iss=a&aud=b&irrevocable=true", "redis://u:" + password + "@h:1/0?nonsense=1",
		"cookie:?keys=env:CANARY_KEY&revoked=redis%3A%2F%2Fu%3A" + password + "%40h%3A1%2F%3Fnonsense%3D1",
	} {
		store, err := session.Open(t.Context(), u)
		if !errors.Is(err, session.ErrConfig) {
			t.Errorf("a URL opens: %v", err)
			session.Close(store)
		}
		see(err)
	}
	all := strings.Join(shown, "\n") + log.String()
	if len(log.String()) < 1000 || len(shown) < 50 {
		t.Fatalf("there was nothing to see: %d bytes of log, %d texts", len(log.String()), len(shown))
	}
	for _, s := range append(secrets, password, "CANARY-4711") {
		if len(s) > 10 && strings.Contains(all, s) {
			at := strings.Index(all, s)
			t.Errorf("%q is shown: %.300s", s, all[max(0, at-200):])
		}
	}
}

// ASVS 5.0, 7.5.2: a list shows a user's own sessions by names that open
// nothing.
func TestListOpensNothing(t *testing.T) {
	s := newSite(t, &session.Options{Device: func(*http.Request) string { return "Firefox on Linux" }})
	tokens := []string{s.token(t, "/login?u=alice"), s.token(t, "/login?u=alice")}
	s.token(t, "/login?u=bob")
	n := 0
	for info, err := range session.List(t.Context(), s.store.wrapped(), "alice") {
		if err != nil {
			t.Fatal(err)
		}
		n++
		b, _ := json.Marshal(info)
		for _, token := range tokens {
			if strings.Contains(string(b), token) {
				t.Errorf("the list shows a token: %s", b)
			}
		}
		if info.User != "alice" || info.Device != "Firefox on Linux" || info.Created.IsZero() || info.Seen.IsZero() || info.SignedIn.IsZero() || info.Expires.IsZero() {
			t.Errorf("%+v", info)
		}
		s.gone(t, info.ID)
	}
	if n != 2 {
		t.Errorf("%d sessions", n)
	}
}

// RFC 6265bis, 5.6: a cookie that a browser would ignore is an error at the
// server, with both sizes; the longest that fits is kept.
func TestCookieSizes(t *testing.T) {
	for _, c := range []session.CookieTransport{
		{}, {Name: strings.Repeat("n", 64)}, {Domain: "sessions.example.com", Path: "/a/long/path/to/somewhere", SameSite: http.SameSiteNoneMode, Partitioned: true},
		{MaxChunks: 2}, {MaxChunks: 2, Name: "__Secure-" + strings.Repeat("n", 55), Domain: "example.com", Path: "/" + strings.Repeat("p", 1000)},
	} {
		for _, expires := range []time.Time{{}, time.Now().Add(400*24*time.Hour - time.Minute)} {
			for d := range 3 {
				size := c.MaxToken() - d
				w := httptest.NewRecorder()
				c.SetToken(w, httptest.NewRequest("GET", "/", nil), strings.Repeat("t", size), expires)
				r := httptest.NewRequest("GET", "/", nil)
				var pairs []string
				for _, line := range w.Header()["Set-Cookie"] {
					host := "example.com"
					if c.Domain != "" {
						host = c.Domain
					}
					kept, err := parseSetCookie(line, origin{host: host, path: "/", secure: true})
					if err != nil {
						t.Fatalf("%+v, %d: %v", c, size, err)
					}
					if len(line) > 4093 {
						t.Errorf("%+v: a line of %d bytes", c, len(line))
					}
					pairs = append(pairs, kept.name+"="+kept.value)
				}
				header := strings.Join(pairs, "; ")
				r.Header.Set("Cookie", header)
				if got := c.Token(r); len(got) != size || len(header) > 7<<10 {
					t.Errorf("%d came back as %d, in a header of %d bytes", size, len(got), len(header))
				}
			}
		}
	}
	for _, tr := range []session.Transport{session.CookieTransport{}, session.CookieTransport{MaxChunks: 2}, session.HeaderTransport{}} {
		s := newSiteOver(t, newSealing(nil), &session.Options{Transport: tr})
		var err error
		res := s.run(t, "", func(_ http.ResponseWriter, r *http.Request, x *session.Session) {
			keyValue.Set(x, strings.Repeat("v", 8000))
			err = x.Save(r.Context())
		})
		limit := tr.(interface{ MaxToken() int }).MaxToken()
		if !errors.Is(err, session.ErrTooLarge) || !strings.Contains(err.Error(), fmt.Sprint(limit)) || res.StatusCode != 500 || len(res.Cookies()) != 0 {
			t.Errorf("%T: %v, %s, cookies %v", tr, err, res.Status, res.Cookies())
		}
	}
}

// ASVS 5.0, 16.5.3: what fails, fails closed, with no details.
func TestFailureShowsNoDetails(t *testing.T) {
	s := newSite(t, nil)
	token := s.token(t, "/login?u=alice")
	s.store.set(away)
	res, _ := s.get("/read", with(token))
	if got := body(t, res); res.StatusCode != 503 || got != "Service Unavailable\n" || res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("Retry-After") == "" {
		t.Errorf("%s %q, header %v", res.Status, got, res.Header)
	}
	if !strings.Contains(s.log.String(), errAway.Error()) {
		t.Errorf("the log does not say why: %s", s.log)
	}
}
