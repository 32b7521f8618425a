package session_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distsession/session"
)

// spy is a store around a store that counts the calls, keeps the tokens that
// it was asked for, and lets a test step in between.
type spy struct {
	session.Store
	step func(op, id string, call func() error) error // nil: call

	mu     sync.Mutex
	counts map[string]int
	tokens []string
}

func (s *spy) do(op, id string, call func() error) error {
	s.mu.Lock()
	if s.counts == nil {
		s.counts = map[string]int{}
	}
	s.counts[op]++
	if op == "load" {
		s.tokens = append(s.tokens, id)
	}
	step := s.step
	s.mu.Unlock()
	if step == nil {
		return call()
	}
	return step(op, id, call)
}

func (s *spy) Load(ctx context.Context, token string) (rec *session.Record, err error) {
	err = s.do("load", token, func() (err error) {
		rec, err = s.Store.Load(ctx, token)
		return err
	})
	return rec, err
}

func (s *spy) Save(ctx context.Context, rec *session.Record) (token string, err error) {
	err = s.do("save", rec.ID, func() (err error) {
		token, err = s.Store.Save(ctx, rec)
		return err
	})
	return token, err
}

func (s *spy) Delete(ctx context.Context, id string) error {
	return s.do("delete", id, func() error { return s.Store.Delete(ctx, id) })
}

// touchingSpy is a spy on a store that can be touched.
type touchingSpy struct {
	*spy
	session.Toucher
}

func (s *touchingSpy) Touch(ctx context.Context, id string, seen, expires time.Time) error {
	return s.do("touch", id, func() error { return s.Toucher.Touch(ctx, id, seen, expires) })
}

func (s *spy) Unwrap() session.Store { return s.Store }

// wrapped is the store to give to New.
func (s *spy) wrapped() session.Store {
	if t, ok := session.As[session.Toucher](s.Store); ok {
		return &touchingSpy{s, t}
	}
	return s
}

// set makes step stand between the manager and the store from now on.
func (s *spy) set(step func(op, id string, call func() error) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.step = step
}

func (s *spy) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.counts)
	s.tokens = nil
}

// count is how often these operations were called since the last reset.
func (s *spy) count(ops ...string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, op := range ops {
		n += s.counts[op]
	}
	return n
}

func (s *spy) writes() int { return s.count("save", "delete", "touch") }

// away is the step of a store that cannot be reached.
func away(string, string, func() error) error { return errAway }

var errAway = errors.New("dial tcp 192.0.2.1:6379: connection refused")

// logs is what a logger wrote, at every level.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logs) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.Level(-100)}))
}

// site is a small application over a manager over a spied-on store.
type site struct {
	*session.Manager
	store   *spy
	memory  *session.MemoryStore // nil over another store
	log     *logs
	handler http.Handler
}

// answer is what the application says about the session that it saw.
type answer struct {
	ID, User, Value string
	New, Replaced   bool
}

var keyValue = session.NewKey[string]("value")

func newSite(t testing.TB, opts *session.Options) *site {
	t.Helper()
	if opts == nil {
		opts = &session.Options{}
	}
	memory := session.NewMemoryStore(&session.MemoryOptions{Now: opts.Now})
	t.Cleanup(func() { memory.Close() })
	s := newSiteOver(t, memory, opts)
	s.memory = memory
	return s
}

func newSiteOver(t testing.TB, store session.Store, opts *session.Options) *site {
	t.Helper()
	s := &site{store: &spy{Store: store}, log: &logs{}}
	o := *opts
	if o.Logger == nil {
		o.Logger = s.log.logger()
	}
	m, err := session.New(s.store.wrapped(), &o)
	if err != nil {
		t.Fatal(err)
	}
	s.Manager = m
	s.handler = m.Handler(application())
	return s
}

// application has a page for each thing that a request can do to a session.
func application() http.Handler {
	mux := http.NewServeMux()
	page := func(path string, act func(*session.Session, *http.Request)) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			s, err := session.From(r.Context())
			if err != nil {
				return // the ErrorHandler answers
			}
			act(s, r)
			v, _ := keyValue.Get(s)
			w.Header().Set("Content-Type", "application/json") // a guess would depend on the ID
			json.NewEncoder(w).Encode(answer{ID: s.ID(), User: s.User(), Value: v, New: s.IsNew(), Replaced: s.Replaced()})
		})
	}
	page("/read", func(*session.Session, *http.Request) {})
	page("/write", func(s *session.Session, r *http.Request) { keyValue.Set(s, r.FormValue("v")+"!") })
	page("/login", func(s *session.Session, r *http.Request) { s.SetUser(r.FormValue("u")) })
	page("/remember", func(s *session.Session, r *http.Request) {
		s.SetUser(r.FormValue("u"))
		s.Persist(true)
	})
	page("/renew", func(s *session.Session, _ *http.Request) { s.Renew() })
	page("/logout", func(s *session.Session, _ *http.Request) { s.Destroy() })
	mux.HandleFunc("/untouched", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
	return mux
}

// get sends one request with these header lines and returns the response, and
// the application's answer if there is one.
func (s *site) get(path string, lines ...string) (*http.Response, answer) {
	r := httptest.NewRequest("GET", path, nil)
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	return s.send(r)
}

func (s *site) send(r *http.Request) (*http.Response, answer) {
	rec := httptest.NewRecorder()
	s.handler.ServeHTTP(rec, r)
	res := rec.Result()
	var a answer
	json.Unmarshal(rec.Body.Bytes(), &a)
	return res, a
}

// with is the Cookie line of a client that holds this token.
func with(token string) string { return "Cookie: __Host-session=" + token }

// token makes a session by a visit to path and returns its token.
func (s *site) token(t testing.TB, path string, lines ...string) string {
	t.Helper()
	res, _ := s.get(path, lines...)
	for _, c := range res.Cookies() {
		if c.MaxAge >= 0 && c.Value != "" {
			return c.Value
		}
	}
	t.Fatalf("%s set no cookie: %v", path, res.Header)
	return ""
}

// body is the rest of a response.
func body(t testing.TB, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// vectors reads the JSON files of a folder under testdata into one slice. A
// folder without any fails: a moved one must not pass as a quiet success.
func vectors[T any](t testing.TB, folder string) []T {
	t.Helper()
	var all []T
	err := filepath.WalkDir(filepath.Join("testdata", folder), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".json" {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.DisallowUnknownFields()
		var some []T
		if err := dec.Decode(&some); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if len(some) == 0 {
			return fmt.Errorf("%s holds no vector", path)
		}
		all = append(all, some...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatalf("no vectors in testdata/%s", folder)
	}
	return all
}

// distinctNames fails if two vectors have one name, or one lacks its reason.
func distinctNames[T any](t testing.TB, all []T, name func(T) (name, why string)) {
	t.Helper()
	var names []string
	for _, v := range all {
		n, why := name(v)
		if n == "" || why == "" {
			t.Errorf("vector %q lacks a name or its why %q", n, why)
		}
		if slices.Contains(names, n) {
			t.Errorf("two vectors are named %q", n)
		}
		names = append(names, n)
	}
}
