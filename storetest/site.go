package storetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distsession/session"
)

// The values of the site that the journeys visit.
var (
	cart  = session.NewKey[string]("cart")
	theme = session.NewKey[string]("theme")
	count = session.NewKey[int]("count")
)

const (
	cookieName  = "__Host-session"
	versionName = "__Host-session.v"
)

// node is one server of a site: a manager of its own over a handle of its own.
type node struct {
	t      *place
	m      *session.Manager
	store  *Faulty
	mux    *http.ServeMux
	server *httptest.Server
	log    *logBuffer
	ahead  atomic.Int64 // how far this manager's clock is ahead of the others'
}

// node starts a server. The options' clock is the backend's, and unless the
// test sets a Timeout, a busy machine does not make the store late.
func (t *place) node(opts session.Options) *node {
	t.Helper()
	n := &node{t: t, store: NewFaulty(t.open()), mux: http.NewServeMux(), log: &logBuffer{}}
	opts.Now = func() time.Time { return t.now().Add(time.Duration(t.ahead.Load() + n.ahead.Load())) }
	opts.Logger = slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if opts.Timeout == 0 {
		opts.Timeout = 20 * time.Second
	}
	var err error
	if n.m, err = session.New(n.store, &opts); err != nil {
		t.Fatalf("New: %v", err)
	}
	n.routes()
	n.serve(n.m.Handler(n.mux))
	return n
}

// set is the store's Set; Load is LoadAtLeast too.
func (n *node) set(m Method, fault Fault) {
	n.store.Set(m, fault)
	if m == Load {
		n.store.Set(LoadAtLeast, fault)
	}
}

// loads is how often the store was asked for a session.
func (n *node) loads() int { return n.store.Calls(Load, LoadAtLeast) }

// versioned tells whether the store answers from copies, so that the manager
// keeps the version that the browser has seen in a second cookie.
func (n *node) versioned() bool {
	_, ok := session.As[session.AtLeaster](n.store)
	return ok
}

// serve makes the node answer with another handler than its manager's.
func (n *node) serve(h http.Handler) {
	n.server = httptest.NewUnstartedServer(h)
	n.server.Config.ErrorLog = log.New(io.Discard, "", 0) // panics are part of the journeys
	n.server.Start()
	server := n.server
	n.t.Cleanup(func() {
		server.CloseClientConnections() // ends the requests that a failed test left behind
		server.Close()
	})
}

// advance moves the time forward: the backend's, or the managers' alone where
// the backend's cannot be moved.
func (t *place) advance(d time.Duration) {
	t.Helper()
	switch {
	case t.b.Advance == nil && t.b.ClientSide:
		t.Skip("this takes a Backend.Advance: the store would refuse tokens from its future")
	case t.b.Advance == nil:
		t.ahead.Add(int64(d))
	default:
		t.moved.Add(int64(d))
		t.b.Advance(d)
	}
}

// page is what the site shows.
type page struct {
	ID, User        string
	IsNew, Replaced bool
	Cart, Theme     string
	Count           int
	Created         time.Time
	SignedIn        time.Time
}

func show(s *session.Session) page {
	p := page{ID: s.ID(), User: s.User(), IsNew: s.IsNew(), Replaced: s.Replaced(), Created: s.Created(), SignedIn: s.SignedIn()}
	p.Cart, _ = cart.Get(s)
	p.Theme, _ = theme.Get(s)
	p.Count, _ = count.Get(s)
	return p
}

func writePage(w http.ResponseWriter, p page) { json.NewEncoder(w).Encode(p) }

// handle adds a route that looks at the session. Where the store fails it
// leaves the answer to the ErrorHandler.
func (n *node) handle(path string, h func(w http.ResponseWriter, r *http.Request, s *session.Session)) {
	n.mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		if s, err := session.From(r.Context()); err == nil {
			h(w, r, s)
		}
	})
}

// change adds a route that changes the session and shows it.
func (n *node) change(path string, change func(s *session.Session, q url.Values)) {
	n.handle(path, func(w http.ResponseWriter, r *http.Request, s *session.Session) {
		change(s, r.URL.Query())
		writePage(w, show(s))
	})
}

func setValues(s *session.Session, q url.Values) {
	if q.Has("cart") {
		cart.Set(s, q.Get("cart"))
	}
	if q.Has("theme") {
		theme.Set(s, q.Get("theme"))
	}
}

func (n *node) routes() {
	n.mux.HandleFunc("/static", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "static") })
	n.change("/read", func(*session.Session, url.Values) {})
	n.change("/set", setValues)
	n.change("/inc", func(s *session.Session, _ url.Values) { count.Update(s, func(n int) int { return n + 1 }) })
	n.change("/signin", func(s *session.Session, q url.Values) { s.SetUser(q.Get("user")) })
	n.change("/signout", func(s *session.Session, _ url.Values) { s.Destroy() })
	n.change("/renew", func(s *session.Session, _ url.Values) { s.Renew() })
	n.change("/remember", func(s *session.Session, _ url.Values) { s.Persist(true) })
}

// held adds a route that loads the session, stops at the gate, changes the
// session, and shows it. What Err says after the answer comes out of the
// channel.
func (n *node) held(path string, change func(s *session.Session, q url.Values)) (*Gate, <-chan error) {
	gate := n.t.gate()
	errs := make(chan error, 1024)
	n.handle(path, func(w http.ResponseWriter, r *http.Request, s *session.Session) {
		if gate.wait(r.Context()) != nil {
			return
		}
		change(s, r.URL.Query())
		writePage(w, show(s))
		errs <- s.Err()
	})
	return gate, errs
}

func (t *place) gate() *Gate {
	g := NewGate()
	t.Cleanup(g.Open)
	return g
}

// patience is when a test gives up on what should have happened at once.
const patience = 30 * time.Second

// receive waits for a value, and for ever it does not.
func receive[T any](t *place, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s did not happen within %v", what, patience)
		panic("unreachable")
	}
}

// browser is a client with a cookie jar.
type browser struct {
	t      *place
	client *http.Client
}

// secureJar answers as if the servers spoke https: in these tests, as behind a
// proxy that ends TLS, they do not themselves.
type secureJar struct{ http.CookieJar }

func https(u *url.URL) *url.URL {
	secure := *u
	secure.Scheme = "https"
	return &secure
}

func (j secureJar) SetCookies(u *url.URL, c []*http.Cookie)     { j.CookieJar.SetCookies(https(u), c) }
func (j secureJar) Cookies(u *url.URL) (cookies []*http.Cookie) { return j.CookieJar.Cookies(https(u)) }

func (t *place) browser() *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	t.Cleanup(transport.CloseIdleConnections)
	return &browser{t: t, client: &http.Client{
		Jar: secureJar{jar}, Transport: transport, Timeout: patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// home is where cookies of the site live; all nodes are one host to a jar.
var home = &url.URL{Scheme: "https", Host: "127.0.0.1", Path: "/"}

// token is what the browser holds, "" for no cookie.
func (b *browser) token() string { return b.cookie(cookieName) }

func (b *browser) cookie(name string) string {
	for _, c := range b.client.Jar.Cookies(home) {
		if c.Name == name {
			return c.Value
		}
	}
	return ""
}

// copy is a second browser with the same cookies: a thief, or a tab that is a
// little late.
func (b *browser) copy() *browser {
	b.t.Helper()
	c := b.t.browser()
	for _, name := range []string{cookieName, versionName} {
		if value := b.cookie(name); value != "" {
			c.keep(name, value)
		}
	}
	return c
}

// keep puts a cookie into the browser.
func (b *browser) keep(name, value string) {
	b.client.Jar.SetCookies(home, []*http.Cookie{{Name: name, Value: value, Path: "/", Secure: true}})
}

// answer is a response that was read to its end.
type answer struct {
	status int
	header http.Header
	body   string
	page
}

// setsCookie tells whether the response touched the browser's session cookie.
func (a *answer) setsCookie() bool {
	return slices.ContainsFunc(a.header["Set-Cookie"], func(line string) bool { return !strings.HasPrefix(line, versionName+"=") })
}

// visit asks a node for a path, with headers in pairs of name and value.
func (b *browser) visit(ctx context.Context, n *node, path string, header ...string) (*answer, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", n.server.URL+path, nil)
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header[header[i]] = []string{header[i+1]}
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	a := &answer{status: resp.StatusCode, header: resp.Header, body: string(body)}
	json.Unmarshal(body, &a.page)
	return a, nil
}

// get is a visit that must be answered, with any status.
func (b *browser) get(n *node, path string, header ...string) *answer {
	b.t.Helper()
	a, err := b.visit(b.t.Context(), n, path, header...)
	if err != nil {
		b.t.Fatalf("GET %s: %v", path, err)
	}
	return a
}

// see is a get that must succeed.
func (b *browser) see(n *node, path string, header ...string) *answer {
	b.t.Helper()
	a := b.get(n, path, header...)
	if a.status != http.StatusOK {
		b.t.Fatalf("GET %s: status %d, body %.200q, log:\n%s", path, a.status, a.body, n.log)
	}
	return a
}

// start begins a visit; its answer comes out of the channel.
func (b *browser) start(n *node, path string) <-chan *answer {
	c := make(chan *answer, 1)
	go func() {
		a, err := b.visit(b.t.Context(), n, path)
		if err != nil {
			a = &answer{body: err.Error()}
		}
		c <- a
	}()
	return c
}

// nobody checks that the page shows no user and no values.
func (a *answer) nobody(t *place, when string) {
	t.Helper()
	if a.status != http.StatusOK || a.User != "" || a.Cart != "" || a.Theme != "" || a.Count != 0 {
		t.Errorf("%s: status %d, page %s; want nobody and no values", when, a.status, a.body)
	}
}

// shows checks the user and the cart of a page.
func (a *answer) shows(t *place, when, user, inCart string) {
	t.Helper()
	if a.status != http.StatusOK || a.User != user || a.Cart != inCart {
		t.Errorf("%s: status %d, page %.300s; want user %q with %q in the cart", when, a.status, a.body, user, inCart)
	}
}

// signedIn returns a browser in which user has signed in, with a book in the
// cart.
func (t *place) signedIn(n *node, user string) *browser {
	t.Helper()
	b := t.browser()
	b.see(n, "/set?cart=book")
	b.see(n, "/signin?user="+url.QueryEscape(user))
	b.see(n, "/read").shows(t, "after the sign-in", user, "book")
	return b
}

// live counts a user's sessions where the store can list them.
func (t *place) live(n *node, user string, want int) {
	t.Helper()
	infos := []session.Info{}
	for info, err := range session.List(t.Context(), n.store, user) {
		if errors.Is(err, errors.ErrUnsupported) {
			return
		}
		if err != nil {
			t.Fatalf("List: %v", err)
		}
		infos = append(infos, info)
	}
	if len(infos) != want {
		t.Errorf("%q has %d sessions; want %d: %+v", user, len(infos), want, infos)
	}
}

// logBuffer is a log that many goroutines write.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var errAway = fmt.Errorf("dial tcp 192.0.2.1:6379: connection refused")
