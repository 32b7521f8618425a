package session_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/distsession/session"
)

// A mistake is something that goes wrong in another library, reproduced there,
// and its test is that it does not here.
type mistake struct {
	name, source string
	test         func(t *testing.T)
}

func runMistakes(t *testing.T, all []mistake) {
	t.Helper()
	distinctNames(t, all, func(m mistake) (string, string) { return m.name, m.source })
	for _, m := range all {
		t.Run(m.name, m.test)
	}
}

// run is one request of the client that holds token, with a handler of its own.
func (s *site) run(t testing.TB, token string, h func(w http.ResponseWriter, r *http.Request, x *session.Session)) *http.Response {
	t.Helper()
	return s.runOn(httptest.NewRecorder(), t, token, h)
}

func (s *site) runOn(w http.ResponseWriter, t testing.TB, token string, h func(w http.ResponseWriter, r *http.Request, x *session.Session)) *http.Response {
	t.Helper()
	r := httptest.NewRequest("GET", "/", nil)
	if token != "" {
		r.Header.Set("Cookie", "__Host-session="+token)
	}
	s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x, err := session.From(r.Context())
		if err != nil {
			return
		}
		h(w, r, x)
	})).ServeHTTP(w, r)
	if rec, ok := w.(*httptest.ResponseRecorder); ok {
		return rec.Result()
	}
	return nil
}

// is fails unless the token opens a session of this user with this value.
func (s *site) is(t testing.TB, token, user, value string) {
	t.Helper()
	if res, a := s.get("/read", with(token)); a.New || a.User != user || a.Value != value {
		t.Errorf("%s %+v, want %q with %q", res.Status, a, user, value)
	}
}

// gone fails if the token opens anything.
func (s *site) gone(t testing.TB, token string) {
	t.Helper()
	if rec, err := s.store.Store.Load(t.Context(), token); err == nil && !rec.Replaced {
		t.Errorf("the token opens %+v", rec)
	}
	if _, a := s.get("/read", with(token)); a.User != "" || a.Value != "" {
		t.Errorf("the token shows %+v", a)
	}
}

// fails makes the n-th call of these operations, and only that one, fail.
func (s *site) fails(n int, ops ...string) {
	calls := 0
	s.store.set(func(op, _ string, call func() error) error {
		for _, o := range ops {
			if o != op {
				continue
			}
			if calls++; calls == n {
				return errAway
			}
		}
		return call()
	})
}

// tokenOf is the token that a response sets, "" if it sets none.
func tokenOf(res *http.Response) string {
	for _, c := range res.Cookies() {
		if c.MaxAge >= 0 {
			return c.Value
		}
	}
	return ""
}
