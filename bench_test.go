package session_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/distsession/session"
)

var (
	keyName  = session.NewKey[string]("name")
	keyCount = session.NewKey[int]("count")
)

// nullWriter is a response that costs nothing.
type nullWriter struct{ h http.Header }

func (w *nullWriter) Header() http.Header         { return w.h }
func (w *nullWriter) Write(b []byte) (int, error) { return len(b), nil }
func (w *nullWriter) WriteHeader(int)             {}

func BenchmarkMemory(b *testing.B) {
	m, err := session.New(session.NewMemoryStore(nil), nil)
	if err != nil {
		b.Fatal(err)
	}
	handlers := map[string]http.HandlerFunc{
		"untouched": func(w http.ResponseWriter, r *http.Request) {},
		"read": func(w http.ResponseWriter, r *http.Request) {
			s, err := session.From(r.Context())
			if err != nil {
				b.Fatal(err)
			}
			if _, ok := keyName.Get(s); !ok {
				b.Fatal("not there")
			}
		},
		"change": func(w http.ResponseWriter, r *http.Request) {
			s, err := session.From(r.Context())
			if err != nil {
				b.Fatal(err)
			}
			keyCount.Update(s, func(n int) int { return n + 1 })
		},
	}
	rec := httptest.NewRecorder()
	m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, _ := session.From(r.Context())
		keyName.Set(s, "alice")
		keyCount.Set(s, 1)
	})).ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	cookie := rec.Result().Cookies()[0]
	for name, h := range handlers {
		b.Run(name, func(b *testing.B) {
			wrapped := m.Handler(h)
			r := httptest.NewRequest("GET", "/", nil)
			r.AddCookie(cookie)
			w := &nullWriter{http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				clear(w.h)
				wrapped.ServeHTTP(w, r)
			}
		})
	}
}
