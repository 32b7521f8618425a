package ledger

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"

	"github.com/distsession/session"
)

// StartHTTP counts in the sessions of users over HTTP, through a Manager, until
// Check.
func StartHTTP(t testing.TB, store session.Store, workers, counters int) *Ledger {
	t.Helper()
	m, err := session.New(store, &session.Options{Timeout: Patience, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	counter := session.NewKey[int]("counter")
	in := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := session.From(r.Context())
		if err != nil {
			return // the ErrorHandler answers
		}
		s.SetUser(r.URL.Query().Get("user"))
		counter.Set(s, 0)
	}))
	count := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := session.From(r.Context())
		switch {
		case err != nil:
		case s.User() == "":
			w.WriteHeader(http.StatusUnauthorized)
		case r.Method == http.MethodPost:
			counter.Update(s, func(n int) int { return n + 1 })
		default:
			n, _ := counter.Get(s)
			fmt.Fprint(w, n)
		}
	}))
	cookies := make([]*http.Cookie, counters)
	for i := range cookies {
		w := httptest.NewRecorder()
		in.ServeHTTP(w, httptest.NewRequest("POST", "/?user=user"+strconv.Itoa(i), nil))
		if w.Code != http.StatusOK || len(w.Result().Cookies()) != 1 {
			t.Fatalf("sign in: %d", w.Code)
		}
		cookies[i] = w.Result().Cookies()[0]
	}
	request := func(ctx context.Context, method string, i int) (string, error) {
		r := httptest.NewRequestWithContext(ctx, method, "/", nil)
		r.AddCookie(cookies[i])
		w := httptest.NewRecorder()
		count.ServeHTTP(w, r)
		switch {
		case w.Code == http.StatusUnauthorized || len(w.Result().Cookies()) > 0:
			return "", session.ErrNotFound
		case w.Code != http.StatusOK:
			return "", fmt.Errorf("status %d", w.Code)
		}
		return w.Body.String(), nil
	}
	return start(t, workers, counters, func(ctx context.Context, i int) error {
		_, err := request(ctx, http.MethodPost, i)
		return err
	}, func(ctx context.Context, i int) (int, error) {
		text, err := request(ctx, http.MethodGet, i)
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(text)
	})
}
