package storetest

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/distsession/session"
)

var headerPromises = []promise{
	{"the headers are these, and no others", goldenHeaders},
}

var serverHeaderPromises = []promise{
	{"a response that changes no token may be cached as the handler says", cacheable},
}

// setCookie is the line that a browser gets; TOKEN stands for the token.
const (
	setCookie   = "Set-Cookie: __Host-session=TOKEN; Path=/; HttpOnly; Secure; SameSite=Lax"
	clearCookie = "Set-Cookie: __Host-session=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax"

	// What goes with them where the store answers from copies.
	setVersion   = "Set-Cookie: __Host-session.v=VERSION; Path=/; HttpOnly; Secure; SameSite=Lax"
	clearVersion = "Set-Cookie: __Host-session.v=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax"
)

// withVersions adds to the lines what a store that answers from copies makes of
// them.
func (n *node) withVersions(lines []string) []string {
	if !n.versioned() {
		return lines
	}
	var all []string
	for _, line := range lines {
		switch all = append(all, line); line {
		case setCookie:
			all = append(all, setVersion)
		case clearCookie:
			all = append(all, clearVersion)
		}
	}
	return all
}

// lines returns the headers that sessions have to do with, in order; for token
// stands TOKEN, and VERSION for a version that is of the session it opens.
func (a *answer) lines(token string) []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(a.header)) {
		switch name {
		case "Date", "Content-Length", "Content-Type", "X-Content-Type-Options":
			continue
		}
		for _, v := range a.header[name] {
			if token != "" {
				v = strings.ReplaceAll(v, token, "TOKEN")
				v = versionOf(session.ID(token)).ReplaceAllString(v, "${1}VERSION$2")
			}
			all = append(all, name+": "+v)
		}
	}
	return all
}

func versionOf(id string) *regexp.Regexp {
	return regexp.MustCompile("^(" + regexp.QuoteMeta(versionName) + "=)" + id[:8] + `\.[1-9][0-9]*(;)`)
}

func goldenHeaders(t *place) {
	n := t.node(session.Options{})
	with := func(path string, set func(h http.Header), change func(s *session.Session, q url.Values)) {
		n.handle(path, func(w http.ResponseWriter, r *http.Request, s *session.Session) {
			set(w.Header())
			change(s, r.URL.Query())
			writePage(w, show(s))
		})
	}
	cache := func(v string) func(h http.Header) {
		return func(h http.Header) { h.Set("Cache-Control", v) }
	}
	renew := func(s *session.Session, _ url.Values) { s.Renew() }
	with("/public", cache("public, max-age=600"), renew)
	with("/private", cache("private, max-age=60"), renew)
	with("/private2", cache("max-age=60, PRIVATE"), renew)
	with("/vary", func(h http.Header) { h.Set("Vary", "Accept-Encoding") }, func(*session.Session, url.Values) {})
	with("/varies", func(h http.Header) { h.Set("Vary", "accept-encoding, cookie") }, func(*session.Session, url.Values) {})
	with("/star", func(h http.Header) { h.Set("Vary", "*") }, func(*session.Session, url.Values) {})
	with("/twice", func(h http.Header) {}, func(s *session.Session, _ url.Values) {
		cart.Set(s, "one")
		s.Save(t.Context())
		s.SetUser("alice")
		s.Save(t.Context())
		s.Renew()
	})
	n.handle("/not-modified", func(w http.ResponseWriter, _ *http.Request, s *session.Session) {
		s.Renew()
		w.WriteHeader(http.StatusNotModified)
	})
	n.handle("/redirect", func(w http.ResponseWriter, r *http.Request, s *session.Session) {
		s.SetUser("alice")
		w.Header().Set("Location", "/home")
		w.WriteHeader(http.StatusSeeOther)
	})
	n.handle("/empty", func(w http.ResponseWriter, _ *http.Request, _ *session.Session) { w.WriteHeader(http.StatusNoContent) })

	private := []string{"Cache-Control: no-store", setCookie, "Vary: Cookie"}
	vary := []string{"Vary: Cookie"}
	b := t.browser()
	for _, tt := range []struct {
		path, why string
		want      []string
	}{
		{"/static", "untouched: a cache may keep it for all", nil},
		{"/read", "a visitor who writes nothing", vary},
		{"/set?cart=book", "the first value", private},
		{"/read", "a reader: only Vary", vary},
		{"/empty", "no content", vary},
		{"/redirect", "a sign-in that goes on to another page", []string{"Cache-Control: no-store", "Location: /home", setCookie, "Vary: Cookie"}},
		{"/renew", "a new token", private},
		{"/twice", "three tokens in one response: the last", private},
		{"/not-modified", "a 304 with a new token", private},
		{"/public", "public with our Set-Cookie would be one user's cookie in a CDN (CVE-2023-30861)", private},
		{"/private", "the handler knows better", []string{"Cache-Control: private, max-age=60", setCookie, "Vary: Cookie"}},
		{"/private2", "directives have no case", []string{"Cache-Control: max-age=60, PRIVATE", setCookie, "Vary: Cookie"}},
		{"/vary", "the handler's own Vary stays", []string{"Vary: Accept-Encoding", "Vary: Cookie"}},
		{"/varies", "it is there already", []string{"Vary: accept-encoding, cookie"}},
		{"/star", "says it all", []string{"Vary: *"}},
		{"/static", "untouched, with a cookie", nil},
		{"/signout", "the cookie is cleared as it was set", []string{"Cache-Control: no-store", clearCookie, "Vary: Cookie"}},
		{"/signout", "there is nothing to clear", vary},
	} {
		a := b.get(n, tt.path)
		if got, want := a.lines(b.token()), n.withVersions(tt.want); !slices.Equal(got, want) {
			t.Errorf("%s (%s):\n got %s\nwant %s", tt.path, tt.why, listing(got), listing(want))
		}
	}
	n.store.SetAll(Fail(errAway))
	a := b.get(n, "/set?cart=lost")
	want := []string{"Cache-Control: no-store", "Retry-After: 1", "Vary: Cookie"}
	if got := a.lines(""); !slices.Equal(got, want) {
		t.Errorf("a failing store:\n got %s\nwant %s", listing(got), listing(want))
	}
}

func listing(lines []string) string { return fmt.Sprintf("%q", lines) }

func cacheable(t *place) {
	n := t.node(session.Options{})
	n.handle("/public", func(w http.ResponseWriter, _ *http.Request, s *session.Session) {
		w.Header().Set("Cache-Control", "public, max-age=600")
		cart.Set(s, "pen")
		writePage(w, show(s))
	})
	b := t.signedIn(n, "alice")
	want := []string{"Cache-Control: public, max-age=600", "Vary: Cookie"}
	if n.versioned() {
		want = []string{"Cache-Control: no-store", setVersion, "Vary: Cookie"}
	}
	if got := b.see(n, "/public").lines(b.token()); !slices.Equal(got, want) {
		t.Errorf("got %s; want %s", listing(got), listing(want))
	}
}
