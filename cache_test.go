package session_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/distsession/session"
)

// sharedCache is a small model of RFC 9111, 3 and 4: a proxy between all users
// and a site. A rude one does what some real ones do: it goes by the headers
// for CDNs first, and does not look at Vary.
type sharedCache struct {
	site   http.Handler
	rude   bool
	stored map[string][]*storedResponse
}

type storedResponse struct {
	vary    map[string]string
	code    int
	header  http.Header
	content []byte
}

func (c *sharedCache) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if hit := c.find(r); hit != nil {
		for name, lines := range hit.header {
			w.Header()[name] = lines
		}
		w.Header().Set("Age", "1")
		w.WriteHeader(hit.code)
		w.Write(hit.content)
		return
	}
	rec := httptest.NewRecorder()
	c.site.ServeHTTP(rec, r)
	res := rec.Result()
	content := rec.Body.Bytes()
	if c.stores(r, res) {
		s := &storedResponse{map[string]string{}, res.StatusCode, res.Header.Clone(), bytes.Clone(content)}
		for name := range strings.SplitSeq(strings.Join(res.Header.Values("Vary"), ","), ",") {
			if name = strings.TrimSpace(name); name != "" {
				s.vary[name] = strings.Join(r.Header.Values(name), ", ")
			}
		}
		c.stored[r.URL.Path] = append(c.stored[r.URL.Path], s)
	}
	for name, lines := range res.Header {
		w.Header()[name] = lines
	}
	w.WriteHeader(res.StatusCode)
	io.Copy(w, bytes.NewReader(content))
}

func (c *sharedCache) find(r *http.Request) *storedResponse {
	for _, s := range c.stored[r.URL.Path] {
		fits := true
		for name, value := range s.vary {
			fits = fits && (c.rude || name != "*" && strings.Join(r.Header.Values(name), ", ") == value)
		}
		if fits {
			return s
		}
	}
	return nil
}

// stores is RFC 9111, 3, for a shared cache.
func (c *sharedCache) stores(r *http.Request, res *http.Response) bool {
	directives := func(name string) []string {
		var all []string
		for d := range strings.SplitSeq(strings.ToLower(strings.Join(res.Header.Values(name), ",")), ",") {
			all = append(all, strings.TrimSpace(d))
		}
		return all
	}
	lives := func(all []string) bool {
		return slices.ContainsFunc(all, func(d string) bool {
			name, value, _ := strings.Cut(d, "=")
			n, err := strconv.Atoi(value)
			return (name == "max-age" || name == "s-maxage") && err == nil && n > 0
		})
	}
	if c.rude {
		// The targeted fields of RFC 9213 end so; the others are older.
		for name := range res.Header {
			targeted := strings.HasSuffix(name, "-Cache-Control") || name == "Surrogate-Control"
			if all := directives(name); targeted && lives(all) && !slices.Contains(all, "no-store") {
				return true
			}
		}
		if res.Header.Get("X-Accel-Expires") != "" || strings.Contains(res.Header.Get("Edge-Control"), "maxage") {
			return true
		}
	}
	all := directives("Cache-Control")
	switch {
	case r.Method != "GET" && r.Method != "HEAD", res.StatusCode != 200,
		slices.Contains(all, "no-store"), slices.Contains(all, "private"),
		r.Header.Get("Authorization") != "" && !slices.Contains(all, "public"):
		return false
	}
	return lives(all) || slices.Contains(all, "public")
}

// testSharedCache sends two users, and a visitor, through a cache to one page
// that changes the session, with every header that a handler may set.
func testSharedCache(t *testing.T) {
	headers := []http.Header{
		{},
		{"Cache-Control": {"public, max-age=3600"}},
		{"Cache-Control": {"max-age=3600"}},
		{"Cache-Control": {"public", "s-maxage=60"}},
		{"Cache-Control": {"PUBLIC, Max-Age=60"}},
		{"Cache-Control": {`private="Set-Cookie", max-age=60`}},
		{"Cache-Control": {"private, max-age=60"}},
		{"Cache-Control": {"no-cache"}, "Cdn-Cache-Control": {"max-age=60"}},
		{"Cache-Control": {"private"}, "Cdn-Cache-Control": {"max-age=60"}},
		{"Cache-Control": {"no-store"}, "Surrogate-Control": {"max-age=60"}},
		{"Cache-Control": {"private"}, "Cloudflare-Cdn-Cache-Control": {"max-age=60"}},
		{"Cache-Control": {"private"}, "Vercel-Cdn-Cache-Control": {"s-maxage=60"}},
		{"Cache-Control": {"private"}, "Edge-Control": {"cache-maxage=60"}},
		{"Cache-Control": {"private"}, "X-Accel-Expires": {"60"}},
		{"Cache-Control": {"public, max-age=60"}, "Vary": {"Accept"}},
		{"Cache-Control": {"public, max-age=60"}, "Vary": {"*"}},
	}
	acts := map[string]func(x *session.Session, user string){
		"a change": func(x *session.Session, user string) { keyValue.Set(x, user) },
		"sign-in":  func(x *session.Session, user string) { x.SetUser(user) },
		"renewal":  func(x *session.Session, _ string) { x.Renew() },
		"sign-out": func(x *session.Session, _ string) { x.Destroy() },
		"persist":  func(x *session.Session, user string) { keyValue.Set(x, user); x.Persist(true) },
		"a read":   func(x *session.Session, _ string) { keyValue.Get(x) },
	}
	for _, rude := range []bool{false, true} {
		for act, do := range acts {
			for i, h := range headers {
				s := newSite(t, nil)
				cache := &sharedCache{rude: rude, stored: map[string][]*storedResponse{}}
				cache.site = s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					x := sess(t, r)
					for name, lines := range h {
						w.Header()[name] = slices.Clone(lines)
					}
					do(x, r.URL.Query().Get("user"))
					fmt.Fprintf(w, "page of %s\n", x.User())
				}))
				tokens := map[string]string{}
				for _, user := range []string{"alice", "bob"} {
					tokens[user] = s.token(t, "/login?u="+user)
				}
				shown := map[string]string{} // what was in a Set-Cookie, and for whom
				for _, user := range []string{"alice", "bob", "visitor", "bob", "alice"} {
					r := httptest.NewRequest("GET", "/page?user="+user, nil)
					if token := tokens[user]; token != "" {
						r.Header.Set("Cookie", "__Host-session="+token)
					}
					rec := httptest.NewRecorder()
					cache.ServeHTTP(rec, r)
					for _, c := range rec.Result().Cookies() {
						if c.Value == "" {
							continue
						}
						if other, seen := shown[c.Value]; seen && other != user {
							t.Errorf("rude %v, %s, header %d: %s got %s's cookie", rude, act, i, user, other)
						}
						shown[c.Value] = user
						tokens[user] = c.Value
					}
					// To a cache that ignores Vary no personal page may be called
					// public; that is the handler's business.
					if who := strings.TrimSpace(strings.TrimPrefix(rec.Body.String(), "page of ")); !rude && who != "" && who != user {
						t.Errorf("rude %v, %s, header %d: %s got the page of %s", rude, act, i, user, who)
					}
				}
			}
		}
	}
}
