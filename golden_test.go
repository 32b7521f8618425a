package session_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distsession/session"
)

var update = flag.Bool("update", false, "write the golden files anew")

// pipes is a listener whose connections are made by dial: a server in a bubble
// of package synctest, whose clock stands at 2000-01-01.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// exchange sends a request as it stands and returns the answer as it came.
func (p *pipes) exchange(t *testing.T, request string) string {
	t.Helper()
	client, server := net.Pipe()
	p.conns <- server
	defer client.Close()
	go io.WriteString(client, request)
	b, err := io.ReadAll(client)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// goldenCase is one exchange; its answer is testdata/golden/<name>.http.
type goldenCase struct {
	name  string
	opts  session.Options
	long  bool   // the store is client-side, and the transport has two chunks
	start string // the page that makes the session, "" for none
	act   func(w http.ResponseWriter, r *http.Request, x *session.Session)
	fault string // the call of the store that fails
	after time.Duration
	outer http.Header
	plain bool // the handler does not look at the session
}

func page(w http.ResponseWriter) { io.WriteString(w, "page\n") }

func goldenCases() []goldenCase {
	type W = http.ResponseWriter
	type R = *http.Request
	type S = *session.Session
	cached := func(value string) func(W, R, S) {
		return func(w W, _ R, x S) {
			w.Header().Set("Cache-Control", value)
			keyValue.Set(x, "x")
			page(w)
		}
	}
	return []goldenCase{
		{name: "untouched", plain: true, start: "/login?u=alice", act: func(w W, _ R, _ S) { page(w) }},
		{name: "visitor reads", act: func(w W, _ R, x S) { page(w) }},
		{name: "visitor writes", act: func(w W, _ R, x S) { keyValue.Set(x, "x"); page(w) }},
		{name: "read", start: "/login?u=alice", act: func(w W, _ R, x S) { page(w) }},
		{name: "change", start: "/login?u=alice", act: func(w W, _ R, x S) { keyValue.Set(x, "x"); page(w) }},
		{name: "sign-in", start: "/write?v=cart", act: func(w W, _ R, x S) { x.SetUser("alice"); page(w) }},
		{name: "sign-out", start: "/login?u=alice", act: func(w W, _ R, x S) { x.Destroy(); page(w) }},
		{name: "sign-out and a message", start: "/login?u=alice", act: func(w W, _ R, x S) {
			x.Destroy()
			keyValue.Set(x, "see you")
			page(w)
		}},
		{name: "sign-out of a stranger", act: func(w W, _ R, x S) { x.Destroy(); page(w) }},
		{name: "renew", start: "/login?u=alice", act: func(w W, _ R, x S) { x.Renew(); page(w) }},
		{name: "persist", opts: session.Options{PersistLifetime: 30 * 24 * time.Hour}, act: func(w W, _ R, x S) {
			x.SetUser("alice")
			x.Persist(true)
			page(w)
		}},
		{name: "persist no longer", opts: session.Options{PersistLifetime: 30 * 24 * time.Hour}, start: "/remember?u=alice",
			act: func(w W, _ R, x S) { x.Persist(false); page(w) }},
		{name: "renew of a persistent session a day later", opts: session.Options{PersistLifetime: 30 * 24 * time.Hour}, start: "/remember?u=alice",
			after: 24 * time.Hour, act: func(w W, _ R, x S) { x.Renew(); page(w) }},
		{name: "touched", start: "/login?u=alice", after: 10 * time.Minute, act: func(w W, _ R, x S) { page(w) }},
		{name: "expired, read", start: "/login?u=alice", after: time.Hour, act: func(w W, _ R, x S) { page(w) }},
		{name: "expired, write", start: "/login?u=alice", after: time.Hour, act: func(w W, _ R, x S) { keyValue.Set(x, "x"); page(w) }},
		{name: "store fails at load", start: "/login?u=alice", fault: "load", act: nil},
		{name: "store fails at save", start: "/login?u=alice", fault: "save", outer: http.Header{"X-Request-Id": {"r1"}, "Vary": {"Origin"}},
			act: func(w W, _ R, x S) {
				w.Header().Set("Content-Type", "application/pdf")
				w.Header().Set("Content-Length", "5")
				w.Header().Set("Etag", `"v1"`)
				w.Header().Set("Cache-Control", "public, max-age=3600")
				keyValue.Set(x, "x")
				page(w)
			}},
		{name: "value cannot be encoded", start: "/login?u=alice", act: func(w W, _ R, x S) {
			session.NewKey[chan int]("chan").Set(x, make(chan int))
			page(w)
		}},
		{name: "values too large", start: "/login?u=alice", act: func(w W, _ R, x S) {
			keyValue.Set(x, strings.Repeat("x", 70<<10))
			page(w)
		}},
		{name: "cache-control public", act: cached("public, max-age=3600")},
		{name: "cache-control private", act: cached("private, max-age=60")},
		{name: "cache-control no-store", act: cached("No-Store")},
		{name: "cache-control private of one field", act: cached(`private="X-Name", max-age=60`)},
		{name: "cache-control for a CDN", act: func(w W, r R, x S) {
			w.Header().Set("CDN-Cache-Control", "max-age=600")
			w.Header().Set("Surrogate-Control", "max-age=600")
			cached("private")(w, r, x)
		}},
		{name: "cache-control of a read", start: "/login?u=alice", act: func(w W, _ R, x S) {
			w.Header().Set("Cache-Control", "public, max-age=3600")
			page(w)
		}},
		{name: "vary of the handler", act: func(w W, _ R, x S) { w.Header().Set("Vary", "Accept-Encoding"); page(w) }},
		{name: "vary of the handler names it already", act: func(w W, _ R, x S) { w.Header().Set("Vary", "Accept, cookie"); page(w) }},
		{name: "vary of everything", act: func(w W, _ R, x S) { w.Header().Set("Vary", "*"); page(w) }},
		{name: "server-sent events", start: "/login?u=alice", act: func(w W, r R, x S) {
			w.Header().Set("Content-Type", "text/event-stream")
			x.Renew()
			http.NewResponseController(w).Flush()
			for i := range 2 {
				fmt.Fprintf(w, "data: %d\n\n", i)
				http.NewResponseController(w).Flush()
				time.Sleep(time.Minute)
			}
		}},
		{name: "early hints", act: func(w W, _ R, x S) {
			w.Header().Set("Link", "</a.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			keyValue.Set(x, "x")
			page(w)
		}},
		{name: "redirect", start: "/write?v=cart", act: func(w W, r R, x S) { x.SetUser("alice"); http.Redirect(w, r, "/me", http.StatusSeeOther) }},
		{name: "not modified", start: "/login?u=alice", act: func(w W, _ R, x S) { w.Header().Set("Etag", `"v1"`); w.WriteHeader(304) }},
		{name: "handler's own cookies", act: func(w W, _ R, x S) {
			http.SetCookie(w, &http.Cookie{Name: "theme", Value: "dark"})
			http.SetCookie(w, &http.Cookie{Name: "__Host-session", Value: "forged"})
			keyValue.Set(x, "x")
			page(w)
		}},
		{name: "header transport, sign-in", opts: session.Options{Transport: session.HeaderTransport{}}, act: func(w W, _ R, x S) { x.SetUser("alice"); page(w) }},
		{name: "header transport, sign-out", opts: session.Options{Transport: session.HeaderTransport{}}, start: "/login?u=alice",
			act: func(w W, _ R, x S) { x.Destroy(); page(w) }},
		{name: "strict cookie of a domain", opts: session.Options{Transport: session.CookieTransport{Domain: "example.com", SameSite: http.SameSiteStrictMode}},
			act: func(w W, _ R, x S) { keyValue.Set(x, "x"); page(w) }},
		{name: "partitioned cookie", opts: session.Options{Transport: session.CookieTransport{Partitioned: true, SameSite: http.SameSiteNoneMode}},
			act: func(w W, _ R, x S) { keyValue.Set(x, "x"); page(w) }},
		{name: "insecure cookie", opts: session.Options{Insecure: true}, act: func(w W, _ R, x S) { keyValue.Set(x, "x"); page(w) }},
		{name: "chunks", long: true, start: "/login?u=alice", act: func(w W, _ R, x S) { keyValue.Set(x, strings.Repeat("v", 3600)); page(w) }},
		{name: "chunks that are one again", long: true, start: "/write?v=" + strings.Repeat("v", 3600), act: func(w W, _ R, x S) { keyValue.Set(x, "short"); page(w) }},
		{name: "chunks that are signed out", long: true, start: "/write?v=" + strings.Repeat("v", 3600), act: func(w W, _ R, x S) { x.Destroy(); page(w) }},
		{name: "token too long", opts: session.Options{Transport: session.CookieTransport{}}, long: true, start: "/login?u=alice",
			act: func(w W, _ R, x S) { keyValue.Set(x, strings.Repeat("v", 3600)); page(w) }},
		{name: "token too long for two chunks", long: true, start: "/login?u=alice", act: func(w W, _ R, x S) { keyValue.Set(x, strings.Repeat("v", 8000)); page(w) }},
	}
}

func TestGoldenResponses(t *testing.T) {
	names := map[string]bool{}
	for _, c := range goldenCases() {
		file := strings.NewReplacer(" ", "-", ",", "", "'", "").Replace(c.name) + ".http"
		names[file] = true
		t.Run(c.name, func(t *testing.T) {
			var got string
			synctest.Test(t, func(t *testing.T) { got = c.run(t) })
			path := filepath.Join("testdata", "golden", file)
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(want, []byte(got)) {
				t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
			}
		})
	}
	files, err := filepath.Glob(filepath.Join("testdata", "golden", "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, f := range files {
		if !names[filepath.Base(f)] {
			t.Errorf("%s belongs to no case", f)
		}
	}
}

func (c goldenCase) run(t *testing.T) string {
	var s *site
	if c.long {
		if c.opts.Transport == nil {
			c.opts.Transport = session.CookieTransport{MaxChunks: 2}
		}
		s = newSiteOver(t, newSealing(nil), &c.opts)
	} else {
		s = newSite(t, &c.opts)
		defer s.memory.Close()
	}
	lines := "Host: example.com\r\nConnection: close\r\n"
	if c.start != "" {
		res, _ := s.get(c.start)
		var pairs []string
		for _, cookie := range res.Cookies() {
			pairs = append(pairs, cookie.Name+"="+cookie.Value)
		}
		if len(pairs) > 0 {
			lines += "Cookie: " + strings.Join(pairs, "; ") + "\r\n"
		}
		if token := res.Header.Get("Session-Token"); token != "" {
			lines += "Authorization: Bearer " + token + "\r\n"
		}
	}
	time.Sleep(c.after)
	s.store.set(func(op, _ string, call func() error) error {
		if op == c.fault {
			return errors.New("connection refused")
		}
		return call()
	})
	h := s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var x *session.Session
		if !c.plain {
			var err error
			if x, err = session.From(r.Context()); err != nil {
				return
			}
		}
		c.act(w, r, x)
	}))
	p := newPipes()
	srv := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, values := range c.outer {
			w.Header()[name] = values
		}
		h.ServeHTTP(w, r)
	})}
	go srv.Serve(p)
	defer srv.Shutdown(context.Background())
	return mask(p.exchange(t, "GET / HTTP/1.1\r\n"+lines+"\r\n"))
}

var (
	tokenValue = regexp.MustCompile(`(?m)^(Set-Cookie: [^=]+=|Session-Token: )(2~)?([A-Za-z0-9_-]{43,})`)
	dateLine   = regexp.MustCompile(`(?m)^Date: .*\r$`)
)

// mask puts names in the place of random tokens, and makes an answer fit for a
// file: lines end in LF. Dates are those of the bubble's clock.
func mask(text string) string {
	text = tokenValue.ReplaceAllStringFunc(text, func(line string) string {
		m := tokenValue.FindStringSubmatch(line)
		return fmt.Sprintf("%s%s<%d characters>", m[1], m[2], len(m[3]))
	})
	text = dateLine.ReplaceAllString(text, "Date: <now>\r")
	return strings.ReplaceAll(text, "\r\n", "\n")
}
