// Package bench compares this library with its peers: the same handlers over
// each, in one process and one run, so that the ratios hold on any machine.
//
// Every session has the same six values, which scs keeps in about 400 bytes.
package bench

import (
	"context"
	"encoding/gob"
	"errors"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/alexedwards/scs/goredisstore"
	"github.com/alexedwards/scs/v2"
	"github.com/alexedwards/scs/v2/memstore"
	"github.com/distsession/session"
	"github.com/gorilla/sessions"
	"github.com/redis/go-redis/v9"
)

// Item is a line of the cart.
type Item struct {
	SKU   string `json:"sku"`
	Count int    `json:"count"`
	Cents int    `json:"cents"`
}

// The six values.
const (
	visits = 8452217
	name   = "Alice Example"
	csrf   = "mVv0s7yfjG3iS0pS8m3bQe1kD2sYb6h1xw0nJq9TzLc"
)

var (
	roles = []string{"customer", "reviewer", "beta"}
	cart  = []Item{{"tea-green", 2, 790}, {"pot-glass", 1, 2950}, {"cup-white", 4, 640}}
	login = time.Date(2026, 11, 22, 9, 30, 0, 123456789, time.UTC)
)

var (
	keyVisits = session.NewKey[int]("visits")
	keyName   = session.NewKey[string]("name")
	keyLogin  = session.NewKey[time.Time]("login")
	keyCSRF   = session.NewKey[string]("csrf")
	keyRoles  = session.NewKey[[]string]("roles")
	keyCart   = session.NewKey[[]Item]("cart")
)

func init() {
	for _, v := range []any{[]string{}, []Item{}, time.Time{}} {
		gob.Register(v)
	}
}

// A Subject is one library over one kind of store.
type Subject struct {
	Library string // "session", "scs", "gorilla", "bare"
	Store   string // "memory", "cookie", "redis", "cached-redis": Redis behind session.Cached
	Ops     map[string]http.Handler
}

// Ops that every subject has.
const (
	Read      = "read"      // two of the six values
	Change    = "change"    // one value
	Untouched = "untouched" // a client with a session, a handler that does not look
	Anonymous = "anonymous" // a client without, a handler that looks for a value
	Create    = "create"    // makes the session; not measured
)

// Subjects returns what is compared, over redis only if client is not nil.
func Subjects(client redis.UniversalClient) ([]Subject, error) {
	key := make([]byte, 64)
	for i := range key {
		key[i] = byte(i*7 + 1)
	}
	cookies, err := session.NewCookieStore([][]byte{key[:32]}, &session.CookieOptions{Irrevocable: true})
	if err != nil {
		return nil, err
	}
	g := sessions.NewCookieStore(key[:32], key[32:])
	subjects := []Subject{
		{"bare", "", bareOps()},
		{"session", "memory", ours(session.NewMemoryStore(nil))},
		{"scs", "memory", scsOps(memstore.New())},
		{"session", "cookie", ours(cookies)},
		{"gorilla", "cookie", gorillaOps(g)},
	}
	if client != nil {
		subjects = append(subjects,
			Subject{"session", "redis", ours(session.NewRedisStore(client, nil))},
			Subject{"session", "cached-redis", ours(session.Cached(session.NewRedisStore(client, nil), nil))},
			Subject{"scs", "redis", scsOps(goredisstore.New(client.(*redis.Client)))},
			Subject{"raw GET", "redis", rawOps(client)},
		)
	}
	return subjects, nil
}

// fail ends a request: quietly if its client has gone, as wrk does at the end.
func fail(r *http.Request, err error) {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler)
	}
	panic(err)
}

var errMissing = errors.New("bench: the session does not hold what it should")

func check(ok bool) {
	if !ok {
		panic(errMissing)
	}
}

func ok(w http.ResponseWriter) { w.Write([]byte("ok")) }

func bareOps() map[string]http.Handler {
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { ok(w) })
	return map[string]http.Handler{Read: h, Change: h, Untouched: h, Anonymous: h, Create: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "__Host-session", Value: session.NewToken()})
	})}
}

func ours(store session.Store) map[string]http.Handler {
	m, err := session.New(store, nil)
	if err != nil {
		panic(err)
	}
	h := func(f func(w http.ResponseWriter, s *session.Session)) http.Handler {
		return m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s, err := session.From(r.Context())
			if err != nil {
				fail(r, err)
			}
			f(w, s)
		}))
	}
	return map[string]http.Handler{
		Create: h(func(w http.ResponseWriter, s *session.Session) {
			keyVisits.Set(s, visits)
			keyName.Set(s, name)
			keyLogin.Set(s, login)
			keyCSRF.Set(s, csrf)
			keyRoles.Set(s, roles)
			keyCart.Set(s, cart)
			ok(w)
		}),
		Read: h(func(w http.ResponseWriter, s *session.Session) {
			n, have := keyName.Get(s)
			_, haveID := keyVisits.Get(s)
			check(have && haveID && n == name)
			ok(w)
		}),
		Change: h(func(w http.ResponseWriter, s *session.Session) {
			keyVisits.Update(s, func(n int) int { return n ^ 1 })
			ok(w)
		}),
		Untouched: m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { ok(w) })),
		Anonymous: h(func(w http.ResponseWriter, s *session.Session) {
			_, have := keyName.Get(s)
			check(!have)
			ok(w)
		}),
	}
}

func scsOps(store scs.Store) map[string]http.Handler {
	m := scs.New()
	m.Store = store
	m.Lifetime = 12 * time.Hour
	h := func(f func(w http.ResponseWriter, ctx context.Context)) http.Handler {
		return m.LoadAndSave(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f(w, r.Context()) }))
	}
	return map[string]http.Handler{
		Create: h(func(w http.ResponseWriter, ctx context.Context) {
			m.Put(ctx, "visits", visits)
			m.Put(ctx, "name", name)
			m.Put(ctx, "login", login)
			m.Put(ctx, "csrf", csrf)
			m.Put(ctx, "roles", roles)
			m.Put(ctx, "cart", cart)
			ok(w)
		}),
		Read: h(func(w http.ResponseWriter, ctx context.Context) {
			check(m.GetString(ctx, "name") == name && m.GetInt(ctx, "visits") != 0)
			ok(w)
		}),
		Change: h(func(w http.ResponseWriter, ctx context.Context) {
			m.Put(ctx, "visits", m.GetInt(ctx, "visits")^1)
			ok(w)
		}),
		Untouched: h(func(w http.ResponseWriter, _ context.Context) { ok(w) }),
		Anonymous: h(func(w http.ResponseWriter, ctx context.Context) {
			check(m.GetString(ctx, "name") == "")
			ok(w)
		}),
	}
}

func gorillaOps(store *sessions.CookieStore) map[string]http.Handler {
	h := func(save bool, f func(values map[any]any)) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s, err := store.Get(r, "__Host-session")
			if err != nil {
				panic(err)
			}
			f(s.Values)
			if save {
				if err := s.Save(r, w); err != nil {
					panic(err)
				}
			}
			ok(w)
		})
	}
	return map[string]http.Handler{
		Create: h(true, func(v map[any]any) {
			v["visits"], v["name"], v["login"], v["csrf"], v["roles"], v["cart"] = visits, name, login, csrf, roles, cart
		}),
		Read: h(false, func(v map[any]any) {
			_, haveID := v["visits"].(int)
			check(v["name"] == name && haveID)
		}),
		Change:    h(true, func(v map[any]any) { v["visits"] = v["visits"].(int) ^ 1 }),
		Untouched: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { ok(w) }),
		Anonymous: h(false, func(v map[any]any) { check(v["name"] == nil) }),
	}
}

// rawOps is the least that a session in Redis can cost: one GET of as many
// bytes to read, and a GET and a SET to change.
func rawOps(client redis.UniversalClient) map[string]http.Handler {
	const key = "bench:raw"
	get := func(r *http.Request) []byte {
		b, err := client.Get(r.Context(), key).Bytes()
		if err != nil {
			fail(r, err)
		}
		return b
	}
	return map[string]http.Handler{
		Create: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := client.Set(r.Context(), key, make([]byte, 400), time.Hour).Err(); err != nil {
				fail(r, err)
			}
		}),
		Read: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			get(r)
			ok(w)
		}),
		Change: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := client.Set(r.Context(), key, get(r), time.Hour).Err(); err != nil {
				fail(r, err)
			}
			ok(w)
		}),
	}
}

// A Run is one op of a subject, ready to be measured.
type Run struct {
	subject Subject
	op      string
	handler http.Handler
	cookies []*http.Cookie
}

// Prepare makes the session that op works on.
func (s Subject) Prepare(op string) (*Run, bool) {
	h, ok := s.Ops[op]
	if !ok {
		return nil, false
	}
	r := &Run{subject: s, op: op, handler: h}
	if op != Anonymous {
		rec := httptest.NewRecorder()
		s.Ops[Create].ServeHTTP(rec, httptest.NewRequest("POST", "/", nil))
		r.cookies = rec.Result().Cookies()
	}
	return r, true
}

// Request returns what the client sends.
func (r *Run) Request() *http.Request {
	req := httptest.NewRequest("GET", "/", nil)
	for _, c := range r.cookies {
		req.AddCookie(c)
	}
	return req
}

// discard is a response that costs nothing, and is what a server's can do.
type discard struct{ header http.Header }

func (w *discard) Header() http.Header         { return w.header }
func (w *discard) Write(b []byte) (int, error) { return len(b), nil }
func (w *discard) WriteHeader(int)             {}
func (w *discard) Flush()                      {}

// Serve returns a function that serves one request. gorilla/sessions keeps a
// request's session in the request, so each gets a copy, for every subject
// alike: the harness costs one allocation.
func (r *Run) Serve() func() {
	req := r.Request()
	w := &discard{http.Header{}}
	return func() {
		clear(w.header)
		fresh := *req
		r.handler.ServeHTTP(w, &fresh)
	}
}
