package session_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/distsession/session"
)

// configVector is a configuration that must not start, or one that is close to
// it and must.
type configVector struct {
	Name, Why, Source string

	URL     string // of a store
	Store   string // "": memory; or "nil", "typed nil", "cannot list"
	Options *struct {
		IdleTimeout, Lifetime, PersistLifetime, Timeout string
		MaxData, MaxSessions                            int
		Insecure                                        bool
		Transport                                       string // "nil cookie", "nil header", "no vary"
	}
	Cookie *session.CookieTransport
	Header *session.HeaderTransport

	Starts  bool
	Message []string // what the error must say: the field, and the mend
	Never   []string // and what it must not show
}

func (v *configVector) build(t *testing.T) error {
	if v.URL != "" {
		s, err := session.Open(t.Context(), strings.TrimPrefix(v.URL, "(empty)"))
		if err == nil {
			t.Cleanup(func() { session.Close(s) })
		}
		return err
	}
	var store session.Store = session.NewMemoryStore(nil)
	switch v.Store {
	case "nil":
		store = nil
	case "typed nil":
		store = (*session.MemoryStore)(nil)
	case "cannot list":
		store = newSealing(nil)
	}
	opts := &session.Options{}
	if o := v.Options; o != nil {
		opts.IdleTimeout, opts.Lifetime = span(t, o.IdleTimeout), span(t, o.Lifetime)
		opts.PersistLifetime, opts.Timeout = span(t, o.PersistLifetime), span(t, o.Timeout)
		opts.MaxData, opts.MaxSessions, opts.Insecure = o.MaxData, o.MaxSessions, o.Insecure
		switch o.Transport {
		case "nil cookie":
			opts.Transport = (*session.CookieTransport)(nil)
		case "nil header":
			opts.Transport = (*session.HeaderTransport)(nil)
		case "no vary":
			opts.Transport = noVary{}
		}
	}
	if v.Cookie != nil {
		opts.Transport = *v.Cookie
	}
	if v.Header != nil {
		opts.Transport = *v.Header
	}
	_, err := session.New(store, opts)
	if v.Cookie != nil {
		// The pointer is as good as the value, and as bad.
		opts.Transport = v.Cookie
		if _, again := session.New(store, opts); (again == nil) != (err == nil) {
			t.Errorf("as a pointer: %v, as a value: %v", again, err)
		}
	}
	return err
}

// noVary is a transport that does not say what it reads, so that a cache could
// not tell two users apart.
type noVary struct{ session.CookieTransport }

func (noVary) Vary() string { return "" }

func span(t *testing.T, s string) time.Duration {
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestHostileConfigurations(t *testing.T) {
	all := vectors[configVector](t, "hostile/config")
	distinctNames(t, all, func(v configVector) (string, string) { return v.Name, v.Why })
	for _, v := range all {
		t.Run(v.Name, func(t *testing.T) {
			err := v.build(t)
			if v.Starts {
				if err != nil {
					t.Fatalf("%v: %s", err, v.Why)
				}
				return
			}
			if !errors.Is(err, session.ErrConfig) {
				t.Fatalf("%v, want ErrConfig: %s", err, v.Why)
			}
			if len(v.Message) == 0 {
				t.Error("the vector does not say what the message must contain")
			}
			if n := strings.Count(err.Error(), session.ErrConfig.Error()); n != 1 || strings.Contains(err.Error(), "%!") {
				t.Errorf("a garbled message: %v", err)
			}
			for _, s := range v.Message {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q does not say %q", err, s)
				}
			}
			for _, s := range v.Never {
				if strings.Contains(err.Error(), s) {
					t.Errorf("%q shows %q", err, s)
				}
			}
		})
	}
}

// A configuration that starts is one whose cookie a browser keeps.
func TestEveryTransportThatStartsSetsCookiesThatBrowsersKeep(t *testing.T) {
	for _, v := range vectors[configVector](t, "hostile/config") {
		if v.Cookie == nil || !v.Starts {
			continue
		}
		t.Run(v.Name, func(t *testing.T) {
			s := newSite(t, &session.Options{Transport: *v.Cookie, PersistLifetime: 400 * 24 * time.Hour})
			for _, path := range []string{"/login?u=alice", "/remember?u=alice", "/logout"} {
				host := "localhost"
				if v.Cookie.Domain != "" {
					host = "www." + strings.TrimPrefix(v.Cookie.Domain, "www.")
				}
				res, _ := s.get(path, "Cookie: "+cookieName(*v.Cookie)+"="+session.NewToken())
				if len(res.Header["Set-Cookie"]) == 0 {
					t.Fatalf("%s sets no cookie", path)
				}
				for _, line := range res.Header["Set-Cookie"] {
					if _, err := parseSetCookie(line, origin{host: host, path: "/", secure: !v.Cookie.Insecure}); err != nil {
						t.Errorf("%s: %v: %s", path, err, line)
					}
				}
			}
		})
	}
}

// cookieName is the name that a transport without one takes.
func cookieName(c session.CookieTransport) string {
	rec := &nullWriter{http.Header{}}
	c.SetToken(rec, &http.Request{}, "x", time.Time{})
	name, _, _ := strings.Cut(rec.h.Get("Set-Cookie"), "=")
	return name
}
