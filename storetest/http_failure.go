package storetest

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/distsession/session"
)

// failurePromises: what visitors see while the store is away.
var failurePromises = []promise{
	{"a failing store is a 503, never an anonymous visitor", failingStore},
	{"a handler may answer for a failing store itself", handlerAnswers},
	{"a store that fails at the commit replaces the response", failingCommit},
	{"a sign-in that fails anywhere leaves the old session", failingSignIn},
	{"a sign-out that fails is a 503, and the session stays", failingSignOut},
	{"a store that stalls is a 503 in time", stallingStore},
	{"an answer of the store that was lost is a 503, and never a second session", lostAnswer},
	{"a record that cannot be decoded is no session, not an error", undecodable},
	{"no token and no value is in a log or an error page", nothingSecretInLogs},
}

var serverFailurePromises = []promise{
	{"conflicts are replayed", conflictsReplayed},
	{"a store that always conflicts is a 503 in the end", alwaysConflicts},
	{"values that cannot be decoded are no session, not an error", garbageValues},
	{"a touch that fails does not fail the page", failingTouch},
}

// unavailable checks a failure page.
func (a *answer) unavailable(t *place, when string) {
	t.Helper()
	if a.status != http.StatusServiceUnavailable {
		t.Errorf("%s: status %d, body %.200q; want 503", when, a.status, a.body)
	}
	if a.setsCookie() {
		t.Errorf("%s: the failure page has Set-Cookie %q", when, a.header["Set-Cookie"])
	}
	if a.header.Get("Retry-After") == "" || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s: Retry-After %q, Cache-Control %q", when, a.header.Get("Retry-After"), a.header.Get("Cache-Control"))
	}
	if strings.Contains(a.body, "192.0.2.1") || strings.Contains(a.body, "session:") {
		t.Errorf("%s: the failure page shows details: %q", when, a.body)
	}
}

func failingStore(t *place) {
	one, two := t.node(session.Options{}), t.node(session.Options{})
	b := t.signedIn(one, "alice")
	old := b.token()
	one.store.SetAll(Fail(errAway))
	for _, path := range []string{"/read", "/set?cart=lost", "/inc", "/signin?user=bob", "/signout", "/renew"} {
		b.get(one, path).unavailable(t, path)
	}
	t.browser().get(one, "/set?cart=lost").unavailable(t, "a visitor's first value")
	t.browser().see(one, "/read").nobody(t, "a visitor without a cookie")
	b.see(one, "/static")
	b.see(two, "/read").shows(t, "on a node whose store works", "alice", "book")
	one.store.Heal()
	if b.token() != old {
		t.Error("the failure changed the cookie")
	}
	b.see(one, "/read").shows(t, "after the failure", "alice", "book")
	if !strings.Contains(one.log.String(), errAway.Error()) && !strings.Contains(one.log.String(), "connection refused") {
		t.Error("the log does not say what failed")
	}
}

func handlerAnswers(t *place) {
	n := t.node(session.Options{})
	n.mux.HandleFunc("/own", func(w http.ResponseWriter, r *http.Request) {
		_, err := session.From(r.Context())
		if !errors.Is(err, errAway) {
			t.Errorf("From: %v; want the store's failure", err)
		}
		if _, again := session.From(r.Context()); !errors.Is(again, errAway) {
			t.Errorf("a second From: %v; want the same failure", again)
		}
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, "a page without you")
	})
	b := t.signedIn(n, "alice")
	n.store.Reset()
	n.set(Load, Fail(errAway))
	a := b.get(n, "/own")
	if a.status != http.StatusTeapot || a.body != "a page without you" || a.setsCookie() {
		t.Errorf("status %d, body %q, Set-Cookie %q", a.status, a.body, a.header["Set-Cookie"])
	}
	if n.loads() != 1 {
		t.Errorf("the failing store was asked %d times in one request", n.loads())
	}
}

func failingCommit(t *place) {
	n := t.node(session.Options{})
	writes := make(chan error, 1)
	n.handle("/order", func(w http.ResponseWriter, _ *http.Request, s *session.Session) {
		cart.Set(s, "paid")
		for name, v := range map[string]string{
			"Content-Type": "application/json", "Content-Length": "9000", "Content-Encoding": "gzip", "ETag": `"1"`,
			"Last-Modified": "Mon, 01 Jan 2026 00:00:00 GMT", "Location": "/thanks", "X-Handler": "yes", "X-Outer": "changed",
		} {
			w.Header().Set(name, v)
		}
		w.Header().Add("Set-Cookie", "basket=1")
		w.WriteHeader(http.StatusSeeOther)
		_, err := io.WriteString(w, "payment accepted")
		writes <- err
	})
	inner := n.m.Handler(n.mux)
	n.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Outer", "kept")
		w.Header().Add("Set-Cookie", "outer=1")
		inner.ServeHTTP(w, r)
	}))
	b := t.browser()
	b.see(n, "/set?cart=book")
	b.see(n, "/signin?user=alice")
	old := b.token()
	n.store.Set(Save, Fail(errAway))
	a := b.get(n, "/order")
	if err := receive(t, "the handler", writes); !errors.Is(err, errAway) {
		t.Errorf("Write after the commit failed: %v; want the commit's error", err)
	}
	if a.status != http.StatusServiceUnavailable || strings.Contains(a.body, "payment") {
		t.Errorf("status %d, body %q; want a 503 and nothing of the handler's", a.status, a.body)
	}
	for _, name := range []string{"Content-Encoding", "ETag", "Last-Modified", "Location", "X-Handler"} {
		if v := a.header.Get(name); v != "" {
			t.Errorf("the failure page has the handler's %s: %q", name, v)
		}
	}
	if got := a.header.Get("X-Outer"); got != "kept" {
		t.Errorf("outer middleware's header is %q; want it kept", got)
	}
	if got := a.header["Set-Cookie"]; len(got) != 1 || got[0] != "outer=1" {
		t.Errorf("Set-Cookie is %q; want outer middleware's alone", got)
	}
	n.store.Heal()
	if b.token() != old {
		t.Error("the failure changed the cookie")
	}
	b.see(n, "/read").shows(t, "after the failure", "alice", "book")
}

func failingSignIn(t *place) {
	n := t.node(session.Options{})
	for _, tt := range []struct {
		step  string
		fault Fault
	}{
		{"the new record", Nth(1, Fail(errAway))},
		{"the claim of the old one", Nth(2, Fail(errAway))},
	} {
		for _, path := range []string{"/signin?user=alice", "/renew"} {
			b := t.browser()
			b.see(n, "/set?cart=book")
			user := ""
			if path == "/renew" {
				user = "bob"
				b.see(n, "/signin?user=bob")
			}
			old := b.token()
			n.store.Set(Save, tt.fault)
			b.get(n, path).unavailable(t, path+", failing at "+tt.step)
			n.store.Heal()
			if b.token() != old {
				t.Errorf("%s, failing at %s: the cookie changed", path, tt.step)
			}
			b.see(n, "/read").shows(t, path+", failing at "+tt.step, user, "book")
			t.live(n, "alice", 0)
			b.see(n, "/signin?user=carol") // a second try is not in the way of the first
			b.see(n, "/read").shows(t, "the next try", "carol", map[bool]string{true: "book"}[user == ""])
		}
	}
}

func failingSignOut(t *place) {
	n := t.node(session.Options{})
	b := t.signedIn(n, "alice")
	n.store.Set(Delete, Fail(errAway))
	b.get(n, "/signout").unavailable(t, "a sign-out that failed")
	n.store.Heal()
	b.see(n, "/read").shows(t, "after a sign-out that failed", "alice", "book")
	b.see(n, "/signout")
	b.see(n, "/read").nobody(t, "after the next try")
}

func stallingStore(t *place) {
	// A stalled call ends with its context alone, so any answer proves the bound.
	n := t.node(session.Options{Timeout: 50 * time.Millisecond})
	healthy := t.node(session.Options{})
	b := t.signedIn(healthy, "alice")
	for _, m := range []Method{Load, Save} {
		n.set(m, Stall())
		b.get(n, "/set?cart=lost").unavailable(t, "a store that stalls at "+string(m))
		n.store.Heal()
	}
	b.see(healthy, "/read").shows(t, "afterwards", "alice", "book")
}

func lostAnswer(t *place) {
	n := t.node(session.Options{})
	b := t.signedIn(n, "alice")
	n.store.Set(Save, LoseAnswer(errAway))
	b.get(n, "/set?theme=dark").unavailable(t, "a Save whose answer was lost")
	n.store.Heal()
	a := b.see(n, "/read")
	a.shows(t, "afterwards", "alice", "book")
	if a.Theme != "dark" && !t.b.ClientSide {
		t.Errorf("the store had saved it, but the page shows %s", a.body)
	}
	b.see(n, "/set?theme=light")
	if a := b.see(n, "/read"); a.Theme != "light" {
		t.Errorf("the next change: %s", a.body)
	}
	t.live(n, "alice", 1)
}

func undecodable(t *place) {
	n := t.node(session.Options{})
	b := t.signedIn(n, "alice")
	old := b.token()
	n.store.Reset()
	n.set(Load, Fail(fmt.Errorf("%w: the record cannot be decoded: checksum differs", session.ErrNotFound)))
	a := b.see(n, "/read")
	a.nobody(t, "a record that cannot be decoded")
	if a.setsCookie() || n.store.Calls() != 1 {
		t.Errorf("Set-Cookie %q, %d calls of the store", a.header["Set-Cookie"], n.store.Calls())
	}
	if !strings.Contains(n.log.String(), "checksum differs") {
		t.Error("the log does not tell why")
	}
	b.see(n, "/set?cart=pen").shows(t, "a write begins another session", "", "pen")
	n.store.Heal()
	if b.token() == old {
		t.Error("the write went to the record that cannot be decoded")
	}
	b.see(n, "/read").shows(t, "the new session", "", "pen")
}

func nothingSecretInLogs(t *place) {
	const secret = "4111-1111-1111-1111"
	n := t.node(session.Options{Timeout: 30 * time.Millisecond})
	n.handle("/public", func(w http.ResponseWriter, _ *http.Request, s *session.Session) {
		w.Header().Set("Cache-Control", "public, max-age=600")
		s.Renew()
		writePage(w, show(s))
	})
	n.change("/mistype", func(s *session.Session, _ url.Values) {
		session.NewKey[int]("cart").Get(s)
		session.NewKey[int]("cart").Update(s, func(n int) int { return n })
	})
	b := t.browser()
	var tokens []string
	pages := ""
	visit := func(path string) {
		t.Helper()
		tokens = append(tokens, b.token())
		a := b.get(n, path)
		if a.status != http.StatusOK {
			pages += a.body
		}
		tokens = append(tokens, b.token())
	}
	visit("/set?cart=" + secret)
	visit("/signin?user=alice")
	visit("/public")
	visit("/mistype")
	for _, fault := range []Fault{Fail(errAway), Stall(), LoseAnswer(errAway)} {
		for _, m := range []Method{Load, Save, Delete} {
			n.set(m, fault)
			for _, path := range []string{"/set?theme=" + string(m), "/renew", "/inc", "/signout"} {
				if m == Delete && path != "/signout" {
					continue
				}
				visit(path)
			}
			n.store.Heal()
			visit("/signin?user=alice")
			visit("/set?cart=" + secret)
		}
	}
	for _, text := range []string{n.log.String(), pages} {
		if strings.Contains(text, secret) {
			t.Errorf("a value is in the log or on an error page")
		}
		for _, token := range tokens {
			if token != "" && strings.Contains(text, token) {
				t.Fatalf("a token is in the log or on an error page")
			}
		}
	}
}

func conflictsReplayed(t *place) {
	n := t.node(session.Options{})
	b := t.signedIn(n, "alice")
	for i := range 3 {
		n.store.Set(Save, First(i+1, Conflict()))
		b.see(n, "/inc")
	}
	n.store.Heal()
	a := b.see(n, "/read")
	a.shows(t, "after the conflicts", "alice", "book")
	if a.Count != 3 {
		t.Errorf("three updates made %d", a.Count)
	}
}

func alwaysConflicts(t *place) {
	n := t.node(session.Options{Timeout: 50 * time.Millisecond})
	healthy := t.node(session.Options{})
	b := t.signedIn(healthy, "alice")
	n.store.Set(Save, Conflict())
	for _, path := range []string{"/inc", "/set?cart=lost"} {
		b.get(n, path).unavailable(t, path)
	}
	n.store.Heal()
	b.see(healthy, "/read").shows(t, "afterwards", "alice", "book")
}

func garbageValues(t *place) {
	n := t.node(session.Options{})
	for _, tt := range []struct{ name, data string }{
		{"no JSON", "garbage"},
		{"cut", `{"cart":"bo`},
		{"an array", `["cart"]`},
		{"a number", "7"},
		{"two objects", `{"cart":"book"}{"cart":"pen"}`},
		{"binary", "\x00\xff\xfe"},
		{"another library's", "\x1f\xff\x81\x03\x01\x01"},
	} {
		b := t.signedIn(n, "alice")
		rec := t.load(n.store, b.token())
		rec.Data = []byte(tt.data)
		t.save(n.store, rec, b.token())
		n.store.Reset()
		a := b.see(n, "/read")
		a.nobody(t, tt.name)
		if a.setsCookie() || n.store.Calls() != 1 {
			t.Errorf("%s: Set-Cookie %q, %d calls of the store", tt.name, a.header["Set-Cookie"], n.store.Calls())
		}
		b.see(n, "/set?cart=pen").shows(t, tt.name+", then a write", "", "pen")
		b.see(n, "/read").shows(t, tt.name+", then a write", "", "pen")
	}
}

func failingTouch(t *place) {
	n := t.node(session.Options{})
	ability[session.Toucher](t, n.store)
	b := t.signedIn(n, "alice")
	n.store.Set(Touch, Fail(errAway))
	n.store.Reset()
	t.advance(10 * time.Minute)
	b.see(n, "/read").shows(t, "while touches fail", "alice", "book")
	if n.store.Calls(Touch) == 0 {
		t.Error("no touch was tried")
	}
}
